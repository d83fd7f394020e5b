"""Annealing: log p(x) known exactly, bounds from both sides, what no neighbour may change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, quadrature, shaken, some_seen
from sklearn.datasets import load_digits

from abduce import VAE
from abduce.inference import annealing
from abduce.inference.annealing import anneal, bidirectional, log_prob, path, pilot, schedule
from abduce.inference.kernels import start
from abduce.inference.tempering import temper
from abduce.inference.weights import multi_sample

SAMPLES = {"ais": 16, "smc": 96}


@pytest.fixture(scope="module")
def linear():
    model, way, x = linear_model(d=5, k=2)
    seen = some_seen(x[:30], 0.7)
    return model, x[:30] * seen, seen, way.log_prob(x[:30] * seen, seen)


@pytest.fixture(scope="module")
def network():
    """A network whose encoder knows nothing: random weights."""
    model, _ = plain_model(d=16, k=2)
    shaken(model, 0.8)
    with torch.no_grad():
        x = model.sample(30, generator())
        seen = some_seen(x, 0.8)
        return model, x * seen, seen, quadrature(model, x * seen, seen)


@pytest.mark.parametrize("method", ["ais", "smc"])
@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_the_truth_of_a_linear_model(linear, method, start):
    model, x, seen, truth = linear
    evidence, acceptance = log_prob(model, x, seen, method, SAMPLES[method], 20, start)
    error = evidence.value - truth
    assert (error.abs() < 5 * evidence.standard_error + 1e-5).double().mean() > 0.9
    assert error.abs().mean() < (1e-5 if start == "posterior" else 0.3)
    some = seen.any(1)
    assert ((acceptance > 0.3) & (acceptance <= 1))[some].all()
    assert (evidence.value[~some] == 0).all()


@pytest.mark.parametrize("method", ["ais", "smc"])
def test_the_truth_of_a_network_whatever_the_encoder_thinks(network, method):
    model, x, seen, truth = network
    evidence, _ = log_prob(model, x, seen, method, SAMPLES[method], 20, "prior")
    error = evidence.value - truth
    assert (error.abs() < 5 * evidence.standard_error + 1e-5).double().mean() > 0.9
    assert error.abs().mean() < 0.3


def test_annealing_from_the_prior_beats_drawing_from_it():
    """At the same number of evaluations of p(x|z)."""
    model, way, x = linear_model(d=30, k=10)
    x = x[:20]
    seen = torch.ones_like(x) > 0
    truth = way.log_prob(x, seen)
    chains, temperatures, leapfrogs = 8, 60, 5
    evaluations = (chains + annealing.PILOTS) * temperatures * (leapfrogs + 1)
    with torch.no_grad():
        z = model.prior.sample(evaluations, generator(), dtype=torch.float64).unsqueeze(1)
        drawn = multi_sample(model.likelihood(z).log_prob(x))
    annealed, _ = log_prob(model, x, seen, "ais", chains, temperatures, "prior", leapfrogs=leapfrogs)
    assert (annealed.value - truth).abs().mean() < 0.2 * (drawn - truth).abs().mean()


def test_a_chain_may_be_run_both_ways(network):
    """lower ≤ log p ≤ upper on average, and the bounds close in as the path gets finer."""
    model = network[0]
    gaps = []
    for temperatures in (3, 30):
        bounds = bidirectional(model, 64, 8, temperatures, "prior", seed=1)
        truth = quadrature(model, bounds.x, None)
        low, high = bounds.lower - truth, bounds.upper - truth
        assert low.mean() < 3 * low.std() / 8  # standard error of 64 independent rows
        assert high.mean() > -3 * high.std() / 8
        gaps.append((bounds.upper - bounds.lower).mean().item())
    assert gaps[1] < 0.5 * gaps[0], gaps


def test_weights_are_unbiased_forward_and_backward():
    """E[w] = p(x) and, from exact posterior draws, E[1/w] = 1/p(x): also with few temperatures and coarse steps."""
    model, way, x = linear_model(d=4, k=1)
    x, chains = x[:3], 40_000
    seen = torch.ones_like(x) > 0
    truth = way.log_prob(x, seen)
    lane = path(model, x, None, "prior")
    betas = torch.linspace(0, 1, 5, dtype=torch.float64)
    sizes = torch.full((5, 3), 0.7, dtype=torch.float64)
    forward = anneal(lane, betas, sizes, chains, seed=0)
    torch.testing.assert_close(multi_sample(forward.log_w), truth, rtol=0, atol=0.05)
    q = model.posterior(x, None)
    noise = torch.randn(chains, 1, model.noise_dim, generator=generator(), dtype=torch.float64)
    back = anneal(lane, betas, sizes, chains, seed=1, exact=q.transport(noise).detach())
    torch.testing.assert_close(-multi_sample(-back.log_w), truth, rtol=0, atol=0.05)
    assert (forward.log_w.mean(0) < truth).all()
    assert (back.log_w.mean(0) > truth).all()


def test_particles_end_in_the_posterior():
    model, _, x = linear_model(d=4, k=1)
    x = x[:2]
    done = temper(path(model, x, None, "prior"), 4000, len(x), seed=0, shared=True)
    q = model.posterior(x, None)
    exact = q.transport(torch.randn(4000, 1, model.noise_dim, generator=generator(), dtype=torch.float64))
    torch.testing.assert_close(done.x.mean(0), exact.mean(0).detach(), rtol=0, atol=0.05)
    torch.testing.assert_close(done.x.std(0), exact.std(0).detach(), rtol=0.1, atol=0)


def test_a_state_on_the_path_is_the_kernels(network):
    model, x, _, _ = network
    lane = path(model, x, None, "posterior")
    beta = torch.rand(len(x), generator=generator(), dtype=torch.float64)
    z = torch.randn(3, len(x), 2, generator=generator(), dtype=torch.float64)
    state, ratio = lane.at(z, beta)
    fresh = start(z, lane.log_density(beta))
    torch.testing.assert_close(state.log_density, fresh.log_density)
    torch.testing.assert_close(state.gradient, fresh.gradient)
    torch.testing.assert_close(ratio, lane.statistic(z).detach())


def test_pilots_find_sizes_that_are_accepted(network):
    model, x, _, _ = network
    lane = path(model, x, None, "prior")
    betas = schedule(60)
    sizes = pilot(lane, betas, seed=0)
    assert sizes.shape == (61, len(x))
    acceptance = anneal(lane, betas, sizes, 16).acceptance
    assert ((acceptance > 0.45) & (acceptance < 0.95)).all()


def test_the_schedule_rises_from_zero_to_one():
    betas = schedule(10)
    assert (betas[0], betas[-1], len(betas)) == (0, 1, 11)
    steps = betas.diff()
    assert (steps > 0).all()
    assert steps[0] < steps[5] > steps[-1]  # finer at both ends


@pytest.mark.parametrize("method", ["ais", "smc"])
def test_runs_repeat_and_neighbours_do_not_matter(network, method):
    model, x, seen, _ = network
    whole, rate = log_prob(model, x, seen, method, 16, 4, "prior", seed=2)
    again, _ = log_prob(model, x, seen, method, 16, 4, "prior", seed=2)
    assert torch.equal(whole.value, again.value)
    other, _ = log_prob(model, x, seen, method, 16, 4, "prior", seed=3)
    assert not torch.equal(whole.value, other.value)
    few = [7, 0, 20]
    alone, own = log_prob(model, x[few], seen[few], method, 16, 4, "prior", seed=2)
    torch.testing.assert_close(alone.value, whole.value[few], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own, rate[few], rtol=1e-9, atol=1e-9)


def test_single_precision_is_close(linear):
    model, x, seen, truth = linear
    evidence, _ = log_prob(model, x, seen, "ais", 8, 10, "posterior", precision="single")
    torch.testing.assert_close(evidence.value, truth, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images > 7).astype(float)
    model = VAE(latent_dim=8, hidden=(64,), max_epochs=25, random_state=0).fit(images[:1000])
    return model, images[1000:1040]


def test_a_trained_model_is_certified(digits):
    model, _ = digits
    bounds = model.certify(n=24, samples=8, temperatures=30, random_state=0)
    assert set(bounds) == {"lower", "upper", "gap"}
    assert -0.1 < bounds["gap"] < 0.5
    assert bounds["gap"] == pytest.approx(bounds["upper"] - bounds["lower"])
    assert bounds == model.certify(n=24, samples=8, temperatures=30, random_state=0)


def test_the_methods_agree_on_a_trained_model(digits):
    model, images = digits
    drawn, about = model.log_prob(images, samples=2000, return_diagnostics=True)
    assert set(about) == {"standard_error", "effective_sample_size", "pareto_k"}
    for method, samples in SAMPLES.items():
        annealed, how = model.log_prob(
            images, samples=samples, method=method, temperatures=30, return_diagnostics=True
        )
        assert set(how) == {"standard_error", "effective_sample_size", "acceptance"}
        assert all(v.shape == (40,) for v in how.values())
        assert abs(annealed.mean() - drawn.mean()) < 0.1
        spread = np.hypot(how["standard_error"], about["standard_error"])
        assert np.mean(np.abs(annealed - drawn) < 5 * spread) > 0.9
    assert math.isfinite(float(np.median(about["pareto_k"])))
