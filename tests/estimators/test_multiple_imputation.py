"""Draws whose parameters are refitted: what each copy keeps, and that the intervals pooled from them are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from abduce import RBM, VAE, EnergyNetwork, GaussianMixture, KMeans, pool
from abduce.estimators.bootstrap import Encoded, apart, held_out, refit, resample
from abduce.fit.settings import Settings

REPETITIONS = 24


def gaussian(**kw) -> GaussianMixture:
    return GaussianMixture(**{"components": 1, "reg_covar": 0.0, "kinds": "real", "random_state": 0} | kw)


def quick(**kw) -> VAE:
    return VAE(**{"latent_dim": 1, "hidden": [4], "max_epochs": 2, "samples": 16, "random_state": 0} | kw)


def least_squares(table: np.ndarray) -> tuple[float, float]:
    """y on x: the slope and its squared standard error."""
    y, design = table[:, 0], np.column_stack([np.ones(len(table)), table[:, 1]])
    inverse = np.linalg.inv(design.T @ design)
    b = inverse @ design.T @ y
    return b[1], np.square(y - design @ b).sum() / (len(y) - 2) * inverse[1, 1]


# ---------------------------------------------------------------- known answers


def test_variance_between_copies():
    """A mean with most of its values blank: B is σ̂² n₀/n² for fixed parameters, and σ̂² n₀/(n n₁) for proper draws."""
    rng = np.random.default_rng(0)
    n, blank, draws = 60, 40, 80
    X = np.column_stack([rng.normal(size=n), rng.normal(size=n)])  # nothing to learn from the second column
    X -= X.mean(0)
    X[:blank, 0] = np.nan
    X[blank:, 0] -= X[blank:, 0].mean()
    X[blank:, 1] -= X[blank:, 1] @ X[blank:, 0] / np.square(X[blank:, 0]).sum() * X[blank:, 0]
    variance = X[blank:, 0].var()
    model = gaussian(covariance_type="diag").fit(X)
    ratio = {}
    for parameters in ("fixed", "bootstrap"):
        means = [c[:, 0].mean() for c in model.fill(X, draws=draws, random_state=1, parameters=parameters)]
        expected = variance * blank / n**2 * (1 if parameters == "fixed" else n / (n - blank))
        ratio[parameters] = np.var(means, ddof=1) / expected
    low, high = stats.chi2(draws - 1).ppf([0.001, 0.999]) / (draws - 1)
    assert low < ratio["fixed"] < high
    # a resample's number of observed values varies and its variance is (n₁ − 1)/n₁ of σ̂²: about 1 + 1/n₁ in all
    assert low < ratio["bootstrap"] < 1.1 * high
    assert low * n / (n - blank) > high  # so that the one can't pass for the other


def test_coverage_of_a_slope():
    """Pooled intervals from proper draws hold the slope as often as they say; those of one best fill do not."""
    hits = {"bootstrap": 0, "single": 0}
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=40)
        X = np.column_stack([x + rng.normal(size=40), x])
        X[rng.random(40) < stats.norm.cdf(x), 0] = np.nan  # y is blank where x is high: at random given x
        model = gaussian(random_state=seed).fit(X)
        copies = model.fill(X, draws=5, random_state=seed, parameters="bootstrap")
        found = pool(*map(list, zip(*map(least_squares, copies), strict=True)), df=38)
        hits["bootstrap"] += int(found.low <= 1 <= found.high)
        b, variance = least_squares(model.fill(X))
        hits["single"] += int(abs(b - 1) <= stats.t(38).ppf(0.975) * variance**0.5)
    assert stats.binomtest(hits["bootstrap"], REPETITIONS, 0.95).pvalue > 0.01
    assert stats.binomtest(hits["single"], REPETITIONS, 0.95).pvalue < 1e-4


# ---------------------------------------------------------------- resamples


def test_a_resample_keeps_every_column_alive():
    values = np.zeros((30, 4))
    values[0, 0] = 1.0  # varies by one row
    values[:, 1] = np.arange(30)
    observed = np.ones((30, 4), bool)
    observed[1:, 2] = False  # observed in one row
    observed[:, 3] = False  # in none
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = resample(values, observed, rng, varied=True)
        assert 0 in rows
        assert len(set(rows.tolist()) - {0}) > 1
        assert len(rows) == 30
        assert observed[resample(values, observed, rng, varied=False), 2].any()


def test_rows_are_added_where_no_resample_would_do():
    """200 columns, each alive in one row of its own: almost no resample has them all."""
    values = np.eye(200)
    rows = resample(values, values >= 0, np.random.default_rng(0), varied=True)
    assert len(rows) > 200
    assert set(rows.tolist()) == set(range(200))


def test_resamples_are_uniform():
    values = np.arange(20.0)[:, None]
    rng = np.random.default_rng(0)
    count = np.bincount(
        np.concatenate([resample(values, values >= 0, rng, True) for _ in range(500)]), minlength=20
    )
    assert stats.chisquare(count).pvalue > 0.001


def test_copies_of_a_row_stay_on_one_side():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(60, size=60)
        held = rng.choice(60, size=6, replace=False)
        ordered = apart(rows, held, rng)
        assert sorted(ordered) == sorted(rows)
        assert not set(ordered[held]) & set(np.delete(ordered, held))


@pytest.mark.parametrize(
    "model",
    [quick(), KMeans(components=2, kinds="real"), EnergyNetwork(hidden=(4,), max_epochs=1, kinds="real")],
    ids=lambda model: type(model).__name__,
)
def test_the_rows_held_out_are_those_that_fit_holds_out(model):
    model.set_params(random_state=3).fit(np.random.default_rng(0).normal(size=(50, 2)))
    seed = model.inference_seed_
    settings = Settings(validation=model.validation_fraction, seed=seed)
    np.testing.assert_array_equal(settings.split(50)[1], held_out(model, 50))


# ---------------------------------------------------------------- copies


def mixed(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    colour = np.where(z > 0, "red", "blue").astype(object)
    colour[3] = "green"  # in one row only: a third of the resamples miss it
    frame = pd.DataFrame(
        {
            "weight": np.round(z + 0.1 * rng.normal(size=n), 1),
            "colour": colour,
            "visits": rng.poisson(3, n),
            "name": [f"row {i}" for i in range(n)],
        },
        index=[f"r{i}" for i in range(n)],
    )
    frame.loc["r5":"r14", "weight"] = np.nan
    frame.loc["r10":"r19", "colour"] = None
    return frame


def test_copies_of_a_table():
    X = mixed()
    before = X.copy()
    model = quick().fit(X)
    copies = model.fill(X, draws=3, random_state=1, parameters="bootstrap")
    pd.testing.assert_frame_equal(X, before)
    for copy in copies:
        assert list(copy) == list(X)
        assert copy.index.equals(X.index)
        assert not copy.isna().any().any()
        for column in X:
            seen = X[column].notna()
            assert copy.loc[seen, column].tolist() == X.loc[seen, column].tolist()
        assert set(copy["colour"]) <= {"red", "blue", "green"}
    assert not copies[0].equals(copies[1])
    again = model.fill(X, draws=2, random_state=1, parameters="bootstrap")
    for a, b in zip(copies, again, strict=False):  # a copy does not depend on how many there are
        pd.testing.assert_frame_equal(a, b)
    other = model.fill(X, draws=1, random_state=2, parameters="bootstrap")
    assert not other[0].equals(copies[0])
    assert not model.fill(X, draws=1, random_state=1)[0].equals(copies[0])


def test_copies_of_images():
    images = (np.random.default_rng(0).random((40, 4, 4)) < 0.4).astype(float)
    images[:, 0, 0] = 0  # a pixel that never varies
    images[:5, 2:] = np.nan
    for model in (quick(), RBM(hidden=3, max_epochs=2, random_state=0)):
        copies = model.fit(images).fill(images, draws=2, random_state=0, parameters="bootstrap")
        for copy in copies:
            assert copy.shape == images.shape
            np.testing.assert_array_equal(copy[~np.isnan(images)], images[~np.isnan(images)])
            assert set(np.unique(copy)) <= {0.0, 1.0}


def test_cells_that_are_not_trusted_are_hidden_from_refits():
    """What stands in them makes no difference, however wild."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2)) @ [[1.0, 0.9], [0.0, 0.4]]
    model = gaussian().fit(X)
    trust = np.ones(X.shape, bool)
    trust[:20, 1] = False
    wild, blank = X.copy(), X.copy()
    wild[:20, 1], blank[:20, 1] = 1e6, np.nan
    ways = [(X, trust), (wild, trust), (blank, None)]
    found = [model.fill(a, 2, observed=o, random_state=0, parameters="bootstrap") for a, o in ways]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0][0]).max() < 10


