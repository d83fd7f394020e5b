"""Mixtures whose components share covariances: beside the plain mixture, which is written in another way."""

from __future__ import annotations

import pytest
import torch
from views_for_tests import through

from abduce.data.seen import Seen
from abduce.gaussians import grouped_law
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.grouped_law import GroupedMixtureLaw

D = 5
GROUPS = {"one each": [0, 1, 2, 3], "shared": [0, 1, 1, 0]}


def laws(groups: str, seed: int = 0, spread: float = 1.5, dtype=torch.float64, **kw):
    g = torch.Generator().manual_seed(seed)
    group = torch.tensor(GROUPS[groups])
    root = torch.randn(int(group.max()) + 1, D, D, generator=g, dtype=torch.float64)
    covariances = root @ root.mT + 0.3 * torch.eye(D, dtype=torch.float64)
    centres = spread * torch.randn(len(group), D, generator=g, dtype=torch.float64)
    weights = torch.randn(len(group), generator=g, dtype=torch.float64)
    ours = GroupedMixtureLaw(weights.to(dtype), centres.to(dtype), group, covariances.to(dtype), **kw)
    return ours, GaussianMixtureLaw(weights, centres, covariances[group])


def rows(law: GaussianMixtureLaw, n: int = 40, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    x = law.sample(n, g)
    observed = torch.rand(x.shape, generator=g) < 0.6
    observed[0], observed[1] = True, False
    return torch.where(observed, x, torch.nan), observed, x


def downsample(x):
    return torch.stack([x[..., 0] + 0.5 * x[..., 1], x[..., 2] - x[..., 3], x[..., 4]], -1) + 0.25


NOISE = torch.tensor([0.3, 0.5, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("groups", GROUPS)
def test_is_the_plain_mixture(groups):
    ours, plain = laws(groups)
    x, observed, whole = rows(plain)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(ours.log_prob(Seen.whole(whole)), plain.log_prob(Seen.whole(whole)), **close)
    torch.testing.assert_close(ours.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed)), **close)
    torch.testing.assert_close(ours.mean(Seen(x, observed)), plain.mean(Seen(x, observed)), **close)
    torch.testing.assert_close(
        ours.responsibilities(Seen(x, observed)), plain.responsibilities(Seen(x, observed)), **close
    )
    y = downsample(whole)
    known = observed[:, :3]
    seen = through(downsample, NOISE, y, known)
    torch.testing.assert_close(ours.mean(seen), plain.mean(seen), **close)
    torch.testing.assert_close(ours.log_prob(seen), plain.log_prob(seen), **close)


@pytest.mark.parametrize("groups", GROUPS)
def test_draws_have_the_moments_of_the_law(groups):
    ours, plain = laws(groups)
    x, observed, whole = rows(plain, 6)
    n = 20_000
    g = torch.Generator().manual_seed(2)
    new = ours.sample(n, g)
    weights = plain.log_weights.exp()
    mean = weights @ plain.means
    off = plain.means - mean
    covariance = torch.einsum("k,kij->ij", weights, plain.covariances + off[:, :, None] * off[:, None])
    assert ((new.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    torch.testing.assert_close(new.T.cov(), covariance, rtol=0.1, atol=0.25)
    drawn = ours.draws(Seen(x, observed), n, g)
    assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
    error = 5 * drawn.std(0) / n**0.5 + 1e-9
    assert ((drawn.mean(0) - plain.mean(Seen(x, observed))).abs() < error).all()
    seen = through(downsample, NOISE, downsample(whole), observed[:, :3])
    drawn, other = ours.draws(seen, n, g), plain.draws(seen, n, g)
    error = 5 * drawn.std(0) / n**0.5
    assert ((drawn.mean(0) - plain.mean(seen)).abs() < error).all()
    torch.testing.assert_close(drawn.std(0), other.std(0), rtol=0.08, atol=0.02)


def test_shared_draws_do_not_depend_on_who_comes_along():
    ours, plain = laws("shared")
    _, observed, whole = rows(plain, 6)
    y, known = downsample(whole), observed[:, :3]

    def drawn(part):
        g = torch.Generator().manual_seed(4)
        return ours.draws(through(downsample, NOISE, y[part], known[part]), 7, g, shared=True)

    torch.testing.assert_close(drawn(slice(0, 6))[:, 2:4], drawn(slice(2, 4)), rtol=1e-9, atol=1e-9)


def test_tempering_flattens_the_posterior_and_leaves_the_density():
    """R ∝ π N^t: at t → 0 the weights, whatever was seen; log p is the same for every t."""
    flat, plain = laws("one each", temper=0.3)
    x, observed, whole = rows(plain)
    log_joint = torch.stack(
        [
            GaussianMixtureLaw.gaussian(m, c).log_prob(Seen(whole, observed))
            for m, c in zip(plain.means, plain.covariances, strict=True)
        ],
        1,
    )
    expected = torch.softmax(plain.log_weights + 0.3 * log_joint, 1)
    torch.testing.assert_close(flat.responsibilities(Seen(x, observed)), expected)
    torch.testing.assert_close(flat.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed)))
    each = torch.stack(
        [
            GaussianMixtureLaw.gaussian(m, c).mean(Seen(x, observed))
            for m, c in zip(plain.means, plain.covariances, strict=True)
        ],
        1,
    )
    torch.testing.assert_close(flat.mean(Seen(x, observed)), torch.einsum("nk,nkd->nd", expected, each))


def test_keeping_some_groups_bounds_log_p_and_finds_the_ones_that_matter(monkeypatch):
    monkeypatch.setattr(grouped_law, "FEW", -1)
    best, plain = laws("one each", spread=8.0, keep=2)
    x, observed, whole = rows(plain)
    some = observed.sum(1) > 1
    bound, exact = best.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed))
    assert (bound <= exact + 1e-9).all()
    torch.testing.assert_close(
        best.log_prob(Seen.whole(whole)), plain.log_prob(Seen.whole(whole)), rtol=1e-6, atol=1e-4
    )
    assert (exact - bound)[some].median() < 1e-3
    off = (best.mean(Seen(x, observed)) - plain.mean(Seen(x, observed)))[some].square().mean()
    assert off < 0.02 * (plain.mean(Seen(x, observed)) - whole)[some].square().mean()
    assert (best.responsibilities(Seen(x, observed)) > 0).sum(1)[~observed.all(1)].max() <= 2
    monkeypatch.setattr(grouped_law, "FEW", 2)
    few = observed.sum(1) <= 2
    torch.testing.assert_close(best.log_prob(Seen(x, observed))[few], plain.log_prob(Seen(x, observed))[few])
    y = downsample(whole)
    known = torch.ones_like(y, dtype=torch.bool)
    seen = through(downsample, NOISE, y, known)
    bound, exact = best.log_prob(seen), plain.log_prob(seen)
    assert (bound <= exact + 1e-9).all()
    assert (exact - bound).median() < 1e-3


