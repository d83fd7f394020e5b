"""Series of counts, categories and truth values beside numbers: what comes back is of their kind, known answers, refusals."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from typer.testing import CliRunner

import abduce
from abduce import Series
from abduce.cli import app

LEVELS = ["low", "mid", "high", "never"]
MOVES = np.array([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])


def states(rng, n):
    out = [0]
    for _ in range(n - 1):
        out.append(rng.choice(3, p=MOVES[out[-1]]))
    return np.array(out)


def shop(n=240, seed=0):
    """A state that lasts, a promotion at random, sales that go by both, and a price that goes by the state."""
    rng = np.random.default_rng(seed)
    state, promo = states(rng, n), rng.random(n) < 0.3
    return pd.DataFrame(
        {
            "state": pd.Categorical(np.array(LEVELS)[state], categories=LEVELS, ordered=True),
            "promo": pd.array(promo, dtype="boolean"),
            "sold": pd.array(rng.poisson(3 + 12 * promo), dtype="Int64"),
            "price": rng.normal(size=n) + 2 * state,
        },
        index=pd.date_range("2024-01-01", periods=n, freq="D"),
    )


def with_holes(frame, seed=1, share=0.15):
    rng, out = np.random.default_rng(seed), frame.copy()
    for name in out:
        out.loc[out.index[rng.random(len(out)) < share], name] = np.nan if name == "price" else pd.NA
    return out


@pytest.fixture(scope="module")
def holes():
    return with_holes(shop())


@pytest.fixture(scope="module")
def model(holes):
    return Series(random_state=0, horizon=7).fit(holes)


def test_what_was_there_comes_back_to_the_bit_in_its_dtype(model, holes):
    filled = model.fill(holes)
    assert filled.dtypes.equals(holes.dtypes)
    assert not filled.isna().any().any()
    for name in holes:
        seen = holes[name].notna()
        pd.testing.assert_series_equal(filled[name][seen], holes[name][seen], check_exact=True)
    assert list(filled["state"].cat.categories) == LEVELS
    for copy in (*model.fill_interval(holes), *model.fill(holes, draws=2, random_state=0)):
        assert copy.dtypes.equals(holes.dtypes)
        assert (copy["sold"] >= 0).all()


def test_fills_are_no_worse_than_the_last_value_and_the_most_frequent(holes):
    """Over several data sets together, so that chance decides little."""
    right = {"ours": 0, "last": 0, "usual": 0}
    for seed in range(2):
        truth = shop(240, 10 + seed)
        torn = with_holes(truth, seed, 0.2)
        filled = Series(random_state=0).fit(torn).fill(torn)
        for name in ("state", "promo"):
            blank, own = torn[name].isna().to_numpy(), truth[name].astype(str).to_numpy()
            right["ours"] += (filled[name].astype(str).to_numpy() == own)[blank].sum()
            right["last"] += (torn[name].ffill().bfill().astype(str).to_numpy() == own)[blank].sum()
            right["usual"] += (torn[name].mode()[0] == truth[name]).to_numpy()[blank].sum()
    assert right["ours"] > max(right["last"], right["usual"])


def test_what_comes_next_is_of_its_kind(model):
    ahead = model.forecast(7)
    low, high = model.forecast_interval(7)
    for frame in (ahead, low, high, model.backcast(3)):
        assert frame["state"].cat.categories.tolist() == LEVELS
        assert frame["promo"].dtype == "boolean"
        assert frame["sold"].dtype == "Int64"
    assert (low["sold"] <= high["sold"]).all()
    assert (low["state"] <= high["state"]).all()
    chances = model.forecast_probabilities(7, "state")
    assert list(chances.columns) == LEVELS
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert chances["never"].max() < 0.01
    seen = model.class_probabilities(shop().head(5), "state")
    assert (seen.to_numpy().max(1) == 1).all()


def test_paths_have_the_probabilities_that_are_told(model):
    paths = model.sample_paths(7, n=600, random_state=0)
    state, promo, sold = (paths[..., i] for i in range(3))
    assert (sold == np.rint(sold)).all()
    assert (sold >= 0).all()
    for column, drawn in (("state", state), ("promo", promo)):
        told = model.forecast_probabilities(7, column).to_numpy()
        often = np.stack([(drawn == k).mean(0) for k in range(told.shape[1])], 1)
        np.testing.assert_allclose(often, told, atol=0.08)
    assert sold[promo == 1].mean() > sold[promo == 0].mean() + 6  # drawn given the promotion
    assert (state[:, 1:] == state[:, :-1]).mean() > 0.6  # and states last


def test_what_is_known_of_classes_tells_of_numbers(model):
    days = model.forecast(6).index
    known = pd.DataFrame({"promo": [True, False] * 3}, index=days)
    told = model.forecast(6, known=known)
    assert told["promo"].tolist() == [True, False] * 3
    assert told["sold"].iloc[::2].mean() > told["sold"].iloc[1::2].mean() + 6


def test_saved_and_loaded_it_says_the_same(model, holes, tmp_path):
    model.save(tmp_path / "m")
    again = abduce.load(tmp_path / "m")
    pd.testing.assert_frame_equal(again.fill(holes), model.fill(holes), check_exact=True)
    pd.testing.assert_frame_equal(again.forecast(3), model.forecast(3), check_exact=True)
    assert np.array_equal(again.sample_paths(2, n=3), model.sample_paths(2, n=3))
    assert again.levels_ == model.levels_


def test_a_state_out_of_turn_is_odd(model):
    """−log p of classes given those before is a part of each row's score, and its own in `explain`."""
    calm = shop().iloc[:60].copy()
    calm["state"] = pd.Categorical(["low"] * 60, LEVELS, ordered=True)
    calm["price"] = 0.0
    broken = calm.copy()
    broken.loc[broken.index[40], "state"] = "high"
    more = model.anomaly_score(broken) - model.anomaly_score(calm)
    assert more.argmax() in (40, 41)
    assert more[40] > 1
    np.testing.assert_allclose(more[:40], 0, atol=1e-9)
    cells = model.explain(broken)
    assert cells["state"].to_numpy().argmax() == 40
    assert len(model.flag(broken)) == 60
    assert np.isfinite(model.anomaly_score(broken, online=True)).all()


