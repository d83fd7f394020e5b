"""Burg's autoregressions and the exact infill, against processes that are known and the dense Gaussian."""

import numpy as np
import pytest
from scipy.linalg import toeplitz
from scipy.signal import lfilter

from abduce.sequences.burg import Autoregression, burg, residuals, simulate, yule_walker
from abduce.sequences.clicks import levinson, oddness
from abduce.sequences.infill import Beyond, Scattered, Within, infill

KNOWN = Autoregression(np.array([1.0, -1.6, 1.1, -0.45, 0.12]), 2.0)
N = 90


def covariances(model, n):
    """Autocovariances by the impulse response, which has died away long before its end."""
    impulse = np.zeros(20_000)
    impulse[0] = 1.0
    response = lfilter([1.0], model.a, impulse)
    return model.variance * np.array([response[: len(response) - k] @ response[k:] for k in range(n)])


PATTERNS = {
    "between": (np.arange(30, 55), Within),
    "long between": (np.arange(4, 86), Within),
    "after": (np.arange(70, 90), Beyond),
    "before": (np.arange(0, 25), Beyond),
    "near the beginning": (np.arange(2, 20), Scattered),
    "near the end": (np.arange(60, 88), Scattered),
    "two gaps": (np.r_[20:30, 33:40], Scattered),
    "both ends": (np.r_[0:5, 60:61, 80:90], Scattered),
    "hardly anything seen": (np.setdiff1d(np.arange(N), [3, 40, 41, 77]), Scattered),
}


@pytest.fixture(scope="module")
def x():
    return simulate(KNOWN, N, np.random.default_rng(3))


def dense(x, at):
    """Mean and covariance of missing samples by the covariance of all."""
    covariance = toeplitz(covariances(KNOWN, N))
    seen = np.setdiff1d(np.arange(N), at)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, at)]).T
    return gain @ x[seen], covariance[np.ix_(at, at)] - gain @ covariance[np.ix_(seen, at)]


@pytest.mark.parametrize("name", PATTERNS)
def test_infill_is_the_dense_gaussian_conditional(x, name):
    at, kind = PATTERNS[name]
    missing = np.isin(np.arange(N), at)
    way = infill(KNOWN.a, missing)
    mean, covariance = dense(x, at)
    assert type(way) is kind
    blind = np.where(missing, 1e9, x)  # what is missing is not read
    assert np.abs(way.mean(blind) - mean).max() < 1e-8
    assert np.abs(KNOWN.variance * way.variance() - np.diag(covariance)).max() < 1e-8


@pytest.mark.parametrize("name", PATTERNS)
def test_draws_have_the_covariance_of_the_posterior(x, name):
    at, _ = PATTERNS[name]
    draws = infill(KNOWN.a, np.isin(np.arange(N), at)).deviations(40_000, np.random.default_rng(0))
    _, covariance = dense(x, at)
    found = KNOWN.variance * draws.T @ draws / len(draws)
    assert np.abs(found - covariance).max() < 0.04 * covariance.max()
    assert np.abs(draws.mean(0)).max() < 0.05 * np.sqrt(covariance.max())


@pytest.mark.parametrize("name", PATTERNS)
def test_time_may_run_either_way(x, name):
    at, _ = PATTERNS[name]
    missing = np.isin(np.arange(N), at)
    there, back = infill(KNOWN.a, missing), infill(KNOWN.a, missing[::-1])
    assert np.allclose(there.mean(x), back.mean(x[::-1])[::-1], atol=1e-9)
    assert np.allclose(there.variance(), back.variance()[::-1], atol=1e-9)


def test_the_two_ways_to_a_gap_agree_at_high_order():
    rng = np.random.default_rng(0)
    t = np.arange(6000)
    x = 1000 * np.sin(0.05 * t) + 300 * np.sin(0.31 * t + 1) + rng.normal(0, 1, len(t))
    model = burg([x[:2500], x[3000:]], [700])[700]
    missing = np.zeros(700 + 500 + 700, bool)
    missing[700:1200] = True
    fast, slow = Within(model.a, 700, 500), Scattered(model.a, missing)
    assert np.abs(fast.mean(x[1800:3700]) - slow.mean(x[1800:3700])).max() < 1e-3
    assert np.allclose(fast.variance(), slow.variance(), rtol=1e-5)


def test_coefficients_are_recovered_by_either_method():
    x = simulate(KNOWN, 200_000, np.random.default_rng(1))
    for model in (burg([x], [4])[4], yule_walker(x, 4), burg([x[:90_000], x[100_000:]], [2, 4])[4]):
        assert np.abs(model.a - KNOWN.a).max() < 0.02
        assert model.variance == pytest.approx(KNOWN.variance, rel=0.02)
    assert np.var(residuals(KNOWN, x)) == pytest.approx(KNOWN.variance, rel=0.02)


def test_burg_is_stable_and_knows_its_lower_orders():
    x = np.random.default_rng(2).normal(size=60).cumsum()
    several = burg([x], [3, 20])
    assert np.allclose(several[3].a, burg([x], [3])[3].a)
    assert np.abs(np.roots(several[20].a)).max() < 1
    assert several[20].variance < several[3].variance


def test_burg_is_the_same_backwards_and_for_any_scale():
    x = np.random.default_rng(4).normal(size=300).cumsum()
    weights = np.linspace(0.1, 1, 300)
    here = burg([x], [12], [weights])[12]
    back = burg([5 * x[::-1]], [12], [weights[::-1]])[12]
    assert np.allclose(here.a, back.a, atol=0.02)
    assert back.variance == pytest.approx(25 * here.variance, rel=0.02)
    plain, turned = burg([x], [12])[12], burg([x[::-1]], [12])[12]
    assert np.allclose(plain.a, turned.a, atol=1e-9)


def test_a_stretch_of_nothing_and_one_that_is_short():
    silent = burg([np.zeros(50)], [10])[10]
    assert (silent.order, silent.variance) == (0, 0.0)
    assert burg([np.array([1.0, 2.0, 1.0])], [10])[10].order == 2
    with pytest.raises(ValueError, match="at least one sample"):
        burg([], [2])


def test_too_much_is_refused():
    missing = np.zeros(20_000, bool)
    missing[100:14_000:2] = True
    with pytest.raises(ValueError, match="more than can be filled"):
        infill(KNOWN.a, missing)
    missing[:] = False
    with pytest.raises(ValueError, match="nothing is missing"):
        infill(KNOWN.a, missing)


def test_levinson_of_many_frames_is_that_of_each():
    frames = np.random.default_rng(5).normal(size=(7, 200)).cumsum(1)
    found = levinson(frames, 9)
    for row, frame in zip(found, frames, strict=True):
        assert np.allclose(row, yule_walker(frame, 9).a, atol=1e-4)


def test_oddness_is_minus_the_log_density_of_noise():
    x = np.random.default_rng(6).normal(0, 3.0, (40_000, 1))
    for two_sided in (True, False):
        odd = oddness(x, np.zeros(x.shape, bool), 8000, two_sided)
        assert np.mean(odd) == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 9), abs=0.08)
