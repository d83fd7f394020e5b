"""Who writes the files of a run: the answers are those of one process to the bit, whatever dies on the way."""

from __future__ import annotations

import functools
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engines_for_tests import NEEDS_PROC, dying, failing, workers_of

import abduce
from abduce import engines
from abduce.bulk import sharded_run
from abduce.bulk.writers import AskWriter

RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not RAY, reason="needs Ray: pip install 'abduce[ray]'")
SEVERAL = ["processes", pytest.param("ray", marks=NEEDS_RAY)]
FILES, ROWS = 8, 1500


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A table in many files, a model of it, and what one process answers."""
    folder = tmp_path_factory.mktemp("engines")
    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    for i in range(FILES):
        x = rng.normal(size=(ROWS, 4)) @ rng.normal(size=(4, 4))
        x[rng.random(x.shape) < 0.2] = np.nan
        pd.DataFrame(x, columns=list("abcd")).to_parquet(folder / "data" / f"part-{i}.parquet")
    model = abduce.MixtureOfFactorAnalyzers(components=3, random_state=0)
    model.fit(pd.read_parquet(folder / "data" / "part-0.parquet")).save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, started once, whose actors find the functions below."""
    if not RAY:
        yield
        return
    import ray  # pyright: ignore[reportMissingImports]

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if before:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sharded_run, "LEAST_GROUPS", 0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("question", "engine"),
    [
        ("fill", "processes"),
        ("flag", "processes"),
        ("compress", "processes"),
        pytest.param("fill", "ray", marks=NEEDS_RAY),
        pytest.param("flag", "ray", marks=NEEDS_RAY),
    ],
)
def test_answers_are_those_of_one_process_to_the_bit(
    world, ask, tmp_path, small_blocks, cluster, engine, question
):
    arguments = question, world / "data", "-m", world / "model", "-o"
    status, _, error = ask(*arguments, tmp_path / "one")
    assert status == 0, error
    status, _, said = ask(*arguments, tmp_path / "several", "--engine", engine, "--workers", 2)
    assert status == 0, said
    found = files_of(tmp_path / "several")
    assert found == files_of(tmp_path / "one")
    assert len(found) == FILES + 1
    assert error.split("\r")[-1] == said.split("\r")[-1]  # what was counted


# ---------------------------------------------------------------- what dies


def done_by(engine, task, workers=2):
    with engines.hired(task, engines.Engine(engine, workers), "; resume") as crew:
        return list(crew.each(BLOCKS))


BLOCKS = [engines.Block((k, k + 1), (f"{k}.csv", f"{k + 1}.csv")) for k in range(0, 10, 2)]


@pytest.mark.parametrize("engine", SEVERAL)
def test_what_a_killed_process_left_is_done_again(tmp_path, cluster, engine):
    write = functools.partial(dying, str(tmp_path), 4, engines.ATTEMPTS - 1)
    done = done_by(engine, write)
    assert sorted(done) == [(block, 2) for block in BLOCKS]
    assert len(list(tmp_path.glob("file-*"))) == 10
    assert len(list(tmp_path.glob("death-*"))) == engines.ATTEMPTS - 1


@pytest.mark.parametrize("engine", SEVERAL)
def test_what_dies_each_time_is_named(tmp_path, cluster, engine):
    write = functools.partial(dying, str(tmp_path), 4, 100)
    with pytest.raises(RuntimeError, match=r"died 3 times at work on 4\.csv, 5\.csv.*; resume"):
        done_by(engine, write)


@NEEDS_RAY
@pytest.mark.parametrize("workers", [0, 50])
def test_a_cluster_is_asked_for_no_more_than_it_has(tmp_path, cluster, workers):
    write = functools.partial(dying, str(tmp_path), -1, 0)
    assert sorted(done_by("ray", write, workers)) == [(block, 2) for block in BLOCKS]


