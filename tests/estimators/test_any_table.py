"""Tests that any table is taken, and that answers do not depend on how it is written down."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from abduce import ICA, PCA, RBM, VAE, Auto, GaussianMixture, Ising, MixtureOfFactorAnalyzers
from abduce.data.schema import Schema


def quick() -> list:
    return [Auto(random_state=0), VAE(max_epochs=5, random_state=0)]


# ---------------------------------------------------------------- spread tiny beside the mean


@pytest.mark.parametrize(("centre", "spread"), [(1.7e9, 1.0), (0.0, 1e-13), (1e-13, 1e-15), (5.0, 1e-9)])
@pytest.mark.parametrize("model", [Auto(random_state=0), VAE(max_epochs=30, random_state=0)])
def test_spread_tiny_beside_the_mean(model, centre, spread):
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    X = np.stack([a, a + 0.3 * rng.normal(size=400)], 1) * spread + centre
    hidden = rng.random(400) < 0.3
    gaps = X.copy()
    gaps[hidden, 1] = np.nan
    model.fit(gaps)
    error = (model.fill(gaps) - X)[hidden, 1] / spread
    assert np.sqrt(np.mean(error**2)) < 0.6
    low, high = model.fill_interval(gaps)
    assert np.mean((high - low)[hidden, 1]) / spread < 3
    assert model.sample(300, random_state=0).std(0) / spread == pytest.approx([1, 1], abs=0.35)


def test_dates_within_minutes():
    rng = np.random.default_rng(0)
    second = rng.normal(size=300) * 60
    base = pd.Timestamp("2024-05-01 12:00:00")
    frame = pd.DataFrame(
        {"when": base + pd.to_timedelta(second, unit="s"), "delay": second + 18 * rng.normal(size=300)}
    )
    gaps = frame.copy()
    gaps.loc[::4, "when"] = pd.NaT
    filled = Auto(random_state=0).fit(gaps).fill(gaps)
    error = (filled["when"] - frame["when"])[::4].dt.total_seconds() / 60
    assert np.sqrt(np.mean(error**2)) < 0.6


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("value", [0.0005, 123456789.0, 3.0, -7e-12, 0.1])
@pytest.mark.parametrize("model", quick(), ids=lambda model: type(model).__name__)
def test_a_constant_column_stays_what_it_is(model, value):
    rng = np.random.default_rng(0)
    X = np.stack([rng.normal(size=200), np.full(200, value), rng.normal(size=200)], 1)
    gaps = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    model.fit(gaps)
    low, high = model.fill_interval(gaps)
    for answer in (
        model.fill(gaps),
        low,
        high,
        *model.fill(gaps, draws=2),
        model.sample(20),
        model.denoise(gaps, 0.1),
    ):
        assert (answer[:, 1] == value).all()


@pytest.mark.parametrize("model", [RBM(max_epochs=2, random_state=0), Ising(max_epochs=2, random_state=0)])
def test_bits_that_never_change_are_bits(model):
    rng = np.random.default_rng(0)
    X = (rng.random((150, 8)) < 0.4).astype(float)
    X[:, 0], X[:, 7] = 0, 1
    gaps = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    filled = model.fit(X).fill(gaps)
    assert (filled[:, 0] == 0).all()
    assert (filled[:, 7] == 1).all()


def test_blanks_of_a_text_that_is_always_the_same_are_filled_with_it():
    frame = pd.DataFrame({"t": ["x", None, "x"] * 20, "v": np.arange(60.0) ** 1.1})
    assert Auto(random_state=0).fit(frame).fill(frame)["t"].tolist() == ["x"] * 60


# ---------------------------------------------------------------- bounds and whole numbers


@pytest.mark.parametrize("model", quick(), ids=lambda model: type(model).__name__)
def test_signs_whole_numbers_and_bounds(model):
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "years_of_work": np.abs(rng.normal(size=n)) * 3,
            "percent": np.clip(rng.normal(88, 12, n), 0, 100),
            "year": rng.integers(1950, 2020, n).astype(float),
            "hour": rng.integers(0, 24, n).astype(float),
        }
    ).mask(rng.random((n, 4)) < 0.25)
    model.set_params(bounds={"percent": (None, 100), "hour": (0, 23)}).fit(frame)
    low, high = model.fill_interval(frame, level=0.99)
    for answer in (
        model.fill(frame),
        low,
        high,
        *model.fill(frame, draws=2),
        model.sample(300, random_state=1),
    ):
        assert (answer >= 0).all(axis=None)
        assert answer["percent"].max() <= 100
        assert answer["hour"].max() <= 23
        for name in ("year", "hour"):
            assert (answer[name] % 1 == 0).all()


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({"a": (2, 1)}, ValueError, "bounds of column 'a' must be in order, low below high, got"),
        ({"a": 3}, TypeError, "bounds of column 'a' must be a pair"),
        ({"z": (0, 1)}, ValueError, "bounds names the column 'z', which is not there"),
        ({"t": (0, 1)}, ValueError, "bounds are for columns of numbers; 't' holds classes or is left out"),
    ],
)
def test_bad_bounds(bounds, error, message):
    frame = pd.DataFrame({"a": np.arange(20) ** 1.5, "t": ["u", "v"] * 10})
    with pytest.raises(error, match=message):
        Auto(bounds=bounds).fit(frame)


# ---------------------------------------------------------------- values never seen


@pytest.mark.parametrize("model", quick(), ids=lambda model: type(model).__name__)
def test_values_never_seen_are_odd_but_no_error(model):
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "household": rng.integers(1, 9, n),
            "income": np.exp(2 * rng.normal(size=n)),
            "visits": rng.poisson(3, n).astype(float),
            "flag": rng.integers(0, 2, n),
            "colour": rng.choice(list("abc"), n),
            "size": rng.normal(size=n),
        }
    )
    model.fit(frame)
    usual = frame.head(6)
    new = usual.copy().astype({"household": float, "flag": float})
    for row, (column, value) in enumerate(
        {"household": 9.0, "income": 0.0, "visits": 2.5, "flag": 2.0, "colour": "zzz"}.items()
    ):
        new.loc[row, column] = value
    before, after = model.score_samples(usual), model.score_samples(new)
    assert np.isfinite(after).all()
    assert after[5] == pytest.approx(before[5], rel=1e-12)
    assert after[:5].mean() < before[:5].mean() - 2
    assert model.fill(new).equals(new)
    assert model.transform(new).shape[0] == model.predict(new).shape[0] == 6
    new["size"] = np.nan
    filled = model.fill(new)
    assert filled["size"].notna().all()
    assert filled.drop(columns="size").equals(new.drop(columns="size"))


def test_an_array_of_bits_scores_a_two():
    rng = np.random.default_rng(0)
    X = np.stack([rng.integers(0, 2, 200), rng.normal(size=200)], 1)
    model = GaussianMixture(components=1, random_state=0).fit(X)
    odd = X[:4].copy()
    odd[:, 0] = 2
    assert (model.score_samples(odd) < model.score_samples(X[:4])).all()
    model = Auto(random_state=0).fit(X)
    assert (model.score_samples(odd) < model.score_samples(X[:4])).all()


def test_models_of_numbers_take_grades_and_counts_for_numbers():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"grade": rng.integers(1, 6, 100), "count": rng.poisson(3, 100), "v": rng.normal(size=100)}
    )
    for model in (PCA(components=1), ICA(random_state=0), GaussianMixture(components=1)):
        assert {f.kind for f in model.fit(frame).schema_.fields} == {"real"}


# ---------------------------------------------------------------- no surprises

ROUND = {"rtol": 1e-6, "atol": 1e-6}


@st.composite
def tables(draw):
    """Small tables of numbers with blanks, every column with a few values."""
    n, d = draw(st.integers(12, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "skewed", "whole", "copies"]))
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + 0.3 * rng.normal(size=(n, d))
    if kind == "skewed":
        X = np.exp(X)
    if kind == "whole":
        X = np.rint(3 * X)
    if kind == "copies":
        X[:, -1] = X[:, 0]
    hidden = rng.random(X.shape) < draw(st.sampled_from([0.0, 0.1, 0.3]))
    hidden[:5] = False
    return np.where(hidden, np.nan, X), rng


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(tables())
def test_answers_do_not_depend_on_how_a_table_is_written(case):
    """Order of rows in a question, units, container, type, a constant or an empty column, and cuts into batches."""
    X, rng = case
    model = GaussianMixture(components=1, reg_covar=0.01, random_state=0)
    kept = model.fit(X)
    fill, score, flags = kept.fill(X), kept.score_samples(X), kept.predict(X)
    order = rng.permutation(len(X))
    np.testing.assert_allclose(kept.fill(X[order]), fill[order], **ROUND)
    np.testing.assert_allclose(kept.score_samples(X[order]), score[order], **ROUND)
    halves = [kept.fill(part) for part in np.array_split(X, 3)]
    np.testing.assert_allclose(np.concatenate(halves), fill, **ROUND)

    scale, shift = 10.0 ** rng.integers(-6, 7, X.shape[1]), -np.abs(rng.normal(size=X.shape[1]))
    shift[np.nanmin(X, 0) >= 0] = 0  # what was never negative stays so: there zero means something
    other = model.__class__(**model.get_params()).fit(X * scale + shift)
    np.testing.assert_allclose((other.fill(X * scale + shift) - shift) / scale, fill, rtol=1e-4, atol=1e-4)
    assert np.mean(other.predict(X * scale + shift) == flags) > 0.97

    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty column is said to be one
        wide = np.concatenate([X, np.full((len(X), 1), 7.0), np.full((len(X), 1), np.nan)], 1)
        more = model.__class__(**model.get_params()).fit(wide)
    np.testing.assert_allclose(more.fill(wide)[:, : X.shape[1]], fill, **ROUND)
    assert (more.fill(wide)[:, X.shape[1]] == 7.0).all()
    listed = model.__class__(**model.get_params()).fit(X.tolist())
    np.testing.assert_allclose(listed.fill(X.tolist()), fill, **ROUND)
    named = model.__class__(**model.get_params()).fit(frame)
    whole = (frame.dropna() % 1 == 0).all()
    np.testing.assert_allclose(
        named.fill(frame).to_numpy()[:, ~whole.to_numpy()], fill[:, ~whole.to_numpy()], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("rows", [12, 60])
@pytest.mark.parametrize(
    "model",
    [
        Auto(),
        PCA(),
        PCA(components=4),
        GaussianMixture(),
        GaussianMixture(components=2, covariance_type="tied"),
        MixtureOfFactorAnalyzers(components=2),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:no value in any row")
def test_empty_and_constant_columns_tell_nothing_of_the_others(model, rows):
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(rows, 4))
    X[rng.random(X.shape) < 0.15] = np.nan
    spread = np.nanstd(X, 0)
    model = model.set_params(random_state=0)
    alone = clone(model).fit(X)
    for column in (np.nan, 3.7, 1e-9):
        wide = np.c_[X[:, :2], np.full(rows, column), X[:, 2:], np.full(rows, column)]
        filled = clone(model).fit(wide).fill(wide)
        np.testing.assert_allclose(
            np.delete(filled, [2, 5], 1) / spread, alone.fill(X) / spread, rtol=0, atol=1e-9
        )
        assert np.isfinite(filled).all()
        assert (filled[:, 2] == (column if column == column else filled[0, 2])).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(tables())
def test_a_fill_is_never_much_worse_than_the_mean(case):
    """Cells hidden at random: root mean square error within 5 % of the column means', beyond what few cells let vary."""
    X, rng = case
    hidden = (rng.random(X.shape) < 0.2) & ~np.isnan(X)
    hidden[:5] = False
    gaps = np.where(hidden, np.nan, X)
    spread = np.nanstd(gaps, 0)
    if hidden.sum() < 8 or (spread == 0).any():
        return
    errors = []
    for answer in (
        Auto(random_state=0).fit(gaps).fill(gaps),
        np.where(np.isnan(gaps), np.nanmean(gaps, 0), gaps),
    ):
        errors.append(((answer - X) / spread)[hidden] ** 2)
    ours, mean = errors
    doubt = 2 * np.std(ours - mean) / np.sqrt(len(mean))  # two standard errors of the difference
    assert ours.mean() <= 1.05**2 * mean.mean() + doubt


