"""Models are asked by Dask's workers: two processes of two threads each give what this process gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

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