def test_single_precision_inside_double_outside():
    ours, plain = laws("shared", dtype=torch.float32)
    x, observed, whole = rows(plain)
    found = ours.mean(Seen(x, observed))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, plain.mean(Seen(x, observed)), rtol=1e-3, atol=1e-3)
    assert torch.equal(found[observed], whole[observed])  # observed cells keep their bits
    torch.testing.assert_close(
        ours.log_prob(Seen(x, observed)), plain.log_prob(Seen(x, observed)), rtol=1e-4, atol=1e-4
    )


def test_gradient_of_the_density():
    ours, plain = laws("shared")
    x = plain.sample(3, torch.Generator().manual_seed(5)).requires_grad_()
    (a,) = torch.autograd.grad(ours.log_prob(Seen.whole(x)).sum(), x)
    (b,) = torch.autograd.grad(plain.log_prob(Seen.whole(x)).sum(), x)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": torch.tensor([0, 4])}, "group must hold whole numbers from 0 to 0"),
        ({"covariances": torch.eye(3).unsqueeze(0)}, r"must have shapes \(2,\), \(2,\) and \(G, 2, 2\)"),
        ({"temper": 0.0}, r"temper must be in \(0, 1\], got 0.0"),
        ({"keep": 0}, "keep must be at least 1 or None, got 0"),
    ],
)
def test_refuses(change, message):
    good = {
        "log_weights": torch.zeros(2), "centres": torch.zeros(2, 2), "group": torch.tensor([0, 0]),
        "covariances": torch.eye(2).unsqueeze(0),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        GroupedMixtureLaw(**{**good, **change})
    singular = GroupedMixtureLaw(**{**good, "covariances": torch.ones(1, 2, 2)})
    with pytest.raises(ValueError, match="covariances must be positive definite, that of group 0"):
        singular.log_prob(Seen.whole(torch.zeros(1, 2)))
