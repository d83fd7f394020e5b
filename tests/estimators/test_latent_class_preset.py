"""Latent classes through the face: every question that a table of classes can be asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from abduce import Flips
from abduce.estimators.latent_classes import LatentClasses


def copies(n: int = 2000, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """Eight noisy copies of one bit."""
    rng = np.random.default_rng(seed)
    return ((rng.random((n, 1)) < 0.5) ^ (rng.random((n, 8)) < noise)).astype(float)


def log_p_of_copies(X: np.ndarray, noise: float = 0.05) -> np.ndarray:
    """log p of the observed cells, by the bit's two values."""
    ones, zeros = np.nansum(X, 1), np.nansum(1 - X, 1)
    return np.log(0.5 * ((1 - noise) ** ones * noise**zeros + noise**ones * (1 - noise) ** zeros))


def cars(n: int = 1500, seed: int = 0) -> pd.DataFrame:
    """Text, ordered categories, booleans and a column of three numbers, that hang together through two classes."""
    rng = np.random.default_rng(seed)
    big = rng.random(n) < 0.4
    pick = lambda p, q, values: np.where(  # noqa: E731
        big, rng.choice(values, n, p=p), rng.choice(values, n, p=q)
    )
    size = pick([0.05, 0.15, 0.8], [0.7, 0.25, 0.05], ["small", "middle", "large"])
    return pd.DataFrame(
        {
            "fuel": pick([0.8, 0.15, 0.05], [0.1, 0.7, 0.2], ["diesel", "petrol", "electric"]),
            "size": pd.Categorical(size, ["small", "middle", "large"], ordered=True),
            "tows": pick([0.2, 0.8], [0.95, 0.05], [False, True]).astype(bool),
            "doors": pick([0.1, 0.2, 0.7], [0.7, 0.2, 0.1], [2, 3, 5]),
        }
    )


@pytest.fixture(scope="module")
def bits() -> LatentClasses:
    return LatentClasses(components=2, random_state=0).fit(copies(20_000))


@pytest.fixture(scope="module")
def model() -> LatentClasses:
    return LatentClasses(random_state=0, kinds={"doors": "categorical"}).fit(cars(3000, seed=1))


def test_scores_are_the_truths(bits):
    new = copies(500, seed=1)
    new[np.random.default_rng(0).random(new.shape) < 0.3] = np.nan
    np.testing.assert_allclose(bits.score_samples(new), log_p_of_copies(new), atol=0.15)
    assert bits.score(new) == pytest.approx(log_p_of_copies(new).mean(), abs=0.01)
    assert bits.log_z_.kind == "exact"
    np.testing.assert_allclose(bits.score_samples(np.full((1, 8), np.nan)), 0.0, atol=1e-12)


def test_cleans_flips(bits):
    """10 % of the cells turned over: what is left wrong is the 5 % by which a copy differs from the bit."""
    clean = copies(3000, seed=2)
    flipped = np.random.default_rng(3).random(clean.shape) < 0.1
    noisy = np.where(flipped, 1 - clean, clean)
    restored = bits.denoise(noisy, 0.1)
    assert (noisy != clean).mean() == pytest.approx(0.1, abs=0.01)
    assert (restored != clean).mean() == pytest.approx(0.05, abs=0.01)
    assert bits.estimate_noise(noisy) == pytest.approx(0.1, abs=0.05)
    drawn = np.stack(bits.restore(noisy[:500], Flips(0.1), draws=50, random_state=0))
    # a cell that agrees with the bit is right, of one that does not 1/3 of the time: 0.95 · 0.1 / (0.95 · 0.1 + 0.05 · 0.9)
    bit = noisy[:500].mean(1, keepdims=True) > 0.5
    odd = noisy[:500] != bit
    assert (drawn == noisy[:500])[:, odd].mean() == pytest.approx(0.045 / 0.14, abs=0.03)
    assert (drawn == noisy[:500])[:, ~odd].mean() == pytest.approx(0.855 / 0.86, abs=0.01)