def test_parts_are_of_numbers_and_the_smooth_keeps_classes(model, holes):
    parts = model.decompose(holes)
    for name in ("sold", "price"):
        total = sum(part[name] for part in parts.values())
        seen = holes[name].notna()
        np.testing.assert_allclose(total[seen], holes[name][seen].astype(float), atol=1e-9)
    assert parts["level"]["state"].isna().all()
    smooth = model.smooth(holes)
    seen = holes["state"].notna()
    assert (smooth["state"][seen] == holes["state"][seen]).all()
    assert not smooth.isna().any().any()


def test_backtests_are_of_numbers(model, holes):
    table = model.backtest(holes, 7, 2)
    assert table.loc["abduce", "MAE"] < table.loc["last value", "MAE"]
    alone = Series(random_state=0).fit(holes[["promo"]])
    with pytest.raises(ValueError, match="backtest is of columns of numbers, and X has none"):
        alone.backtest(holes[["promo"]], 7, 2)


def test_counts_are_whole_and_their_intervals_hold():
    rng = np.random.default_rng(0)
    t = np.arange(700)
    rate = np.exp(1.5 + 1.2 * np.sin(2 * np.pi * t / 7))
    counts = rng.poisson(rate)
    frame = pd.DataFrame({"n": pd.array(counts, dtype="Int64")})
    torn = frame.copy()
    blank = rng.random(700) < 0.2
    torn.loc[blank, "n"] = pd.NA
    model = Series(random_state=0, horizon=28).fit(torn)
    assert model.scaling_.roots.all()
    low, high = (end["n"].to_numpy(int) for end in model.fill_interval(torn, 0.9))
    held = ((low <= counts) & (counts <= high))[blank]
    assert 0.84 < held.mean() < 0.99
    calm, busy = blank & (rate < 3), blank & (rate > 9)
    assert (high - low)[busy].mean() > 1.5 * (high - low)[calm].mean()  # larger counts spread more
    filled = model.fill(torn)["n"].to_numpy(int)
    assert np.abs(filled - rate)[blank].mean() < 1.0
    paths = model.sample_paths(28, n=200, random_state=0)[..., 0]
    assert (paths >= 0).all()
    assert (paths == np.rint(paths)).all()
    expected = np.exp(1.5 + 1.2 * np.sin(2 * np.pi * np.arange(700, 728) / 7))
    assert paths.mean() == pytest.approx(expected.mean(), rel=0.1)
    assert paths.var(0).mean() == pytest.approx(expected.mean(), rel=0.35)