def test_a_refit_has_the_schema_and_the_arguments():
    X = mixed()
    seen = []
    model = quick(callback=seen.append).fit(X)
    before = len(seen)
    values, observed = model.schema_.encode(X)
    own = refit(model, Encoded(model.schema_, values, observed), np.random.default_rng(0))
    assert own.schema_ is model.schema_
    assert own.latent_dim == 1
    assert own.random_state != model.random_state
    assert len(seen) == before  # the callback watched the one fit that was asked for
    weights = zip(own.model_.parameters(), model.model_.parameters(), strict=True)
    assert any(not np.array_equal(a.detach(), b.detach()) for a, b in weights)


def test_nothing_to_fill_needs_no_refit():
    X = np.random.default_rng(0).normal(size=(30, 2))
    for copy in gaussian().fit(X).fill(X, draws=2, parameters="bootstrap"):
        np.testing.assert_array_equal(copy, X)


def test_what_is_refused():
    X = np.random.default_rng(0).normal(size=(30, 2))
    X[:5, 0] = np.nan
    model = gaussian().fit(X)
    with pytest.raises(ValueError, match=r"parameters must be one of .*, got 'bayes'"):
        model.fill(X, draws=2, parameters="bayes")
    with pytest.raises(ValueError, match="parameters='bootstrap' needs draws"):
        model.fill(X, parameters="bootstrap")
    with pytest.raises(ValueError, match=r"X must have at least 2 rows .* got 1"):
        model.fill(X[:1], draws=2, parameters="bootstrap")
    with pytest.raises(ValueError, match="X has no observed value in 'x0'"):
        model.fill(X[:5], draws=2, parameters="bootstrap")
