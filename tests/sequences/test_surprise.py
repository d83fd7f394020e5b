"""What is odd in a series, online: members against brute force and closed forms, what is injected is found, rates hold."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import ndtr

from abduce.sequences.surprise import LAGS, flagged, nearest, regression, surprise
from abduce.sequences.tails import rarity


def autoregression(n: int, seed: int, phi: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """A series of one lag and its innovations."""
    e = np.random.default_rng(seed).normal(size=n)
    return np.asarray(lfilter([1.0], [1.0, -phi], e)), e


def test_the_regression_is_ridge_on_the_past():
    x = np.random.default_rng(0).normal(size=120).cumsum()
    x -= x[0]
    told = regression(x, [1, 3], memory=40.0)
    keep = np.exp(-1 / 40)
    for t in (60, 119):
        past = np.arange(t)
        rows = np.stack([x[np.maximum(past - 1, 0)], x[np.maximum(past - 3, 0)], np.ones(t)], 1)
        weight = keep ** (t - 1 - past)
        noise = (weight * np.diff(x[:t], prepend=x[0]) ** 2).sum() / weight.sum()
        gram = (rows * weight[:, None]).T @ rows
        ridge = np.append(noise + 1e-9 * np.diag(gram)[:2], 1.0)
        first = np.array([ridge[0], 0, 0])
        w = np.linalg.solve(gram + np.diag(ridge), (rows * weight[:, None]).T @ x[:t] + first)
        expected = w @ [x[t - 1], x[t - 3], 1.0]
        spread = np.ptp(x[:t])
        assert told[t] == pytest.approx(
            np.clip(expected, x[:t].min() - 0.1 * spread, x[:t].max() + 0.1 * spread)
        )


def test_the_regression_finds_the_innovations_and_their_p_values():
    x, e = autoregression(20_000, 1)
    error = x - regression(x, range(1, LAGS + 1), np.inf)
    assert np.abs(error - e)[10_000:].std() < 0.05
    exact = -np.log(2 * ndtr(-np.abs(e)))[10_000:]  # two-sided, closed form
    told = rarity(np.abs(error))[10_000:]
    assert np.median(np.abs(told - exact)) < 0.08
    assert np.corrcoef(told, exact)[0, 1] > 0.98


@pytest.mark.parametrize("length", [1, 3, 8])
def test_the_nearest_stretch_by_brute_force(length):
    x = np.random.default_rng(2).normal(size=1100)
    told = nearest(x, length)
    for t in (2 * length - 2, 2 * length - 1, 2 * length, 511, 512, 700, 1099):
        own = x[t - length + 1 : t + 1]
        ends = range(length - 1, t - length + 1)
        expected = min((np.linalg.norm(own - x[u - length + 1 : u + 1]) for u in ends), default=0.0)
        assert told[t] == pytest.approx(expected, abs=1e-6)


def clean(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """A series in which nothing is odd, and its season."""
    noise = rng.normal(size=n)
    if kind == "white":
        return noise, []
    if kind == "heavy":
        return rng.standard_t(3, size=n), []
    if kind == "autoregression":
        return np.asarray(lfilter([1.0], [1.0, -0.8], noise)), []
    if kind == "walk":
        return noise.cumsum(), []
    return 5 * np.sin(np.arange(n) * 2 * np.pi / 48) + noise, [48]


@pytest.mark.parametrize("kind", ["white", "heavy", "autoregression", "walk", "season"])
def test_false_alarms_come_at_the_stated_rate(kind):
    rng = np.random.default_rng(3)
    x, season = clean(kind, 6000, rng)
    values = x.reshape(1, -1, 1)
    for rate in (0.05, 0.01):
        found = flagged(values, np.array([6000]), rate, seasons=season)[0, 500:].mean()
        assert 0.4 * rate < found < 1.8 * rate


@pytest.mark.parametrize("kind", ["white", "autoregression", "season"])
@pytest.mark.parametrize("what", ["spike", "shift", "louder", "stuck"])
def test_what_is_put_in_is_found_where_it_is(kind, what):
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, season = clean(kind, 2000, rng)
        x = x.copy()
        spread = np.std(x)
        if what == "spike":
            x[1500] += 8 * spread
        elif what == "shift":
            x[1500:] += 6 * spread
        elif what == "louder":
            x[1500:1540] += 4 * spread * rng.normal(size=40)
        else:
            x[1500:1540] = x[1499] + 4 * spread
        odd = surprise(x.reshape(-1, 1), season)
        odd[:300] = 0  # while little is known
        found.append(1500 <= int(odd.argmax()) < 1550)
    assert sum(found) >= 3, found


def test_no_unit_or_origin_enters():
    x, _ = autoregression(900, 4)
    told = surprise(x[:, None])
    np.testing.assert_allclose(surprise(1e6 * x[:, None]), told, atol=1e-6)
    np.testing.assert_allclose(surprise(1e-6 * x[:, None]), told, atol=1e-6)
    moved = surprise(x[:, None] + 100.0)
    assert np.mean(np.abs(moved - told) < 1e-6) > 0.99  # rounding may move a ratio over an edge of the grid


def test_what_comes_later_changes_nothing():
    x, _ = autoregression(1300, 5)
    told = surprise(x[:, None], [24])
    later = np.append(x[:900], 50 * np.random.default_rng(6).normal(size=400))
    assert np.mean(np.abs(surprise(later[:, None], [24])[:900] - told[:900]) < 1e-6) > 0.99
    assert np.mean(np.abs(surprise(x[:900, None], [24]) - told[:900]) < 1e-6) > 0.99


def test_blanks_are_not_odd_and_hide_nothing():
    x, _ = autoregression(1500, 7)
    x[1200] += 12
    x[300:340] = np.nan
    x[1190] = np.nan
    odd = surprise(x[:, None])
    assert (odd[300:340] == 0).all()
    assert odd[1190] == 0
    assert 900 <= odd[300:].argmax() < 905
    assert (surprise(np.full((50, 1), np.nan)) == 0).all()


def test_one_odd_feature_is_enough():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(1500, 5))
    x[1000, 3] += 10
    assert surprise(x)[200:].argmax() == 800
    alone = surprise(x[:, [3]])
    assert surprise(x)[1000] == pytest.approx(alone[1000] - np.log(5))


def test_nothing_is_odd_in_a_constant_or_a_perfect_wave():
    assert surprise(np.full((800, 1), 7.0)).max() < 1
    wave = np.sin(np.arange(2000) * 2 * np.pi / 50).reshape(-1, 1)
    wave[1500] += 0.5
    assert surprise(wave, [50]).argmax() == 1500


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_short_series_are_no_trouble(n):
    odd = surprise(np.arange(float(n)).reshape(-1, 1), [24])
    assert odd.shape == (n,)
    assert np.isfinite(odd).all()
