"""Answers about tables in many files: those about one file, to the bit, whatever the cut and what was killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import fsspec
import numpy as np
import pandas as pd
import pytest

import abduce
from abduce import answer_files, load
from abduce.bulk import answering
from abduce.data import readers

CUTS = [0, 100, 2500, 2501, 7000, 9000]
READ = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".feather": pd.read_feather}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = CUTS[-1]
    out = pd.DataFrame({"a": rng.normal(size=n).round(3), "b": rng.exponential(size=n).round(3)})
    out["a2"] = (2 * out["a"] + 0.1 * rng.normal(size=n)).round(3)
    out["k"] = pd.array(rng.poisson(30, n), dtype="Int64")
    for column in ("a", "a2", "k"):
        out.loc[rng.random(n) < 0.3, column] = pd.NA if column == "k" else np.nan
    return out


def put(path, rows):
    rows = rows.reset_index(drop=True)
    getattr(rows, {".csv": "to_csv", ".parquet": "to_parquet", ".feather": "to_feather"}[path.suffix])(
        path, **({} if path.suffix == ".feather" else {"index": False})
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The same rows in one file and in many, of each kind, and a model."""
    folder, rows = tmp_path_factory.mktemp("shards"), frame()
    for suffix in READ:
        put(folder / f"one{suffix}", rows)
        (folder / suffix[1:]).mkdir()
        for i, (start, stop) in enumerate(pairwise(CUTS)):
            put(folder / suffix[1:] / f"part-{i}{suffix}", rows.iloc[start:stop])
    abduce.MixtureOfFactorAnalyzers(components=3, random_state=0).fit(rows[:2000]).save(folder / "model")
    return folder


def joined(folder, suffix):
    parts = sorted(folder.glob(f"*{suffix}"))
    if suffix == ".csv":
        heads, bodies = zip(*(path.read_text().split("\n", 1) for path in parts), strict=True)
        return heads[0] + "\n" + "".join(bodies)
    return pd.concat([READ[suffix](path) for path in parts], ignore_index=True)


@pytest.mark.parametrize("suffix", READ)
def test_fills_are_those_of_one_file_to_the_bit(world, ask, tmp_path, suffix):
    status, out, error = ask(
        "fill", world / suffix[1:], "-m", world / "model", "-o", tmp_path / "many", "--json", "-q"
    )
    assert status == 0, error
    one = tmp_path / f"one{suffix}"
    assert ask("fill", world / f"one{suffix}", "-m", world / "model", "-o", one, "-q")[0] == 0
    if suffix == ".csv":
        assert joined(tmp_path / "many", suffix) == one.read_text()
    else:
        pd.testing.assert_frame_equal(joined(tmp_path / "many", suffix), READ[suffix](one), check_exact=True)
    blanks = int(frame().isna().to_numpy().sum())
    assert json.loads(out) == {
        "rows": 9000, "files": 5, "written": 5, "filled": blanks, "output": str(tmp_path / "many"),
    }  # fmt: skip
    manifest = json.loads((tmp_path / "many" / "manifest.json").read_text())
    assert manifest["complete"]
    assert [s["rows"] for s in manifest["shards"]] == [b - a for a, b in pairwise(CUTS)]
    assert [s["answer"] for s in manifest["shards"]] == [f"part-{i}{suffix}" for i in range(5)]
    assert len(os.listdir(tmp_path / "many")) == 6


@pytest.mark.parametrize("question", ["score", "flag", "embed"])
def test_other_answers_are_those_of_one_file_to_the_bit(world, ask, tmp_path, question):
    model = "-m", world / "model"
    assert ask(question, world / "parquet", *model, "-o", tmp_path / "many", "-q")[0] == 0
    assert ask(question, world / "one.parquet", *model, "-o", tmp_path / "one.parquet", "-q")[0] == 0
    one, many = pd.read_parquet(tmp_path / "one.parquet"), joined(tmp_path / "many", ".parquet")
    pd.testing.assert_frame_equal(many, one, check_exact=True)


@pytest.fixture(scope="module")
def odd(world):
    """Files of which the second holds all odd rows: a false discovery rate of each for itself would flag others."""
    rows = frame().iloc[:3000]
    rng = np.random.default_rng(1)
    for row in rng.choice(np.arange(1000, 2000), 60, replace=False):
        rows.loc[row, ["a", "a2"]] = [4.0, -2.0 + 0.05 * rng.normal()]
    (world / "odd").mkdir()
    for i in range(3):
        put(world / "odd" / f"part-{i}.csv", rows.iloc[1000 * i : 1000 * (i + 1)])
    put(world / "odd.csv", rows)
    return world


SHARES = [("--alpha", 0.05), ("--alpha", 0.3), ("--contamination", 0.03)]


