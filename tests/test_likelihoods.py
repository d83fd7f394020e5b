"""Likelihoods against scipy, enumeration and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical as TorchCategorical

from abduce.distributions.cells import masked_sum, uniform_like
from abduce.distributions.continuous import Gaussian, RoundedGaussian
from abduce.distributions.discrete import Bernoulli, Categorical, NegativeBinomial
from abduce.distributions.likelihoods import Product
from abduce.distributions.pixels import DiscretizedLogisticMixture, _LogMixtureMass


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def a_gaussian(rank: int, d: int = 5, batch: int = 3) -> Gaussian:
    factor = normal(batch, d, rank, seed=1) if rank else None
    return Gaussian(normal(batch, d), 0.3 + normal(batch, d, seed=2).square(), factor)


def covariance(g: Gaussian, i: int) -> np.ndarray:
    cov = np.diag(g.scale[i].numpy() ** 2)
    return cov if g.factor is None else cov + (g.factor[i] @ g.factor[i].T).numpy()


SEEN = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("seen", [None, SEEN], ids=["complete", "blanks"])
def test_gaussian_density(rank, seen):
    g, x = a_gaussian(rank), normal(3, 5, seed=3)
    value = g.log_prob(x, seen)
    for i in range(3):
        o = np.ones(5, bool) if seen is None else seen[i].numpy()
        if not o.any():
            assert value[i].item() == pytest.approx(0.0, abs=1e-12)
            continue
        law = stats.multivariate_normal(g.mean[i].numpy()[o], covariance(g, i)[np.ix_(o, o)])
        assert value[i].item() == pytest.approx(law.logpdf(x[i].numpy()[o]), abs=1e-9)


@pytest.mark.parametrize("rank", [0, 2])
def test_gaussian_conditional(rank):
    g, x = a_gaussian(rank), normal(3, 5, seed=3)
    given_seen = g.condition(x, SEEN)
    for i in range(3):
        o = SEEN[i].numpy()
        u, cov = ~o, covariance(g, i)
        if not u.any():
            continue
        gain = cov[np.ix_(u, o)] @ np.linalg.inv(cov[np.ix_(o, o)])
        mean = g.mean[i].numpy()
        expected = mean[u] + gain @ (x[i].numpy() - mean)[o]
        np.testing.assert_allclose(given_seen.mean[i].numpy()[u], expected, atol=1e-9)
        spread = cov[np.ix_(u, u)] - gain @ cov[np.ix_(o, u)]
        np.testing.assert_allclose(covariance(given_seen, i)[np.ix_(u, u)], spread, atol=1e-9)


def test_gaussian_draws():
    g = a_gaussian(2, d=3, batch=1)
    n = 200_000
    x = Gaussian(g.mean.expand(n, -1), g.scale, g.factor).sample(generator())
    np.testing.assert_allclose(x.mean(0), g.mean[0], atol=0.02)
    np.testing.assert_allclose(np.cov(x.numpy().T), covariance(g, 0), atol=0.05)
    np.testing.assert_allclose(g.variance()[0], np.diag(covariance(g, 0)))
    assert torch.equal(g.moments().squeeze(-1), g.mean)
    assert g.gaussian() is g


def test_bernoulli_against_scipy():
    logits = torch.linspace(-8, 8, 9, dtype=torch.float64)
    p = torch.sigmoid(logits).numpy()
    law = Bernoulli(logits)
    for x in (0.0, 1.0):
        expected = stats.bernoulli(p).logpmf(x).sum()
        assert law.log_prob(torch.full_like(logits, x)).item() == pytest.approx(expected)
    np.testing.assert_allclose(law.moments().squeeze(-1), p)
    np.testing.assert_allclose(law.gaussian().scale, np.sqrt(p * (1 - p)))
    assert Bernoulli(torch.tensor([1e4, -1e4])).log_prob(torch.tensor([0.0, 1.0])).item() == -2e4
    draws = Bernoulli(logits.expand(100_000, -1)).sample(generator())
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), p, atol=0.008)


def test_categorical_against_torch():
    logits = normal(4, 3, 5)
    law = Categorical(torch.log_softmax(logits, -1))
    x = torch.randint(5, (4, 3), generator=generator())
    torch.testing.assert_close(law.log_prob(x.double()), TorchCategorical(logits=logits).log_prob(x).sum(-1))
    torch.testing.assert_close(law.moments().sum(-1), torch.ones(4, 3).double())
    g = law.gaussian()
    p, codes = law.moments(), torch.arange(5.0).double()
    torch.testing.assert_close(g.mean, (p * codes).sum(-1))
    torch.testing.assert_close(g.scale.square(), (p * (codes - g.mean.unsqueeze(-1)).square()).sum(-1))
    # latents with a samples axis against one row of data
    many = Categorical(torch.log_softmax(normal(6, 4, 3, 5), -1))
    assert many.log_prob(x.double()).shape == (6, 4)


def test_categorical_padding_is_never_drawn():
    log_probs = torch.log(torch.tensor([[0.2, 0.8, 0.0], [0.1, 0.2, 0.7]], dtype=torch.float64))
    draws = Categorical(log_probs.expand(50_000, -1, -1)).sample(generator())
    shares = torch.stack([(draws == k).double().mean(0) for k in range(3)], -1)
    torch.testing.assert_close(shares, log_probs.exp(), atol=0.01, rtol=0)
    assert shares[0, 2] == 0


@given(st.floats(-3, 6), st.floats(-3, 6), st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_negative_binomial_against_scipy(log_mean, log_dispersion, counts):
    mu, r = math.exp(log_mean), math.exp(log_dispersion)
    x = torch.tensor(counts, dtype=torch.float64)
    law = NegativeBinomial(torch.full_like(x, log_mean), torch.tensor([log_dispersion], dtype=torch.float64))
    expected = stats.nbinom(r, r / (r + mu)).logpmf(counts).sum()
    assert law.log_prob(x).item() == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_negative_binomial_moments_and_draws():
    log_mean = torch.log(torch.tensor([0.5, 4.0, 30.0], dtype=torch.float64))
    log_r = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    law = NegativeBinomial(log_mean, log_r)
    r, mu = log_r.exp().numpy(), log_mean.exp().numpy()
    exact = stats.nbinom(r, r / (r + mu))
    np.testing.assert_allclose(law.moments().squeeze(-1), exact.mean())
    np.testing.assert_allclose(law.gaussian().scale, exact.std())
    x = NegativeBinomial(log_mean.expand(100_000, -1), log_r).sample(generator())
    np.testing.assert_allclose(x.mean(0), exact.mean(), rtol=0.02)
    np.testing.assert_allclose(x.std(0), exact.std(), rtol=0.03)
    # r → ∞ is Poisson
    poisson = NegativeBinomial(torch.log(torch.tensor([3.0])).double(), torch.tensor([18.0]).double())
    assert poisson.log_prob(torch.tensor([5.0]).double()).item() == pytest.approx(
        stats.poisson(3.0).logpmf(5), abs=1e-5
    )


def mixture(levels: int, cells: int = 4, components: int = 3, seed: int = 0, spread: float = 1.0):
    logits = normal(2, components, cells, seed=seed)
    loc = spread * normal(2, components, cells, seed=seed + 1)
    log_scale = -2 + normal(2, components, cells, seed=seed + 2)
    return logits, loc, log_scale, levels


def grid(levels: int) -> torch.Tensor:
    return torch.linspace(-1, 1, levels, dtype=torch.float64)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_pixels_sum_to_one_and_equal_their_table(levels):
    law = DiscretizedLogisticMixture(*mixture(levels))
    table = law.probabilities()
    torch.testing.assert_close(table.sum(-1), torch.ones(2, 4).double())
    by_level = torch.stack([law._log_mass(v.expand(2, 4), 1 / (levels - 1)) for v in grid(levels)], -1)
    torch.testing.assert_close(by_level.exp(), table, atol=1e-12, rtol=1e-7)
    x = grid(levels)[torch.randint(levels, (2, 4), generator=generator())]
    torch.testing.assert_close(law.log_prob(x), law._log_mass(x, 1 / (levels - 1)).sum(-1))


@settings(max_examples=30)
@given(
    st.integers(0, 10_000), st.sampled_from([2, 5, 17, 256]), st.sampled_from([torch.float32, torch.float64])
)
def test_pixel_gradient_by_hand_equals_autograd(seed, levels, dtype):
    logits, loc, log_scale, _ = mixture(levels, seed=seed)
    x = grid(levels)[torch.randint(levels, (2, 4), generator=generator(seed))]
    exact = [t.clone().requires_grad_() for t in (logits, loc, log_scale)]
    value = DiscretizedLogisticMixture(*exact, levels)._log_mass(x, 1 / (levels - 1))
    upstream = normal(2, 4, seed=seed)
    wanted = torch.autograd.grad((value * upstream).sum(), exact)

    own = [t.to(dtype).requires_grad_() for t in (logits, loc, log_scale)]
    by_hand = _LogMixtureMass.apply(*own, x.to(dtype), 1 / (levels - 1))
    got = torch.autograd.grad((by_hand * upstream.to(dtype)).sum(), own)
    likely = value > (math.log(1e-3) if dtype == torch.float32 else math.log(1e-9))
    torch.testing.assert_close(by_hand.double()[likely], value[likely], **_tolerance(dtype))
    mask = likely.unsqueeze(-2).expand_as(logits)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double()[mask], b[mask], **_tolerance(dtype))


def _tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 5e-3, "atol": 5e-3} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-6}


def test_pixel_tails_stay_finite():
    levels = 256
    for dtype in (torch.float32, torch.float64):
        loc = torch.full((1, 3, 2), 30.0, dtype=dtype, requires_grad=True)
        log_scale = torch.full((1, 3, 2), -7.0, dtype=dtype, requires_grad=True)
        logits = torch.zeros(1, 3, 2, dtype=dtype, requires_grad=True)
        x = torch.tensor([[-1.0, 0.0]], dtype=dtype)
        value = DiscretizedLogisticMixture(logits, loc, log_scale, levels).log_prob(x)
        grads = torch.autograd.grad(value.sum(), (logits, loc, log_scale))
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in grads)
    # the exact form falls off linearly, at a slope of 1/s, as a logistic's tail does
    law = DiscretizedLogisticMixture(*(t.detach() for t in (logits, loc, log_scale)), levels)
    far = DiscretizedLogisticMixture(logits.detach(), loc.detach() + 1, log_scale.detach(), levels)
    drop = (law.log_prob(x) - far.log_prob(x)).item()
    assert drop == pytest.approx(2 * math.exp(7.0), rel=1e-6)


@pytest.mark.parametrize("levels", [2, 17])
def test_pixel_draws_have_the_stated_moments(levels):
    law = DiscretizedLogisticMixture(*mixture(levels, spread=0.5))
    many = DiscretizedLogisticMixture(
        *(t.repeat(30_000, 1, 1) for t in (law.logits, law.loc, law.log_scale)), levels
    )
    x = many.sample(generator()).view(30_000, 2, 4)
    assert torch.isin((x * (levels - 1)).round(), (grid(levels) * (levels - 1)).round()).all()
    g = law.gaussian()
    torch.testing.assert_close(x.mean(0), g.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), g.scale, atol=0.02, rtol=0)
    shares = torch.stack([(x - v).abs().lt(1e-6).double().mean(0) for v in grid(levels)], -1)
    torch.testing.assert_close(shares, law.probabilities(), atol=0.015, rtol=0)


def test_fine_pixels_close_to_the_exact_moments():
    logits, loc, log_scale, _ = mixture(256, spread=0.3)
    law = DiscretizedLogisticMixture(logits, loc.clamp(-0.5, 0.5), log_scale.clamp(-4, -3), 256)
    p, x = law.probabilities(), grid(256)
    mean = (p * x).sum(-1)
    torch.testing.assert_close(law.gaussian().mean, mean, atol=0.01, rtol=0)
    sd = ((p * x.square()).sum(-1) - mean.square()).sqrt()
    torch.testing.assert_close(law.gaussian().scale, sd, atol=0.02, rtol=0)


def test_rounded_gaussian_is_the_mass_of_its_interval():
    mean, scale, half = normal(3, 4), 0.2 + normal(3, 4, seed=1).square(), 0.0625
    x = torch.round(normal(3, 4, seed=2) * 8) / 8
    distance, law = (x - mean).abs().numpy(), stats.norm(0, scale.numpy())
    mass = law.sf(distance - half) - law.sf(distance + half)  # from the tail: no cancellation
    value = RoundedGaussian(mean, scale, half).log_prob(x)
    np.testing.assert_allclose(value, np.log(mass).sum(-1), rtol=1e-9)
    lattice = torch.arange(-400, 401).double() / 8  # the intervals tile the line
    every = RoundedGaussian(mean[:1, :1], scale[:1, :1], half).log_prob(lattice.unsqueeze(-1))
    assert torch.logsumexp(every, 0).item() == pytest.approx(0, abs=1e-9)
    # far out it is the density times the step, finite in single precision
    far = RoundedGaussian(torch.zeros(1), torch.ones(1), 1e-3).log_prob(torch.tensor([6.0]))
    assert far.item() == pytest.approx(stats.norm.logpdf(6.0) + math.log(2e-3), abs=1e-2)
    drawn = RoundedGaussian(torch.zeros(10_000, 1), torch.full((1,), 0.3), half).sample(generator())
    assert ((drawn + 1) / 0.125).frac().abs().max() < 1e-5
    assert drawn.std().item() == pytest.approx(0.3, abs=0.02)


def families() -> list:
    return [
        Gaussian(normal(2, 4), torch.ones(2, 4).double()),
        Gaussian(normal(2, 4), torch.ones(2, 4).double(), normal(2, 4, 2)),
        RoundedGaussian(normal(2, 4), torch.ones(2, 4).double(), 0.125),
        Bernoulli(normal(2, 4)),
        Categorical(torch.log_softmax(normal(2, 4, 3), -1)),
        NegativeBinomial(normal(2, 4), normal(4)),
        DiscretizedLogisticMixture(*mixture(5)),
    ]


@pytest.mark.parametrize("law", families(), ids=lambda law: type(law).__name__)
def test_an_unobserved_cell_adds_exactly_nothing(law):
    x = law.sample(generator())
    seen = torch.tensor([[True, False, True, False], [False, False, False, True]])
    other = torch.where(seen, x, law.sample(generator(5)))
    assert torch.equal(law.log_prob(x, seen), law.log_prob(other, seen))
    nothing = torch.zeros_like(seen)
    torch.testing.assert_close(law.log_prob(x, nothing), torch.zeros(2).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(law.log_prob(x, ~nothing), law.log_prob(x))
    assert x.shape == (2, 4)
    assert law.moments().shape[:2] == (2, 4)


def test_masked_sum_ignores_what_is_not_finite():
    cells = torch.tensor([[1.0, torch.nan, torch.inf]])
    assert masked_sum(cells, torch.tensor([[True, False, False]])).item() == 1.0


def test_uniforms_never_touch_their_ends():
    u = uniform_like(torch.empty(200_000), generator())
    assert u.min() > 0
    assert u.max() < 1


def test_product_gathers_its_parts():
    g, b = Gaussian(normal(2, 2), torch.ones(2, 2).double(), normal(2, 2, 1)), Bernoulli(normal(2, 1))
    law = Product([(torch.tensor([0, 2]), g), (torch.tensor([1]), b)], 3)
    x = torch.tensor([[0.1, 1.0, -0.4], [0.3, 0.0, 2.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, False], [False, True, True]])
    expected = g.log_prob(x[:, [0, 2]], seen[:, [0, 2]]) + b.log_prob(x[:, [1]], seen[:, [1]])
    torch.testing.assert_close(law.log_prob(x, seen), expected)
    assert law.sample(generator()).shape == (2, 3)
    assert set(law.sample(generator())[:, 1].tolist()) <= {0.0, 1.0}
    whole = law.gaussian()
    torch.testing.assert_close(whole.mean[:, [0, 2]], g.mean)
    torch.testing.assert_close(whole.mean[:, 1], torch.sigmoid(b.logits)[:, 0])
    torch.testing.assert_close(whole.variance()[:, [0, 2]], g.variance())
    assert whole.factor is not None
    assert (whole.factor[:, 1] == 0).all()
    conditioned = law.condition(x, seen)
    torch.testing.assert_close(conditioned.parts[0][1].mean, g.condition(x[:, [0, 2]], seen[:, [0, 2]]).mean)


def test_bernoulli_for_training_equals_the_plain_formula():
    """The hand-derived node of training: value and gradient, also at extreme logits and for cells not a multiple of 32."""
    logits = (6 * torch.randn(5, 100, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    x = (torch.rand(5, 100, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    plain = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    torch.testing.assert_close(Bernoulli(logits).log_prob(x), plain)
    assert torch.autograd.gradcheck(lambda t: Bernoulli(t).log_prob(x), logits)
    extreme = torch.tensor([[-90.0, -30.0, 0.0, 30.0, 90.0]]).requires_grad_()
    value = Bernoulli(extreme).log_prob(torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(value, torch.tensor([-0.693147]))
