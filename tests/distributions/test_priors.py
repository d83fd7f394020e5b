"""Priors against scipy."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from models_for_tests import plain_model, shaken
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from abduce.data.schema import Schema
from abduce.distributions.flows import FlowPrior
from abduce.distributions.posteriors import DiagonalNormal, FullNormal
from abduce.distributions.priors import (
    DiagonalMixture,
    GaussianMixturePrior,
    StandardNormal,
    VampPrior,
    as_mixture,
)
from abduce.models.build import build_vae
from abduce.models.choice import Choice


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(components: int = 3, k: int = 2) -> tuple[GaussianMixturePrior, list]:
    g = generator()
    roots = torch.randn(components, k, k, generator=g, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.3 * torch.eye(k).double()
    means = 3 * torch.randn(components, k, generator=g, dtype=torch.float64)
    weights = torch.softmax(torch.randn(components, generator=g, dtype=torch.float64), 0)
    parts = list(zip(weights.numpy(), means.numpy(), covariances.numpy(), strict=True))
    return GaussianMixturePrior(weights, means, covariances).double(), parts


def test_standard_normal_against_scipy():
    prior = StandardNormal(3)
    z = torch.randn(5, 4, 3, generator=generator(), dtype=torch.float64)
    np.testing.assert_allclose(prior.log_prob(z), stats.norm.logpdf(z.numpy()).sum(-1))
    draws = prior.sample(50_000, generator())
    assert draws.shape == (50_000, 3)
    np.testing.assert_allclose(np.cov(draws.numpy().T), np.eye(3), atol=0.03)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("shape", [(7,), (5, 7)])
def test_mixture_density_against_scipy(components, shape):
    prior, parts = mixture(components)
    z = 3 * torch.randn(*shape, 2, generator=generator(1), dtype=torch.float64)
    flat = z.reshape(-1, 2).numpy()
    logs = [np.log(w) + stats.multivariate_normal(m, S).logpdf(flat) for w, m, S in parts]
    # the parameters are kept in single precision
    np.testing.assert_allclose(
        prior.log_prob(z), np.logaddexp.reduce(logs).reshape(shape), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        prior.component_log_prob(z), np.stack(logs, -1).reshape(*shape, -1), rtol=1e-4, atol=1e-4
    )


def test_mixture_draws_have_its_moments():
    prior, parts = mixture()
    z = prior.sample(200_000, generator(2), dtype=torch.float64).numpy()
    mean = sum(w * m for w, m, _ in parts)
    cov = sum(w * (S + np.outer(m - mean, m - mean)) for w, m, S in parts)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), cov, rtol=0.02, atol=0.05)


def test_mixture_has_nothing_to_train_and_is_kept_with_the_model():
    prior, _ = mixture()
    assert not list(prior.parameters())
    other = GaussianMixturePrior(torch.ones(3) / 3, torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1)).double()
    other.load_state_dict(prior.state_dict())
    z = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    assert torch.equal(other.log_prob(z), prior.log_prob(z))
    assert torch.equal(
        other.sample(3, generator(), dtype=torch.float64), prior.sample(3, generator(), dtype=torch.float64)
    )


# ---------------------------------------------------------------- learned mixtures


def diagonal_mixture() -> tuple[DiagonalMixture, MixtureSameFamily]:
    torch.manual_seed(0)
    prior = shaken(DiagonalMixture(2, 4).double(), 0.5)
    with torch.no_grad():
        law = MixtureSameFamily(
            Categorical(logits=prior.logits), Independent(Normal(prior.means, prior.log_scales.exp()), 1)
        )
    return prior, law


def test_narrow_components_far_from_zero_lose_no_digits():
    prior = DiagonalMixture(4, 3)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[200.0], [300.0], [-250.0]]).expand(3, 4))
        prior.log_scales.fill_(-6.0)
    z = prior.means[[0, 1, 2, 0]] + torch.tensor(
        [[0.0], [2**-10], [0.0], [2**-9]]
    )  # exact in single precision
    away = (z - prior.means[[0, 1, 2, 0]]).double() * math.exp(6.0)
    known = -0.5 * away.square().sum(-1) + 24.0 - 2 * math.log(2 * math.pi) - math.log(3)
    torch.testing.assert_close(prior.log_prob(z).double(), known, rtol=0.0, atol=1e-3)


def vamp_model(posterior: str = "diagonal"):
    """A model whose prior is four posteriors of its own."""
    schema = Schema.infer(np.random.default_rng(0).integers(0, 2, size=(30, 4)).astype(float), "binary")
    torch.manual_seed(0)
    pseudo = torch.randn(4, 8)
    model = build_vae(
        schema, Choice(2, (5,), prior="vamp", posterior=posterior, components=4), pseudo=pseudo
    ).double()
    return shaken(model, 0.3)


def vamp_law(model) -> MixtureSameFamily:
    with torch.no_grad():
        q = model.encode(model.prior.pseudo)
    if isinstance(q, DiagonalNormal):
        parts = Independent(Normal(q.mean, q.log_scale.exp()), 1)
    else:
        assert isinstance(q, FullNormal)
        parts = MultivariateNormal(q.mean, scale_tril=q.root)
    return MixtureSameFamily(Categorical(torch.ones(4).double() / 4), parts)


def laws() -> list:
    out = [("mixture", *diagonal_mixture())]
    for posterior in ("diagonal", "full"):
        model = vamp_model(posterior)
        out.append((posterior, model.prior, vamp_law(model)))
    return out


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("shape", [(7,), (5, 7)])
def test_learned_mixtures_against_torch(which, shape):
    _, prior, law = laws()[which]
    z = 2 * torch.randn(*shape, 2, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z).detach(), law.log_prob(z))
    fixed = prior.gaussian_mixture()
    assert not list(fixed.parameters())
    torch.testing.assert_close(fixed.log_prob(z), law.log_prob(z), rtol=1e-4, atol=1e-4)  # single precision
    torch.testing.assert_close(as_mixture(prior).log_prob(z), fixed.log_prob(z))


@pytest.mark.parametrize("which", range(3))
def test_learned_mixtures_draw_with_their_moments(which):
    _, prior, law = laws()[which]
    z = prior.sample(100_000, generator(2), dtype=torch.float64)
    error = (law.variance / 100_000).sqrt()
    assert ((z.mean(0) - law.mean).abs() < 4.5 * error).all()
    torch.testing.assert_close(z.var(0), law.variance, rtol=0.03, atol=0)
    assert torch.equal(z, prior.sample(100_000, generator(2), dtype=torch.float64))


def test_which_priors_are_mixtures_of_gaussians():
    fixed, _ = mixture()
    assert as_mixture(fixed) is fixed
    assert as_mixture(StandardNormal(2)) is None
    assert as_mixture(FlowPrior(2, hidden=(4,))) is None


def test_a_learned_mixture_learns_all_it_has():
    prior, _ = diagonal_mixture()
    prior.log_prob(torch.randn(9, 2, generator=generator(), dtype=torch.float64)).sum().backward()
    for name, parameter in prior.named_parameters():
        assert float(parameter.grad.abs().min()) > 1e-6, name


# ---------------------------------------------------------------- the encoder's own mixture


def test_vamp_keeps_no_encoder_of_its_own_and_teaches_the_models():
    model = vamp_model()
    assert [n for n in model.state_dict() if n.startswith("prior")] == ["prior.pseudo"]
    assert [n for n, _ in model.prior.named_parameters()] == ["pseudo"]
    model.zero_grad()
    model.prior.log_prob(torch.randn(3, 2, generator=generator(), dtype=torch.float64)).sum().backward()
    assert float(model.prior.pseudo.grad.abs().max()) > 1e-4
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name.startswith(("encoder", "prior"))), name


def test_vamp_follows_the_encoder():
    model = vamp_model()
    z = torch.zeros(1, 2).double()
    before = model.prior.log_prob(z)
    with torch.no_grad():
        model.encoder.net[-1].bias += 1.0
    assert not torch.allclose(before, model.prior.log_prob(z))
    torch.testing.assert_close(model.prior.log_prob(z).detach(), vamp_law(model).log_prob(z))


def test_vamp_follows_the_copy_of_a_model():
    model = vamp_model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.encoder.net[-1].bias += 1.0
    z = torch.zeros(1, 2).double()
    torch.testing.assert_close(other.prior.log_prob(z).detach(), vamp_law(other).log_prob(z))
    assert not torch.allclose(model.prior.log_prob(z), other.prior.log_prob(z))
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again.prior.log_prob(z), model.prior.log_prob(z))
    assert again.prior._encode.__self__ is again


def test_vamp_mixes_gaussians_only():
    model = vamp_model()
    prior = VampPrior(lambda read: model.prior, model.prior.pseudo.detach(), 2)
    with pytest.raises(TypeError, match="a VampPrior mixes Gaussian posteriors, got VampPrior"):
        prior.log_prob(torch.zeros(1, 2).double())


# ---------------------------------------------------------------- in a model


def test_a_prior_of_another_dimension_is_refused():
    model, _ = plain_model(k=2)
    for prior in (StandardNormal(3), DiagonalMixture(1, 4), FlowPrior(4, hidden=(4,))):
        message = f"prior must have latent_dim 2 like the model, got {prior.latent_dim}"
        with pytest.raises(ValueError, match=message):
            model.set_prior(prior)
    assert isinstance(model.prior, StandardNormal)


def test_another_prior_takes_its_place_in_the_joint():
    model, _ = plain_model(k=2)
    prior, law = diagonal_mixture()
    model.set_prior(prior)
    x, z = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).double(), torch.randn(5, 1, 2, generator=generator()).double()
    with torch.no_grad():
        expected = model.likelihood(z).log_prob(x) + law.log_prob(z)
        torch.testing.assert_close(model.log_joint(z, x), expected)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"prior must be one of .*vamp.*, got 'gaussian'"):
        Choice(2, prior="gaussian")
    with pytest.raises(
        ValueError, match=r"posterior of 1 layer of latents must be one of .*iaf.*, got 'gaussian'"
    ):
        Choice(2, posterior="gaussian")
