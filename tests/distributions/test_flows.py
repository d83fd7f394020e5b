"""Flows: densities that integrate to one, maps that undo each other, gradients that stop where they should."""

from __future__ import annotations

import math

import pytest
import torch
from models_for_tests import generator, plain_model, shaken

from abduce.distributions.flows import KINDS, Flow, FlowHead, FlowNormal, FlowPrior
from abduce.fit.bounds import ELBO
from abduce.fit.density import fit_density


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def shaken_prior(dim: int, kind: str = "nsf", size: float = 0.3) -> FlowPrior:
    torch.manual_seed(0)
    return shaken(FlowPrior(dim, kind, transforms=2, hidden=(6,)).double(), size)


def posterior(dim: int = 2, kind: str = "nsf", batch: int = 3, seed: int = 0) -> tuple[FlowHead, FlowNormal]:
    torch.manual_seed(0)
    head = shaken(FlowHead(dim, kind, transforms=2, hidden=(6,)).double(), 0.3)
    return head, head(0.5 * normal(batch, head.n_parameters, seed=seed))


def grid(dim: int) -> tuple[torch.Tensor, float]:
    points = torch.linspace(-8, 8, 4001 if dim == 1 else 261, dtype=torch.float64)
    return torch.cartesian_prod(*[points] * dim).view(-1, dim), float(points[1] - points[0]) ** dim


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2])
@torch.no_grad()
def test_densities_integrate_to_one(kind, dim):
    z, cell = grid(dim)
    prior = shaken_prior(dim, kind)
    density = prior.log_prob(z).exp()
    assert float(density.sum()) * cell == pytest.approx(1, abs=1e-2)
    assert (density - torch.exp(-0.5 * z.square().sum(-1)) / (2 * math.pi) ** (dim / 2)).abs().max() > 0.02
    head, _ = posterior(dim, kind)
    q = head(0.2 * normal(2, head.n_parameters))
    density = q.log_prob(z.unsqueeze(1).expand(-1, 2, -1)).exp()
    for total in density.sum(0):
        assert float(total) * cell == pytest.approx(1, abs=1e-2)
    assert (density[:, 0] - density[:, 1]).abs().max() > 0.02  # each row its own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [0, 2])
@torch.no_grad()
def test_inverse_undoes_forward(kind, context):
    torch.manual_seed(0)
    flow = shaken(Flow(3, context, kind, 3, (6,)).double(), 0.3)
    value, read = 2 * normal(50, 3), normal(50, 2, seed=1) if context else None
    moved, log_det = flow(value, read)
    back, inverse_log_det = flow(moved, read, inverse=True)
    assert (moved - value).abs().max() > 0.1
    torch.testing.assert_close(back, value, rtol=0, atol=1e-5)
    torch.testing.assert_close(inverse_log_det, log_det, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_determinant_is_the_jacobians(kind):
    torch.manual_seed(0)
    flow = shaken(Flow(3, 2, kind, 3, (6,)).double(), 0.3)
    read = normal(1, 2)
    for value in 2 * normal(4, 3, seed=2):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.unsqueeze(0), read)[0][0], value)
        found = flow(value.unsqueeze(0), read)[1][0]
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], found.detach())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_flow_starts_near_the_identity(kind):
    torch.manual_seed(0)
    value = normal(100, 3)
    moved, log_det = Flow(3, 0, kind).double()(value)
    assert (moved - value).abs().max() < 0.1
    assert log_det.abs().max() < 0.1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_draw_comes_with_its_density(kind):
    _, q = posterior(3, kind)
    for noise in (normal(5, 3, 3), normal(5, 1, 3)):
        z, log_q = q.draw(noise)
        assert z.shape == (5, 3, 3)
        torch.testing.assert_close(q.transport(noise), z)
        torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-4)
        torch.testing.assert_close(q.log_prob(z[0]), log_q[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_prior_draws_have_the_densitys_moments():
    prior = shaken_prior(2)
    z, cell = grid(2)
    mass = prior.log_prob(z).exp() * cell
    mean = mass @ z
    covariance = (z - mean).T @ (mass.unsqueeze(1) * (z - mean))
    draws = prior.sample(20_000, generator(), dtype=torch.float64)
    error = (torch.diagonal(covariance) / 20_000).sqrt()
    assert ((draws.mean(0) - mean).abs() < 4.5 * error + 2e-3).all()
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0.05, atol=0.05)
    assert torch.equal(draws[:9], prior.sample(20_000, generator(), dtype=torch.float64)[:9])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_mean_is_near_that_of_many_draws(kind):
    _, q = posterior(2, kind)
    z = q.transport(normal(20_000, 3, 2))
    torch.testing.assert_close(q.mean, z.mean(0), rtol=0, atol=0.06)
    assert ((q.mean - z.mean(0)).abs() < 0.15 * z.std(0)).all()
    assert (q.mean - q.location).abs().max() > 0.1  # which its location is not
    assert torch.equal(q.mean, posterior(2, kind)[1].mean)


@pytest.mark.parametrize("kind", KINDS)
def test_detach_stops_at_the_parameters_and_not_at_z(kind):
    head, _ = posterior(2, kind)
    h = (0.5 * normal(3, head.n_parameters)).requires_grad_()
    q, z = head(h), normal(5, 3, 2).requires_grad_()
    frozen = q.detach().log_prob(z)
    torch.testing.assert_close(frozen, q.log_prob(z))
    frozen.sum().backward()
    assert h.grad is None
    assert all(p.grad is None for p in head.parameters())
    along = z.grad.clone()
    assert along.abs().min() > 1e-6
    z.grad = None
    q.log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, along)
    assert h.grad.abs().max() > 1e-3
    assert all(p.grad is not None for p in head.parameters())