def test_text_truth_values_and_arrays():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"on": states(rng, 200) > 0, "sort": np.array(["a", "b", "c"])[states(rng, 200)]})
    model = Series(random_state=0).fit(frame)
    ahead = model.forecast(3)
    assert ahead.dtypes.equals(frame.dtypes)
    objects = frame.astype(object)
    objects.iloc[5] = None
    filled = Series(random_state=0).fit(objects).fill(objects)
    assert filled.dtypes.equals(objects.dtypes)
    assert filled["on"].iloc[5] in (True, False)
    assert filled["sort"].iloc[5] in ("a", "b", "c")
    array = frame[["on"]].to_numpy()
    assert Series(random_state=0).fit(array).forecast(4).dtype == bool
    ints = rng.poisson(4, (60, 2))
    assert Series(random_state=0).fit(ints).forecast(2).dtype == ints.dtype


def test_several_series_and_polars():
    frame = pl.DataFrame(
        {
            "shop": ["a"] * 60 + ["b"] * 60,
            "open": [d % 7 < 5 for d in range(60)] * 2,
            "kind": pl.Series((["x"] * 50 + ["y"] * 10) * 2, dtype=pl.Categorical),
            "n": [3 * (d % 7 < 5) for d in range(120)],
        }
    )
    frame = frame.with_columns(open=pl.when(pl.int_range(120) % 11 == 3).then(None).otherwise("open"))
    model = Series(id="shop", random_state=0).fit(frame)
    filled = model.fill(frame)
    assert filled.schema == frame.schema
    assert filled.null_count().sum_horizontal().sum() == 0
    ahead = model.forecast(7)
    assert isinstance(ahead, pl.DataFrame)
    assert ahead.height == 14
    assert ahead["open"].dtype == pl.Boolean


def test_what_cannot_be_modelled_is_refused_with_a_remedy(model, holes):
    names = pd.DataFrame({"x": np.arange(30.0), "name": [f"n{i}" for i in range(30)]})
    with pytest.raises(
        TypeError, match=r"column 'name' of X holds text, 30 different ones in 30 cells.*leave it out"
    ):
        Series().fit(names)
    times = pd.DataFrame({"x": np.arange(5.0), "a": pd.Timestamp("2024"), "b": pd.Timestamp("2025")})
    with pytest.raises(TypeError, match=r"column 'a' of X holds datetime64.*leave it out"):
        Series().fit(times)
    wide = pd.DataFrame({"c": pd.Categorical([0, 1] * 30, categories=range(60))})
    with pytest.raises(TypeError, match="column 'c' of X has 60 categories, expected at most 50"):
        Series().fit(wide)
    odd = holes.copy()
    odd["state"] = odd["state"].cat.add_categories("new")
    odd.loc[odd.index[3], "state"] = "new"
    with pytest.raises(ValueError, match="column 'state' of X holds 'new', which was not seen in training"):
        model.fill(odd)
    days = model.forecast(2).index
    with pytest.raises(
        ValueError, match="column 'promo' of known holds 3, expected positions of its classes"
    ):
        model.forecast(2, known=np.array([[np.nan, 3.0, np.nan, np.nan]] * len(days)))
    with pytest.raises(ValueError, match=r"column must be one of classes, of which there are .*got 'price'"):
        model.class_probabilities(holes, "price")


def test_commands_take_classes(tmp_path):
    frame = shop(90).rename_axis("day").reset_index()
    frame.loc[10:12, ["promo", "state"]] = pd.NA
    frame.to_csv(tmp_path / "shop.csv", index=False)
    for command in (
        [
            "forecast",
            str(tmp_path / "shop.csv"),
            "-n",
            "5",
            "--level",
            "0.8",
            "--picture",
            str(tmp_path / "p.png"),
        ],
        ["decompose", str(tmp_path / "shop.csv")],
    ):
        found = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "out.csv")])
        assert found.exit_code == 0, found.output
    run = CliRunner().invoke(
        app, ["forecast", str(tmp_path / "shop.csv"), "-n", "5", "-o", str(tmp_path / "out.csv")]
    )
    assert run.exit_code == 0
    ahead = pd.read_csv(tmp_path / "out.csv")
    assert set(ahead["state"]) <= set(LEVELS)
    assert ahead["promo"].dtype == bool
