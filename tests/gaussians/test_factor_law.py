"""Mixtures of factor analysers: beside the plain mixture, whose covariances are written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views_for_tests import through

from abduce.data.seen import Seen
from abduce.gaussians import mixture
from abduce.gaussians.factor_law import FactorMixtureLaw

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def law(components: int = 3, cells: int = 5, factors: int = 2, seed: int = 0) -> FactorMixtureLaw:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    noise = 0.1 + torch.rand(components, cells, generator=g, dtype=torch.float64)
    return FactorMixtureLaw(
        normal(components), 1.5 * normal(components, cells), normal(components, cells, factors), noise
    )


def rows(of: FactorMixtureLaw, n: int = 40, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows with blanks, which cells are seen, and the rows whole; the first is whole, the second blank."""
    g = torch.Generator().manual_seed(seed)
    x = of.dense().sample(n, g)
    observed = torch.rand(x.shape, generator=g) < 0.6
    observed[0], observed[1] = True, False
    return torch.where(observed, x, torch.nan), observed, x


# ------------------------------------------------------------------ the same law, written out


@given(
    components=st.integers(1, 4),
    cells=st.integers(1, 6),
    factors=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_is_the_dense_mixture(components, cells, factors, seed):
    """Any pattern of blanks, and more factors than cells too."""
    ours = law(components, cells, factors, seed)
    plain = ours.dense()
    x, observed, whole = rows(ours, 12, seed)
    torch.testing.assert_close(ours.log_prob(Seen.whole(whole)), plain.log_prob(Seen.whole(whole)), **CLOSE)
    torch.testing.assert_close(ours.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed)), **CLOSE)
    torch.testing.assert_close(ours.mean(Seen(x, observed)), plain.mean(Seen(x, observed)), **CLOSE)
    torch.testing.assert_close(
        ours.responsibilities(Seen(x, observed)), plain.responsibilities(Seen(x, observed)), **CLOSE
    )


def test_covariances_are_factors_and_noise():
    ours = law(1)
    W, noise = ours.loadings[0], ours.noise[0]
    expected = sum(torch.outer(w, w) for w in W.T) + torch.diag(noise)
    torch.testing.assert_close(ours.covariances[0], expected)
    torch.testing.assert_close(ours.dense().covariances[0], expected)