@pytest.mark.parametrize("engine", SEVERAL)
def test_an_error_is_the_writers_own(cluster, engine):
    with pytest.raises(OSError, match="No space left on device"):
        done_by(engine, failing)


def running(world, output, *more):
    """`abduce fill` as a process of its own, once it has begun to write."""
    command = "fill", world / "data", "-m", world / "model", "-o", output, "-q", "--workers", 2, *more
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "abduce", *map(str, command)], stderr=subprocess.PIPE, env=environment
    )
    while not (output / "manifest.json").exists() and process.poll() is None:
        time.sleep(0.01)
    return process


def succeed(process):
    """Wait for a run that succeeds."""
    _, error = process.communicate()
    assert process.returncode == 0, error


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """What one process writes."""
    target = tmp_path_factory.mktemp("undisturbed") / "out"
    abduce.answer_files(abduce.load(world / "model"), "fill", world / "data", target)
    return files_of(target)


@NEEDS_PROC
def test_a_killed_worker_costs_nothing_but_time(world, tmp_path, undisturbed):
    process = running(world, tmp_path / "out")
    while not (workers := workers_of(process.pid)) and process.poll() is None:
        time.sleep(0.01)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    succeed(process)
    assert files_of(tmp_path / "out") == undisturbed


@NEEDS_PROC
def test_a_killed_run_leaves_no_process_and_goes_on(world, tmp_path, undisturbed):
    process = running(world, tmp_path / "out")
    while not (workers := workers_of(process.pid)) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "a worker outlived its run"
        time.sleep(0.1)
    process = running(world, tmp_path / "out", "--resume")
    succeed(process)
    assert files_of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_said_with_the_file(world, tmp_path, workers):
    """No file may be longer than a few bytes, as on a disk that is full."""

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = (
        "fill",
        world / "data",
        "-m",
        world / "model",
        "-o",
        tmp_path / "out",
        "-q",
        "--workers",
        workers,
    )
    run = subprocess.run(
        [sys.executable, "-m", "abduce", *map(str, command)],
        capture_output=True,
        text=True,
        preexec_fn=full,
    )
    assert run.returncode == 1, run.stderr
    assert "part-0.parquet" in run.stderr
    assert "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_what_cannot_be_read_any_more_is_named(world, ask, tmp_path, small_blocks, monkeypatch):
    (tmp_path / "data").mkdir()
    for path in (world / "data").iterdir():
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    joined = AskWriter.joined

    def spoilt(*arguments):
        """When all files have been looked through."""
        (tmp_path / "data" / "part-3.parquet").write_bytes(b"PAR1 no more")
        return joined(*arguments)

    monkeypatch.setattr(AskWriter, "joined", spoilt)
    arguments = "score", tmp_path / "data", "-m", world / "model", "-o", tmp_path / "out", "--workers", 2
    status, _, error = ask(*arguments)
    assert status == 1
    assert "part-3.parquet" in error
    (tmp_path / "data" / "part-3.parquet").write_bytes((world / "data" / "part-3.parquet").read_bytes())
    monkeypatch.setattr(AskWriter, "joined", joined)
    assert ask(*arguments, "--resume")[0] == 0
    assert ask(*arguments[:4], "-o", tmp_path / "one")[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")


@pytest.mark.parametrize(
    ("engine", "workers", "said"),
    [
        ("spark", None, "engine must be 'plain', 'processes', 'ray' or an address"),
        ("plain", 2, "'plain' is one process, got workers 2"),
        (None, 0, "workers must be an int >= 1, got 0"),
    ],
)
def test_an_engine_that_there_is_not(engine, workers, said):
    with pytest.raises(ValueError, match=said):
        engines.Engine.of(engine, workers)


def test_one_file_needs_no_engine(world, ask):
    one = world / "data" / "part-0.parquet"
    status, _, error = ask("fill", one, "-m", world / "model", "-o", "-", "--workers", 2)
    assert status == 2
    assert "processes share many files" in error
