"""Answers of a model with latents: exact for a linear-Gaussian one, intervals cover, chains rescue poor proposals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, shaken, some_seen

from abduce.answers.answer import Effort, blocks
from abduce.answers.views import Linear
from abduce.answers.weighed import MIN_ESS, Weighed, weigh
from abduce.data.seen import Seen
from abduce.gaussians.linear import LinearPath
from abduce.inference.weights import effective_sample_size, expectation


def conditional(path: LinearPath, y: np.ndarray, o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a row given its observed cells under a one-component path."""
    cov = (path.W @ path.W.T).numpy() + np.diag(path.noise.numpy())
    mean = path.b.numpy()
    if not o.any():
        return mean, cov
    gain = cov[:, o] @ np.linalg.inv(cov[np.ix_(o, o)])
    return mean + gain @ (y[o] - mean[o]), cov - gain @ cov[o]


def one_component():
    model, path, x = linear_model(d=5, k=2)
    assert torch.equal(path.means, torch.zeros_like(path.means))
    return model, path, x


def test_fill_is_the_exact_conditional_mean():
    model, path, x = one_component()
    x = x[:70]
    seen = some_seen(x)
    answer = model.answer(Seen(x * seen, seen), Effort(samples=2000))
    filled = answer.mean()
    assert (answer.ess > 1990).all()
    for i in range(len(x)):
        o = seen[i].numpy()
        mean, _ = conditional(path, x[i].numpy(), o)
        np.testing.assert_allclose(filled[i].numpy()[~o], mean[~o], atol=0.02)


def test_draws_have_the_exact_conditional_covariance():
    model, path, x = one_component()
    seen = torch.tensor([[True, False, True, False, False]]).expand(3, -1)
    y = x[:3] * seen
    drawn = model.answer(Seen(y, seen), Effort(samples=20_000)).draws(20_000, generator())
    assert drawn.shape == (20_000, 3, 5)
    for i in range(3):
        o = seen[i].numpy()
        mean, cov = conditional(path, x[i].numpy(), o)
        np.testing.assert_allclose(drawn[:, i].mean(0).numpy()[~o], mean[~o], atol=0.03)
        np.testing.assert_allclose(
            np.cov(drawn[:, i].numpy().T)[np.ix_(~o, ~o)], cov[np.ix_(~o, ~o)], atol=0.05
        )


def test_intervals_cover_what_they_say():
    model, _, _ = linear_model(components=3, hidden=(8,), scale="network")
    shaken(model, 0.03)
    with torch.no_grad():
        x = model.sample(400, generator(3))
    seen = torch.rand(x.shape, generator=generator(4)) < 0.5
    inside = []
    random = generator(5)
    for part, answer in blocks(model, Seen(x * seen, seen), Effort(samples=200), 400):
        drawn = answer.draws(400, random)
        low, high = torch.quantile(drawn, torch.tensor([0.05, 0.95]).double(), 0)
        inside.append(((x[part] >= low) & (x[part] <= high))[~seen[part]])
    coverage = torch.cat(inside).double().mean().item()
    assert 0.87 <= coverage <= 0.93


@pytest.mark.parametrize("sd", [0.3, 1.5])
def test_denoising_is_the_exact_posterior_mean(sd):
    model, path, x = one_component()
    y = x[:40] + sd * torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    every = torch.ones_like(y) > 0
    cleaned = model.answer(Seen(y, every, Linear(sd)), Effort(samples=200)).mean()
    cov = (path.W @ path.W.T).numpy() + np.diag(path.noise.numpy())
    mean = path.b.numpy()
    expected = mean + (y.numpy() - mean) @ np.linalg.inv(cov + sd**2 * np.eye(5)) @ cov
    np.testing.assert_allclose(cleaned, expected, atol=0.02)


def test_chains_rescue_rows_whose_proposal_is_poor():
    model, path, x = one_component()
    with torch.no_grad():
        model.encoder.net[-1].bias[:2] = torch.tensor([2.5, -2.5])  # proposals far off,
        model.encoder.net[-1].bias[2:] = -1.5  # and sure of it
    x = x[:24]
    seen = torch.rand(x.shape, generator=generator()) < 0.7
    y = x * seen
    chunk, effort = Seen(y, seen), Effort(samples=200, hmc_steps=40)
    moved, plain = weigh(model, chunk, 200, effort), weigh(model, chunk, 200, effort, polish=False)
    weak = effective_sample_size(plain.weights.log_w) < MIN_ESS
    assert weak.double().mean() > 0.8

    def error(drawn) -> float:
        law = model.likelihood(drawn.weights.z).condition(y, seen)
        filled = expectation(drawn.weights.log_w, law.moments()[0]).squeeze(-1).detach()
        off = []
        for i in np.flatnonzero(weak):
            o = seen[i].numpy()
            mean, cov = conditional(path, x[i].numpy(), o)
            off.append((filled[i].numpy() - mean)[~o] / np.sqrt(np.diag(cov)[~o]))
        return float(np.sqrt(np.mean(np.concatenate(off) ** 2)))

    assert error(moved) < 0.25
    assert error(plain) > 0.5
    # rows whose weights were good stay as they were
    assert torch.equal(moved.weights.z[:, ~weak], plain.weights.z[:, ~weak])


def test_answers_repeat_and_do_not_depend_on_company():
    model, _ = plain_model(d=5)
    shaken(model, 0.5)
    _, _, x = linear_model()
    x = (x[:100] > 0).double()
    seen = some_seen(x)
    effort = Effort(samples=50)
    whole, again = (Weighed(model, Seen(x, seen), effort) for _ in range(2))
    assert torch.equal(whole.moments()[0], again.moments()[0])
    rows = [70, 3, 99]
    few = Weighed(model, Seen(x[rows], seen[rows]), effort)
    torch.testing.assert_close(few.moments()[0], whole.moments()[0][rows], rtol=0, atol=1e-9)
    torch.testing.assert_close(few.ess, whole.ess[rows], rtol=0, atol=1e-9)


def test_fills_of_a_nonlinear_model_equal_enumeration():
    model, _ = plain_model(d=4)
    shaken(model, 0.2)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    with torch.no_grad():
        z = torch.randn(200_000, 1, 2, generator=generator(), dtype=torch.float64)
        p = torch.exp(model.likelihood(z).log_prob(every)).mean(0)
    y, seen = every[[5, 10]], torch.tensor([[True, False, True, False], [False, False, True, True]])
    (filled,) = Weighed(model, Seen(y * seen, seen), Effort(samples=20_000)).moments()
    for i in range(2):
        weight = p * ((every == y[i]) | ~seen[i]).all(1)
        expected = (weight.unsqueeze(-1) * every).sum(0) / weight.sum()
        torch.testing.assert_close(filled[i, ~seen[i], 0], expected[~seen[i]], atol=0.01, rtol=0)
