"""Sums of factor analysers over rows: the same for any cut and any order of merging, and what they are sums of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abduce.data.seen import Seen
from abduce.gaussians import factor_sums
from abduce.gaussians.factor_fit import maximised
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.factor_sums import FactorSums

N, D, K, Q = 90, 4, 2, 2


def rows(blanks: bool = True) -> Seen:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + 3.0 * rng.integers(0, 2, size=(N, 1))
    mask = rng.random(x.shape) > (0.3 if blanks else -1.0)
    return Seen(torch.from_numpy(np.where(mask, x, 0.0)), torch.from_numpy(mask))


def start() -> FactorMixtureLaw:
    g = torch.Generator().manual_seed(0)
    loadings = torch.randn(K, D, Q, generator=g).double()
    means = torch.tensor([[0.0] * D, [3.0] * D]).double()
    return FactorMixtureLaw(
        torch.tensor([0.0, 0.5]).double(), means, loadings, torch.full((K, D), 0.7).double()
    )


@pytest.mark.parametrize("few", [32, 0], ids=["pattern by pattern", "row by row"])
def test_neither_the_cut_nor_the_order_of_merging_matters(few, monkeypatch):
    monkeypatch.setattr(factor_sums, "FEW", few)
    seen, law = rows(), start()
    whole = FactorSums.zero(law).add(law, seen)
    wanted = maximised(law, whole.expected.whole(True), 20.0, 0.01)

    @settings(deadline=None, max_examples=20, derandomize=True, database=None)
    @given(st.lists(st.integers(0, N), max_size=5), st.randoms(use_true_random=False))
    def check(cuts, random):
        order = torch.tensor(random.sample(range(N), N))
        ends = itertools.pairwise([0, *sorted(cuts), N])
        parts = [FactorSums.zero(law).add(law, seen.rows(order[a:b])) for a, b in ends if b > a]
        while len(parts) > 1:  # a tree of any form
            one, other = (parts.pop(random.randrange(len(parts))) for _ in range(2))
            parts.append(one.merge(other))
        assert parts[0].rows == N
        for part, expected in zip(parts[0][1:], whole[1:], strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-10)
        found = maximised(law, parts[0].expected.whole(True), 20.0, 0.01)
        for one, other in zip(found.tensors, wanted.tensors, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)

    check()


def test_they_are_expectations_of_factors_given_each_row():
    """By Gaussian conditioning of (x, z), written out for each row and component."""
    seen, law = rows(), start()
    found = FactorSums.zero(law).add(law, seen)
    shares = law.dense().responsibilities(seen)
    shares = torch.where(shares > factor_sums.NEGLIGIBLE, shares, 0.0)
    target, every = torch.zeros(K, D, Q + 1).double(), torch.zeros(K, Q + 1, Q + 1).double()
    design = torch.zeros(K, D, Q + 1, Q + 1).double()
    for y, mask, share in zip(seen.y, seen.mask, shares, strict=True):
        for k in range(K):
            W = law.loadings[k][mask]
            gain = W.mT @ torch.linalg.inv(W @ W.mT + torch.diag(law.noise[k][mask]))
            mean = torch.cat([gain @ (y[mask] - law.means[k][mask]), torch.ones(1).double()])
            second = torch.outer(mean, mean)
            second[:Q, :Q] += torch.eye(Q).double() - gain @ W
            every[k] += share[k] * second
            target[k] += share[k] * torch.outer(torch.where(mask, y, 0.0), mean)
            design[k] += share[k] * mask[:, None, None] * second
    assert found.value == pytest.approx(float(law.log_prob(seen).mean()))
    torch.testing.assert_close(found.expected.target, target)
    torch.testing.assert_close(found.expected.every.unflatten(1, (Q + 1, Q + 1)), every)
    torch.testing.assert_close(found.expected.design.unflatten(2, (Q + 1, Q + 1)), design)


def test_steps_never_lower_the_mean_log_p():
    """Without pseudo-rows but the one of independent cells, whose pull is a nat at most of many rows."""
    seen, law = rows(), start()
    values = []
    for _ in range(25):
        sums = FactorSums.zero(law).add(law, seen)
        values.append(sums.value)
        law = maximised(law, sums.expected.whole(True), 0.0, 0.01)
    assert all(after > before - 1e-3 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 0.5
