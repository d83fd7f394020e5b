"""Processes that train together: the weights of one, whatever the objective, however many launchers, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from together_for_tests import CASES, command, trained

SCRIPT = Path(__file__).parents[1] / "together_for_tests.py"
ABDUCE = "-m", "abduce"
Run = subprocess.Popen[str]


def launched(
    ways: Sequence[Sequence[object]],
    *arguments: Sequence[object],
    meanwhile: Callable[[list[Run]], object] = list,
) -> list[str]:
    """Run launchers, each with options and arguments of its own, to their end; what each said on its standard error."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    runs = [
        subprocess.Popen(
            [*launcher, *map(str, [*way, *own])],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for way, own in zip(ways, arguments, strict=True)
    ]
    try:
        meanwhile(runs)
        said = [run.communicate(timeout=300)[1] for run in runs]
    finally:
        for run in runs:
            run.terminate()  # its processes too
    assert not any(run.returncode for run in runs), said
    return said


def one_launcher(*more: object) -> list[list[object]]:
    return [["--standalone", "--nproc-per-node", 2, *more]]


# ---------------------------------------------------------------- what is trained


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5))) + 0.2 * rng.normal(size=(600, 5))
    X[rng.random(X.shape) < 0.1] = np.nan
    path = tmp_path_factory.mktemp("table") / "t.csv"
    pd.DataFrame(X, columns=list("abcde")).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def pairs(table, tmp_path_factory) -> Path:
    """What two processes come to: weights of every case, what they refuse, and a model fitted without gradients."""
    folder = tmp_path_factory.mktemp("pairs")
    launched(one_launcher(), [SCRIPT, folder, table])
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_come_to_the_weights_of_one(case, pairs):
    alone = trained(case)
    first, second = (load_file(pairs / f"{case} {rank}.safetensors") for rank in range(2))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_with_other_rows_are_refused_in_all_of_them(pairs, rank):
    said = (pairs / f"other rows {rank}.txt").read_text()
    assert said.startswith("process 1 of 2 was given other rows or other settings than the first one")


@pytest.mark.parametrize("rank", [0, 1])
def test_more_processes_than_rows_of_a_batch_are_refused(pairs, rank):
    said = (pairs / f"a batch of one row {rank}.txt").read_text()
    assert said.startswith(
        "a batch of 1 rows (batch_size, or all rows that train) can't be shared by 2 processes"
    )


def test_what_has_no_gradients_is_fitted_by_the_first_process_alone(pairs, table, ask, tmp_path):
    status, _, error = ask(*command("pca", tmp_path / "alone", table))
    assert status == 0, error
    assert_same(pairs / "pca", tmp_path / "alone")


# ---------------------------------------------------------------- the command line


def assert_same(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def killer(models: list[Path], rank: int) -> Callable[[list[Run]], None]:
    """Who kills the process of this rank once some epochs have been kept in the place of one of the models."""

    def kill(runs: list[Run]) -> None:
        while max(map(epochs_kept, models)) < 3:
            assert all(run.poll() is None for run in runs), "a run ended before it could be killed"
            time.sleep(0.02)
        os.kill(next(filter(None, (process_of(run.pid, rank) for run in runs))), signal.SIGKILL)

    return kill


def epochs_kept(model: Path) -> int:
    state = model.with_name(f"{model.name}.training") / "model.json"
    return json.loads(state.read_text())["progress"]["epoch"] if state.exists() else 0


def process_of(launcher: int, rank: int) -> int | None:
    """The process that a launcher started as this rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    named = f"RANK={rank}".encode()
    own = (int(c) for c in children if named in Path(f"/proc/{c}/environ").read_bytes().split(b"\0"))
    return next(own, None)


NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@NEEDS_PROC
def test_a_killed_process_is_started_anew_and_the_model_is_the_undisturbed_one(table, pairs, tmp_path):
    broken = tmp_path / "broken"
    more = one_launcher("--max-restarts", 1)
    launched(more, [*ABDUCE, *command("vae", broken, table)], meanwhile=killer([broken], 1))
    assert_same(pairs / "vae", broken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def by_meeting(port: int) -> list[list[object]]:
    """Launchers that find each other, as those of several machines do; who is the first is for them to say."""
    return [["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"]] * 2


def by_number(port: int) -> list[list[object]]:
    """Launchers that are told their numbers."""
    return [["--node-rank", k, "--master-addr", "localhost", "--master-port", port] for k in range(2)]


@NEEDS_PROC
@pytest.mark.parametrize(("ways", "killed"), [(by_meeting, 1), (by_number, 0)])
def test_several_launchers_train_the_model_of_one_and_the_first_process_alone_speaks_and_writes(
    ways: Callable[[int], list[list[object]]], killed, table, pairs, tmp_path
):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    models = [tmp_path / str(k) / "model" for k in range(2)]
    for model in models:
        model.parent.mkdir()
    each = [["--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 1, *way] for way in ways(port)]
    commands = [[*ABDUCE, *command("vae", model, table)] for model in models]
    said = launched(each, *commands, meanwhile=killer(models, killed))
    written = [model.exists() for model in models]
    assert sorted(written) == [False, True]
    assert ["fitted 600 rows" in told for told in said] == written
    assert_same(pairs / "vae", models[written.index(True)])
    assert sorted(len(list(model.parent.iterdir())) for model in models) == [0, 1]
