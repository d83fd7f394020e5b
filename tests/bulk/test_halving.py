"""Rows are taken by halves where memory is short, and only there."""

from __future__ import annotations

import multiprocessing
import resource
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from abduce.bulk.halving import LEAST, by_halves
from abduce.bulk.writers import AskWriter
from abduce.data.shards import Shards

MIB = 2**20


def table(n: int = 6000) -> pd.DataFrame:
    return pd.DataFrame({"a": np.arange(float(n)), "b": np.sin(np.arange(n))})


def by_numpy(_, rows: pd.DataFrame) -> pd.DataFrame:
    """Twice b, by way of all distances among rows, n² of them: 275 MiB for 6,000 rows."""
    x = rows["a"].to_numpy()
    apart = np.abs(x[:, None] - x)
    return pd.DataFrame({"found": 2 * rows["b"] + np.diag(apart)})


def by_torch(_, rows: pd.DataFrame) -> pd.DataFrame:
    x = torch.from_numpy(rows[["a"]].to_numpy(copy=True))
    return pd.DataFrame({"found": 2 * rows["b"] + torch.diagonal(torch.cdist(x, x)).numpy()})


def _short(ask, folder: str, answers) -> None:
    """Answer files where 64 MiB more than now can be had."""
    by_torch(None, table(10))  # what is made on first use
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 64 * MIB, resource.RLIM_INFINITY))
    writer = AskWriter(Shards(folder), None, ask)
    target = Path(folder).parent / "answers.parquet"
    writer.targets = {0: target}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        writer([0], "answer")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.put(sorted({str(w.message) for w in told if "memory" in str(w.message)}))


@pytest.mark.parametrize("ask", [by_numpy, by_torch])
def test_where_memory_is_short_rows_are_taken_by_halves(ask, tmp_path):
    (tmp_path / "data").mkdir()
    table().to_parquet(tmp_path / "data" / "rows.parquet")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_short, args=(ask, str(tmp_path / "data"), answers))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    told = answers.get(timeout=10)
    assert "memory is short for 6000 rows at once: they are taken by halves" in told
    found = pd.read_parquet(tmp_path / "answers.parquet")["found"]
    np.testing.assert_allclose(found, 2 * np.sin(np.arange(6000)), atol=1e-12)


def test_what_is_no_shortage_is_raised():
    def wrong(rows):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        by_halves(wrong, table(1000))


def test_a_few_rows_are_not_halved():
    sizes = []

    def short(rows):
        sizes.append(len(rows))
        raise MemoryError("no more")

    with pytest.warns(UserWarning, match="1000 rows"), pytest.raises(MemoryError, match="no more"):
        by_halves(short, table(1000))
    assert sizes == [1000, 500, 250, 125, 62]
    assert sizes[-1] <= LEAST < sizes[-2]