def test_gradients_pass_through_draws_and_both_ways_of_the_density():
    """At its own law the path derivative of log q − log q vanishes: the whole gradient of E[log q] is the score's."""
    head, _ = posterior(2)
    h = (0.5 * normal(3, head.n_parameters)).requires_grad_()
    z, log_q = head(h).draw(normal(7, 3, 2))
    forward = torch.autograd.grad(log_q.sum(), h, retain_graph=True)[0]
    through_inverse = torch.autograd.grad(head(h).log_prob(z).sum(), h)[0]
    torch.testing.assert_close(forward, through_inverse, rtol=1e-3, atol=1e-4)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"kind of a flow must be one of \('nsf', 'iaf'\), got 'maf'"):
        Flow(2, kind="maf")
    with pytest.raises(ValueError, match="transforms must be at least 1, got 0"):
        Flow(2, transforms=0)


def test_fitting_a_flow_finds_a_law_that_no_gaussian_is():
    """Two bumps, whose entropy is known: within 0.15 nats of it, where the best Gaussian is 0.9 away."""
    signs = (torch.rand(1500, 1, generator=generator()) < 0.5).float() * 2 - 1
    z = 2.5 * signs + 0.5 * torch.randn(1500, 1, generator=generator(1))
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.25)
    gaussian = 0.5 * math.log(2 * math.pi * math.e * (2.5**2 + 0.25))
    assert gaussian - entropy > 0.9
    torch.manual_seed(0)
    prior = FlowPrior(1, transforms=2, hidden=(16,))
    fit_density(prior, z, epochs=800, seed=0)
    fresh = 2.5 * (torch.arange(3000) % 2 * 2 - 1).float().unsqueeze(1) + 0.5 * torch.randn(
        3000, 1, generator=generator(2)
    )
    with torch.no_grad():
        assert -float(prior.log_prob(fresh).mean()) == pytest.approx(entropy, abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_of_stl_and_plain_agree_in_the_mean_for_a_flow(kind):
    """The score of a flow's density is zero on average too, so leaving it out changes nothing but noise."""
    model, _ = plain_model(k=1, hidden=(3,))
    torch.manual_seed(0)
    head = shaken(FlowHead(1, kind, transforms=1, hidden=(4,), context=1).double(), 0.2)
    model.head = head
    model.encoder = shaken(type(model.encoder)(8, (3,), head.n_parameters).double(), 0.2)
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).double().repeat(100, 1)

    def gradient(kind: str, seed: int) -> torch.Tensor:
        model.zero_grad()
        ELBO(gradient=kind)(model, x, None, 1.0, generator(seed)).loss.mean().backward()
        return torch.cat([p.grad.flatten() for m in (model.encoder, model.head) for p in m.parameters()])

    apart = torch.stack([gradient("stl", seed) - gradient("plain", seed) for seed in range(40)])
    moving = apart.std(0) > 1e-9
    z = apart.mean(0)[moving] / (apart.std(0)[moving] / math.sqrt(len(apart)))
    assert moving.sum() > 20
    assert z.abs().max() < 5
    assert z.square().mean() < 4