def test_nothing_seen_says_nothing():
    ours = law()
    blank = torch.full((3, 5), torch.nan, dtype=torch.float64)
    observed = torch.zeros(3, 5, dtype=torch.bool)
    weights = ours.log_weights.exp()
    torch.testing.assert_close(
        ours.log_prob(Seen(blank, observed)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(ours.mean(Seen(blank, observed)), (weights @ ours.means).expand(3, -1))
    torch.testing.assert_close(ours.responsibilities(Seen(blank, observed)), weights.expand(3, -1))


def test_everything_seen_is_left_alone():
    ours = law()
    whole = rows(ours)[2]
    observed = torch.ones_like(whole, dtype=torch.bool)
    assert torch.equal(ours.mean(Seen(whole, observed)), whole)
    assert torch.equal(ours.draws(Seen(whole, observed), 3), whole.expand(3, -1, -1))
    assert torch.equal(ours.points(Seen(whole, observed), 3), whole.expand(3, -1, -1))
    torch.testing.assert_close(
        ours.log_prob(Seen(whole, observed)), ours.log_prob(Seen.whole(whole)), **CLOSE
    )


def test_no_rows():
    ours = law()
    x, observed = torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, 5, dtype=torch.bool)
    assert ours.log_prob(Seen(x, observed)).shape == (0,)
    assert ours.responsibilities(Seen(x, observed)).shape == (0, 3)
    assert ours.mean(Seen(x, observed)).shape == (0, 5)
    assert ours.draws(Seen(x, observed), 4).shape == (4, 0, 5)


def test_a_row_does_not_depend_on_its_neighbours(monkeypatch):
    ours = law()
    x, observed, _ = rows(ours)
    together = (
        ours.log_prob(Seen(x, observed)),
        ours.mean(Seen(x, observed)),
        ours.points(Seen(x, observed), 8),
    )
    for i in range(len(x)):
        alone = x[i : i + 1], observed[i : i + 1]
        torch.testing.assert_close(
            ours.log_prob(Seen(*alone)), together[0][i : i + 1], rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(ours.mean(Seen(*alone)), together[1][i : i + 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            ours.points(Seen(*alone), 8), together[2][:, i : i + 1], rtol=1e-9, atol=1e-9
        )
    monkeypatch.setattr(mixture, "BUDGET", 50)  # a few rows in each chunk
    torch.testing.assert_close(ours.log_prob(Seen(x, observed)), together[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.mean(Seen(x, observed)), together[1], rtol=1e-12, atol=1e-12)
    g = torch.Generator().manual_seed(0)
    drawn = ours.draws(Seen(x, observed), 4000, g).mean(0)
    assert (drawn - together[1]).abs().max() < 0.25  # each chunk's draws land in its own rows


def test_gradient_of_the_density():
    ours = law()
    x = rows(ours, 3)[2].requires_grad_()
    (a,) = torch.autograd.grad(ours.log_prob(Seen.whole(x)).sum(), x)
    (b,) = torch.autograd.grad(ours.dense().log_prob(Seen.whole(x)).sum(), x)
    torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ draws and points


def moments(
    of: FactorMixtureLaw, x: torch.Tensor, observed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of one row's blanks, by the formulas of a mixture of Gaussians."""
    b = ~observed
    x = torch.where(observed, x, 0.0)
    means, covariances, shares = [], [], []
    for w, m, c in zip(of.log_weights, of.means, of.covariances, strict=True):
        seen = c[observed][:, observed]
        gain = c[b][:, observed] @ torch.linalg.inv(seen)
        r = (x - m)[observed]
        means.append(m[b] + gain @ r)
        covariances.append(c[b][:, b] - gain @ c[observed][:, b])
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(r), seen)
        shares.append(w + normal.log_prob(r))
    share = torch.softmax(torch.stack(shares), 0)
    mean = share @ torch.stack(means)
    off = torch.stack(means) - mean
    covariance = torch.einsum(
        "k,kij->ij", share, torch.stack(covariances) + off.unsqueeze(2) * off.unsqueeze(1)
    )
    return mean, covariance


def test_draws_have_the_conditional_mean_and_covariance():
    ours = law()
    x, observed, _ = rows(ours, 8)
    x, observed = x[2:], observed[2:]
    observed[:, 0], x[:, 0] = True, 0.3  # something is seen of each
    n = 30_000
    drawn = ours.draws(Seen(x, observed), n, torch.Generator().manual_seed(2))
    assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
    for i in range(len(x)):
        b = ~observed[i]
        if not b.any():
            continue
        mean, covariance = moments(ours, x[i], observed[i])
        deviation = covariance.diagonal().sqrt()
        assert ((drawn[:, i, b].mean(0) - mean) / deviation).abs().max() < 5 / n**0.5
        scaled = (drawn[:, i, b].T.cov().reshape(covariance.shape) - covariance) / torch.outer(
            deviation, deviation
        )
        assert scaled.abs().max() < 0.06


def test_samples_have_the_mean_and_covariance_of_the_law():
    ours = law()
    n = 40_000
    new = ours.sample(n, torch.Generator().manual_seed(3))
    share = ours.log_weights.exp()
    mean = share @ ours.means
    off = ours.means - mean
    covariance = torch.einsum("k,kij->ij", share, ours.covariances + off[:, :, None] * off[:, None])
    deviation = covariance.diagonal().sqrt()
    assert ((new.mean(0) - mean) / deviation).abs().max() < 5 / n**0.5
    assert ((new.T.cov() - covariance) / torch.outer(deviation, deviation)).abs().max() < 0.05
    again = ours.sample(5, torch.Generator().manual_seed(3))
    assert torch.equal(again, ours.sample(5, torch.Generator().manual_seed(3)))


def test_moments_of_cells():
    ours = law()
    x, observed, _ = rows(ours, 6)
    for rows_of, shares, means, variances in ours.moments(Seen(x, observed)):
        own = x[rows_of], observed[rows_of]
        mean = torch.einsum("bk,bkd->bd", shares, means)
        variance = torch.einsum("bk,bkd->bd", shares, variances + (means - mean.unsqueeze(1)) ** 2)
        for i in range(2, len(x)):
            b = ~own[1][i]
            expected = moments(ours, own[0][i], own[1][i])
            torch.testing.assert_close(mean[i][b], expected[0])
            torch.testing.assert_close(variance[i][b], expected[1].diagonal())


@pytest.mark.parametrize("components", [1, 3])
def test_points_stand_for_the_law_of_each_cell(components):
    """Means, and the quantiles of a Gaussian of which there is one: exact up to the grid."""
    ours = law(components)
    x, observed, _ = rows(ours, 10)
    points = ours.points(Seen(x, observed), 4000)
    drawn = ours.draws(Seen(x, observed), 8000, torch.Generator().manual_seed(4))
    deviation = drawn.std(0) + 1e-12
    assert (((points.mean(0) - ours.mean(Seen(x, observed))) / deviation)[~observed]).abs().max() < 0.02
    level = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    blank = ~observed
    # which share of points lies below the draws' quantiles
    at = torch.quantile(drawn[:, blank], level, dim=0)  # (5, cells)
    share = (points[:, blank].unsqueeze(1) <= at).double().mean(0)
    assert (share - level.unsqueeze(1)).abs().max() < 0.03
    if components == 1:
        mean, covariance = moments(ours, x[2], observed[2])
        exact = torch.distributions.Normal(mean, covariance.diagonal().sqrt())
        found = torch.quantile(points[:, 2, blank[2]], level, dim=0)
        torch.testing.assert_close(
            found, torch.stack([exact.icdf(p.expand_as(mean)) for p in level]), rtol=0, atol=0.01
        )


def test_a_few_points_already_have_the_mean():
    """As many as stand behind a number's mean in practice."""
    ours = law(1)
    x, observed, _ = rows(ours, 10)
    torch.testing.assert_close(
        ours.points(Seen(x, observed), 24).mean(0), ours.mean(Seen(x, observed)), rtol=1e-9, atol=1e-9
    )


# ------------------------------------------------------------------ seen through a map, and bad input


def test_what_is_seen_through_a_map():
    ours = law()

    def pairs(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., 0] + x[..., 1], x[..., 2] - x[..., 4]], -1)

    noise = torch.tensor([0.2, 0.4], dtype=torch.float64)
    y = pairs(rows(ours, 5)[2])
    seen = through(pairs, noise, y, torch.ones_like(y, dtype=torch.bool))
    torch.testing.assert_close(ours.log_prob(seen), ours.dense().log_prob(seen))
    torch.testing.assert_close(ours.mean(seen), ours.dense().mean(seen))
    few = seen.rows(torch.tensor([3, 1]))
    every = ours.draws(seen, 7, torch.Generator().manual_seed(6), shared=True)
    again = ours.draws(few, 7, torch.Generator().manual_seed(6), shared=True)
    torch.testing.assert_close(again, every[:, [3, 1]])
    n = 20_000
    drawn = ours.draws(seen, n, torch.Generator().manual_seed(5))
    error = 5 * drawn.std(0) / n**0.5
    assert ((drawn.mean(0) - ours.mean(seen)).abs() < error).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_weights": torch.zeros(3)}, r"must have shapes \(2,\), \(2, 4, q\) and \(2, 4\)"),
        ({"loadings": torch.zeros(2, 3, 1)}, r"got \(2,\), \(2, 3, 1\) and \(2, 4\)"),
        ({"noise": torch.ones(2, 1)}, r"got \(2,\), \(2, 4, 1\) and \(2, 1\)"),
        ({"noise": torch.zeros(2, 4)}, "noise must be above zero, got 0.0"),
        ({"noise": torch.full((2, 4), torch.nan)}, "noise must be above zero, got nan"),
    ],
)
def test_refuses(change, message):
    good = {
        "log_weights": torch.zeros(2), "means": torch.zeros(2, 4), "loadings": torch.zeros(2, 4, 1),
        "noise": torch.ones(2, 4),
    }  # fmt: skip
    FactorMixtureLaw(**good)
    with pytest.raises(ValueError, match=message):
        FactorMixtureLaw(**{**good, **change})


@pytest.mark.parametrize("cells", [1, 3, 52, 53, 130])
def test_patterns_of_blanks_are_told_apart(cells):
    """Of 52 columns at a time a row of a mask is one number."""
    mask = torch.rand(300, cells, generator=torch.Generator().manual_seed(cells)) < 1 - 0.5 / cells
    patterns, which = mixture.patterns_of(mask)
    assert bool((patterns[which] == mask).all())
    assert len(patterns) == len(torch.unique(mask, dim=0))


def test_few_and_many_patterns_are_answered_alike(monkeypatch):
    """Rows with the same blanks are solved for together where patterns are few, each by itself where they are many."""
    model = law(cells=4)
    y, observed, _ = rows(model, 50)
    seen = Seen(torch.where(observed, y, 0.0), observed)
    together = model.factors(seen)
    monkeypatch.setattr("abduce.gaussians.factor_law.FEW", 0)
    each = model.factors(seen)
    torch.testing.assert_close(together.log_joint, each.log_joint, **CLOSE)
    torch.testing.assert_close(together.mean, each.mean, **CLOSE)