def test_fills_tables_of_all_kinds_of_classes(model):
    frame = cars(600)
    blank = np.random.default_rng(5).random(frame.shape) < 0.25
    gaps = frame.mask(blank)
    filled = model.fill(gaps)
    assert filled["size"].dtype == frame["size"].dtype
    assert set(filled["fuel"]) <= {"diesel", "petrol", "electric"}
    assert filled.notna().all().all()
    common = frame.mode().iloc[0]
    for j, name in enumerate(frame):
        assert (filled[name] == gaps[name])[~blank[:, j]].all()
        right = (filled[name] == frame[name])[blank[:, j]].mean()
        assert right > (common[name] == frame[name])[blank[:, j]].mean() + 0.05
    drawn = model.fill(gaps, draws=20, random_state=0)
    doors = pd.concat([copy.loc[blank[:, 3], "doors"] for copy in drawn]).astype(int)
    share = doors.value_counts(normalize=True)
    truth = frame["doors"].astype(int).value_counts(normalize=True)
    assert (share - truth).abs().max() < 0.08
    low, high = model.fill_interval(gaps)
    inside = (low["doors"].astype(int) <= frame["doors"]) & (frame["doors"] <= high["doors"].astype(int))
    assert inside[blank[:, 3]].mean() > 0.85


def test_chances_of_a_class_are_calibrated(model):
    """p(tows | the rest), told by name in model space, against how often cars do tow."""
    frame = cars(4000, seed=7)
    p = model.class_probabilities(frame, "tows")[True].to_numpy()
    tows = frame["tows"].to_numpy()
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        some = (p >= low) & (p < high)
        if some.sum() > 100:
            assert tows[some].mean() == pytest.approx(p[some].mean(), abs=4 * 0.5 / np.sqrt(some.sum()))


def test_samples_and_oddness(model):
    drawn = model.sample(3000, random_state=0)
    frame = cars(3000, seed=8)
    for name in frame:
        share = drawn[name].astype(str).value_counts(normalize=True)
        truth = frame[name].astype(str).value_counts(normalize=True)
        assert (share - truth).abs().max() < 0.06
    assert model.score(drawn) == pytest.approx(model.score(frame), abs=0.1)
    torn = frame.assign(
        **{c: frame[c].sample(frac=1, random_state=j).to_numpy() for j, c in enumerate(frame)}
    )
    assert model.anomaly_score(torn).mean() > model.anomaly_score(frame).mean() + 0.3
    assert (model.predict(frame) == -1).mean() == pytest.approx(0.1, abs=0.08)
    assert model.transform(frame).shape == (3000, model.model_.energy.config["components"])
    np.testing.assert_allclose(model.transform(frame).sum(1), 1.0)


def test_blanks_in_training():
    X = copies(3000)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.4, np.nan, X)
    model = LatentClasses(components=2, random_state=0).fit(gaps)
    assert model.score(copies(2000, seed=3)) == pytest.approx(
        log_p_of_copies(copies(2000, seed=3)).mean(), abs=0.03
    )


def test_what_does_not_fit_is_refused():
    frame = cars(50).assign(price=np.random.default_rng(0).normal(size=50), age=np.linspace(0.5, 9.7, 50))
    with pytest.raises(ValueError, match=r"takes classes, but 'price', 'age' are real .kinds='categorical'"):
        LatentClasses().fit(frame.drop(columns="doors"))
    with pytest.raises(ValueError, match="components must be at most the number of rows, got 99 for 50 rows"):
        LatentClasses(components=99).fit(cars(50)[["fuel", "tows"]])
    with pytest.raises(ValueError, match="components must be an int >= 1, got 0"):
        LatentClasses(components=0).fit(copies(50))
    with pytest.raises(ValueError, match="pseudo_rows must be > 0, got -1"):
        LatentClasses(pseudo_rows=-1).fit(copies(50))
