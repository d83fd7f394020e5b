"""Several layers of latents: sums over layers by hand, draws, ancestral moments, log p by quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, shaken
from torch.distributions import Independent, Normal

from abduce.data.schema import Schema
from abduce.distributions.priors import DiagonalMixture, StandardNormal
from abduce.fit.bounds import ELBO, IWAE, Renyi
from abduce.inference.weights import multi_sample
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.hierarchy import BottomUp, LayeredPrior, TopDown
from abduce.models.parts import LAYERED


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def layers(name: str, dims=(1, 2, 3), hidden=(5,)):
    torch.manual_seed(0)
    prior = LayeredPrior(StandardNormal(dims[0]), dims, hidden, "tanh")
    head = LAYERED[name](prior, hidden, "tanh")
    return shaken(prior.double(), 0.3), shaken(head.double(), 0.3, 1)


def model_of(posterior: str, dims=(1, 1), prior: str = "normal"):
    schema = Schema.infer(np.random.default_rng(0).integers(0, 2, size=(30, 4)).astype(float), "binary")
    torch.manual_seed(0)
    model = build_vae(
        schema, Choice(dims, (5,), posterior=posterior, prior=prior, components=3, activation="tanh")
    )
    return shaken(model.double(), 0.2)


ROWS = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]).double()


def law(h: torch.Tensor) -> Independent:
    mean, log_scale = h.chunk(2, -1)
    return Independent(Normal(mean, log_scale.clamp(-7, 3).exp()), 1)


# ---------------------------------------------------------------- densities


@torch.no_grad()
def test_the_prior_is_a_sum_over_layers():
    prior, _ = layers("bottom_up")
    z = normal(7, 4, 6)
    top, middle, bottom = z[..., :1], z[..., 1:3], z[..., 3:]
    expected = law(torch.zeros(1, 2).double()).log_prob(top)
    expected = expected + law(prior.below[0](top)).log_prob(middle)
    expected = expected + law(prior.below[1](middle)).log_prob(bottom)
    torch.testing.assert_close(prior.log_prob(z), expected)
    assert prior.latent_dim == 6


@torch.no_grad()
def test_bottom_up_is_a_sum_over_layers():
    _, head = layers("bottom_up")
    h = normal(4, head.n_parameters)
    z = normal(7, 4, 6, seed=1)
    top, middle, bottom = z[..., :1], z[..., 1:3], z[..., 3:]
    expected = law(h).log_prob(bottom) + law(head.above[0](bottom)).log_prob(middle)
    expected = expected + law(head.above[1](middle)).log_prob(top)
    torch.testing.assert_close(head(h).log_prob(z), expected)
    assert head.n_parameters == 6  # mean and scale of the bottom layer


@torch.no_grad()
def test_top_down_merges_what_it_reads_with_the_prior():
    prior, head = layers("top_down")
    h = normal(4, head.n_parameters)
    z = normal(7, 4, 6, seed=1)
    features = [h, head.up[0](h), head.up[1](head.up[0](h))]
    read = [
        law(linear(f)).base_dist for linear, f in zip(head.heads, features, strict=True)
    ]  # from the bottom up
    parts = z.split((1, 2, 3), -1)
    expected = Independent(read[2], 1).log_prob(parts[0])
    for level, own in ((1, read[1]), (2, read[0])):
        p = law(prior.below[level - 1](parts[level - 1])).base_dist
        precision = 1 / p.variance + 1 / own.variance
        mean = (p.mean / p.variance + own.mean / own.variance) / precision
        expected = expected + Independent(Normal(mean, precision**-0.5), 1).log_prob(parts[level])
    torch.testing.assert_close(head(h).log_prob(z), expected)


@torch.no_grad()
def test_a_flat_reading_leaves_the_prior():
    """Where x says nothing, the layers below the top are drawn from the prior given the layer above."""
    prior, head = layers("top_down", dims=(1, 2), hidden=(5,))
    for linear in head.heads[:-1]:
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([5.0, -5.0, 99.0, 99.0]))  # the scale is kept at e³
    z = 0.5 * normal(200, 4, 3, seed=1)
    h = normal(4, head.n_parameters)
    features = head.up[0](h)
    top = law(head.heads[-1](features)).log_prob(z[..., :1])
    below = prior.conditional(1, z[..., :1]).log_prob(z[..., 1:])
    torch.testing.assert_close(head(h).log_prob(z) - top, below, atol=0.1, rtol=0)
    # exactly: the product of the prior and N(±5, e⁶)
    p = prior.conditional(1, z[..., :1])
    variance = torch.exp(2 * p.log_scale)
    precision = 1 / variance + math.exp(-6)
    mean = (p.mean / variance + torch.tensor([5.0, -5.0]).double() * math.exp(-6)) / precision
    merged = Independent(Normal(mean, precision**-0.5), 1).log_prob(z[..., 1:])
    torch.testing.assert_close(head(h).log_prob(z) - top, merged)


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
@torch.no_grad()
def test_a_draw_comes_with_its_density(name):
    _, head = layers(name)
    q = head(normal(4, head.n_parameters))
    for noise in (normal(5, 4, 6), normal(5, 1, 6)):
        z, log_q = q.draw(noise)
        assert z.shape == (5, 4, 6)
        torch.testing.assert_close(q.transport(noise), z)
        torch.testing.assert_close(q.log_prob(z), log_q)
        torch.testing.assert_close(q.log_prob(z[0]), log_q[0])
    torch.testing.assert_close(q.mean, q.transport(torch.zeros(4, 6).double()))


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
@torch.no_grad()
def test_the_posteriors_density_integrates_to_one(name):
    model = model_of(name)
    points = torch.linspace(-9, 9, 301, dtype=torch.float64)
    z = torch.cartesian_prod(points, points).unsqueeze(1).expand(-1, 3, -1)
    mass = model.posterior(ROWS).log_prob(z).exp().sum(0) * float(points[1] - points[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(3).double(), atol=1e-4, rtol=0)


@torch.no_grad()
def test_ancestral_draws_have_the_moments_of_the_layers():
    prior, _ = layers("bottom_up", dims=(1, 2))
    z = prior.sample(100_000, generator(), dtype=torch.float64)
    assert z.shape == (100_000, 3)
    points = torch.linspace(-9, 9, 2001, dtype=torch.float64).unsqueeze(1)
    weight = torch.exp(-0.5 * points.square()) / math.sqrt(2 * math.pi) * (18 / 2000)
    below = prior.conditional(1, points)
    mean = (weight * below.mean).sum(0)
    square = (weight * (below.mean.square() + torch.exp(2 * below.log_scale))).sum(0)
    cross = (weight * points * below.mean).sum(0)
    error = square.sqrt() / math.sqrt(100_000)
    assert (z[:, 1:].mean(0) - mean).abs().max() < 4.5 * error.max()
    torch.testing.assert_close(z[:, 1:].square().mean(0), square, rtol=0.03, atol=0)
    torch.testing.assert_close((z[:, :1] * z[:, 1:]).mean(0), cross, rtol=0, atol=0.03)
    assert abs(float(z[:, 0].mean())) < 0.02
    assert float(z[:, 0].var()) == pytest.approx(1, abs=0.03)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
def test_detach_stops_at_all_weights_the_priors_too(name):
    prior, head = layers(name)
    h, z = normal(4, head.n_parameters).requires_grad_(), normal(5, 4, 6, seed=1).requires_grad_()
    q = head(h)
    frozen = q.detach().log_prob(z)
    torch.testing.assert_close(frozen, q.log_prob(z))
    frozen.sum().backward()
    assert h.grad is None
    assert all(p.grad is None for m in (prior, head) for p in m.parameters())
    along, z.grad = z.grad.clone(), None
    q.log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, along)
    assert all(float(p.grad.abs().max()) > 0 for p in head.parameters())
    assert all((p.grad is not None) == (name == "top_down") for p in prior.parameters())


def test_the_ladder_keeps_no_prior_of_its_own():
    model = model_of("top_down")
    assert isinstance(model.head, TopDown)
    assert model.head.prior is model.prior
    assert not [n for n in model.state_dict() if n.startswith("head") and "below" in n]
    assert isinstance(model_of("bottom_up").head, BottomUp)


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
@pytest.mark.parametrize(
    ("one", "other"), [(ELBO(gradient="stl"), ELBO()), (IWAE(3), IWAE(3, "plain"))], ids=str
)
def test_estimators_of_the_gradient_agree_in_the_mean(name, one, other):
    """Also for the prior's weights, which in the ladder are part of q too."""
    model, x = model_of(name), ROWS.repeat(100, 1)

    def gradient(objective, seed: int) -> torch.Tensor:
        model.zero_grad()
        objective(model, x, None, 1.0, generator(seed)).loss.mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    apart = torch.stack([gradient(one, seed) - gradient(other, seed) for seed in range(40)])
    moving = apart.std(0) > 1e-9
    z = apart.mean(0)[moving] / (apart.std(0)[moving] / math.sqrt(len(apart)))
    assert moving.sum() > 20
    assert z.abs().max() < 5
    assert z.square().mean() < 4


