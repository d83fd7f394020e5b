"""Tests that rows are called odd like for like: whatever their units, and however many of their cells are blank."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from abduce import PCA, VAE, Auto, GaussianMixture
from abduce.estimators.cuts import Cuts


def table(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ np.random.default_rng(d).normal(size=(2, d)) + 0.4 * rng.normal(size=(n, d))
    X[:, 0] = np.exp(0.5 * X[:, 0])
    return X


def blanked(X: np.ndarray, count: int) -> np.ndarray:
    """``count`` blanks in each row."""
    out = X.copy()
    order = np.argsort(np.random.default_rng(1).random(X.shape), 1)
    np.put_along_axis(out, order[:, :count], np.nan, 1)
    return out


@pytest.mark.parametrize("d", [3, 6, 20])
def test_of_gaussians_the_cut_is_the_quantile_of_chi_square(d):
    """Known answer: rows N(0, C), seen through any blanks, have −log p = ½ χ² + a constant, with as many degrees as cells."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(d, d)) / np.sqrt(d) + 2 * np.eye(d)
    C = root @ root.T

    def score(x, mask):
        out = np.empty(len(x))
        for i, seen in enumerate(mask):
            block = C[np.ix_(seen, seen)]
            out[i] = stats.multivariate_normal(cov=block).logpdf(x[i, seen]) if seen.any() else 0.0
        return out

    cuts = Cuts(rng.normal(size=(2000, d)) @ root.T, score, np.zeros(d), 0)
    x = rng.normal(size=(4000, d)) @ root.T
    for share in (1.0, 0.5, 0.2):
        mask = rng.random(x.shape) < share
        mask[:, 0] = True
        z = cuts.z(score(x, mask), mask)
        for level in (0.01, 0.1, 0.5):
            assert np.mean(z > stats.norm.isf(level)) == pytest.approx(level, abs=0.02 + 0.2 * level)
        log_p = cuts.log_p(1.5, mask)
        np.testing.assert_allclose(cuts.z(log_p, mask), 1.5, atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Auto(random_state=0),
        lambda: PCA(components=2, random_state=0),
        lambda: VAE(max_epochs=30, random_state=0),
    ],
)
def test_flags_depend_neither_on_units_nor_on_blanks(make):
    train, new = table(500, 4, 0), table(500, 4, 1)
    flagged = {}
    for unit in (1e-3, 1.0, 1e3):
        model = make().fit(train * unit)
        for blanks in (0, 1, 3):
            flagged[unit, blanks] = model.predict(blanked(new, blanks) * unit) == -1
        odd = blanked(new, 0)
        odd[:, 1] += 8 * train[:, 1].std()
        odd[:, 2] = np.nan
        assert (model.predict(odd * unit) == -1).mean() > 0.95
    for blanks in (0, 1, 3):
        assert np.mean(flagged[1e-3, blanks] == flagged[1.0, blanks]) > 0.99
        assert np.mean(flagged[1e3, blanks] == flagged[1.0, blanks]) > 0.99
        assert flagged[1.0, blanks].mean() == pytest.approx(flagged[1.0, 0].mean(), abs=0.06)


def test_contamination_holds_where_training_rows_have_blanks():
    X = blanked(table(400, 5, 0), 2)
    for model in (
        GaussianMixture(components=1, contamination=0.05),
        Auto(contamination=0.05, random_state=0),
    ):
        assert np.mean(model.fit(X).predict(X) == -1) == pytest.approx(0.05, abs=0.006)


def test_a_flag_does_not_depend_on_which_rows_come_along():
    model = GaussianMixture(components=2, random_state=0).fit(table(400, 12, 0))
    X = blanked(table(60, 12, 1), 4)
    whole = model.decision_function(X)
    np.testing.assert_allclose(
        np.concatenate([model.decision_function(X[i : i + 7]) for i in range(0, 60, 7)]), whole
    )