@pytest.mark.parametrize("share", SHARES)
def test_flags_hold_over_all_files_together(odd, ask, tmp_path, share):
    model = "-m", odd / "model"
    status, out, error = ask("flag", odd / "odd", *model, "-o", tmp_path / "many", *share, "--json")
    assert status == 0, error
    assert ask("flag", odd / "odd.csv", *model, "-o", tmp_path / "one.csv", *share, "-q")[0] == 0
    assert joined(tmp_path / "many", ".csv") == (tmp_path / "one.csv").read_text()
    flagged = pd.read_csv(tmp_path / "one.csv")["flagged"].to_numpy()
    assert json.loads(out)["flagged"] == flagged.sum()
    assert sorted(os.listdir(tmp_path / "many")) == ["manifest.json", *(f"part-{i}.csv" for i in range(3))]
    fitted = load(odd / "model")
    if share[0] == "--alpha":
        assert (fitted.flag(readers.read(odd / "odd.csv"), share[1]) == flagged).all()
        each = [fitted.flag(readers.read(odd / "odd" / f"part-{i}.csv"), share[1]) for i in range(3)]
        assert (np.concatenate(each) != flagged).any()  # file by file it is another thing
    else:
        assert flagged.sum() == 90
    again = ask("flag", odd / "odd", *model, "-o", tmp_path / "many", *share, "--json", "--resume")
    assert json.loads(again[1]) == json.loads(out) | {"written": 0}


def test_flags_that_were_cut_go_on_without_another_score(odd, tmp_path, monkeypatch):
    fitted = load(odd / "model")
    done = answer_files(fitted, "flag", odd / "odd", tmp_path / "whole", alpha=0.2)
    assert done._replace(counted=0) == (3000, 3, 3, 0)
    assert done.counted > 30
    seen, with_flags = [], answering._with_flags

    def cut(path, flagged):
        seen.append(path.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return with_flags(path, flagged)

    monkeypatch.setattr(answering, "_with_flags", cut)
    with pytest.raises(KeyboardInterrupt):
        answer_files(fitted, "flag", odd / "odd", tmp_path / "cut", alpha=0.2)
    assert sorted(p.name for p in (tmp_path / "cut").glob("*.csv")) == ["part-0.csv"]
    monkeypatch.setattr(answering, "_with_flags", with_flags)
    monkeypatch.setattr(type(fitted), "_flags", None)  # would be called to score rows again
    with pytest.raises(ValueError, match="its arguments is not this one's"):
        answer_files(fitted, "flag", odd / "odd", tmp_path / "cut", alpha=0.1, resume=True)
    again = answer_files(fitted, "flag", odd / "odd", tmp_path / "cut", alpha=0.2, resume=True)
    assert again == done._replace(written=2)
    names = sorted(os.listdir(tmp_path / "whole"))
    assert sorted(os.listdir(tmp_path / "cut")) == names
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("question", answering.QUESTIONS)
def test_python_writes_what_the_command_line_writes(world, ask, tmp_path, question):
    more = () if question == "embed" else ("--json",)
    status, out, error = ask(question, world / "csv", "-m", world / "model", "-o", tmp_path / "asked", *more)
    assert status == 0, error
    told = []
    how = {"show": lambda *words: told.append(words)}
    done = answer_files(load(world / "model"), question, f"{world}/csv/*.csv", tmp_path / "own", **how)
    assert told[-1][1:] == (9000, 9000)
    assert done[:3] == (9000, 5, 5)
    known = json.loads(out) if more else {}
    assert done.counted == next(
        (known[name] for name in ("filled", "bytes", "flagged") if name in known), 9000
    )
    names = sorted(os.listdir(tmp_path / "asked"))
    assert sorted(os.listdir(tmp_path / "own")) == names
    for name in names:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"question": "guess"}, "question must be one of"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"contamination": -1}, r"contamination must be in \[0, 1\], got -1"),
        ({"engine": "spark"}, "engine must be"),
        ({"workers": 0}, "workers must be an int >= 1"),
        ({"data": pd.DataFrame({"a": [1.0]})}, "data must be a table in files, got DataFrame"),
    ],
)
def test_what_python_refuses(world, tmp_path, given, said):
    arguments = {"question": "flag", "data": world / "csv", "out": tmp_path / "out"} | given
    with pytest.raises(ValueError, match=said):
        answer_files(load(world / "model"), **arguments)
    assert not (tmp_path / "out").exists()


def test_each_file_is_compressed_for_itself(world, ask, tmp_path):
    status, _, error = ask("compress", world / "parquet", "-m", world / "model", "-o", tmp_path / "many")
    assert status == 0, error
    for i in range(5):
        packed = tmp_path / "many" / f"part-{i}.parquet.abduce"
        assert ask("decompress", packed, "-m", world / "model", "-o", tmp_path / "back.parquet")[0] == 0
        pd.testing.assert_frame_equal(
            readers.read(tmp_path / "back.parquet"),
            readers.read(world / "parquet" / f"part-{i}.parquet"),
        )