# ---------------------------------------------------------------- log p


@torch.no_grad()
def integral(model, x: torch.Tensor) -> torch.Tensor:
    points = torch.linspace(-9, 9, 361, dtype=torch.float64)
    z = torch.cartesian_prod(points, points).unsqueeze(1)
    log_joint = torch.cat([model.log_joint(part, x) for part in z.split(20_000)])
    return torch.logsumexp(log_joint, 0) + 2 * math.log(18 / 360)


@pytest.mark.parametrize("posterior", ["bottom_up", "top_down"])
@pytest.mark.parametrize("prior", ["normal", "mixture"])
@torch.no_grad()
def test_many_samples_give_the_log_probability(posterior, prior):
    model = model_of(posterior, prior=prior)
    assert isinstance(model.prior, LayeredPrior)
    assert isinstance(model.prior.top, DiagonalMixture if prior == "mixture" else StandardNormal)
    if posterior == "bottom_up":  # a q wider than p(z|x) proposes well
        wide = [model.encoder.net[-1], model.head.above[0].net[-1]]
    else:
        wide = list(model.head.heads)
    for layer in wide:
        layer.weight *= 0.3
        layer.bias.copy_(torch.tensor([0.0, 1.2]))
    exact = integral(model, ROWS)
    log_w = torch.cat([model.log_weights(ROWS, None, normal(20_000, 3, 2, seed=s)).log_w for s in range(2)])
    torch.testing.assert_close(multi_sample(log_w), exact, atol=0.03, rtol=0)
    simple = model.likelihood(model.prior.sample(40_000, generator(), dtype=torch.float64).unsqueeze(1))
    torch.testing.assert_close(multi_sample(simple.log_prob(ROWS)), exact, atol=0.03, rtol=0)
    low, high = log_w[:5000].mean(0), multi_sample(log_w[:5000].view(50, 100, 3)).mean(0)
    assert (low < high).all()
    assert (high < exact + 0.03).all()
    # all cells' values together have probability one
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    assert float(integral(model, every).exp().sum()) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_the_decoder_reads_the_bottom_layer_only():
    model = model_of("bottom_up", dims=(2, 3))
    z = normal(1, 5, 5)
    other = z.clone()
    other[..., :2] += 1
    likelihood, moved = (model.likelihood(v).log_prob(ROWS[:1].expand(5, -1)) for v in (z, other))
    torch.testing.assert_close(likelihood, moved)
    other = z.clone()
    other[..., 2:] += 1
    assert not torch.allclose(likelihood, model.likelihood(other).log_prob(ROWS[:1].expand(5, -1)))


def test_every_bound_takes_layers():
    model = model_of("top_down", dims=(1, 2))
    noise = torch.randn(4, 3, 3, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        log_w = model.log_weights(ROWS, None, noise).log_w
    assert model.noise_dim == model.latent_dim == 3
    cases = [
        (IWAE(4), multi_sample(log_w)),
        (ELBO(samples=4), log_w.mean(0)),
        (Renyi(-math.inf, 4), log_w.amax(0)),
    ]
    for objective, value in cases:
        torch.testing.assert_close(objective(model, ROWS, None, 1.0, generator()).value, value)


def test_unknown_order():
    with pytest.raises(
        ValueError, match=r"posterior of 2 layers .* \('bottom_up', 'top_down'\), got 'diagonal'"
    ):
        Choice((1, 2), (4,), posterior="diagonal")