# ---------------------------------------------------------------- no rows, and very few


def test_no_rows_give_no_answers():
    X = np.random.default_rng(0).normal(size=(60, 3))
    for rows in (X, pd.DataFrame(X, columns=list("abc"))):
        model = GaussianMixture(components=1, random_state=0).fit(rows)
        none = rows[:0]
        assert model.transform(none).shape == (0, 1)
        assert model.fill(none).shape == model.denoise(none, 0.1).shape == (0, 3)
        for question in (model.score_samples, model.predict, model.decision_function, model.realism):
            assert question(none).shape == (0,)


@pytest.mark.parametrize("magnitude", [1e160, 1e300])
def test_numbers_of_any_size(magnitude):
    X = np.random.default_rng(0).normal(size=(80, 3)) * magnitude
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    for model in (Auto(random_state=0), VAE(max_epochs=2, random_state=0), PCA()):
        filled = model.fit(gaps).fill(gaps)
        assert np.isfinite(filled).all()
        assert np.abs(filled).max() < 10 * magnitude
        assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_denoise_of_nullable_columns_with_blanks(backend):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=list("abc")).mask(rng.random((60, 3)) < 0.2)
    frame = frame.convert_dtypes(dtype_backend=backend)
    answer = Auto(random_state=0).fit(frame).denoise(frame, 0.1)
    assert answer.dtypes.equals(frame.dtypes)
    assert not answer.isna().any(axis=None)


