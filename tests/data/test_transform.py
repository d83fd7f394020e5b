"""Transforms: there and back, slopes, edges, columns side by side, and the normal scores of one column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import ndtri

from abduce.data.transform import (
    Affine,
    Chained,
    Joined,
    Log,
    NormalScores,
    Transform,
    Whole,
    chained,
    joined,
    over_observed,
)

finite = st.floats(-1e5, 1e5, allow_subnormal=False).map(lambda v: round(v, 4))
columns = st.lists(finite, min_size=1, max_size=40)
repeating = st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.0, 7.25]), min_size=1, max_size=60)


def into(scores: NormalScores, v: np.ndarray) -> np.ndarray:
    return scores.to(v[:, None])[:, 0]


def back(scores: NormalScores, z: np.ndarray) -> np.ndarray:
    return scores.back(z[:, None])[:, 0]


def slope(scores: NormalScores, v: np.ndarray) -> np.ndarray:
    """At values."""
    return scores.log_slope(scores.to(v[:, None]))[:, 0]


# ------------------------------------------------------------------ every transform

RNG = np.random.default_rng(0)
SEEN = np.exp(RNG.normal(size=(60, 1)))
CASES: dict[str, tuple[Transform, np.ndarray]] = {  # with data values that come back as they were
    "affine": (Affine.of(3.0, 2.0), RNG.normal(size=(50, 1))),
    "pixel": (Affine.of(127.5, 127.5, 0, 255), RNG.integers(0, 256, (50, 1)).astype(float)),
    "log": (Log(np.array([0.5]), np.array([2.0])), np.exp(RNG.normal(size=(50, 1)))),
    "count": (Whole(np.array([np.inf])), RNG.poisson(4.0, (50, 1)).astype(float)),
    "codes": (Whole(np.array([3.0])), RNG.integers(0, 4, (50, 1)).astype(float)),
    "scores": (NormalScores.of(SEEN[:, 0]), SEEN),
    "log to scores": (
        Chained(Log(np.array([0.5]), np.array([2.0])), NormalScores.of(SEEN[:, 0])),
        (np.log(SEEN) - 0.5) / 2.0,
    ),
}
CASES["side by side"] = (
    joined([t for t, _ in CASES.values() if not isinstance(t, Chained)]),
    np.concatenate([v[:50] for t, v in CASES.values() if not isinstance(t, Chained)], 1),
)
every = pytest.mark.parametrize("name", CASES)


@every
def test_there_and_back(name):
    t, v = CASES[name]
    kept = v.copy()
    m = t.to(v)
    m_kept = m.copy()
    np.testing.assert_allclose(t.back(m), v, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(v, kept)
    np.testing.assert_array_equal(m, m_kept)
    assert not np.shares_memory(m, v)
    assert not np.shares_memory(t.back(m), m)
    assert t.to(v.astype(np.float32), np.float32).dtype == np.float32
    np.testing.assert_array_equal(t.to(v[None]), m[None])  # any leading axes


@every
def test_log_slope_is_a_finite_difference(name):
    t, v = CASES[name]
    v = np.sort(v, 0)
    v = (v[1:] + v[:-1])[np.diff(v, axis=0).min(1) > 1e-4] / 2  # between knots
    h = 1e-6
    with np.errstate(divide="ignore"):
        expected = np.log((t.to(v + h) - t.to(v - h)) / (2 * h))
    np.testing.assert_allclose(np.broadcast_to(t.log_slope(t.to(v)), v.shape), expected, atol=1e-5)


@every
def test_nothing_goes_back_beyond_the_edges(name):
    t, _ = CASES[name]
    low, high = t.edges
    v = t.back(np.linspace(-40, 40, 81)[:, None] * np.ones(len(np.atleast_1d(low))))
    assert (v >= low - 1e-12).all()
    assert (v <= high + 1e-12).all()
    assert np.isfinite(v).all()


@every
def test_a_line_is_the_way_back(name):
    t, v = CASES[name]
    assert (t.line is not None) == (name in ("affine", "pixel"))
    if t.line is not None:
        loc, scale = t.line
        np.testing.assert_allclose(loc + scale * t.to(v), v, rtol=1e-12, atol=1e-12)


def test_columns_of_a_class_are_mapped_together():
    parts = [
        Affine.of(1.0, 2.0),
        Log(np.zeros(1), np.ones(1)),
        Affine.of(5.0, 4.0),
        Affine.of(0.0, 1.0, -1, 1),
    ]
    t = joined(parts)
    assert isinstance(t, Joined)
    assert len(t.parts) == 3  # those that stop are clipped, the others are not
    v = np.exp(RNG.normal(size=(7, 4)))
    one_by_one = np.concatenate([p.to(v[:, [j]]) for j, p in enumerate(parts)], 1)
    np.testing.assert_array_equal(t.to(v), one_by_one)
    m = RNG.normal(size=(3, 7, 4))
    one_by_one = np.concatenate([p.back(m[..., [j]]) for j, p in enumerate(parts)], -1)
    np.testing.assert_array_equal(t.back(m), one_by_one)
    np.testing.assert_array_equal(t.edges, [[-np.inf, 0, -np.inf, -1], [np.inf, np.inf, np.inf, 1]])
    assert t.line is None
    lines = joined(parts[:1] + parts[2:]).line
    assert lines is not None
    np.testing.assert_array_equal(lines, [[1, 5, 0], [2, 4, 1]])


def test_lines_make_a_line():
    first, then = [Affine.of(1.0, 2.0), Affine.of(-3.0, 0.5)], [Affine.of(4.0, 3.0), Affine.of(2.0, 2.0)]
    both = chained(first, then)
    assert isinstance(both, Affine)
    m = RNG.normal(size=(9, 2))
    np.testing.assert_allclose(both.to(m), joined(then).to(joined(first).back(m)), rtol=1e-13)
    np.testing.assert_allclose(both.back(both.to(m)), m, rtol=1e-13)
    stops = chained([Affine.of(0.0, 2.0, -2, 2)], [Affine.of(0.0, 4.0)])  # the data's edges hold
    np.testing.assert_array_equal(stops.to(np.array([[-3.0], [0.5], [3.0]]))[:, 0], [-0.5, 0.25, 0.5])
    np.testing.assert_array_equal(np.ravel(stops.edges), [-1, 1])


def test_log_slopes_are_summed_over_observed_columns():
    observed = np.array([[True, False], [True, True], [False, False]])
    np.testing.assert_array_equal(over_observed(np.array([1.0, 10.0]), observed), [1, 11, 0])
    np.testing.assert_array_equal(over_observed(np.array([2.0]), observed), [2, 4, 0])
    np.testing.assert_array_equal(over_observed(np.arange(6.0).reshape(3, 2), observed), [0, 5, 0])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_sum_of_log_slopes_does_not_depend_on_how_many_rows_there_are(order):
    rng = np.random.default_rng(0)
    slope, observed = np.asarray(rng.normal(size=(500, 19)), order=order), rng.random((500, 19)) < 0.8
    for slopes in (slope, slope[0]):
        whole = over_observed(slopes, observed)
        each = [
            over_observed(slopes[i : i + 1] if slopes.ndim > 1 else slopes, observed[i : i + 1])[0]
            for i in range(500)
        ]
        np.testing.assert_array_equal(whole, each)


def test_scores_of_columns_stand_side_by_side():
    some = [
        NormalScores.of(RNG.normal(size=30)),
        NormalScores.of(np.ones(4)),
        NormalScores.of(RNG.poisson(3, 300)),
    ]
    t = joined(some)
    assert isinstance(t, NormalScores)
    v = RNG.normal(size=(20, 3))
    m = t.to(v)
    for j, one in enumerate(some):
        alone = t.column(j)
        for each in (one, alone):
            np.testing.assert_array_equal(each.to(v[:, [j]])[:, 0], m[:, j])
            np.testing.assert_array_equal(each.back(v[:, [j]])[:, 0], t.back(v)[:, j])
            np.testing.assert_array_equal(each.log_slope(m[:, [j]])[:, 0], t.log_slope(m)[:, j])


# ------------------------------------------------------------------ scores of one column


@given(st.one_of(columns, repeating))
def test_scores_come_back_as_they_were(values):
    """Up to a hundred values have knots of their own."""
    v = np.array(values)
    scores = NormalScores.of(v)
    np.testing.assert_allclose(back(scores, into(scores, v)), v, rtol=1e-9, atol=1e-9)


@given(st.one_of(columns, repeating), finite, finite)
@example([-2.0] * 5 + [0.0] * 2 + [0.5] * 3, 0.0, 0.0)  # ranks of one half, from below and above
def test_scores_rise(values, a, b):
    scores = NormalScores.of(np.array(values))
    assert (np.diff(scores.values) > 0).all()
    assert (np.diff(scores.scores) > 0).all()
    assert (np.diff(scores.back_scores) >= 0).all()
    assert (np.diff(scores.back_values) >= 0).all()
    low, high = into(scores, np.array([min(a, b), max(a, b)]))
    assert low <= high
    low, high = back(scores, np.sort(np.array([a, b]) / 1e4))
    assert low <= high


@given(st.one_of(columns, repeating), st.floats(-50, 50))
def test_values_never_leave_the_range(values, z):
    found = back(NormalScores.of(np.array(values)), np.array([z]))
    assert min(values) <= found[0] <= max(values)


def test_scores_of_many_values_are_those_of_ranks():
    v = np.random.default_rng(0).lognormal(sigma=1.5, size=2001)
    scores = NormalScores.of(v)
    assert len(scores.values) <= 101
    rank = v.argsort().argsort()
    z = into(scores, v)
    middle = (rank > 40) & (rank < 1960)
    np.testing.assert_allclose(z[middle], ndtri((rank[middle] + 0.5) / 2001), atol=0.05)
    assert abs(z.mean()) < 0.02
    assert z.std() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(back(scores, z), v, rtol=1e-9)
    drawn = back(scores, np.random.default_rng(1).normal(size=100_000))
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert (drawn <= np.quantile(v, level)).mean() == pytest.approx(level, abs=0.012)


@pytest.mark.parametrize("spike", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("where", ["bottom", "middle", "top"])
def test_a_spike_is_drawn_as_often_as_it_was_seen(spike, where):
    rng = np.random.default_rng(2)
    n = 3000
    rest = {"bottom": rng.exponential(size=n), "middle": rng.normal(size=n), "top": -rng.exponential(size=n)}
    at = rng.random(n) < spike
    v = np.where(at, 0.0, rest[where])
    scores = NormalScores.of(v)
    drawn = back(scores, rng.normal(size=200_000))
    assert (drawn == 0.0).mean() == pytest.approx(at.mean(), abs=0.005)
    place = scores.back_scores[scores.back_values == 0.0]
    assert (back(scores, np.linspace(place.min(), place.max(), 50)) == 0.0).all()  # all of its interval
    share = (v < 0).mean()
    assert (drawn < 0).mean() == pytest.approx(share, abs=0.01)


def test_nothing_is_drawn_between_a_spike_and_the_rest():
    """Nothing, or at least a thousand: what was never seen in between is not made up."""
    rng = np.random.default_rng(5)
    v = np.where(rng.random(3000) < 0.4, 0.0, 1000 + rng.exponential(500, size=3000))
    scores = NormalScores.of(v)
    drawn = back(scores, rng.normal(size=100_000))
    assert ((drawn > 0) & (drawn < 1000)).mean() < 1e-3
    np.testing.assert_allclose(back(scores, into(scores, v)), v, rtol=1e-9)


def test_whole_numbers_are_drawn_as_often_as_they_were_seen():
    rng = np.random.default_rng(3)
    v = rng.poisson(2.0, size=4000).astype(float)
    scores = NormalScores.of(v)
    drawn = np.rint(back(scores, rng.normal(size=200_000)))
    for k in range(6):
        assert (drawn == k).mean() == pytest.approx((v == k).mean(), abs=0.006)


def test_an_atom_has_the_mean_score_of_its_interval():
    """Of two values of equal share: ±E|z|."""
    scores = NormalScores.of(np.array([1.0, 2.0] * 50))
    np.testing.assert_allclose(scores.scores, [-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)])
    np.testing.assert_array_equal(back(scores, np.array([-3.0, -0.01, 0.01, 3.0])), [1, 1, 2, 2])


def test_one_value():
    for values in ([4.0], [4.0] * 9):
        scores = NormalScores.of(np.array(values))
        np.testing.assert_array_equal(into(scores, np.array([4.0, 5.0])), [0.0, 0.0])
        np.testing.assert_array_equal(back(scores, np.array([-2.0, 0.0, 2.0])), [4.0] * 3)
        np.testing.assert_array_equal(slope(scores, np.array([4.0])), [0.0])


@given(st.one_of(columns, repeating), st.floats(-0.5, 1.5))
def test_log_slope_is_that_of_the_code(values, where):
    scores = NormalScores.of(np.array(values))
    knots = scores.values
    assume(len(knots) > 1 and np.diff(knots).min() > 1e-3)
    v = knots[0] + where * (knots[-1] - knots[0])
    h = 1e-6 * np.diff(knots).min()
    assume(np.abs(v - knots).min() > 3 * h)
    low, high = into(scores, np.array([v - h, v + h]))
    step = (v + h) - (v - h)
    assert np.exp(slope(scores, np.array([v]))[0]) == pytest.approx((high - low) / step, rel=1e-2)


@pytest.mark.parametrize(("n", "off"), [(100, 0.25), (1000, 0.07), (20_000, 0.02)])
def test_knots_are_few_enough_for_a_density_and_reach_into_the_tails(n, off):
    rng = np.random.default_rng(0)
    v, new = rng.exponential(size=n), rng.exponential(size=20_000)
    scores = NormalScores.of(v)
    assert scores.knots[0] <= 8 * np.cbrt(n) + 2
    inside = new[new < v.max()]
    log_p = -0.5 * into(scores, inside) ** 2 - 0.5 * np.log(2 * np.pi) + slope(scores, inside)
    assert np.mean(-inside - log_p) == pytest.approx(0, abs=off)  # nats that are lost
    np.testing.assert_allclose(back(scores, into(scores, np.sort(v)[-3:])), np.sort(v)[-3:], rtol=0.05)
