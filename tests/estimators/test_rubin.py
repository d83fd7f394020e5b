"""Rubin's rules, against values worked out by hand, the formulas in exact fractions, and what they must keep."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from abduce import pool


def by_fractions(q: list[F], u: list[F], full: F | None) -> dict[str, F]:
    """The rules written out for one estimate, ν by Rubin's (1 + 1/r)² form."""
    m = len(q)
    mean, within = sum(q) / m, sum(u) / m
    between = sum((v - mean) ** 2 for v in q) / (m - 1)
    extra = (1 + F(1, m)) * between
    r = extra / within
    nu = (m - 1) * (1 + 1 / r) ** 2
    gamma = (r + 2 / (nu + 3)) / (r + 1)
    if full is not None:
        seen = (full + 1) / (full + 3) * full * (1 - extra / (within + extra))
        freedom = nu * seen / (nu + seen)
    else:
        freedom = nu
    return {
        "estimate": mean,
        "within": within,
        "between": between,
        "total": within + extra,
        "degrees_of_freedom": freedom,
        "missing_information": gamma,
        "variance_increase": r,
    }


def test_by_hand():
    """Estimates 4, 6, 8 with variances 2, 3, 4: W = 3, B = 4, T = 3 + 16/3 = 25/3, r = 16/9, ν = 2 (25/16)²."""
    found = pool([4, 6, 8], [2, 3, 4])
    assert (found.estimate, found.within, found.between) == (6, 3, 4)
    assert found.total == pytest.approx(25 / 3)
    assert found.variance_increase == pytest.approx(16 / 9)
    assert found.degrees_of_freedom == pytest.approx(625 / 128)
    assert found.missing_information == pytest.approx((16 / 9 + 2 / (625 / 128 + 3)) / (25 / 9))
    half = stats.t(625 / 128).ppf(0.975) * (25 / 3) ** 0.5
    assert (found.low, found.high) == (pytest.approx(6 - half), pytest.approx(6 + half))
    # 30 rows and one estimate: 29 degrees of freedom, ν_obs = 30/32 · 29 · 9/25 = 9.7875
    small = pool([4, 6, 8], [2, 3, 4], n=30)
    assert small.degrees_of_freedom == pytest.approx(1 / (128 / 625 + 1 / 9.7875))
    assert small.low < found.low
    assert pool([4, 6, 8], [2, 3, 4], df=29).degrees_of_freedom == small.degrees_of_freedom


whole = st.integers(-50, 50)
copies = st.lists(st.tuples(whole, st.integers(1, 50)), min_size=2, max_size=9)


@given(copies, st.one_of(st.none(), st.integers(1, 200)))
def test_the_formulas_in_fractions(rows, full):
    q, u = [F(a) for a, _ in rows], [F(b) for _, b in rows]
    found = pool([float(v) for v in q], [float(v) for v in u], df=full)
    if len(set(q)) == 1:
        assert found.between == found.variance_increase == found.missing_information == 0
        assert found.total == found.within
        return
    for name, value in by_fractions(q, u, None if full is None else F(full)).items():
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-9, abs=1e-12), name


@given(copies, st.floats(-10, 10), st.floats(0.1, 10))
def test_shift_and_scale(rows, shift, scale):
    q, u = map(np.array, zip(*rows, strict=True))
    one = pool(q, u, n=40)
    other = pool(shift + scale * q, scale**2 * u, n=40)
    for name in ("degrees_of_freedom", "missing_information"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-6)
    for name in ("estimate", "low", "high"):
        assert getattr(other, name) == pytest.approx(shift + scale * getattr(one, name), rel=1e-5, abs=1e-6)
    assert one.low <= one.estimate <= one.high
    assert one.total >= one.within
    assert 0 <= one.missing_information <= 1
    assert one.degrees_of_freedom <= 39


