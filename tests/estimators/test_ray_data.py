"""Models are asked by Ray Data's actors, and fitted by Ray Train's: what this process gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import abduce

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'abduce[scale]'")


def table(n: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    out = pd.DataFrame(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)), columns=["a", "b", "c"])
    out = out.mask(rng.random(out.shape) < 0.2)
    return out.assign(row=np.arange(n))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def test_batches_are_answered_by_actors(tmp_path):
    rows = table()
    abduce.GaussianMixture(components=2, random_state=0).fit(rows[["a", "b", "c"]]).save(tmp_path / "model")

    class Filled:
        def __init__(self, folder):
            self.model = abduce.load(folder)

        def __call__(self, batch):
            return self.model.fill(batch[["a", "b", "c"]]).assign(row=batch["row"])

    (tmp_path / "data").mkdir()
    for k in range(4):
        rows.iloc[750 * k : 750 * (k + 1)].to_parquet(tmp_path / "data" / f"{k}.parquet")
    data = ray.data.read_parquet(str(tmp_path / "data"))
    how = {"fn_constructor_args": (str(tmp_path / "model"),), "batch_format": "pandas", "concurrency": 2}
    found = data.map_batches(Filled, **how).to_pandas().sort_values("row", ignore_index=True)
    known = abduce.load(tmp_path / "model").fill(rows[["a", "b", "c"]])
    pd.testing.assert_frame_equal(found[["a", "b", "c"]], known, check_exact=False, rtol=1e-9)
    seen = rows[["a", "b", "c"]].notna()
    assert found[["a", "b", "c"]].where(seen).equals(rows[["a", "b", "c"]])  # to the bit