def test_a_fit_is_that_of_one_file(world, ask, tmp_path):
    memory = fsspec.filesystem("memory")
    for path in (world / "csv").iterdir():
        memory.pipe(f"/fit/{path.name}", path.read_bytes())
    how = "--model", "pca", "--rows", 1000, "--seed", 3, "-q"
    for name, data in (
        ("one", world / "one.csv"),
        ("csv", world / "csv"),
        ("memory", "memory://fit/part-*.csv"),
    ):
        status, _, error = ask("fit", data, *how, "-o", tmp_path / name)
        assert status == 0, error
    memory.rm("/fit", recursive=True)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "csv", "memory")]
    assert weights[0] == weights[1] == weights[2]
    assert "rows 9000" in ask("info", world / "csv")[1]


KILLED = """
import os, signal, sys
from abduce import cli
from abduce.data import streams

calls, write, last = 0, streams._write_arrow, int(sys.argv[1])

def half(file, pieces):
    for piece in pieces:
        yield piece
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

def dying(file, pieces, schema, suffix):
    global calls
    calls += 1
    if calls == last:
        pieces = half(file, pieces)
    write(file, pieces, schema, suffix)

streams._write_arrow = dying
sys.argv = ["abduce", *sys.argv[2:]]
cli.main()
"""


@pytest.mark.parametrize("dies_in", [1, 4])
def test_what_was_killed_in_a_file_goes_on_to_the_same_answers(world, ask, tmp_path, dies_in):
    arguments = "fill", world / "parquet", "-m", world / "model", "-o", tmp_path / "many", "-q"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(dies_in), *map(str, arguments)], capture_output=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    done = sorted(p.name for p in (tmp_path / "many").glob("part-*"))
    assert done == [f"part-{i}.parquet" for i in range(dies_in - 1)]
    assert list((tmp_path / "many").glob(".part-*.part"))  # half a file, under a name of its own
    assert not json.loads((tmp_path / "many" / "manifest.json").read_text())["complete"]
    before = {name: (tmp_path / "many" / name).stat().st_mtime_ns for name in done}
    status, _, error = ask(*arguments)
    assert status != 0
    assert "holds the answers of an earlier run; resume (--resume) goes on with it" in error
    status, out, error = ask(*arguments, "--resume", "--json")
    assert status == 0, error
    assert json.loads(out)["written"] == 6 - dies_in
    assert {name: (tmp_path / "many" / name).stat().st_mtime_ns for name in done} == before
    assert ask(*arguments[:4], "-o", tmp_path / "undisturbed", "-q")[0] == 0
    names = sorted(os.listdir(tmp_path / "undisturbed"))
    assert sorted(os.listdir(tmp_path / "many")) == names
    for name in names:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_killed_at_any_moment(world, ask, tmp_path):
    """SIGKILL at seeded moments of the wall clock, then on to the end."""
    rng = np.random.default_rng(0)
    arguments = "fill", world / "csv", "-m", world / "model", "-o", tmp_path / "many", "-q"
    for k in range(2):
        more = ["--resume"] * (tmp_path / "many" / "manifest.json").exists()
        run = subprocess.Popen([sys.executable, "-m", "abduce", *map(str, arguments), *more])
        while not (tmp_path / "many" / "manifest.json").exists() and run.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        run.kill()
        run.wait()
        assert (tmp_path / "many" / "manifest.json").exists(), k
    status, _, error = ask(*arguments, "--resume")
    assert status == 0, error
    assert ask("fill", world / "one.csv", "-m", world / "model", "-o", tmp_path / "one.csv", "-q")[0] == 0
    assert joined(tmp_path / "many", ".csv") == (tmp_path / "one.csv").read_text()
    assert len(os.listdir(tmp_path / "many")) == 6


def test_what_does_not_go_together_is_refused_before_any_work(world, ask, tmp_path):
    model = "-m", world / "model"

    def refused(*arguments):
        status, _, error = ask(*arguments)
        assert status != 0
        return " ".join(error.split())

    assert "name a folder for them (-o)" in refused("fill", world / "csv", *model)
    assert "whose files are read" in refused("fill", world / "csv", *model, "-o", world / "csv" / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.jpg").touch()
    assert "holds something else" in refused("score", world / "csv", *model, "-o", tmp_path / "other")
    assert "written whole" in refused(
        "score", world / "one.csv", *model, "-o", tmp_path / "o.csv", "--resume"
    )
    assert ask("score", world / "csv", *model, "-o", tmp_path / "many", "-q")[0] == 0
    other = "embed", world / "csv", *model, "-o", tmp_path / "many", "--resume"
    assert "holds the answers of another run: its question" in refused(*other)
    (world / "spoiled").mkdir(exist_ok=True)
    rows = frame()
    put(world / "spoiled" / "a.csv", rows[:10])
    put(world / "spoiled" / "b.csv", rows[10:20].assign(a=np.inf))
    told = refused("score", world / "spoiled", *model, "-o", tmp_path / "new")
    assert "b.csv" in told
    assert not list((tmp_path / "new").glob("*.csv"))
