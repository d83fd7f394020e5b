"""Gradients of the bounds: estimators against exact expectations, against each other, and how loud their noise is.

The toy: z ~ N(0, 1), x | z ~ N(w z, 1), q(z) = N(m, s²), with one (m, log s, w) for each row as leaves, so that a batch of
equal rows is that many independent gradients in one backward pass, and the expectation over two draws is an integral over
the plane.
"""

from __future__ import annotations

import math
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, shaken
from torch import Tensor

from abduce.distributions.posteriors import DiagonalNormal
from abduce.distributions.priors import StandardNormal
from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from abduce.inference.latent import LatentVariableModel
from abduce.inference.weights import elbo, multi_sample, renyi

M, LOG_S, W, X = 0.2, 0.3, 1.5, 1.2  # the posterior is N(0.55, 0.31), its scale 0.55: q is poor


class Normal:
    def __init__(self, mean: Tensor):
        self.mean = mean

    def log_prob(self, x: Tensor, observed=None) -> Tensor:
        return -0.5 * ((x - self.mean).square() + math.log(2 * math.pi)).sum(-1)


class Toy(LatentVariableModel):
    def __init__(self, rows: int):
        super().__init__()
        self.latent_dim = self.noise_dim = 1
        self.prior = StandardNormal(1)
        self.leaves = torch.nn.Parameter(torch.tensor([M, LOG_S, W]).double().repeat(rows, 1))

    def posterior(self, x, observed=None):
        return DiagonalNormal(self.leaves[:, :1], self.leaves[:, 1:2])

    def likelihood(self, z):
        return Normal(self.leaves[:, 2:] * z)

    def gradients(self, objective, seed: int) -> Tensor:
        """The gradient of the bound in (m, log s, w), one a row."""
        self.zero_grad()
        x = torch.full((len(self.leaves), 1), X, dtype=torch.float64)
        objective(self, x, None, 1.0, generator(seed)).loss.sum().backward()
        return -self.leaves.grad.clone()


def exact(bound, samples: int) -> Tensor:
    """Gradient of E[bound] in (m, log s, w) on a fine grid over all draws."""
    points = torch.linspace(-8, 8, 501, dtype=torch.float64)
    noise = torch.cartesian_prod(*[points] * samples).view(-1, samples).T
    mass = torch.exp(-0.5 * noise.square()).prod(0)
    toy = Toy(1)
    log_w = toy.log_weights(torch.full((1, 1), X).double(), None, noise.reshape(-1, 1, 1)).log_w
    value = bound(log_w.view(samples, -1))
    ((value * mass).sum() / mass.sum()).backward()
    return toy.leaves.grad[0]


def z_scores(found: Tensor, expected: Tensor) -> Tensor:
    return (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(found)))


def ciwae(log_w: Tensor) -> Tensor:
    return 0.3 * elbo(log_w) + 0.7 * multi_sample(log_w)


UNBIASED = [
    *[(ELBO(samples=2, gradient=g), elbo) for g in ("plain", "stl", "dreg")],
    *[(IWAE(2, g), multi_sample) for g in ("plain", "dreg")],
    *[(MIWAE(3, 2, g), multi_sample) for g in ("plain", "dreg")],
    *[(CIWAE(0.3, 2, g), ciwae) for g in ("plain", "dreg")],
    *[
        (Renyi(a, 2, g, backward), lambda log_w, a=a: renyi(log_w, a))
        for a in (-1.0, 0.5, 1.0, 2.0)
        for g in ("plain", "dreg")
        for backward in ("all", "one")
    ],
    *[(Renyi(a, 2), lambda log_w, a=a: renyi(log_w, a)) for a in (-math.inf, math.inf)],
]


@pytest.mark.parametrize(("objective", "bound"), UNBIASED, ids=lambda o: str(o) if not callable(o) else None)
def test_the_mean_gradient_is_that_of_the_expected_bound(objective, bound):
    found = Toy(100_000).gradients(objective, 1)
    expected = exact(bound, 2)
    assert z_scores(found, expected).abs().max() < 4.5
    assert expected.abs().min() > 0.02


