"""Parzen windows with correlated kernels: beside a plain mixture with a Gaussian around every row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views_for_tests import through

from abduce.data.seen import Seen
from abduce.gaussians import mixture
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.mixture import spread_quantiles
from abduce.gaussians.parzen_law import ParzenLaw, row_keys

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


def parts(n: int = 12, cells: int = 4, factors: int = 2, seed: int = 0):
    """Centres, loadings and noise of kernels."""
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(n, cells, generator=g, dtype=torch.float64)
    loadings = torch.randn(cells, factors, generator=g, dtype=torch.float64)
    return centres, loadings, 0.1 + torch.rand(cells, generator=g, dtype=torch.float64)


def dense(centres, loadings, noise, bandwidth: float) -> GaussianMixtureLaw:
    covariance = bandwidth**2 * (loadings @ loadings.mT + torch.diag(noise))
    n = len(centres)
    return GaussianMixtureLaw(
        torch.zeros(n, dtype=torch.float64), centres, covariance.expand(n, -1, -1).contiguous()
    )


def rows(law: GaussianMixtureLaw, n: int = 30, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    x = law.sample(n, g)
    observed = torch.rand(x.shape, generator=g) < 0.6
    observed[0], observed[1] = True, False
    return torch.where(observed, x, torch.nan), observed, x


# ------------------------------------------------------------------ the same law, written out


@given(
    n=st.integers(1, 15),
    cells=st.integers(1, 5),
    factors=st.integers(1, 3),
    bandwidth=st.sampled_from([0.3, 1.0, 2.5]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_is_the_dense_mixture(n, cells, factors, bandwidth, seed):
    made = parts(n, cells, factors, seed)
    ours, plain = ParzenLaw(*made, bandwidth), dense(*made, bandwidth)
    x, observed, whole = rows(plain, 10, seed)
    torch.testing.assert_close(ours.log_prob(Seen.whole(whole)), plain.log_prob(Seen.whole(whole)), **CLOSE)
    torch.testing.assert_close(ours.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed)), **CLOSE)
    torch.testing.assert_close(ours.mean(Seen(x, observed)), plain.mean(Seen(x, observed)), **CLOSE)


def test_nothing_seen_says_nothing():
    made = parts()
    law = ParzenLaw(*made, 0.7)
    blank = torch.full((2, 4), torch.nan, dtype=torch.float64)
    observed = torch.zeros(2, 4, dtype=torch.bool)
    torch.testing.assert_close(
        law.log_prob(Seen(blank, observed)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(law.mean(Seen(blank, observed)), made[0].mean(0).expand(2, -1))


def test_far_from_every_centre_is_still_finite():
    made = parts()
    law, plain = ParzenLaw(*made, 0.3), dense(*made, 0.3)
    x = torch.full((1, 4), 200.0, dtype=torch.float64)
    torch.testing.assert_close(
        law.log_prob(Seen.whole(x)), plain.log_prob(Seen.whole(x)), rtol=1e-9, atol=1e-6
    )
    observed = torch.tensor([[True, False, True, False]])
    torch.testing.assert_close(
        law.mean(Seen(x, observed)), plain.mean(Seen(x, observed)), rtol=1e-6, atol=1e-6
    )


def test_draws_have_the_moments_of_the_dense_law():
    made = parts()
    ours, plain = ParzenLaw(*made, 0.8), dense(*made, 0.8)
    x, observed, _ = rows(plain, 6)
    n = 20_000
    drawn = ours.draws(Seen(x, observed), n, torch.Generator().manual_seed(2))
    other = plain.draws(Seen(x, observed), n, torch.Generator().manual_seed(3))
    assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
    error = 5 * drawn.std(0) / n**0.5 + 1e-12
    assert ((drawn.mean(0) - plain.mean(Seen(x, observed))).abs() < error).all()
    for i in range(len(x)):
        b = ~observed[i]
        if b.sum() > 1:
            a, c = drawn[:, i, b].T.cov(), other[:, i, b].T.cov()
            scale = torch.outer(c.diagonal().sqrt(), c.diagonal().sqrt())
            assert ((a - c) / scale).abs().max() < 0.08
    new = ours.sample(n, torch.Generator().manual_seed(4))
    centres = made[0]
    expected = plain.covariances[0] + centres.T.cov(correction=0)
    assert ((new.mean(0) - centres.mean(0)).abs() < 5 * new.std(0) / n**0.5).all()
    scale = torch.outer(expected.diagonal().sqrt(), expected.diagonal().sqrt())
    assert ((new.T.cov() - expected) / scale).abs().max() < 0.06


def test_linear_views_are_those_of_the_dense_law(monkeypatch):
    made = parts()
    ours, plain = ParzenLaw(*made, 0.8), dense(*made, 0.8)
    _, observed, whole = rows(plain, 8)

    def pairs(v):
        return torch.stack([v[..., 0] + v[..., 1], v[..., 2] - v[..., 3]], -1)

    noise = torch.tensor([0.2, 0.4], dtype=torch.float64)
    seen = through(pairs, noise, pairs(whole), observed[:, :2])
    monkeypatch.setattr(mixture, "BUDGET", 100)  # a few rows in each chunk
    torch.testing.assert_close(ours.log_prob(seen), plain.log_prob(seen), **CLOSE)
    torch.testing.assert_close(ours.mean(seen), plain.mean(seen), **CLOSE)
    torch.testing.assert_close(ours.responsibilities(seen), plain.responsibilities(seen), **CLOSE)
    n = 20_000
    drawn = ours.draws(seen, n, torch.Generator().manual_seed(6))
    assert ((drawn.mean(0) - plain.mean(seen)).abs() < 5 * drawn.std(0) / n**0.5).all()


def test_shared_draws_do_not_depend_on_who_comes_along(monkeypatch):
    made = parts()
    law = ParzenLaw(*made, 0.8)
    x, observed, _ = rows(dense(*made, 0.8), 8)
    seen, pair = Seen(x, observed), torch.tensor([5, 2])

    def drawn(seen: Seen) -> torch.Tensor:
        return law.draws(seen, 7, torch.Generator().manual_seed(7), shared=True)

    torch.testing.assert_close(drawn(seen.rows(pair)), drawn(seen)[:, pair], **CLOSE)
    every = drawn(seen)
    monkeypatch.setattr(mixture, "BUDGET", 100)
    torch.testing.assert_close(drawn(seen), every, **CLOSE)


def test_points_stand_for_the_law_of_each_cell():
    made = parts()
    law = ParzenLaw(*made, 0.8)
    x, observed, _ = rows(dense(*made, 0.8), 8)
    points = law.points(Seen(x, observed), 4000)
    assert torch.equal(points[:, observed], x[observed].expand(4000, -1))
    drawn = law.draws(Seen(x, observed), 8000, torch.Generator().manual_seed(5))
    off = (points.mean(0) - law.mean(Seen(x, observed))) / drawn.std(0).clamp_min(1e-9)
    assert off[~observed].abs().max() < 0.02
    level = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    at = torch.quantile(drawn[:, ~observed], level, dim=0)
    share = (points[:, ~observed].unsqueeze(1) <= at).double().mean(0)
    assert (share - level.unsqueeze(1)).abs().max() < 0.03


def test_a_row_does_not_depend_on_its_neighbours(monkeypatch):
    made = parts()
    centres = made[0]
    seen = torch.ones_like(centres, dtype=torch.bool)
    law = ParzenLaw(*made, 0.8, row_keys(centres, seen))
    x, observed, _ = rows(dense(*made, 0.8))
    x, observed = torch.cat([x, centres]), torch.cat([observed, seen])
    together = law.log_prob(Seen(x, observed)), law.mean(Seen(x, observed))
    for i in range(len(x)):
        alone = x[i : i + 1], observed[i : i + 1]
        torch.testing.assert_close(law.log_prob(Seen(*alone)), together[0][i : i + 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(law.mean(Seen(*alone)), together[1][i : i + 1], rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(mixture, "BUDGET", 100)
    torch.testing.assert_close(law.log_prob(Seen(x, observed)), together[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(law.mean(Seen(x, observed)), together[1], rtol=1e-12, atol=1e-12)


def test_same_seed_same_draws():
    made = parts()
    law = ParzenLaw(*made, 0.8)
    x, observed, _ = rows(dense(*made, 0.8))

    def drawn(seed: int) -> torch.Tensor:
        return law.draws(Seen(x, observed), 3, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    new = [law.sample(4, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(new[0], new[1])
    assert not torch.equal(new[0], new[2])
    assert torch.equal(law.points(Seen(x, observed), 8), law.points(Seen(x, observed), 8))


# ------------------------------------------------------------------ a row is not its own neighbour


def without(made, i: int, bandwidth: float) -> GaussianMixtureLaw:
    keep = torch.arange(len(made[0])) != i
    return dense(made[0][keep], *made[1:], bandwidth)


def test_a_centre_leaves_itself_out():
    """A row that is a centre is answered by the law of the n − 1 others; one with blanks is recognised by what was seen."""
    made = parts()
    g = torch.Generator().manual_seed(6)
    x = made[0]
    observed = torch.rand(x.shape, generator=g) < 0.7
    observed[0], observed[1] = True, False
    gaps = torch.where(observed, x, torch.nan)
    law = ParzenLaw(*made, 0.8, row_keys(torch.where(observed, x, 0.0), observed))
    log_p, mean = law.log_prob(Seen(gaps, observed)), law.mean(Seen(gaps, observed))
    for i in range(len(x)):
        own = gaps[i : i + 1], observed[i : i + 1]
        torch.testing.assert_close(log_p[i : i + 1], without(made, i, 0.8).log_prob(Seen(*own)), **CLOSE)
        torch.testing.assert_close(mean[i : i + 1], without(made, i, 0.8).mean(Seen(*own)), **CLOSE)


def test_the_same_values_with_other_blanks_are_another_row():
    made = parts()
    x = made[0]
    seen = torch.ones_like(x, dtype=torch.bool)
    law, plain = ParzenLaw(*made, 0.8, row_keys(x, seen)), dense(*made, 0.8)
    fewer = seen.clone()
    fewer[:, 1] = False
    torch.testing.assert_close(law.log_prob(Seen(x, fewer)), plain.log_prob(Seen(x, fewer)), **CLOSE)
    near = x + 1e-9
    torch.testing.assert_close(law.log_prob(Seen(near, seen)), plain.log_prob(Seen(near, seen)), **CLOSE)


def test_of_duplicates_one_is_left_out():
    """Three rows that are alike: each has two neighbours at its own place."""
    centres, *rest = parts(6)
    centres[[2, 4]] = centres[1].clone()
    seen = torch.ones_like(centres, dtype=torch.bool)
    law = ParzenLaw(centres, *rest, 0.8, row_keys(centres, seen))
    expected = without((centres, *rest), 1, 0.8).log_prob(Seen.whole(centres[[1]]))
    for i in (1, 2, 4):
        torch.testing.assert_close(law.log_prob(Seen.whole(centres[[i]])), expected, **CLOSE)


def test_the_only_centre_is_its_own_neighbour_for_want_of_another():
    """Without it there would be no law at all."""
    made = parts(1)
    seen = torch.ones_like(made[0], dtype=torch.bool)
    law = ParzenLaw(*made, 0.8, row_keys(made[0], seen))
    torch.testing.assert_close(
        law.log_prob(Seen.whole(made[0])), dense(*made, 0.8).log_prob(Seen.whole(made[0])), **CLOSE
    )
    observed = torch.tensor([[True, False, False, True]])
    law = ParzenLaw(*made, 0.8, row_keys(made[0], observed))
    torch.testing.assert_close(law.mean(Seen(made[0], observed)), made[0], **CLOSE)


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(numbers, min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_keys_are_of_what_was_seen(values, seen):
    x, observed = torch.tensor([values], dtype=torch.float64), torch.tensor([seen])
    key = row_keys(x, observed)
    assert key.dtype == torch.int64
    assert torch.equal(
        key, row_keys(torch.where(observed, x, torch.nan), observed)
    )  # blanks may hold anything
    assert torch.equal(key, row_keys(torch.where(x == 0, -0.0, x), observed))  # −0 is 0
    for j in range(3):
        other = observed.clone()
        other[0, j] = ~other[0, j]
        assert not torch.equal(key, row_keys(x, other))
        if seen[j]:
            moved = x.clone()
            moved[0, j] += 1.0
            assert not torch.equal(key, row_keys(moved, observed))


def test_keys_seldom_collide():
    """Small whole numbers in any order: all 6⁵ rows are told apart."""
    x = torch.cartesian_prod(*[torch.arange(6.0, dtype=torch.float64)] * 5)
    keys = row_keys(x, torch.ones_like(x, dtype=torch.bool))
    assert len(keys.unique()) == len(x)


# ------------------------------------------------------------------ local linear regression


def test_on_a_line_the_mean_follows_it():
    """Kernels that lie along the line carry the fill beyond the nearest centres, also past the ends."""
    t = torch.linspace(-1, 1, 9, dtype=torch.float64)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    centres = torch.outer(t, slope) + torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    law = ParzenLaw(centres, slope.unsqueeze(1), torch.full((3,), 1e-6, dtype=torch.float64), 0.5)
    at = torch.tensor([-3.0, -0.33, 0.0, 0.71, 4.0], dtype=torch.float64)
    true = torch.outer(at, slope) + torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    for seen in ([True, False, False], [False, True, False], [False, True, True]):
        observed = torch.tensor(seen).expand(len(at), -1)
        gaps = torch.where(observed, true, torch.nan)
        torch.testing.assert_close(law.mean(Seen(gaps, observed)), true, rtol=0, atol=1e-4)


def test_without_correlation_the_mean_is_the_average_of_neighbours():
    """Nadaraya & Watson's regression."""
    g = torch.Generator().manual_seed(7)
    centres = torch.randn(20, 2, generator=g, dtype=torch.float64)
    noise = torch.tensor([0.5, 2.0], dtype=torch.float64)
    law = ParzenLaw(centres, torch.zeros(2, 1, dtype=torch.float64), noise, 0.6)
    at = torch.tensor([[0.4, torch.nan]], dtype=torch.float64)
    weight = torch.exp(-0.5 * (at[0, 0] - centres[:, 0]) ** 2 / (0.36 * 0.5))
    expected = (weight * centres[:, 1]).sum() / weight.sum()
    assert float(law.mean(Seen(at, torch.tensor([[True, False]])))[0, 1]) == pytest.approx(float(expected))


# ------------------------------------------------------------------ quantiles, and bad input


@given(st.integers(1, 200))
def test_quantiles_are_all_there_in_an_even_order(count):
    found = spread_quantiles(count)
    expected = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    torch.testing.assert_close(found.sort().values, expected)
    assert abs(float(found.mean())) < 1e-9
    level = torch.special.ndtr(found)
    for size in (5, 8, 13):  # any run of them covers the range
        if count >= 4 * size:
            for i in range(count - size):
                gap = (
                    torch.cat([torch.zeros(1), level[i : i + size].sort().values, torch.ones(1)]).diff().max()
                )
                assert gap < 4.0 / size


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan")])
def test_refuses_a_bandwidth(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be above zero, got"):
        ParzenLaw(*parts(), bandwidth)
