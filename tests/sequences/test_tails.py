"""Tail probabilities against one's own past: by counting, at stated rates, causal, whatever the unit; and alarms."""

import numpy as np
import pytest

from abduce.sequences.tails import PRIOR, alarms, past_mean, past_sum, rarity

LAWS = {
    "exponential": lambda rng, n: rng.exponential(size=n),
    "half normal": lambda rng, n: np.abs(rng.normal(size=n)),
    "half Student": lambda rng, n: np.abs(rng.standard_t(3, size=n)),
    "log-normal": lambda rng, n: np.exp(rng.normal(size=n)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("level", [0.1, 0.03, 0.01, 0.003])
def test_a_share_of_p_is_below_p(law, level):
    p = np.exp(-rarity(LAWS[law](np.random.default_rng(1), 40_000)))[1000:]
    assert abs((p <= level).mean() - level) < 0.25 * level + 3 * np.sqrt(level / len(p))


def test_it_is_the_share_of_the_past_that_was_larger():
    s = np.random.default_rng(2).exponential(size=3000)
    ratio = s / (np.cumsum(s) / np.arange(1, len(s) + 1))
    p = np.exp(-rarity(s))
    for t in (1500, 2200, 2999):
        counted = (ratio[:t] > ratio[t]).mean()
        if counted > 0.02:  # the grid is an eighth wide in logarithms
            assert abs(np.log(p[t] / counted)) < 0.15 + PRIOR / t


def test_beyond_all_that_was_seen_it_goes_on_falling():
    s = np.random.default_rng(3).exponential(size=2000)
    told = []
    for size in (8.0, 16.0, 32.0, 64.0):
        s[-1] = size
        told.append(rarity(s)[-1])
    assert (np.diff(told) > 0.5).all()
    assert told[0] > np.log(500)


def test_what_comes_later_changes_nothing_and_no_unit_enters():
    s = np.random.default_rng(4).exponential(size=800)
    told = rarity(s)
    later = np.append(s[:500], 1e6 * np.ones(300))
    np.testing.assert_array_equal(rarity(later)[:500], told[:500])
    np.testing.assert_allclose(rarity(s * 1e-7), told, atol=1e-9)


def test_nothing_is_odd_where_nothing_ever_changes():
    assert rarity(np.zeros(1000)).max() < 1
    assert rarity(np.ones(1000)).max() < 1
    assert rarity(np.zeros(0)).shape == (0,)
    change = np.zeros(1000)
    change[700] = 1e-3
    assert rarity(change).argmax() == 700
    assert rarity(change)[700] > np.log(700)


def test_means_and_sums_of_the_past_by_hand():
    x = np.array([1.0, 5.0, 3.0, 7.0])
    assert past_mean(x).tolist() == [1, 1, 3, 3]
    keep = np.exp(-1 / 2.0)
    np.testing.assert_allclose(past_sum(x, 2.0), [0, 1, 5 + keep, 3 + 5 * keep + keep**2])
    np.testing.assert_allclose(past_mean(x, 2.0)[2], (5 + keep) / (1 + keep))


@pytest.mark.parametrize("rest", [0, 1, 5, 50])
def test_after_an_alarm_there_is_none_for_a_while(rest):
    score = np.random.default_rng(5).normal(size=2000)
    found = alarms(score, 1.0, rest)
    expected, last = np.zeros(2000, bool), -np.inf
    for t in range(2000):
        if score[t] >= 1.0 and t - last > rest:
            expected[t], last = True, t
    np.testing.assert_array_equal(found, expected)
