"""Log importance weights: closed forms, Jensen's order, resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import genpareto

from abduce.inference import weights

finite = st.floats(-50, 50)
log_weights = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=finite)


def test_closed_forms():
    log_w = torch.log(torch.tensor([[1.0, 2.0], [3.0, 2.0], [4.0, 2.0]], dtype=torch.float64))
    torch.testing.assert_close(weights.elbo(log_w), torch.tensor([12.0, 8.0]).double().log() / 3)
    torch.testing.assert_close(weights.multi_sample(log_w), torch.tensor([8 / 3, 2.0]).double().log())
    torch.testing.assert_close(weights.normalized(log_w)[:, 0], torch.tensor([1.0, 3.0, 4.0]).double() / 8)
    torch.testing.assert_close(weights.effective_sample_size(log_w), torch.tensor([64 / 26, 3.0]).double())
    values = torch.tensor([[[1.0], [0.0]], [[2.0], [3.0]], [[3.0], [6.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        weights.expectation(log_w, values), torch.tensor([[(1 + 6 + 12) / 8], [3.0]]).double()
    )


def test_standard_error_is_the_delta_method():
    w = torch.tensor([[1.0], [3.0], [4.0], [7.0]], dtype=torch.float64)
    relative = w.std(0, correction=1) / w.mean(0) / math.sqrt(len(w))
    torch.testing.assert_close(weights.standard_error(w.log()), relative)
    assert weights.standard_error(torch.zeros(5, 2)).tolist() == [0.0, 0.0]
    assert weights.standard_error(torch.zeros(1, 1)).tolist() == [0.0]


@given(log_weights)
def test_order_and_limits(values):
    log_w = torch.from_numpy(values)
    elbo, bound = weights.elbo(log_w), weights.multi_sample(log_w)
    assert (elbo <= bound + 1e-9).all()
    assert (bound <= log_w.max(0).values + 1e-9).all()
    ess = weights.effective_sample_size(log_w)
    assert (ess >= 1 - 1e-9).all()
    assert (ess <= len(log_w) + 1e-9).all()
    torch.testing.assert_close(weights.normalized(log_w).sum(0), torch.ones(log_w.shape[1]).double())


ALPHAS = [-200.0, -2.0, -0.5, 0.0, 0.5, 0.99, 1 - 2e-4, 1 + 2e-4, 1.5, 2.0, 200.0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_renyi_is_its_formula(alpha):
    log_w = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with np.errstate(all="raise"):
        power = np.longdouble(1 - alpha)
        brute = np.log(np.mean(np.exp(power * log_w.numpy().astype(np.longdouble)), 0)) / power
    np.testing.assert_allclose(weights.renyi(log_w, alpha), brute.astype(float), rtol=1e-9)


def test_renyi_ends_and_middle():
    log_w = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(weights.renyi(log_w, -math.inf), log_w.max(0).values)
    assert torch.equal(weights.renyi(log_w, math.inf), log_w.min(0).values)
    torch.testing.assert_close(weights.renyi(log_w, 1.0), weights.elbo(log_w), rtol=0, atol=1e-14)
    torch.testing.assert_close(weights.renyi(log_w, 0.0), weights.multi_sample(log_w), rtol=0, atol=1e-14)
    torch.testing.assert_close(weights.renyi(log_w, -1e6), log_w.max(0).values, rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.renyi(log_w, 1e6), log_w.min(0).values, rtol=0, atol=1e-5)
    assert torch.equal(weights.renyi(log_w[:1], -0.7), log_w[0])  # of one draw all are the same


@pytest.mark.parametrize("side", [-1, 1])
def test_renyi_is_continuous_where_it_switches_to_its_expansion(side):
    """The third cumulant is what the expansion leaves out: within 1e-8 nats at the switch."""
    log_w = 2 * torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inside, outside = (weights.renyi(log_w, 1 + side * d) for d in (0.9999e-4, 1.0001e-4))
    slope = -0.5 * log_w.var(0, correction=0)
    torch.testing.assert_close(outside - inside, side * 2e-8 * slope, rtol=0, atol=3e-8)
    torch.testing.assert_close(inside - weights.elbo(log_w), side * 0.9999e-4 * slope, rtol=0, atol=3e-8)


@given(log_weights, st.lists(st.floats(-30, 30), min_size=2, max_size=6))
def test_renyi_falls_as_alpha_rises(values, alphas):
    log_w = torch.from_numpy(values)
    bounds = torch.stack([weights.renyi(log_w, a) for a in [-math.inf, *sorted(alphas), math.inf]])
    assert (bounds[1:] <= bounds[:-1] + 1e-6).all()


@given(log_weights, st.floats(-1000, 1000))
def test_a_constant_moves_the_bounds_and_nothing_else(values, shift):
    log_w = torch.from_numpy(values)
    torch.testing.assert_close(weights.elbo(log_w + shift), weights.elbo(log_w) + shift)
    torch.testing.assert_close(weights.multi_sample(log_w + shift), weights.multi_sample(log_w) + shift)
    torch.testing.assert_close(
        weights.effective_sample_size(log_w + shift),
        weights.effective_sample_size(log_w),
        rtol=1e-6,
        atol=1e-6,
    )


def test_effective_sample_size_at_its_ends():
    even = torch.zeros(7, 1)
    assert weights.effective_sample_size(even).item() == pytest.approx(7)
    one = torch.full((7, 1), -torch.inf)
    one[3] = 0.0
    assert weights.effective_sample_size(one).item() == pytest.approx(1)
    huge = torch.tensor([[1e4], [0.0]], dtype=torch.float64)  # no overflow
    assert weights.effective_sample_size(huge).item() == pytest.approx(1)


def test_bound_rises_with_samples_to_the_truth():
    # log w ~ N(−s²/2, s²), so that E[w] = 1 and log p = 0
    generator = torch.Generator().manual_seed(0)
    s, repeats = 1.0, 40_000
    log_w = s * torch.randn(64, repeats, generator=generator, dtype=torch.float64) - s**2 / 2
    values = [weights.multi_sample(log_w[:k]) for k in (1, 2, 4, 16, 64)]
    means = [float(v.mean()) for v in values]
    errors = [float(v.std() / math.sqrt(repeats)) for v in values]
    assert abs(means[0] + s**2 / 2) < 4 * errors[0]  # one sample: the ELBO
    for i in range(4):
        difference = values[i + 1] - values[i]
        assert difference.mean() > 3 * difference.std() / math.sqrt(repeats)
    assert means[-1] < 3 * errors[-1]
    assert means[-1] > -0.03  # −(e^{s²} − 1) / 2k to first order


def test_resampling_frequencies():
    w = torch.tensor([[0.1, 0.25], [0.2, 0.25], [0.0, 0.25], [0.7, 0.25]], dtype=torch.float64)
    log_w = torch.log(w) + torch.tensor([3.0, -5.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros_like(w)
    for _ in range(2000):
        index = weights.resample(log_w, 5, generator)
        once = torch.stack([(index == i).sum(0) for i in range(4)])
        assert (once >= torch.floor(5 * w)).all()  # systematic: ⌊n w⌋ or ⌈n w⌉ times
        assert (once <= torch.ceil(5 * w)).all()
        counts += once
    torch.testing.assert_close(counts / counts.sum(0), w, atol=0.01, rtol=0)


def test_resampling_is_seeded():
    log_w = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    first = weights.resample(log_w, 6, torch.Generator().manual_seed(2))
    assert torch.equal(first, weights.resample(log_w, 6, torch.Generator().manual_seed(2)))
    assert first.shape == (6, 3)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_take_picks_each_rows_own(samples, batch, n, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, batch, 2, generator=generator)
    index = torch.randint(samples, (n, batch), generator=generator)
    taken = weights.take(values, index)
    assert taken.shape == (n, batch, 2)
    for i in range(n):
        for b in range(batch):
            assert torch.equal(taken[i, b], values[index[i, b], b])


def pareto_k_by_row(log_w: np.ndarray) -> float:
    """Zhang & Stephens 2009 as in PSIS, written for one row of log weights."""
    s = len(log_w)
    n = math.ceil(min(s / 5, 3 * math.sqrt(s)))
    w = np.sort(np.exp(log_w - log_w.max()))
    y = w[-n:] - w[-n - 1]
    m = 30 + int(math.sqrt(n))
    theta, score = np.empty(m), np.empty(m)
    for j in range(m):
        theta[j] = 1 / y[-1] + (1 - math.sqrt(m / (j + 0.5))) / (3 * y[int(n / 4 + 0.5) - 1])
        k = np.mean([math.log1p(-theta[j] * v) for v in y])
        score[j] = n * (math.log(-theta[j] / k) - k - 1)
    mean = sum(theta[j] / sum(math.exp(other - score[j]) for other in score) for j in range(m))
    return (n * np.mean(np.log1p(-mean * y)) + 5) / (n + 10)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_the_shape_of_a_known_tail(k):
    w = genpareto(k).rvs(size=(10_000, 60), random_state=np.random.default_rng(0))
    found = weights.pareto_k(torch.from_numpy(np.log(w)))
    assert abs(found.mean() - k) < 0.04
    assert found.std() < 0.15


@pytest.mark.parametrize("samples", [25, 100, 2000])
def test_the_shape_is_the_textbooks(samples):
    log_w = 1.5 * torch.randn(
        samples, 4, generator=torch.Generator().manual_seed(samples), dtype=torch.float64
    )
    by_row = [pareto_k_by_row(row) for row in log_w.T.numpy()]
    np.testing.assert_allclose(weights.pareto_k(log_w), by_row, rtol=1e-9)
    np.testing.assert_allclose(weights.pareto_k(log_w - 800), by_row, rtol=1e-7)  # scale does not matter


def test_the_shape_at_its_ends():
    assert (weights.pareto_k(torch.zeros(100, 2)) == -torch.inf).all()  # no tail at all
    assert weights.pareto_k(torch.randn(20, 2)).isnan().all()  # too few draws to tell
    wild = weights.pareto_k(1000 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0)))
    assert (wild > 5).all()  # one weight carries everything, the others underflow
    assert wild.isfinite().all()


def test_rows_that_share_a_number_resample_alike():
    log_w = torch.randn(20, 1, generator=torch.Generator().manual_seed(1)).expand(-1, 3)
    index = weights.resample(log_w, 6, torch.Generator().manual_seed(2), shared=True)
    assert torch.equal(index, index[:, :1].expand(-1, 3))
    alone = weights.resample(log_w[:, :1], 6, torch.Generator().manual_seed(2), shared=True)
    assert torch.equal(alone, index[:, :1])