def test_realism_of_rows_with_blanks_is_the_share_of_samples_seen_alike():
    X = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 500)
    model = GaussianMixture(components=1, random_state=0).fit(X)
    new = np.array([[0.0, np.nan], [1.0, np.nan], [2.0, np.nan]])
    sample = model.sample(4000, random_state=1)
    sample[:, 1] = np.nan
    theirs = model.score_samples(sample)
    share = [(theirs < v).mean() for v in model.score_samples(new)]
    np.testing.assert_allclose(model.realism(new), share, atol=0.06)


def test_a_grade_is_filled_by_its_mean():
    """Grades are numbers in an order: of independent ones the mean, not the likeliest, has the least squared error."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        rng.choice([1, 2, 3, 4, 5], (600, 3), p=[0.3, 0.1, 0.1, 0.2, 0.3]), columns=list("abc")
    ).astype(float)
    hidden = rng.random(600) < 0.3
    gaps = frame.copy()
    gaps.loc[hidden, "a"] = np.nan
    model = VAE(max_epochs=10, random_state=0).fit(gaps)
    assert model.schema_.fields[0].kind == "ordinal"
    error = np.sqrt(np.mean((model.fill(gaps)["a"] - frame["a"])[hidden] ** 2))
    assert error < 1.05 * np.sqrt(np.mean((gaps["a"].mean() - frame["a"])[hidden] ** 2))


def test_grades_that_depend_on_each_other_are_filled_by_a_linear_path():
    """Three grades of two factors: within 3 % of what a Gaussian of the same codes makes of them, in a tenth of the steps."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1500, 2)) @ rng.normal(size=(2, 4)) + 0.6 * rng.normal(size=(1500, 4))
    grades = np.clip(np.rint(1.2 * z / z.std(0)) + 4, 1, 7)
    hidden = rng.random(grades.shape) < 0.15
    gaps = pd.DataFrame(np.where(hidden, np.nan, grades), columns=list("abcd"))
    model = VAE(random_state=0).fit(gaps)
    assert {f.kind for f in model.schema_.fields} == {"ordinal"}
    assert len(model.history_) < 100
    gaussian = MixtureOfFactorAnalyzers(components=1, random_state=0).fit(gaps)
    error = {m: np.sqrt(np.mean((m.fill(gaps).to_numpy() - grades)[hidden] ** 2)) for m in (model, gaussian)}
    assert error[model] < 1.03 * error[gaussian] < 0.9 * grades.std()