def test_the_elbos_gradient_in_closed_form():
    """ELBO = −½ [(x − w m)² + w² s²] − ½ (m² + s²) + log s + const."""
    s2 = math.exp(2 * LOG_S)
    by_hand = torch.tensor(
        [W * (X - W * M) - M, 1 - s2 * (1 + W**2), M * (X - W * M) - W * s2], dtype=torch.float64
    )
    torch.testing.assert_close(exact(elbo, 1), by_hand)
    for gradient in ("plain", "stl"):
        assert z_scores(Toy(100_000).gradients(ELBO(gradient=gradient), 2), by_hand).abs().max() < 4.5


@pytest.mark.parametrize(
    "make",
    [
        lambda g: IWAE(1, g),
        lambda g: IWAE(8, g),
        lambda g: Renyi(-1.0, 6, g),
        lambda g: Renyi(2.0, 6, g),
        lambda g: MIWAE(2, 4, g),
        lambda g: PIWAE(2, 4, g),
        lambda g: CIWAE(0.5, 6, g),
    ],
)
def test_dreg_has_the_mean_of_plain(make):
    toy = Toy(40_000)
    apart = toy.gradients(make("dreg"), 3) - toy.gradients(make("plain"), 3)  # the same noise
    assert apart[:, :2].abs().mean() > 0.05  # another estimator
    assert z_scores(apart[:, :2], torch.zeros(2)).abs().max() < 4.5
    torch.testing.assert_close(apart[:, 2], torch.zeros(len(apart)).double())  # the decoder's are one


def test_stl_is_unbiased_for_one_draw_and_biased_for_several():
    toy = Toy(40_000)

    def apart(samples: int) -> Tensor:
        return toy.gradients(IWAE(samples, "stl"), 4) - toy.gradients(IWAE(samples, "plain"), 4)

    assert z_scores(apart(1)[:, :2], torch.zeros(2)).abs().max() < 4.5
    for samples in (2, 8):
        difference = apart(samples)
        assert z_scores(difference[:, :2], torch.zeros(2)).abs().min() > 20
        torch.testing.assert_close(difference[:, 2], torch.zeros(len(difference)).double())


# ---------------------------------------------------------------- a network's gradient, exactly


def network_gradient(objective, model, x, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    objective(model, x, None, 1.0, generator(seed)).loss.mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def by_hand(bound, samples: int, model, x, seed: int = 0) -> dict[str, Tensor]:
    """The gradient that autograd gives of the bound itself, from the noise that an objective would draw."""
    noise = torch.randn(samples, len(x), model.noise_dim, generator=generator(seed), dtype=x.dtype)
    model.zero_grad()
    (-bound(model.log_weights(x, None, noise).log_w)).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def binary():
    model, _ = plain_model(seed=1)
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]).double()
    return shaken(model, 0.3, 1), x


def grouped(log_w: Tensor) -> Tensor:
    return torch.stack([multi_sample(part) for part in log_w.split(3)]).mean(0)


