"""Rows of mixed kinds as real features: there and back, shares of what repeats, and slopes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abduce.data.coding import MOST, Coding
from abduce.data.schema import Schema


def table(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    return pd.DataFrame(
        {
            "real": 3 * z + 7,
            "positive": np.exp(2 * z),
            "count": rng.poisson(np.exp(0.5 * z + 1)),
            "spike": np.where(rng.random(n) < 0.4, 0.0, np.exp(z)),
            "yes": np.where(rng.random(n) < 0.3, "yes", "no"),
            "city": rng.choice(["Lima", "Oslo", "Rome"], n, p=[0.2, 0.3, 0.5]),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "grade": pd.Categorical.from_codes(rng.integers(0, 4, n), list("abcd"), ordered=True),
        }
    )


def coded(frame: pd.DataFrame | np.ndarray, scores: bool, **kw):
    schema = Schema.infer(frame, **kw)
    values, observed = schema.encode(frame)
    return Coding(schema, values, observed, scores), values, observed


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize("scores", [False, True])
def test_numbers_come_back_in_data_units(scores):
    frame = table()
    coding, values, observed = coded(frame, scores)
    data = coding.schema.transform.back(values)
    features, seen = coding.code(values, observed)
    assert seen.all()
    numbers = coding.decode_numbers(features)
    np.testing.assert_allclose(numbers, data[:, coding.numbers], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(coding.to_model(numbers), values[:, coding.numbers], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(numbers[:, 0], frame["real"])
    day = list(coding.numbers).index(6)
    np.testing.assert_allclose(numbers[:, day], (frame["day"] - pd.Timestamp("1970-01-01")).dt.days)
    # dates and counts come back through the schema too
    back = values.copy()
    back[:, coding.numbers] = coding.to_model(numbers)
    again = coding.schema.decode(back)
    assert (again["day"] == frame["day"]).all()
    assert (again["count"] == frame["count"]).all()
    assert (again["grade"] == frame["grade"]).all()
    np.testing.assert_allclose(again["positive"], frame["positive"])


@pytest.mark.parametrize("scores", [False, True])
def test_features_are_standard(scores):
    coding, values, observed = coded(table(), scores)
    features = coding.code(values, observed)[0]
    assert features.shape == (300, coding.n_features)
    assert coding.n_features == 6 + 1 + 3
    np.testing.assert_allclose(features.mean(0), 0, atol=0.06 if scores else 0.02)
    variance = features.var(0)
    own = slice(len(coding.numbers))
    if not scores:
        np.testing.assert_allclose(variance[own], 1.0)
    assert (variance[own] < 1.1).all()
    for known in coding.classes.values():  # all indicators of a class weigh as one number does
        assert variance[known.block].sum() == pytest.approx(1.0, abs=0.02)


@given(st.integers(0, 10**6), st.sampled_from(["real", "positive", "count"]))
def test_to_model_undoes_to_data(seed, kind):
    rng = np.random.default_rng(seed)
    X = rng.poisson(5.0, size=(8, 2)) + (1.0 if kind == "positive" else 0.0)
    if kind != "count":
        X = X * rng.uniform(0.5, 100) + 0.25
    coding, values, _ = coded(X, False, kinds=kind)
    np.testing.assert_allclose(
        coding.to_model(coding.schema.transform.back(values)), values, rtol=1e-9, atol=1e-9
    )


def test_positive_numbers_stay_above_zero():
    coding, _, _ = coded(np.exp(np.random.default_rng(0).normal(size=(50, 1))), False, kinds="positive")
    found = coding.schema.transform.back(coding.to_model(np.array([[-5.0], [0.0], [2.0]])))
    low = coding.schema.fields[0].low
    np.testing.assert_allclose(found[:, 0], [0.5 * low, 0.5 * low, 2.0])


def test_blanks_are_zero_and_alone():
    frame = table()
    coding, values, observed = coded(frame, True)
    gaps = observed.copy()
    gaps[::2, [0, 5]] = False
    values = np.where(gaps, values, 0.0)
    features, seen = coding.code(values, gaps)
    assert (features[~seen] == 0).all()
    for j in range(coding.schema.n_cells):
        assert (seen[:, coding.cells == j] == gaps[:, [j]]).all()
    # what a blank holds leaves no trace
    other = coding.code(np.where(gaps, values, 1.0), gaps)[0]
    np.testing.assert_array_equal(other, features)


@pytest.mark.parametrize("scores", [False, True])
def test_log_slope_of_rows_is_a_finite_difference(scores):
    coding, values, observed = coded(table(), scores)
    observed = observed & (np.random.default_rng(1).random(observed.shape) < 0.7)
    rows = np.random.default_rng(2).permutation(300)[:20]
    v, o = values[rows], observed[rows]
    expected = np.zeros(len(rows))
    data = coding.schema.transform.back(v)
    for j in coding.numbers:
        h = 1e-7 * np.maximum(np.abs(data[:, j]), 1.0)
        column = coding.columns.get(int(j))
        if column is None:
            slope = np.log(1 / coding.scale[j])
        else:
            z, before = column.to(data[:, [j]])[:, 0], column.to(data[:, [j]] - h[:, None])[:, 0]
            slope = np.log((z - before) / h)
            first = data[:, j] <= column.values[0]
            slope[first] = column.log_slope(z[first, None])[:, 0]
        expected += np.where(o[:, j], slope, 0.0)
    np.testing.assert_allclose(coding.log_slope(v, o), expected, atol=0.02)


@pytest.mark.parametrize("scores", [False, True])
def test_log_slope_in_model_space_lacks_the_units(scores):
    """|d feature / d model| = |d feature / d data| over |d model / d data|."""
    coding, values, observed = coded(table(), scores)
    observed = observed & (np.random.default_rng(1).random(observed.shape) < 0.7)
    units = coding.schema.log_jacobian(values, observed)
    found = coding.log_slope_in_model(values, observed)
    np.testing.assert_allclose(found + units, coding.log_slope(values, observed), rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_of_indicators(classes):
    """The mean of the indicators stands for the shares, an indicator for certainty, half way for half of it."""
    rng = np.random.default_rng(4)
    label = rng.choice(classes, 400, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    coding, values, observed = coded(pd.DataFrame({"c": [f"k{i}" for i in label]}), False)
    features = coding.code(values, observed)[0]
    codes = values[:, 0].astype(int)
    mean = coding.probabilities(features.mean(0, keepdims=True), 0, 0.0)[0]
    np.testing.assert_allclose(mean, np.bincount(codes) / 400, atol=1e-9)
    share = coding.classes[0].share
    np.testing.assert_allclose(coding.probabilities(np.zeros((1, features.shape[1])), 0, 0.0)[0], share)
    np.testing.assert_allclose(coding.probabilities(features, 0, 0.0), np.eye(classes)[codes], atol=1e-9)
    half = coding.probabilities(0.5 * features, 0, 0.0)
    np.testing.assert_allclose(half, 0.5 * np.eye(classes)[codes] + 0.5 * share, atol=1e-9)
    wild = coding.probabilities(rng.normal(scale=20, size=features.shape), 0, 1e-3)
    np.testing.assert_allclose(wild.sum(1), 1.0)
    assert wild.min() > 1e-6


def test_a_class_is_never_impossible():
    """A level that is known but was not seen here has half a row."""
    frame = pd.DataFrame({"c": ["a", "b", "c"] * 10})
    schema = Schema.infer(frame)
    values, observed = schema.encode(frame)
    observed[values == 2] = False
    share = Coding(schema, values, observed, False).classes[0][1]
    np.testing.assert_allclose(share, [10.5 / 21.5, 10.5 / 21.5, 0.5 / 21.5])


@pytest.mark.parametrize("scores", [False, True])
def test_kept_and_rebuilt(scores):
    frame = table()
    frame.loc[::3, "real"] = np.nan
    coding, values, observed = coded(frame, scores)
    again = Coding.from_arrays(
        Schema.from_json(json.loads(json.dumps(coding.schema.to_json()))), coding.to_arrays(), scores
    )
    one, two = coding.code(values, observed), again.code(values, observed)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(coding.decode_numbers(one[0]), again.decode_numbers(one[0]))
    np.testing.assert_array_equal(coding.log_slope(values, observed), again.log_slope(values, observed))
    np.testing.assert_array_equal(coding.smooth, again.smooth)
    for j in coding.classes:
        np.testing.assert_array_equal(
            coding.probabilities(one[0], j, 0.0), again.probabilities(one[0], j, 0.0)
        )


def test_which_numbers_seldom_repeat():
    coding, _, _ = coded(table(), False)
    found = {coding.schema.names[j]: bool(s) for j, s in zip(coding.numbers, coding.smooth, strict=True)}
    assert found == {
        "real": True,
        "positive": True,
        "count": False,
        "spike": False,
        "day": True,
        "grade": False,
    }


@pytest.mark.filterwarnings("ignore:no value in any row")
@pytest.mark.parametrize("scores", [False, True])
def test_columns_of_one_value_or_none(scores):
    X = np.stack([np.full(20, 5.0), np.full(20, np.nan), np.arange(20.0) ** 1.5], 1)
    coding, values, observed = coded(X, scores, kinds="real")
    features, _ = coding.code(values, observed)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[:, :2], 0.0)
    back = coding.decode_numbers(features)
    np.testing.assert_allclose(back[:, [0, 2]], X[:, [0, 2]], atol=1e-9)
    drawn = coding.decode_numbers(np.random.default_rng(0).normal(size=(100, 3)))
    assert np.isfinite(coding.log_slope(values, observed)).all()
    assert np.isfinite(coding.to_model(drawn)).all()


def test_rare_levels_of_a_class_of_very_many_share_an_indicator():
    """The most frequent keep their own; of the others the group is told, and within it a level by its share."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 201)
    label = rng.choice(200, 3000, p=share / share.sum())
    coding, values, observed = coded(pd.DataFrame({"c": [f"k{i:03d}" for i in label]}), False)
    features = coding.code(values, observed)[0]
    assert features.shape[1] == MOST
    codes, known = values[:, 0].astype(int), coding.classes[0]
    p = coding.probabilities(features, 0, 0.0)
    np.testing.assert_allclose(p.sum(1), 1.0)
    own = known.group[codes] < MOST - 1
    assert own.mean() > 0.5
    np.testing.assert_allclose(p[own], np.eye(p.shape[1])[codes[own]], atol=1e-9)
    rest = known.group == MOST - 1
    assert known.share[rest].max() <= known.share[~rest].min()
    np.testing.assert_allclose(
        p[~own][:, rest], np.tile(known.share[rest] / known.share[rest].sum(), ((~own).sum(), 1))
    )


def test_images_share_one_field():
    X = np.random.default_rng(0).integers(0, 17, size=(50, 3, 2)).astype(float)
    coding, values, observed = coded(X, False)
    assert coding.n_features == 6
    numbers = coding.decode_numbers(coding.code(values, observed)[0])
    np.testing.assert_allclose(numbers, X.reshape(50, 6), atol=1e-9)
    np.testing.assert_allclose(coding.to_model(numbers), values, atol=1e-9)
