"""`Series.anomaly_score(X, online=True)` and `Series.flag` in the forms that series come in."""

import numpy as np
import pandas as pd
import pytest

from abduce import Series
from abduce.sequences.surprise import surprise


@pytest.fixture(scope="module")
def hourly():
    rng = np.random.default_rng(0)
    t = np.arange(1200)
    x = 3 * np.sin(2 * np.pi * t / 24) + rng.normal(0, 0.5, len(t))
    x[900] += 8
    x[400:410] = np.nan
    return x


@pytest.fixture(scope="module")
def model(hourly):
    return Series(random_state=0).fit(hourly[:400])


def test_an_array_is_scored_step_by_step(model, hourly):
    odd = model.anomaly_score(hourly, online=True)
    assert odd.shape == (1200,)
    assert odd[100:].argmax() == 800
    assert (odd[400:410] == 0).all()
    np.testing.assert_array_equal(odd, surprise(hourly[:, None], [24]))
    assert model.season_ == 24


def test_flags_are_booleans_at_a_rate_and_rest(model, hourly):
    found = model.flag(hourly, rate=0.002)
    assert found.dtype == bool
    assert found[900]
    assert not found[:499].any()
    assert found.sum() < 8
    rested = model.flag(hourly, rate=0.05, rest=30)
    assert np.diff(np.flatnonzero(rested)).min() > 30


def test_rows_of_a_frame_may_come_in_any_order(hourly):
    table = pd.DataFrame({"load": hourly}, index=pd.date_range("2024-01-01", periods=1200, freq="h"))
    model = Series(random_state=0).fit(table.iloc[:400])
    mixed = table.sample(frac=1, random_state=1)
    odd = pd.Series(model.anomaly_score(mixed, online=True), mixed.index)
    np.testing.assert_array_equal(odd.sort_index(), model.anomaly_score(table, online=True))
    assert odd[odd.index > table.index[100]].idxmax() == table.index[900]


def test_several_series_are_scored_one_by_one(hourly):
    both = np.stack([hourly, hourly[::-1]])[:, :, None]
    model = Series(random_state=0, scale="own").fit(both[:, :400])
    odd, found = model.anomaly_score(both, online=True), model.flag(both, 0.01)
    assert odd.shape == found.shape == (2, 1200)
    np.testing.assert_array_equal(odd[0], surprise(both[0], model._repeats))
    assert odd[0, 100:].argmax() == 800
    assert 199 <= odd[1, 100:].argmax() < 204


def test_the_default_stays_log_p(model, hourly):
    x = hourly[:300]
    before, after = model.anomaly_score(x), model.anomaly_score(3 * x, online=True)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(model.anomaly_score(x, online=True), after, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"), [({"rate": 0.0}, "rate"), ({"rate": 2}, "rate"), ({"rest": -1}, "rest")]
)
def test_bad_arguments_are_named(model, hourly, arguments, name):
    with pytest.raises(ValueError, match=name):
        model.flag(hourly, **arguments)