@pytest.mark.parametrize(
    ("objective", "bound", "samples"),
    [
        (IWAE(5, "plain"), multi_sample, 5),
        (Renyi(-1.0, 5, "plain"), lambda log_w: renyi(log_w, -1.0), 5),
        (Renyi(0.5, 5, "plain"), lambda log_w: renyi(log_w, 0.5), 5),
        (Renyi(1.0, 5, "plain"), elbo, 5),
        (Renyi(-math.inf, 5), lambda log_w: log_w.max(0).values, 5),
        (Renyi(-math.inf, 5, backward="all"), lambda log_w: log_w.max(0).values, 5),
        (Renyi(math.inf, 5), lambda log_w: log_w.min(0).values, 5),
        (MIWAE(2, 3, "plain"), grouped, 6),
        (CIWAE(0.3, 5, "plain"), ciwae, 5),
    ],
    ids=lambda value: (
        repr(value) if is_dataclass(value) else None
    ),  # a function's own id has its address in it
)
def test_plain_gradients_are_autograds_of_the_bound(objective, bound, samples):
    model, x = binary()
    found, expected = network_gradient(objective, model, x), by_hand(bound, samples, model, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_piwae_is_iwae_for_the_decoder_and_miwae_for_the_encoder(gradient):
    model, x = binary()
    found = network_gradient(PIWAE(2, 3, gradient), model, x)
    iwae = network_gradient(IWAE(6, gradient), model, x)
    miwae = network_gradient(MIWAE(2, 3, gradient), model, x)
    for name, g in found.items():
        own, other = (miwae, iwae) if name.startswith("encoder") else (iwae, miwae)
        torch.testing.assert_close(g, own[name], msg=name)
        assert not torch.allclose(g, other[name], rtol=1e-3), name


def test_one_estimator_under_several_names():
    """At α = 1 dreg is the ELBO's stl, of one draw IWAE's dreg too; at α = 0 Rényi is IWAE; stl differs from plain."""
    model, x = binary()
    pairs = [
        (Renyi(1.0, 4, "dreg"), ELBO(samples=4, gradient="stl")),
        (ELBO(samples=4, gradient="dreg"), ELBO(samples=4, gradient="stl")),
        (IWAE(1, "dreg"), ELBO(gradient="stl")),
        (Renyi(0.0, 4, "dreg"), IWAE(4, "dreg")),
        (MIWAE(1, 4), IWAE(4)),
        (MIWAE(4, 1), ELBO(samples=4, gradient="stl")),
        (CIWAE(0.0, 4), IWAE(4)),
        (CIWAE(1.0, 4), ELBO(samples=4, gradient="stl")),
        (PIWAE(1, 4), IWAE(4)),
    ]
    for one, other in pairs:
        found, expected = network_gradient(one, model, x), network_gradient(other, model, x)
        for name, g in expected.items():
            torch.testing.assert_close(found[name], g, msg=f"{one} {other} {name}")
    stl, plain = (network_gradient(IWAE(4, g), model, x)["encoder.net.0.weight"] for g in ("stl", "plain"))
    assert not torch.allclose(stl, plain, rtol=1e-2)


def test_dreg_has_the_mean_of_plain_beside_a_linear_path():
    model, _, x = linear_model(d=3, k=1, components=2, hidden=(4,))
    shaken(model, 0.1)
    x = x[:3].repeat(300, 1)

    def apart(seed: int) -> Tensor:
        dreg, plain = (network_gradient(IWAE(4, g), model, x, seed) for g in ("dreg", "plain"))
        return torch.cat([(dreg[n] - plain[n]).flatten() for n in dreg if n.startswith("encoder")])

    found = torch.stack([apart(seed) for seed in range(40)])
    z = z_scores(found, torch.zeros(found.shape[1]))
    assert z.abs().max() < 4.8  # some dozens of parameters at once
    assert z.square().mean() < 4
    assert found.std(0).max() > 1e-3


@pytest.mark.parametrize(
    "objective", [ELBO(gradient="stl"), IWAE(4), Renyi(0.5, 4), Renyi(-1.0, 4), MIWAE(2, 2), CIWAE()]
)
def test_at_the_exact_posterior_the_encoders_gradient_has_no_noise(objective):
    """Every path derivative of log w vanishes there, which the plain estimator only reaches on average."""
    model, _, x = linear_model(d=4, k=2, hidden=(4,))

    def encoder_gradient(objective) -> float:
        found = network_gradient(objective, model, x[:5])
        return max(float(g.abs().max()) for n, g in found.items() if n.startswith("encoder"))

    assert encoder_gradient(objective) < 1e-5
    assert encoder_gradient(IWAE(4, "plain")) > 1e-2


# ---------------------------------------------------------------- signal and noise


@pytest.mark.parametrize(("gradient", "low", "high"), [("plain", -0.75, -0.3), ("dreg", 0.3, 0.75)])
def test_signal_to_noise_of_the_encoder_against_draws(gradient, low, high):
    """Plain falls as 1/√S (Rainforth et al. 2018), doubly reparameterised rises as √S (Tucker et al. 2019)."""
    toy, draws = Toy(30_000), (1, 4, 16, 64)
    ratio = []
    for samples in draws:
        found = toy.gradients(IWAE(samples, gradient), 5)[:, :2]
        ratio.append((found.mean(0).abs() / found.std(0)).log().mean().item())
    slope = np.polyfit(np.log(draws), ratio, 1)[0]
    assert low < slope < high
