"""Commands killed by SIGKILL at seeded moments: what they write is as it was or as it is to be, and the next run tidies up.

A third of the moments are times of the run, a third events of the files that are written, which take a thousandth of it, a
third bytes of them.  Ten trials of each; ABDUCE_KILLS says another number, `make test-kill` takes a hundred.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from kills_for_tests import Moment, content, run, timeless

import abduce
from abduce.data import readers

TRIALS = int(os.environ.get("ABDUCE_KILLS", "10"))
COMMANDS = {
    "fit": ("fit", "{data}/whole-new.csv", "-o", "{to}", "--model", "pca", "--seed", 1),
    "fit --resume": (
        *("fit", "{data}/new.csv", "-o", "{to}", "--resume", "--model", "vae", "--seed", 1),
        *("--set", "latent_dim=2", "--set", "hidden=[4]", "--set", "max_epochs=4", "--set", "samples=5"),
    ),
    "fill": ("fill", "{data}/new.csv", "-m", "{data}/model", "-o", "{to}.csv"),
    "compress": ("compress", "{data}/new.csv", "-m", "{data}/model", "-o", "{to}.abduce"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    for name in ("old", "new"):
        x = (rng.normal(size=(300, 2)) @ rng.normal(size=(2, 4))).round(3)
        x += rng.normal(size=x.shape).round(3)
        pd.DataFrame(x).to_csv(folder / f"whole-{name}.csv", index=False)
        x[rng.random(x.shape) < 0.2] = np.nan
        pd.DataFrame(x, columns=list("abcd")).to_csv(folder / f"{name}.csv", index=False)
    abduce.GaussianMixture(components=2, random_state=0).fit(readers.read(folder / "old.csv")).save(
        folder / "model"
    )
    return folder


def put(path, kept):
    """What was there before, or nothing."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, body in (kept or {}).items():
        (path / name if name else path).parent.mkdir(parents=True, exist_ok=True)
        (path / name if name else path).write_bytes(body)


@pytest.mark.parametrize("name", COMMANDS)
def test_old_or_new_and_the_next_run_tidies_up(data, tmp_path, name):
    def command(of="new"):
        words = [str(word).format(data=data, to=tmp_path / "to") for word in COMMANDS[name]]
        return [word.replace("new.csv", f"{of}.csv") for word in words]

    def killed(moment=Moment()):  # noqa: B008 - it is frozen
        return run(command(), tmp_path, moment)

    target = tmp_path / next(word for word in command() if word.startswith(str(tmp_path)))
    assert run(command("old"), tmp_path).status == 0
    old = content(target)
    whole = killed()
    new = content(target)
    assert whole.status == 0
    assert old is not None
    assert new is not None
    assert timeless(old) != timeless(new)
    largest = max(map(len, new.values()))
    chance, seen = random.Random(name), Counter()
    for trial in range(TRIALS):
        before = old if chance.random() < 0.7 else None
        put(target, before)
        moments = (
            Moment(event=chance.randint(1, whole.events) if trial else whole.events - 1),  # in the tidying up
            Moment(size=chance.randint(0, largest)),
            Moment(seconds=chance.uniform(0, 1.05 * whole.seconds)),
        )
        assert killed(moments[trial % 3]).status in (-signal.SIGKILL, -signal.SIGXFSZ, 0)
        found = timeless(content(target))
        assert found in (timeless(before), timeless(new))
        seen["new" if found == timeless(new) else "old" if before else "nothing"] += 1
        seen["left over"] += len(set(os.listdir(tmp_path)) - {target.name})
        assert killed().status == 0
        assert timeless(content(target)) == timeless(new), "what goes on comes to the same"
        assert os.listdir(tmp_path) == [target.name], "what was left under other names is gone"
    print(f"{name}: {dict(seen)}")
