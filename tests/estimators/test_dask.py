"""Models are asked by Dask's workers: two processes of two threads each give what this process gives."""

from __future__ import annotations

import gc
import tempfile

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import abduce

dask = pytest.importorskip("dask", reason="needs Dask: pip install 'abduce[scale]'")
dd = pytest.importorskip("dask.dataframe", reason="needs Dask: pip install 'abduce[scale]'")
distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'abduce[scale]'")


def table(n: int = 6000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    out = pd.DataFrame(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)), columns=["a", "b", "c"])
    out["kind"] = np.where(out["a"] + 0.3 * rng.normal(size=n) > 0, "up", "down")
    return out.mask(rng.random(out.shape) < 0.2)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.mark.parametrize("name", ["Auto", "VAE", "PCA"])
def test_partitions_are_answered_by_workers(client, name):
    rows = table() if name != "PCA" else table()[["a", "b", "c"]]
    few = {"max_epochs": 2} if name == "VAE" else {}
    model = getattr(abduce, name)(random_state=0, **few).fit(rows.iloc[:500])
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(rows, npartitions=8)
    filled = parts.map_partitions(model.fill, meta=model.fill(rows.iloc[:2]).iloc[:0]).compute()
    pd.testing.assert_frame_equal(filled, model.fill(rows), check_exact=False, rtol=1e-9)
    seen = rows.notna()
    assert filled.where(seen).equals(rows)  # to the bit
    assert filled.notna().all(axis=None)
    odd = parts.map_partitions(
        lambda part: pd.Series(model.anomaly_score(part), part.index), meta=("odd", float)
    ).compute()
    np.testing.assert_allclose(odd, model.anomaly_score(rows), rtol=1e-9)


def test_a_data_frame_of_dask_is_read_as_files_are(tmp_path, monkeypatch):
    """Fitted to, filled, and answered into files; what was written for it has gone when that is done."""
    (tmp_path / "between").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "between"))
    rows = table(3000).reset_index(drop=True)
    rows.loc[700:1400, "c"] = np.nan  # a partition without a value in a column
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(rows, npartitions=4)
    for model in (abduce.Auto(random_state=0, trees=False), abduce.VAE(random_state=0, max_epochs=2)):
        fitted, other = clone(model).fit(parts), clone(model).fit(rows)
        pd.testing.assert_frame_equal(fitted.fill(parts), other.fill(rows), check_dtype=False)
    done = abduce.answer_files(fitted, "fill", parts, tmp_path / "out")
    assert (done.rows, done.files) == (3000, 4)
    found = pd.concat(
        [pd.read_parquet(p) for p in sorted((tmp_path / "out").glob("*.parquet"))], ignore_index=True
    )
    pd.testing.assert_frame_equal(found, fitted.fill(rows), check_dtype=False)
    assert len(list((tmp_path / "between").glob("abduce-*"))) == 1  # for all that was asked
    del parts
    gc.collect()
    assert not list((tmp_path / "between").glob("abduce-*"))


def test_what_dask_can_not_make_a_table_of_is_named():
    odd = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [{1}, {2}, {3}, "x"]})
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(odd, npartitions=1)
    with pytest.raises(ValueError, match="partition 0 of a data set of dask"):
        abduce.PCA(components=1).fit(parts)


def test_what_lies_here_is_not_shared_with_a_cluster(tmp_path):
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(table(100)[["a", "b"]], npartitions=2)
    model = abduce.GaussianMixture(components=1, random_state=0).fit(parts)
    with pytest.raises(ValueError, match="engine 'ray' needs files that all its machines see"):
        abduce.answer_files(model, "fill", parts, tmp_path / "out", engine="ray")
    with pytest.raises(ValueError, match="engine 'ray' needs files that all its machines see"):
        model.fit(parts, engine="ray")


def test_partitions_without_rows_are_passed_over():
    rows = table(400)[["a", "b"]].fillna(0.0)
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(rows, npartitions=4)
    few = parts.map_partitions(lambda part: part[part.index < 100])  # three partitions are empty
    assert len(abduce.PCA(components=1, random_state=0).fit(few).fill(few)) == 100
    with pytest.raises(ValueError, match="a data set of dask has no rows"):
        abduce.PCA(components=1).fit(parts.map_partitions(lambda part: part[part.index < 0]))