def test_a_curve_among_three_columns_takes_as_many_latents():
    """Numbers (u, u², sin 2u) with noise: no line says much, and with a latent fewer than columns no curve can be bent."""
    rng = np.random.default_rng(5)
    u = rng.normal(size=1200)
    X = np.c_[u, u**2 + 0.3 * rng.normal(size=1200), np.sin(2 * u) + 0.3 * rng.normal(size=1200)]
    hidden = rng.random(X.shape) < 0.1
    gaps = np.where(hidden, np.nan, X)
    error = ((VAE(random_state=0).fit(gaps).fill(gaps) - X) / X.std(0))[hidden]
    assert np.sqrt(np.mean(error**2)) < 0.7  # column means 1.0, two latents .85


# ---------------------------------------------------------------- one table in several containers


def containers(X: np.ndarray) -> dict[str, object]:
    """The same numbers, by what holds them; those in the first line have no names."""
    names = list("abcdef")[: X.shape[1]]
    objects = pd.DataFrame(X).astype(object)
    named = pd.DataFrame(X, columns=names)
    return {
        "list": X.tolist(), "frame": pd.DataFrame(X), "polars": pl.DataFrame(X),
        "objects": objects.where(objects.notna(), None),
        "named frame": named, "named objects": named.astype(object), "named polars": pl.from_pandas(named),
        "Float64": named.astype("Float64"),
    }  # fmt: skip


