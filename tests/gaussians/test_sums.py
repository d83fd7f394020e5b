"""Sums over rows: the same for any cut of the rows and any order of merging, and the fit that comes of them."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from abduce.data.seen import Seen
from abduce.gaussians.gaussian_fit import gaussian_mixture
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import MixtureSums, Node, SumTree

N, D, K = 120, 3, 2
TYPES = ["full", "tied", "diag", "spherical"]


def rows(blanks: bool = True) -> Seen:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) + 4.0 * rng.integers(0, 2, size=(N, 1))
    mask = rng.random(x.shape) > (0.3 if blanks else -1.0)
    return Seen(torch.from_numpy(np.where(mask, x, 0.0)), torch.from_numpy(mask))


def start() -> GaussianMixtureLaw:
    means = torch.tensor([[0.0] * D, [3.0] * D], dtype=torch.float64)
    return GaussianMixtureLaw(torch.zeros(K).double(), means, torch.eye(D).double().repeat(K, 1, 1))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.integers(0, N), max_size=6), st.randoms(use_true_random=False), st.sampled_from(TYPES))
def test_neither_the_cut_nor_the_order_of_merging_matters(cuts, random, covariance_type):
    seen, law = rows(), start()
    order = torch.tensor(random.sample(range(N), N))
    ends = [0, *sorted(cuts), N]
    parts = [
        MixtureSums.zero(law).add(law, seen.rows(order[a:b])) for a, b in itertools.pairwise(ends) if b > a
    ]
    while len(parts) > 1:  # a tree of any form
        one, other = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(one.merge(other))
    whole = MixtureSums.zero(law).add(law, seen)
    assert parts[0].rows == whole.rows == N
    for part, expected in zip(parts[0][1:], whole[1:], strict=True):
        assert torch.allclose(part, expected, rtol=1e-10, atol=1e-10)
    found, wanted = (s.solve(covariance_type, 1e-6) for s in (parts[0], whole))
    for name in ("log_weights", "means", "covariances"):
        assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 13), st.lists(st.integers(0, 13), max_size=5))
def test_numbered_parts_are_merged_to_the_same_bits_wherever_runs_of_them_are(count, cuts):
    seen, law = rows(), start()
    parts = [seen.rows(index) for index in torch.arange(N).tensor_split(count)]

    def tree(first, last):
        out = SumTree[MixtureSums]()
        for k in range(first, last):
            out.add(Node(0, k, MixtureSums.zero(law).add(law, parts[k])))
        return out

    alone, joined = tree(0, count), SumTree[MixtureSums]()
    for first, last in itertools.pairwise([0, *sorted(min(c, count) for c in cuts), count]):
        for node in tree(first, last).nodes:
            joined.add(node)
    assert len(alone.nodes) == count.bit_count()  # as many as ones in the binary number
    assert [node[:2] for node in joined.nodes] == [node[:2] for node in alone.nodes]
    whole = MixtureSums.zero(law).add(law, seen)
    for one, other, known in zip(alone.whole(), joined.whole(), whole, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(known), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_steps_by_parts_are_the_fit_of_all_rows(covariance_type):
    seen, law = rows(), start()
    ends = itertools.pairwise([0, 1, 50, 51, N])
    parts = [seen.rows(torch.arange(a, b)) for a, b in ends]
    one = gaussian_mixture(start(), seen, covariance_type, 1e-6, 30, -float("inf"))
    for _ in range(30):
        each = (MixtureSums.zero(law).add(law, part) for part in parts)
        law = reduce(MixtureSums.merge, each).solve(covariance_type, 1e-6)
    for name in ("log_weights", "means", "covariances"):
        assert torch.allclose(getattr(one, name), getattr(law, name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_step_is_that_of_scikit_learn(covariance_type):
    seen, law = rows(blanks=False), start()
    found = MixtureSums.zero(law).add(law, seen)
    theirs = GaussianMixture(K, covariance_type=covariance_type, reg_covar=1e-6)
    responsibilities = law.responsibilities(seen).numpy()
    theirs._initialize(seen.y.numpy(), responsibilities)
    ours = found.solve(covariance_type, 1e-6)
    assert np.allclose(ours.means, theirs.means_)
    assert np.allclose(torch.softmax(ours.log_weights, 0), theirs.weights_)
    known = torch.as_tensor(theirs.covariances_)
    dense = {
        "full": lambda: known,
        "tied": lambda: known.expand(K, D, D),
        "diag": lambda: torch.diag_embed(known),
        "spherical": lambda: known[:, None, None] * torch.eye(D),
    }[covariance_type]()
    assert torch.allclose(ours.covariances, dense.double())
    assert found.value == pytest.approx(float(law.log_prob(seen).mean()))


def test_no_rows_are_zero():
    law, seen = start(), rows()
    whole = MixtureSums.zero(law).add(law, seen)
    assert all(
        bool((a == b).all())
        for a, b in zip(
            map(torch.as_tensor, reduce(MixtureSums.merge, [MixtureSums.zero(law), whole])),
            map(torch.as_tensor, whole),
            strict=True,
        )
    )