def test_equal_estimates_are_the_analysis_of_whole_data():
    """No spread between copies: the interval of least squares, whatever the rounding of the mean."""
    found = pool([0.1] * 3, [0.04] * 3, df=17)
    assert found.between == 0.0
    # with ν infinite only ν_obs is left, at λ = 0: 17 · 18/20
    assert found.degrees_of_freedom == pytest.approx(17 * 18 / 20)
    infinite = pool([0.1] * 3, [0.04] * 3)
    assert infinite.degrees_of_freedom == np.inf
    assert infinite.high - infinite.estimate == pytest.approx(0.2 * stats.norm.ppf(0.975))
    sure = pool([1.0, 1.0], [0.0, 0.0])
    assert (sure.low, sure.high, sure.standard_error) == (1, 1, 0)
    unsure = pool([1.0, 3.0], [0.0, 0.0])  # all the variance is between copies
    assert (unsure.variance_increase, unsure.missing_information) == (np.inf, 1.0)
    assert unsure.degrees_of_freedom == 1


def test_vectors_and_matrices():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(6, 3))
    roots = rng.normal(size=(6, 3, 3))
    u = roots @ np.swapaxes(roots, 1, 2)
    matrix = pool(q, u, n=50)
    np.testing.assert_allclose(matrix.between, np.cov(q.T), atol=1e-12)
    np.testing.assert_allclose(matrix.total, u.mean(0) + 7 / 6 * np.cov(q.T), atol=1e-12)
    vector = pool(q, np.diagonal(u, axis1=1, axis2=2), n=50)
    for j in range(3):
        one = pool(q[:, j], u[:, j, j], df=47)
        for name in (
            "estimate",
            "standard_error",
            "degrees_of_freedom",
            "low",
            "high",
            "missing_information",
        ):
            assert getattr(vector, name)[j] == pytest.approx(getattr(one, name))
            assert getattr(matrix, name)[j] == pytest.approx(getattr(one, name))
        assert vector.between[j] == pytest.approx(one.between)


def test_intervals_cover_in_theory():
    """Q_l ~ N(q, B), q ~ N(0, W + B (1 + 1/∞)): estimates from proper draws, whose law of t is nearly Student's."""
    rng = np.random.default_rng(0)
    m, between, within = 5, 1.0, 0.5
    hits = []
    for _ in range(2000):
        centre = rng.normal() * (within + between) ** 0.5
        found = pool(centre + between**0.5 * rng.normal(size=m), np.full(m, within))
        hits.append(found.low <= 0 <= found.high)
    assert abs(np.mean(hits) - 0.95) < 0.015


def test_a_table_and_its_names():
    found = pool([[1.0, 2.0], [2.0, 2.0]], [[0.1, 0.2]] * 2, level=0.9)
    frame = found.to_frame(["a", "b"])
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["a", "estimate"] == 1.5
    assert "2 draws pooled, intervals of 90%" in repr(found)
    assert "1.5" in repr(found)
    with pytest.raises(ValueError, match="names must be one for each of 2 estimates, got 1"):
        found.to_frame(["a"])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (([1.0], [1.0]), "estimates must be from at least 2 completed copies, got 1"),
        ((1.0, 1.0), r"estimates must have shape \(m,\) or \(m, p\), got \(\)"),
        (([[], []], [[], []]), r"estimates must have shape"),
        (([1.0, 2.0], [1.0]), r"variances must have shape \(2,\), got \(1,\)"),
        (([[1.0, 2], [3, 4]], [1.0, 1.0]), r"variances must have shape \(2, 2\) or \(2, 2, 2\), got \(2,\)"),
        (([1.0, 2.0], [1.0, -0.5]), "variances must not be negative, got -0.5"),
        (([1.0, np.nan], [1.0, 1.0]), "estimates must be finite, got nan"),
        (([1.0, 2.0], [1.0, np.inf]), "variances must be finite, got inf"),
        (([[1.0, 2], [3, 4]], [[[1, 0.5], [0.2, 1]]] * 2), "must be symmetric"),
        (([[1.0, 2], [3, 4]], [[[1, 2], [2, 1]]] * 2), "covariance matrices, got one with the eigenvalue -1"),
    ],
)
def test_bad_input(given_, message):
    with pytest.raises(ValueError, match=message):
        pool(*given_)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"level": 1}, "level must be between 0 and 1, got 1"),
        ({"n": 1}, "n must be an int above the number of estimates, 1, got 1"),
        ({"n": 20.5}, "n must be an int"),
        ({"df": 0}, "df must be > 0, got 0"),
        ({"n": 20, "df": 19}, "give n or df, not both"),
    ],
)
def test_bad_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        pool([1.0, 2.0], [1.0, 1.0], **more)
