"""Models are asked by Ray Data's actors, and fitted by Ray Train's: what this process gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import abduce
from abduce.together import launched

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
    found = found[["a", "b", "c"]].astype("float64")
    known = abduce.load(tmp_path / "model").fill(rows[["a", "b", "c"]])
    pd.testing.assert_frame_equal(found, known, check_exact=False, rtol=1e-9)
    seen = rows[["a", "b", "c"]].notna()
    assert found.where(seen).equals(rows[["a", "b", "c"]])  # to the bit


def test_a_fit_that_ray_train_begins_again_goes_on_to_the_same_model(tmp_path):
    """One of its two workers is killed in the third epoch; the state on the shared disk is that of the second."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    place = str(tmp_path)
    table()[["a", "b", "c"]].iloc[:600].to_parquet(tmp_path / "data.parquet")

    def fit(config):
        torn = Path(config["place"], "torn")
        rank, count = launched()

        def die(record):
            if record["epoch"] == 3 and rank == count - 1 and not torn.exists():
                torn.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        few = {"latent_dim": 1, "hidden": [4], "max_epochs": 6, "samples": 5}
        model = abduce.VAE(random_state=0, callback=die, **few)
        model.fit(config["place"] + "/data.parquet", checkpoint=config["place"] + "/state")
        if rank == 0:
            model.save(config["place"] + "/" + config["model"])

    (tmp_path / "torn").touch()
    fit({"place": place, "model": "alone"})
    (tmp_path / "torn").unlink()
    (tmp_path / "state").rename(tmp_path / "before")
    trainer = TorchTrainer(
        fit,
        train_loop_config={"place": place, "model": "trained"},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=f"{place}/runs", failure_config=FailureConfig(max_failures=1)),
    )
    trainer.fit()
    assert (tmp_path / "torn").exists()
    alone, trained = (abduce.load(tmp_path / name) for name in ("alone", "trained"))
    assert [record["epoch"] for record in trained.history_] == [1, 2, 3, 4, 5, 6]
    for name, value in alone.model_.state_dict().items():
        np.testing.assert_allclose(
            trained.model_.state_dict()[name], value, rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_a_data_set_of_ray_is_read_as_files_are():
    rows = table()[["a", "b", "c"]]
    data = ray.data.from_pandas([rows.iloc[750 * k : 750 * (k + 1)] for k in range(4)]).map_batches(
        lambda b: b
    )
    found = abduce.GaussianMixture(components=2, random_state=0).fit(data)
    expected = abduce.GaussianMixture(components=2, random_state=0).fit(rows)
    np.testing.assert_array_equal(found.score_samples(rows), expected.score_samples(rows))
    np.testing.assert_array_equal(found.fill(data).to_numpy(float), expected.fill(rows).to_numpy())
