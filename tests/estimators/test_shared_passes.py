"""Passes over all rows of files that several processes share: the model of one process to the bit, whatever dies."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from engines_for_tests import NEEDS_PROC, workers_of

from abduce import ICA, PCA, GaussianMixture, KMeans, load
from abduce.cli import models
from abduce.data import shards
from abduce.data.schema import Schema
from abduce.engines import Engine
from abduce.fit import all_rows

RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not RAY, reason="needs Ray: pip install 'abduce[ray]'")
N, SAMPLE, GROUP = 2000, 200, 70
SMALL = f"shards.MOST_CELLS, shards.LEAST_ROWS, shards.ROWS = 4, {SAMPLE}, {GROUP}"
MAKERS = {
    "mixture": lambda **how: GaussianMixture(components=2, random_state=0, **how),
    "k-means": lambda **how: KMeans(components=3, random_state=0, **how),
    "PCA": lambda **how: PCA(components=2, random_state=0, **how),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What a sample and a part of the rows are; files know it where they are read."""
    for name, value in (("MOST_CELLS", 4), ("LEAST_ROWS", SAMPLE), ("ROWS", GROUP)):
        monkeypatch.setattr(shards, name, value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The same rows in Parquet and in CSV files, cut anywhere."""
    folder = tmp_path_factory.mktemp("passes")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4)) @ rng.normal(size=(4, 4)) + 3.0 * rng.integers(0, 2, size=(N, 1))
    x[rng.random(x.shape) < 0.2] = np.nan
    frame = pd.DataFrame(x.round(4), columns=list("abcd")).assign(same=2.5)
    for kind in ("parquet", "csv"):
        (folder / kind).mkdir()
        for k, (a, b) in enumerate(itertools.pairwise([0, 11, 300, 301, 1200, 1999, N])):
            part = frame.iloc[a:b]
            path = folder / kind / f"part-{k}.{kind}"
            part.to_parquet(path) if kind == "parquet" else part.to_csv(path, index=False)
    return folder


def assert_same(one, other):
    for name, value in one.model_.state_dict().items():
        assert torch.equal(value, other.model_.state_dict()[name]), name
    assert (one.offset_, one.history_) == (other.offset_, other.history_)


@pytest.mark.parametrize("name", ["k-means", "PCA"])
def test_two_processes_make_the_model_of_one_to_the_bit(world, name):
    alone = MAKERS[name]().fit(world / "parquet")
    assert len(alone.history_) > 1
    assert_same(alone, MAKERS[name]().fit(world / "parquet", engine="processes", workers=2))


def test_files_of_text_are_shared_too(world):
    alone = MAKERS["mixture"]().fit(world / "csv")
    assert_same(alone, MAKERS["mixture"]().fit(world / "csv", workers=2))
    for one, other in zip(
        alone.model_.state_dict().values(),
        MAKERS["mixture"]().fit(world / "parquet").model_.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


@NEEDS_RAY
def test_actors_of_ray_make_it_too(world, monkeypatch):
    monkeypatch.chdir(world)  # names mean what they mean here
    alone = MAKERS["mixture"]().fit("parquet")
    assert_same(alone, MAKERS["mixture"]().fit("parquet/part-*.parquet", engine="ray", workers=2))


@NEEDS_PROC
def test_a_killed_process_costs_nothing_but_time(world):
    killed = []

    def kill(record):
        if record["pass"] == 2 and not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    found = MAKERS["mixture"](callback=kill).fit(world / "parquet", engine="processes", workers=2)
    assert killed
    assert_same(MAKERS["mixture"]().fit(world / "parquet"), found)


# ---------------------------------------------------------------- who does what


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_blocks_are_all_groups_once_in_order(world, kind, workers):
    source = shards.Shards(world / kind)
    blocks = all_rows.cut(source, Engine("processes", workers))
    groups = [group for block in blocks for group in block.parts]
    assert groups == list(range(-(-N // GROUP)))
    if workers == 1:
        return
    starts = [block.parts[0] for block in blocks]
    assert len(starts) >= min(workers, 4)
    if (
        kind == "csv"
    ):  # each begins in a file of its own, so that no text is read to be skipped but the end of a group
        first = [source.where(group * GROUP)[0] for group in starts]
        assert len(set(first)) == len(first)


def test_a_copy_of_the_task_begins_anew(world):
    import pickle

    source = shards.Shards(world / "parquet")
    task = all_rows.GroupSums(source, Schema.infer(source.sample(100)))
    first = task._read(3)
    copy = pickle.loads(pickle.dumps(task))
    assert torch.equal(task._read(4).y, copy._read(4).y)
    assert torch.equal(copy._read(3).y, first.y)


# ---------------------------------------------------------------- progress, Ctrl-C, going on


def test_each_pass_tells_the_rows_and_the_mean(world):
    told = []
    model = MAKERS["mixture"](callback=lambda record: told.append(dict(record))).fit(world / "parquet")
    assert {record["of"] for record in told} == {N}
    for number, kept in enumerate(model.history_, start=1):
        own = [record for record in told if record["pass"] == number]
        assert [record["rows"] for record in own] == [min(N, GROUP * (k + 1)) for k in range(-(-N // GROUP))]
        before = None if number == 1 else model.history_[number - 2]["train"]
        assert {record["train"] for record in own} == {before}
        assert kept["pass"] == number
    values = [record["train"] for record in model.history_]
    assert all(after > before - 1e-9 for before, after in itertools.pairwise(values))
    assert model.n_iter_ == len(values)


def stop_in(number, rows=2 * GROUP):
    """Ctrl-C in a pass."""

    def told(record):
        if record["pass"] == number and record["rows"] >= rows:
            signal.raise_signal(signal.SIGINT)

    return told


@pytest.fixture
def heeds():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_the_last_whole_pass_and_a_checkpoint_goes_on(world, tmp_path, heeds, workers):
    whole = MAKERS["mixture"]().fit(world / "parquet")
    state = tmp_path / "state"
    cut = MAKERS["mixture"](callback=stop_in(3)).fit(world / "parquet", checkpoint=state, workers=workers)
    assert cut.interrupted_
    assert cut.history_ == whole.history_[:2]
    frame = shards.Shards(world / "parquet").read()
    units = float(whole._units(whole._encode(frame)).mean())  # from model space to the data's own
    constant = -0.5 * np.log(2 * np.pi * 1e-3)  # of the column of one value, whose variance is reg_covar
    assert cut.score(frame) == pytest.approx(whole.history_[2]["train"] + constant + units, abs=1e-6)
    on = MAKERS["mixture"]().fit(world / "parquet", checkpoint=state)
    assert not on.interrupted_
    assert_same(whole, on)
    again = MAKERS["mixture"](callback=stop_in(1)).fit(world / "parquet", checkpoint=state)
    assert_same(whole, again)  # nothing was left to do
    with pytest.raises(ValueError, match="belongs to another run"):
        GaussianMixture(components=3, random_state=0).fit(world / "parquet", checkpoint=state)


def test_an_interrupted_command_keeps_the_model_and_goes_on(world, ask, tmp_path, monkeypatch, heeds):
    command = "fit", world / "parquet", "--model", "gaussian-mixture", "--set", "components=2", "--resume"
    told = models.told
    lines = []

    def stopping(record, what):
        lines.append(told(record, what)[0])
        stop_in(3)(record)
        return told(record, what)

    monkeypatch.setattr(models, "told", stopping)
    status, out, error = ask(*command, "-o", tmp_path / "model", "--json")
    assert status == 130, error
    assert json.loads(out)["passes"] == 2
    assert json.loads(out)["interrupted"]
    assert "interrupted after 2 passes; the model so far is in" in " ".join(error.split())
    assert "pass 1  2,000 of 2,000 rows" in lines
    value = MAKERS["mixture"]().fit(world / "parquet").history_[1]["train"]
    assert lines[-1] == f"pass 3  140 of 2,000 rows  mean log p {value:.4f} nats before"
    assert load(tmp_path / "model").history_ == MAKERS["mixture"]().fit(world / "parquet").history_[:2]
    monkeypatch.setattr(models, "told", told)
    status, _, error = ask(*command, "-o", tmp_path / "model")
    assert status == 0, error
    assert f"fitted {N} rows in" in error
    assert_same(load(tmp_path / "model"), MAKERS["mixture"]().fit(world / "parquet"))
    assert os.listdir(tmp_path) == ["model"]


KILLED = f"""
import os, signal, sys
from abduce import cli
from abduce.data import shards
from abduce.fit.checkpoint import TrainingState

{SMALL}
saves, save = 0, TrainingState.save

def dying(self, *given, **named):
    global saves
    save(self, *given, **named)
    saves += 1
    if saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingState.save = dying
sys.argv = ["abduce", *sys.argv[1:]]
cli.main()
"""


def test_a_killed_command_goes_on_from_its_last_whole_pass(world, ask, tmp_path):
    command = "fit", world / "csv", "--model", "k-means", "--set", "components=3", "--resume", "--json"
    command = *command, "-o", tmp_path / "model"
    run = subprocess.run([sys.executable, "-c", KILLED, *map(str, command)], capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert os.listdir(tmp_path) == ["model.training"]
    status, out, error = ask(*command)
    assert status == 0, error
    assert json.loads(out)["rows"] == N
    assert_same(load(tmp_path / "model"), MAKERS["k-means"]().fit(world / "csv"))
    assert os.listdir(tmp_path) == ["model"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"engine": "spark"},
            "engine must be 'plain', 'processes', 'ray' or an address 'ray://HOST:PORT', got",
        ),
        ({"engine": "plain", "workers": 2}, "'plain' is one process, got workers 2"),
        ({"workers": 0}, "workers must be an int >= 1, got 0"),
        ({"workers": 1.5}, "workers must be an int >= 1, got 1.5"),
    ],
)
def test_an_engine_that_there_is_not(world, given, said):
    with pytest.raises(ValueError, match=said):
        GaussianMixture().fit(world / "csv", **given)


def test_who_needs_no_engine_says_so(world, ask, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="workers is for tables in files, got ndarray"):
        GaussianMixture().fit(np.zeros((10, 2)), workers=2)
    with pytest.raises(ValueError, match=r"engine is for methods that pass .* ICA takes"):
        ICA().fit(world / "csv", engine="processes")
    status, _, error = ask("fit", world / "csv", "-o", tmp_path / "model", "--workers", 2)
    assert status == 2
    assert "processes share passes" in error
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'abduce\[ray\]'"):
        GaussianMixture().fit(world / "csv", engine="ray")


def test_a_row_that_does_not_fit_is_named_by_whoever_reads_it(world, tmp_path):
    frame = shards.Shards(world / "parquet").read()
    taken = np.sort(np.random.default_rng(0).choice(N, SAMPLE, replace=False))
    row = next(r for r in range(1500, N) if r not in taken)
    frame.loc[row, "b"] = np.inf
    (tmp_path / "data").mkdir()
    for k in range(4):
        frame.iloc[500 * k : 500 * (k + 1)].to_parquet(tmp_path / "data" / f"{k}.parquet")
    with pytest.raises(ValueError, match=r"'b'.*rows counted from row \d+ of .*[23]\.parquet"):
        GaussianMixture(components=2, random_state=0).fit(tmp_path / "data", workers=2)
