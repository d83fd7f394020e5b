"""Conclusions under blanks that differ: straight lines in the shift, tips, and a truth that a shift brings back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from typer.testing import CliRunner

from abduce import Auto, GaussianMixture, sensitivity
from abduce.cli import app
from abduce.estimators.sensitivity import shifted


def mean_of(name):
    return lambda t: (t[name].mean(), t[name].var() / len(t))


@pytest.fixture(scope="module")
def patients():
    """Weeks of two arms; those who do worse drop out: their last value is blank."""
    rng = np.random.default_rng(0)
    n = 400
    first = rng.normal(10, 2, n)
    last = 0.7 * first + rng.normal(1.0, 1.5, n)
    blank = rng.random(n) < 1 / (1 + np.exp(last - 8))
    whole = pd.DataFrame({"first": first, "last": last, "arm": rng.choice(["a", "b"], n)})
    return whole, whole.assign(last=whole["last"].mask(blank)), blank


@pytest.fixture(scope="module")
def model(patients):
    return GaussianMixture(components=1, random_state=0).fit(patients[1][["first", "last"]])


def test_an_estimate_of_a_mean_moves_by_the_share_that_is_blank(patients, model):
    _, seen, blank = patients
    X = seen[["first", "last"]]
    found = sensitivity(model, X, "last", mean_of("last"), [-2.0, 1.0], draws=4, parameters="fixed").table
    assert found.index.tolist() == [-2.0, 0.0, 1.0]
    moved = found["estimate"] - found["estimate"][0.0]
    np.testing.assert_allclose(moved, found.index.to_numpy() * blank.mean(), atol=1e-12)


def test_the_right_shift_brings_the_truth_back(patients, model):
    whole, seen, blank = patients
    X = seen[["first", "last"]]
    asked = model.fill(X)
    off = float((whole["last"] - asked["last"])[blank].mean())
    assert off < -0.3  # who dropped out did worse than those with the same first week
    found = sensitivity(model, X, "last", mean_of("last"), [off], draws=20, random_state=1).table
    truth = whole["last"].mean()
    assert not found["low"][0.0] <= truth <= found["high"][0.0]
    assert found["low"][off] <= truth <= found["high"][off]


def test_at_the_tip_the_interval_ends_at_the_null(patients, model):
    X = patients[1][["first", "last"]]
    options = {"null": 8.0, "draws": 5, "parameters": "fixed"}
    found = sensitivity(model, X, "last", mean_of("last"), np.linspace(-3, 3, 25), **options)
    first = found.table.loc[0.0]
    assert first["low"] > 8.0
    assert found.above is None
    again = sensitivity(model, X, "last", mean_of("last"), [found.below], **options).table.loc[found.below]
    assert again["low"] == pytest.approx(8.0, abs=0.01)
    assert "turns at" in repr(found)


def test_a_conclusion_may_also_come_to_be(patients, model):
    X = patients[1][["first", "last"]]
    within = sensitivity(model, X, "last", mean_of("last"), [0.0], draws=5, parameters="fixed").table[
        "estimate"
    ][0.0]
    found = sensitivity(model, X, "last", mean_of("last"), np.linspace(-2, 2, 41), null=within, draws=5)
    assert found.below < 0 < found.above


def test_seen_cells_stay_and_forms_are_kept(patients, model):
    X = patients[1][["first", "last"]]
    blank = X["last"].isna()
    for form in (X, pl.from_pandas(X), X.to_numpy()):
        own = model if not isinstance(form, np.ndarray) else GaussianMixture(random_state=0).fit(form)
        filled = own.fill(form)
        column = 1 if isinstance(form, np.ndarray) else "last"
        moved = shifted(own, form, filled, {column: -1.5})
        assert type(moved) is type(filled)
        before, after = (np.asarray(t, dtype=float)[:, 1] for t in (filled, moved))
        np.testing.assert_array_equal(after[~blank], before[~blank])
        np.testing.assert_allclose(after[blank], before[blank] - 1.5)


def test_bad_input_is_named(patients):
    seen = patients[1]
    model = Auto(components=(1,), trees=False, random_state=0).fit(seen[:150])
    ask = mean_of("last")
    with pytest.raises(ValueError, match=r"column must be one of .*got 'lost'"):
        sensitivity(model, seen, "lost", ask)
    with pytest.raises(ValueError, match="column must hold numbers, got 'arm'"):
        sensitivity(model, seen, "arm", ask)
    with pytest.raises(ValueError, match="shifts must be finite"):
        sensitivity(model, seen, "last", ask, [np.nan])
    with pytest.raises(ValueError, match="draws must be at least 2"):
        sensitivity(model, seen, "last", ask, draws=1)
    with pytest.raises(ValueError, match="null must be a finite number"):
        sensitivity(model, seen, "last", ask, null=np.inf)
    with pytest.raises(ValueError, match="analysis must give an estimate and its variance"):
        sensitivity(model, seen[:150], "last", lambda t: t["last"].mean(), draws=2, parameters="fixed")


def test_the_command_line_shifts_what_it_fills(patients, tmp_path):
    seen = patients[1][["first", "last"]]
    seen.to_csv(tmp_path / "seen.csv", index=False)
    run = CliRunner()

    def call(*words):
        return run.invoke(app, [str(w) for w in words])

    made = call("fit", tmp_path / "seen.csv", "--model", "GaussianMixture", "-o", tmp_path / "model", "-q")
    assert made.exit_code == 0, made.output
    fill = ("fill", tmp_path / "seen.csv", "-m", tmp_path / "model", "-q", "-o")
    assert call(*fill, tmp_path / "plain.csv").exit_code == 0
    assert call(*fill, tmp_path / "moved.csv", "--shift", "last=-2").exit_code == 0
    plain, moved = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("plain", "moved"))
    expected = plain["last"] - 2 * seen["last"].isna()
    np.testing.assert_allclose(moved["last"], expected)
    assert call(*fill, tmp_path / "bad.csv", "--shift", "last").exit_code == 2
    assert call(*fill, tmp_path / "bad.csv", "--shift", "lost=1").exit_code != 0
