"""Processes that train together: the same weights as one, whatever the objective; killed, they go on to the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from together_for_tests import CASES, trained

SCRIPT = Path(__file__).parents[1] / "together_for_tests.py"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launched(count: int, *arguments: object) -> None:
    """Run a script in processes of a launcher; what went wrong is the test's failure."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*LAUNCH, str(count), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Weights of every case, by two processes."""
    folder = tmp_path_factory.mktemp("pairs")
    launched(2, SCRIPT, folder, *CASES)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_come_to_the_weights_of_one(case, pairs):
    alone = trained(case)
    first, second = (load_file(pairs / f"{case} {rank}.safetensors") for rank in range(2))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-5)


def test_processes_with_other_rows_are_refused(tmp_path):
    script = tmp_path / "others.py"
    script.write_text(
        "import numpy as np\n"
        "from abduce import VAE, together\n"
        "rng = np.random.default_rng(together.launched().rank)\n"
        "VAE(max_epochs=1, random_state=0).fit(rng.normal(size=(60, 3)))\n"
    )
    with pytest.raises(AssertionError, match="process 1 of 2 was given other rows or other settings"):
        launched(2, script)


def test_more_processes_than_rows_of_a_batch_are_refused(tmp_path):
    script = tmp_path / "many.py"
    script.write_text(
        "import numpy as np\n"
        "from abduce import VAE\n"
        "X = np.random.default_rng(0).normal(size=(60, 3))\n"
        "VAE(max_epochs=1, batch_size=1, random_state=0).fit(X)\n"
    )
    with pytest.raises(AssertionError, match=r"a batch of 1 rows .* can't be shared by 2 processes"):
        launched(2, script)


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5))) + 0.2 * rng.normal(size=(600, 5))
    X[rng.random(X.shape) < 0.1] = np.nan
    path = tmp_path_factory.mktemp("table") / "t.csv"
    pd.DataFrame(X, columns=list("abcde")).to_csv(path, index=False)
    return path


def command(output: Path, table: Path, epochs: int) -> list[object]:
    return ["-m", "abduce", "fit", table, "-o", output, "--model", "vae", "--max-epochs", epochs, "--resume"]


@pytest.fixture(scope="module")
def straight(table, tmp_path_factory) -> Path:
    """The model of two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "model"
    launched(2, *command(folder, table, 30))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def process_of(launcher: int, rank: str) -> int:
    """The process that a launcher started as this rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    named = f"RANK={rank}".encode()
    return next(int(c) for c in children if named in Path(f"/proc/{c}/environ").read_bytes().split(b"\0"))


@pytest.mark.parametrize("killed", ["0", "1"])
def test_a_process_killed_is_started_anew_and_the_model_is_the_undisturbed_one(
    killed, table, straight, tmp_path
):
    broken = tmp_path / "broken"
    run = subprocess.Popen(
        [*LAUNCH, "2", "--max-restarts", "1", *map(str, command(broken, table, 30))],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    state = broken.with_name("broken.training") / "model.json"
    while not (state.exists() and json.loads(state.read_text())["progress"]["epoch"] >= 3):
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process_of(run.pid, killed), signal.SIGKILL)
    _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told
    first, second = weights(straight), weights(broken)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_what_has_no_gradients_is_fitted_by_the_first_process_alone(table, tmp_path):
    launched(2, "-m", "abduce", "fit", table, "-o", tmp_path / "shared", "--model", "pca")
    done = subprocess.run(
        [sys.executable, "-m", "abduce", "fit", str(table), "-o", str(tmp_path / "alone"), "--model", "pca"]
    )
    assert done.returncode == 0
    first, second = weights(tmp_path / "shared"), weights(tmp_path / "alone")
    assert all(torch.equal(first[name], second[name]) for name in first)
