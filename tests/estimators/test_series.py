"""Series: what goes in comes back as it came, answers are those that are known, and bad input is right or one clear error."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import abduce
from abduce import Series


def wave(steps, freq="h", seed=0, start="2024-01-01", tz=None):
    rng = np.random.default_rng(seed)
    index = pd.date_range(start, periods=steps, freq=freq, tz=tz)
    t = np.arange(steps)
    values = 10 + 3 * np.sin(2 * np.pi * t / 24) + 0.3 * rng.normal(size=steps)
    return pd.DataFrame({"load": values, "temperature": 0.5 * values + rng.normal(size=steps)}, index=index)


def with_blanks(frame, seed=0, share=0.1):
    out = frame.copy()
    hide = np.random.default_rng(seed).random(out.shape) < share
    return out.mask(hide)


@pytest.fixture(scope="module")
def blanks():
    frame = with_blanks(wave(240))
    frame.iloc[100:108] = np.nan
    return frame


@pytest.fixture(scope="module")
def model(blanks):
    return Series(random_state=0).fit(blanks)


# ---------------------------------------------------------------- in and out


def test_what_was_there_comes_back_to_the_bit(model, blanks):
    filled = model.fill(blanks)
    assert filled.index.equals(blanks.index)
    assert list(filled.dtypes) == list(blanks.dtypes)
    assert not filled.isna().any().any()
    pd.testing.assert_frame_equal(filled.where(blanks.notna()), blanks, check_exact=True)
    assert np.abs(filled - wave(240)).mask(blanks.notna()).mean()["load"] < 0.6


def test_the_same_seed_gives_the_same_numbers(model, blanks):
    again = Series(random_state=0).fit(blanks)
    pd.testing.assert_frame_equal(again.forecast(5), model.forecast(5), check_exact=True)
    assert np.array_equal(again.sample_paths(3, n=5), model.sample_paths(3, n=5))


def test_forecasts_follow_the_season_and_their_intervals_hold():
    truth = 10 + 3 * np.sin(2 * np.pi * np.arange(240, 264) / 24)
    errors, held = [], []
    for seed in range(4):  # the noise of the last day misleads one series or the other
        model = Series(random_state=0).fit(with_blanks(wave(240, seed=seed), seed=seed))
        ahead = model.forecast(24)
        assert ahead.index.equals(pd.date_range("2024-01-11", periods=24, freq="h"))
        errors.append(np.abs(ahead["load"] - truth).mean())
        low, high = model.forecast_interval(24, level=0.9)
        assert (low <= ahead).all().all()
        assert (ahead <= high).all().all()
        held.append(((low["load"] <= truth) & (truth <= high["load"])).mean())
    assert np.mean(errors) < 0.2
    assert np.mean(held) > 0.9


def test_a_backcast_is_what_came_before(model):
    before = model.backcast(24)
    assert before.index.equals(pd.date_range("2023-12-31", periods=24, freq="h"))
    truth = 10 + 3 * np.sin(2 * np.pi * np.arange(-24, 0) / 24)
    assert np.abs(before["load"] - truth).mean() < 0.35


def test_paths_hold_together_and_agree_with_the_intervals(model):
    paths = model.sample_paths(24, n=300)
    assert paths.shape == (300, 24, 2)
    low, high = model.forecast_interval(24, level=0.8)
    inside = ((paths >= low.to_numpy()) & (paths <= high.to_numpy())).mean()
    assert inside == pytest.approx(0.8, abs=0.04)
    assert np.abs(paths.mean(0) - model.forecast(24).to_numpy()).max() < 0.5


def test_what_is_known_of_the_future_is_kept_and_used():
    rng = np.random.default_rng(0)
    cause = np.cumsum(rng.normal(size=200))
    frame = pd.DataFrame({"cause": cause, "effect": 2 * cause + 0.1 * rng.normal(size=200)})
    fitted = Series(random_state=0).fit(frame)
    known = pd.DataFrame({"cause": [cause[-1] + 4.0, cause[-1] + 8.1, np.nan]})
    ahead = fitted.forecast(3, known=known)
    assert ahead["cause"].tolist()[:2] == known["cause"].tolist()[:2]
    assert np.allclose(ahead["effect"][:2], 2 * known["cause"][:2], atol=1.5)
    assert ahead.notna().all().all()


def test_a_known_future_that_is_too_short_or_overlaps_is_refused(model):
    known = pd.DataFrame({"temperature": [8.0] * 23}, index=pd.date_range("2024-01-11", periods=23, freq="h"))
    with pytest.raises(ValueError, match=r"known must have the n = 24 rows that are asked for, got 23"):
        model.forecast(24, known=known)
    late = known.set_axis(pd.date_range("2024-01-10 20:00", periods=23, freq="h"))
    with pytest.raises(
        ValueError, match=r"known must hold the n = 23 rows from 2024-01-11 .* overlaps the past"
    ):
        model.forecast(23, known=late)


def test_saved_and_loaded_it_says_the_same(model, blanks, tmp_path):
    model.save(tmp_path / "model")
    loaded = abduce.load(tmp_path / "model")
    assert isinstance(loaded, Series)
    pd.testing.assert_frame_equal(loaded.fill(blanks), model.fill(blanks), check_exact=True)
    pd.testing.assert_frame_equal(loaded.forecast(5), model.forecast(5), check_exact=True)
    assert loaded.get_params() == model.get_params()


def test_arguments_are_kept_as_given_and_checked_when_fitted(blanks):
    given = Series(horizon=7, periods=[24], random_state=3)
    assert clone(given).get_params() == given.get_params()
    with pytest.raises(NotFittedError):
        given.fill(blanks)
    with pytest.raises(ValueError, match="horizon must be an int >= 1, got 0"):
        Series(horizon=0).fit(blanks)
    with pytest.raises(ValueError, match="scale must be"):
        Series(scale="none").fit(blanks)
    with pytest.raises(ValueError, match="periods must be ints >= 2, got 1"):
        Series(periods=[1]).fit(blanks)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_steps_is_checked(model, n):
    with pytest.raises(ValueError, match="n must be an int >= 1"):
        model.forecast(n)


def test_arrays_lists_and_columns_come_back_as_they_came():
    x = wave(120)["load"].to_numpy()
    hole = x.copy()
    hole[50:53] = np.nan
    one = Series(random_state=0).fit(hole)
    assert one.fill(hole).shape == (120,)
    assert one.forecast(4).shape == (4,)
    column = pd.Series(hole, pd.date_range("2024", periods=120, freq="h"), name="load")
    out = Series(random_state=0).fit(column)
    assert out.fill(column).name == "load"
    assert np.allclose(out.fill(column).to_numpy(), one.fill(hole), atol=0.5)
    assert isinstance(out.forecast(2), pd.Series)
    many = [hole[:100, None], hole[:, None]]
    listed = Series(random_state=0).fit(many)
    assert [v.shape for v in listed.fill(many)] == [(100, 1), (120, 1)]
    assert [v.shape for v in listed.forecast(3)] == [(3, 1), (3, 1)]
    cube = np.stack([hole[:60], hole[60:]])[..., None]
    cubed = Series(random_state=0).fit(cube)
    assert cubed.fill(cube).shape == cube.shape
    assert cubed.forecast(2).shape == (2, 2, 1)
    assert cubed.sample_paths(2, n=3).shape == (3, 2, 2, 1)


def test_polars_in_polars_out(blanks):
    frame = pl.from_pandas(blanks.rename_axis("when").reset_index())
    fitted = Series(random_state=0).fit(frame)
    filled = fitted.fill(frame)
    assert isinstance(filled, pl.DataFrame)
    assert filled.schema == frame.schema
    assert filled.null_count().sum_horizontal().sum() == 0
    ahead = fitted.forecast(3)
    assert isinstance(ahead, pl.DataFrame)
    assert ahead.columns == frame.columns


def test_whole_numbers_stay_whole(blanks):
    frame = pd.DataFrame({"n": pd.array([5, 7] * 30, dtype="Int64")})
    frame.iloc[10] = pd.NA
    filled = Series(random_state=0).fit(frame).fill(frame)
    assert filled["n"].dtype == "Int64"
    assert filled["n"].iloc[10] == 5
    assert filled["n"].drop(10).equals(frame["n"].drop(10))


# ---------------------------------------------------------------- time


def test_an_hour_that_comes_twice_needs_a_zone():
    naive = wave(72, start="2024-10-26")
    local = naive.tz_localize("UTC").tz_convert("Europe/Berlin").tz_localize(None)
    with pytest.raises(ValueError, match=r"has 2024-10-27 02:00:00 more than once.*tz_localize"):
        Series().fit(local)
    aware = wave(96, start="2024-10-25", tz="Europe/Berlin")
    ahead = Series(random_state=0).fit(aware).forecast(3)
    assert ahead.index.equals(pd.date_range(aware.index[-1], periods=4, freq="h")[1:])


def test_days_of_23_and_25_hours_are_days():
    index = pd.date_range("2024-03-01", periods=60, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame({"x": 1.0 + (index.day_of_week < 5)}, index=index)
    fitted = Series(random_state=0).fit(frame)
    assert fitted.panel_.values.shape[1] == 60
    ahead = fitted.forecast(7)
    assert ahead.index.equals(pd.date_range("2024-04-30", periods=7, freq="D", tz="Europe/Berlin"))
    assert np.allclose(ahead["x"], 1.0 + (ahead.index.day_of_week < 5), atol=0.2)


def test_nothing_is_inserted_where_nothing_was_traded():
    index = pd.bdate_range("2024-01-01", periods=80).drop(["2024-02-19", "2024-03-29"])
    frame = pd.DataFrame({"close": 100 + np.cumsum(np.random.default_rng(0).normal(size=78))}, index=index)
    frame.iloc[20] = np.nan
    fitted = Series(random_state=0).fit(frame)
    assert fitted.fill(frame).index.equals(index)
    assert (fitted.forecast(6).index.day_of_week < 5).all()


def test_ticks_with_a_hole_are_ticks():
    index = pd.date_range("2024-01-01", periods=300, freq="3s").delete(slice(100, 200))
    frame = pd.DataFrame({"x": np.sin(np.arange(200) / 9.0)}, index=index)
    fitted = Series(random_state=0).fit(frame)
    assert fitted.panel_.values.shape[1] == 300
    assert fitted.forecast(2).index.tolist() == list(
        pd.date_range("2024-01-01 00:15:00", periods=2, freq="3s")
    )
    assert len(fitted.fill(frame)) == 200


def test_stamps_on_no_grid_are_as_far_apart_as_time_says():
    rng = np.random.default_rng(0)
    at = np.cumsum(rng.uniform(20, 100, size=200))
    index = pd.Timestamp("2024-01-01") + pd.to_timedelta(at, unit="s")
    frame = pd.DataFrame({"x": np.sin(at / 600.0)}, index=index)
    hole = frame.mask(rng.random(frame.shape) < 0.2)
    filled = Series(random_state=0).fit(hole).fill(hole)
    assert filled.index.equals(index)
    assert np.abs(filled - frame).to_numpy().max() < 0.15


def test_months_as_text_and_series_with_other_starts_and_ends():
    months = pd.period_range("2018-01", periods=48, freq="M").astype(str)
    parts = [
        pd.DataFrame({"item": name, "month": months[a:b], "sold": 10.0 * k + np.arange(b - a) % 12})
        for k, (name, a, b) in enumerate([("u", 0, 40), ("v", 5, 48)], 1)
    ]
    frame = pd.concat(parts, ignore_index=True)
    fitted = Series(id="item", time="month", random_state=0).fit(frame)
    ahead = fitted.forecast(2)
    assert ahead["item"].tolist() == ["u", "u", "v", "v"]
    assert ahead["month"].tolist() == ["2021-05", "2021-06", "2022-01", "2022-02"]
    before = fitted.backcast(1)
    assert before["month"].tolist() == ["2017-12", "2018-05"]


def test_days_that_some_ids_lack_are_gaps_and_not_errors():
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    frame = pd.concat(
        [
            pd.DataFrame({"id": i, "day": days.delete(drop), "x": np.arange(40.0 - len(drop))})
            for i, drop in ((1, [3, 9]), (2, [20]))
        ],
        ignore_index=True,
    )
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled.iloc[5, 2] = np.nan
    fitted = Series(id="id", time="day", random_state=0).fit(shuffled)
    filled = fitted.fill(shuffled)
    assert filled.index.equals(shuffled.index)
    assert filled[["id", "day"]].equals(shuffled[["id", "day"]])
    assert len(filled) == len(frame)
    assert fitted.forecast(2)["day"].tolist() == [pd.Timestamp("2024-02-10"), pd.Timestamp("2024-02-11")] * 2


def test_a_frequency_labels_and_decides_nothing():
    with_freq = wave(100)
    without = with_freq.copy()
    without.index = pd.DatetimeIndex(without.index.to_numpy())
    assert without.index.freq is None
    a, b = (Series(random_state=0).fit(f).forecast(3) for f in (with_freq, without))
    assert np.array_equal(a.to_numpy(), b.to_numpy())
    assert a.index.equals(b.index)


def test_unsorted_rows_are_the_same_series(blanks, model):
    mixed = blanks.sample(frac=1, random_state=1)
    fitted = Series(random_state=0).fit(mixed)
    pd.testing.assert_frame_equal(fitted.forecast(3), model.forecast(3), check_freq=False)
    pd.testing.assert_frame_equal(fitted.fill(mixed).sort_index(), model.fill(blanks), check_freq=False)


def test_periods_label_what_comes_after():
    index = pd.period_range("2015-01", periods=60, freq="M")
    frame = pd.DataFrame({"x": np.arange(60.0) % 12}, index=index)
    ahead = Series(random_state=0).fit(frame).forecast(3)
    assert ahead.index.equals(pd.period_range("2020-01", periods=3, freq="M"))
    assert np.allclose(ahead["x"], [0, 1, 2], atol=0.5)


def test_ends_of_months_stay_ends_of_months():
    index = pd.date_range("2022-01-31", periods=30, freq="ME")
    ahead = Series(random_state=0).fit(pd.DataFrame({"x": np.arange(30.0)}, index=index)).forecast(2)
    assert ahead.index.tolist() == [pd.Timestamp("2024-07-31"), pd.Timestamp("2024-08-31")]


def test_hours_as_text():
    index = [f"2024-01-{d:02d} {h:02d}:00" for d in (1, 2, 3) for h in range(24)]
    frame = pd.DataFrame({"when": index, "x": np.arange(72) % 24 * 1.0})
    ahead = Series(time="when", random_state=0).fit(frame).forecast(2)
    assert ahead["when"].tolist() == ["2024-01-04 00:00", "2024-01-04 01:00"]


# ---------------------------------------------------------------- bad input


def test_what_holds_nothing_is_refused():
    index = pd.date_range("2024", periods=5, freq="D")
    with pytest.raises(ValueError, match="no observed cell at all"):
        Series().fit(pd.DataFrame({"x": np.full(5, np.nan)}, index=index))
    for nothing in ([], np.zeros((3, 0)), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="X has no cell, it has shape"):
            Series().fit(nothing)
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        Series().fit(pd.DataFrame({"x": [1.0]}, index=index[:1]))
    with pytest.raises(ValueError, match="infinite value in row 2, column 'x'"):
        Series().fit(pd.DataFrame({"x": [1.0, 2.0, np.inf, 3.0, 4.0]}, index=index))


def test_one_series_of_a_panel_may_hold_nothing():
    frame = pd.DataFrame({"id": ["a"] * 30 + ["b"] * 30, "x": np.r_[np.arange(30.0), np.full(30, np.nan)]})
    fitted = Series(id="id", random_state=0).fit(frame)
    assert fitted.fill(frame)["x"].notna().all()
    assert len(fitted.forecast(2)) == 4


def test_words_are_refused_by_name():
    with pytest.raises(TypeError, match="column 'sort' of X holds"):
        Series().fit(pd.DataFrame({"x": [1.0, 2.0, 3.0], "sort": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match="'later', which is no time"):
        Series(time="t").fit(pd.DataFrame({"x": [1.0, 2.0], "t": ["2024-01-01", "later"]}))
    with pytest.raises(ValueError, match="time must be a column of X, got 'when'"):
        Series(time="when").fit(pd.DataFrame({"x": [1.0, 2.0]}))


def test_two_rows_of_one_time_are_refused():
    index = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-02", "2024-01-03"])
    with pytest.raises(
        ValueError, match=r"the index of X has 2024-01-02 00:00:00 more than once.*aggregate them"
    ):
        Series().fit(pd.DataFrame({"x": range(4)}, index=index))


def test_other_columns_than_in_training_are_refused(model, blanks):
    with pytest.raises(ValueError, match=r"it lacks \['load'\]"):
        model.fill(blanks[["temperature"]])
    with pytest.raises(ValueError, match=r"has also \['more'\]"):
        model.fill(blanks.assign(more=1.0))


def test_a_constant_series_stays_constant():
    frame = pd.DataFrame({"x": np.full(40, 7.0)}, index=pd.date_range("2024", periods=40, freq="D"))
    frame.iloc[10:13] = np.nan
    fitted = Series(random_state=0).fit(frame)
    assert np.allclose(fitted.fill(frame)["x"], 7.0)
    assert np.allclose(fitted.forecast(5)["x"], 7.0)


def test_new_series_may_be_asked_about(model):
    other = with_blanks(wave(100, seed=5, start="2024-06-01"), 3)
    assert model.fill(other).notna().all().all()
    assert model.forecast(2, X=other).index[0] == other.index[-1] + pd.Timedelta("1h")


# ---------------------------------------------------------------- known answers


def test_intervals_hold_what_they_say_on_an_autoregression():
    rng = np.random.default_rng(0)
    x = np.zeros(1500)
    for t in range(1, 1500):
        x[t] = 0.9 * x[t - 1] + rng.normal()
    hide = rng.random(1500) < 0.2
    holes = np.where(hide, np.nan, x)
    low, high = Series(random_state=0).fit(holes).fill_interval(holes, level=0.9)
    assert ((low <= x) & (x <= high))[hide].mean() == pytest.approx(0.9, abs=0.05)


def test_a_forecast_of_an_autoregression_is_near_the_best_there_is():
    rng = np.random.default_rng(1)
    x = np.zeros(800)
    for t in range(1, 800):
        x[t] = 0.9 * x[t - 1] + rng.normal()
    said = Series(random_state=0, horizon=5).fit(x).forecast(5)
    best = x[-1] * 0.9 ** np.arange(1, 6)
    assert np.abs(said - best).max() < 0.6


def test_a_backcast_is_a_forecast_of_time_turned_round():
    x = wave(240)["load"].to_numpy()
    ahead = Series(random_state=0).fit(x[::-1].copy()).forecast(12)
    back = Series(random_state=0).fit(x).backcast(12)
    assert np.abs(ahead[::-1] - back).max() < 0.5


def test_a_wandering_series_is_forecast_beyond_its_windows():
    """A level that wanders, a week and noise: 24 steps ahead, of which windows of two weeks see half, as before them."""
    rng = np.random.default_rng(0)
    t = np.arange(2000)
    x = np.cumsum(0.1 * rng.normal(size=2000)) + rng.normal(size=7)[t % 7] + 0.5 * rng.normal(size=2000)
    model = Series(random_state=0).fit(x[:1500])
    ours, last = [], []
    for end in range(1500, 1970, 40):
        truth = x[end : end + 24]
        ours.append(np.abs(np.ravel(model.forecast(24, X=x[:end])) - truth).mean())
        last.append(np.abs(x[end - 7 : end][np.arange(24) % 7] - truth).mean())
    assert np.mean(ours) < 0.95 * np.mean(last)