def values(answer: object) -> np.ndarray:
    to_numpy = getattr(answer, "to_numpy", None)
    return np.asarray(answer if to_numpy is None else to_numpy(), dtype=float)


@pytest.mark.parametrize(
    ("model", "off"),
    [
        # steps of EM in single precision, where they stop, and whether a light member is left out make more of rounding in
        # Auto, and single splits of its trees hang on that
        (Auto(trees=False), 0.1),
        (Auto(), 0.3),
        (GaussianMixture(components=2), 1e-9),
        (PCA(components=2), 1e-9),
    ],
    ids=["Auto, no trees", "Auto", "GaussianMixture", "PCA"],
)
def test_the_same_numbers_have_the_same_answers_in_any_container(model, off):
    rng = np.random.default_rng(0)
    z = rng.normal(size=150)
    tail = np.exp(2 * z + 0.3 * rng.normal(size=150))  # which a VAE takes by its logarithm in a frame
    X = np.stack([z + 0.2 * rng.normal(size=150), tail, rng.normal(size=150), (z > 0).astype(float)], 1)
    X[rng.random(X.shape) < 0.15] = np.nan
    model = model.set_params(random_state=0)
    array = clone(model).fit(X)
    expected = array.fill(X)
    tables = containers(X)
    if off == 0.3:  # a few will do: each fit takes seconds
        tables = {name: tables[name] for name in ("list", "named frame")}
    for name, table in tables.items():
        other = clone(model).fit(table)
        kinds = [f.kind for f in other.schema_.fields]
        if type(model) is Auto and kinds[1] == "positive":  # which to Auto says only that no fill is 0
            kinds[1] = "real"
        assert kinds == [f.kind for f in array.schema_.fields], name
        filled = values(other.fill(table))
        smooth = slice(0, 4 if name == "list" else 3)  # frames are filled with whole numbers where all are
        moved = (filled - expected) / np.nanstd(X, 0)
        np.testing.assert_allclose(moved[:, smooth], 0, atol=off, err_msg=name)
        close = min(off, 0.01)
        scores = other.score_samples(table), array.score_samples(X)
        np.testing.assert_allclose(*scores, rtol=close, atol=close, err_msg=name)


def test_numbers_without_names_are_an_array():
    rng = np.random.default_rng(0)
    X = np.c_[
        rng.integers(0, 5, 80), rng.poisson(3, 80), rng.random(80) < 0.5, np.exp(3 * rng.normal(size=80))
    ]
    kinds = [f.kind for f in Schema.infer(X).fields]
    assert kinds == ["real", "real", "binary", "real"]
    for name in ("list", "frame", "objects", "polars"):
        assert [f.kind for f in Schema.infer(containers(X)[name]).fields] == kinds, name
    named = [f.kind for f in Schema.infer(containers(X)["named frame"]).fields]
    assert named == ["ordinal", "count", "binary", "positive"]
