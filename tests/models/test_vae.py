"""The VAE against the exact answers of the models it contains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from models_for_tests import factor_rows, generator, linear_model, plain_model, quadrature, shaken, some_seen
from sklearn.decomposition import FactorAnalysis

from abduce.data.schema import Schema
from abduce.fit.bounds import ELBO, IWAE
from abduce.fit.loop import train
from abduce.fit.optimizer import parameter_groups
from abduce.fit.settings import Settings
from abduce.fit.steps import LatentStep
from abduce.gaussians.linear import fit
from abduce.inference.importance import log_prob
from abduce.inference.weights import multi_sample
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.shapes import Shapes
from abduce.models.vae import VariationalAutoencoder


@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("blanks", [False, True])
def test_at_the_start_the_weights_are_exact(components, hidden, blanks):
    model, path, x = linear_model(components=components, hidden=hidden)
    x = x[:30]
    seen = some_seen(x) if blanks else None
    if seen is not None:
        x = x * seen
    with torch.no_grad():
        noise = torch.randn(50, 30, model.noise_dim, generator=generator(), dtype=torch.float64)
        log_w = model.log_weights(x, seen, noise).log_w
    exact = path.log_prob(x, seen)
    # every single draw weighs p(x): single-precision parameters are all that is between
    assert log_w.std(0).max() < 2e-3
    torch.testing.assert_close(multi_sample(log_w), exact, atol=2e-3, rtol=0)


def test_the_posterior_ignores_what_is_blank():
    model, _, x = linear_model(components=3, hidden=(8,))
    shaken(model)
    seen = some_seen(x[:10])
    noise = torch.randn(4, 10, model.noise_dim, generator=generator(), dtype=torch.float64)
    other = torch.where(seen, x[:10], 99.0)
    with torch.no_grad():
        a, b = (model.log_weights(v, seen, noise).log_w for v in (x[:10], other))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("objective", [ELBO(), IWAE(5)], ids=["elbo", "iwae"])
def test_training_a_linear_model_reaches_factor_analysis(objective):
    rows = factor_rows(800)
    x = torch.from_numpy(rows)
    schema = Schema.infer(rows, "real")
    best = FactorAnalysis(2, tol=1e-6, max_iter=5000, svd_method="lapack").fit(rows).score(rows)
    path = fit(x, None, 2, 1, generator(), iterations=0)  # principal factors: near, not there
    path.W *= 0.6
    torch.manual_seed(0)
    model = build_vae(schema, Choice(2, (), scale="cell"), path=path)
    settings = Settings(epochs=40, batch_size=100, learning_rate=0.02, validation=0.0, masking=False, seed=1)
    start = log_prob(model.double(), x, torch.ones_like(x) > 0)[0].mean().item()
    train(LatentStep(model.float(), objective, settings, len(x)), x.float(), None, settings)
    model.double()
    noise = torch.randn(200, len(x), model.noise_dim, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        reached = multi_sample(model.log_weights(x, None, noise).log_w).mean().item()
        # the decoder is the whole model: its exact density, Gaussian with covariance W Wᵀ + D
        linear, net = model.decoder.linear, model.decoder.net[0]
        W, b = linear.weight + net.weight, linear.bias + net.bias
        noise_sd = model.likelihood(torch.zeros(1, 2).double()).parts[0][1].scale[0]
        law = torch.distributions.LowRankMultivariateNormal(b, W, noise_sd.square())
        exact = law.log_prob(x).mean().item()
    assert start < best - 0.1
    assert exact == pytest.approx(best, abs=0.02)
    assert exact <= best + 1e-3
    assert reached == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("kind", ["binary", "count", "ordinal", "categorical", "real", "pixel"])
def test_every_parameter_gets_a_gradient(kind):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if kind == "binary" else 4, size=(60, 3)).astype(float)
    schema = Schema.infer(values, kind)
    encoded, _ = schema.encode(values)
    x = torch.from_numpy(encoded)
    path = fit(x, None, 2, 1, generator()) if kind == "real" else None
    torch.manual_seed(0)
    likelihood = "discretized_logistic_mixture" if kind == "pixel" else "auto"
    model = build_vae(schema, Choice(2, (6,), likelihood=likelihood), path=path).double()
    shaken(model, 0.05)
    for objective in (ELBO(), IWAE(3), IWAE(3, "plain")):
        model.zero_grad()
        objective(model, x, None, 1.0, generator()).loss.mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("blanks", [False, True])
def test_importance_estimate_against_quadrature_with_networks(latent, blanks):
    model, _, x = linear_model(d=4, k=latent, hidden=(8,), components=2, scale="network")
    shaken(model, 0.08)
    x = x[:12]
    seen = some_seen(x) if blanks else torch.ones_like(x) > 0
    x = x * seen
    exact = quadrature(model, x, seen)
    value, error, ess, _ = log_prob(model, x, seen, samples=4096)
    trusted = ess > 100
    assert trusted.sum() >= 9
    assert ((value - exact).abs() < 4 * error + 2e-3)[trusted].all()
    assert exact.std() > 0.1  # or nothing was tested
    torch.testing.assert_close(
        -model.energy(x, seen, samples=4096)[trusted], exact[trusted], atol=0.2, rtol=0
    )


def test_importance_estimate_against_quadrature_without_a_path():
    model, _ = plain_model()
    shaken(model, 0.1)
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    every = torch.ones_like(x) > 0
    exact = quadrature(model, x, None)
    assert torch.logsumexp(exact, 0).item() == pytest.approx(0, abs=1e-6)  # all the 16 rows there are
    value, error, *_ = log_prob(model, x, every, samples=8192)
    assert ((value - exact).abs() < 4 * error + 2e-3).all()
    # hiding a cell is summing over it
    seen = every.clone()
    seen[:, 3] = False
    part = quadrature(model, x, seen)
    torch.testing.assert_close(part[::2], torch.logsumexp(exact.view(8, 2), 1))


def test_samples_have_the_models_mean_and_covariance():
    model, path, _ = linear_model(components=3)
    with torch.no_grad():
        x = model.sample(100_000, generator())
    mean = path.W @ (path.weights @ path.means) + path.b
    spread = path.covariances + path.means.unsqueeze(-1) * path.means.unsqueeze(-2)
    centre = path.weights @ path.means
    second = torch.einsum("c,cij->ij", path.weights, spread) - torch.outer(centre, centre)
    covariance = path.W @ second @ path.W.T + torch.diag(path.noise)
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    np.testing.assert_allclose(np.cov(x.numpy().T), covariance, atol=0.03)


def test_state_dict_round_trip():
    model, _, x = linear_model(components=3, hidden=(8,))
    shaken(model)
    other, _, _ = linear_model(components=3, hidden=(8,), seed=5)
    noise = torch.randn(4, 10, model.noise_dim, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        before = other.log_weights(x[:10], None, noise).log_w
        other.load_state_dict(model.state_dict())
        after, wanted = (m.log_weights(x[:10], None, noise).log_w for m in (other, model))
    assert torch.equal(after, wanted)
    assert not torch.equal(before, wanted)


@pytest.mark.parametrize("mask", [None, {"cells": [0], "shares": [0.5], "levels": [0], "signs": [0]}])
def test_a_linear_path_and_a_mask_model_learn_at_their_own_rates(mask):
    rows = factor_rows(d=3)
    schema, choice = Schema.infer(rows, "real"), Choice(2, (4,))
    shapes = replace(Shapes.of(schema, choice).beside(1), mask=mask)
    model = VariationalAutoencoder(schema, choice, shapes)
    settings = Settings(learning_rate=0.5, weight_decay=0.1, linear_rate=0.25, mask_rate=8.0)
    found = {
        p: (group["base"], group["weight_decay"])
        for group in parameter_groups(model.joint(), settings)
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.linear."):
            assert found[parameter] == (0.125, 0.0)
        elif name.startswith("mask_model."):
            assert found[parameter] == (4.0, 0.0)
        else:
            assert found[parameter] == (0.5, 0.1 if parameter.ndim > 1 else 0.0)


def test_sizes_left_to_the_data_need_them():
    schema = Schema.infer(factor_rows(), "real")
    with pytest.raises(
        ValueError, match="data must be summed up for what the choice leaves to them, got None"
    ):
        Shapes.of(schema, Choice())


def test_mean_bits_of_a_bernoulli_start():
    """An untrained model of fair coins costs about log 2 a cell."""
    model, _ = plain_model(hidden=(8,))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).double()
    value, error, *_ = log_prob(model, x, torch.ones_like(x) > 0, samples=512)
    assert abs(value.item() + 4 * math.log(2)) < 4 * error.item() + 1e-6
