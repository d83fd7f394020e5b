"""Variational bounds: their order, their values, what may change the loss only, bad input, JSON."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, quadrature, shaken, some_seen
from test_gradients import Toy

from abduce.data.schema import Schema
from abduce.distributions.posteriors import DiagonalNormal
from abduce.fit.bounds import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    Renyi,
    forward_kl,
)
from abduce.inference.weights import elbo, multi_sample, renyi
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.vae import VariationalAutoencoder

ALPHAS = (-math.inf, -2.0, 0.0, 0.5, 1.0, 2.0, math.inf)


def binary_rows() -> torch.Tensor:
    return torch.tensor(
        [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64
    )


def a_model(seed: int = 0):
    model, _ = plain_model(seed=seed)
    return shaken(model, 0.15, seed)


def average(objective, model, x, observed=None, repeats: int = 3000, seed: int = 3) -> tuple[float, float]:
    """Mean bound over rows and fresh draws, with its standard error."""
    many = x.repeat(repeats, 1)
    seen = None if observed is None else observed.repeat(repeats, 1)
    with torch.no_grad():
        value = objective(model, many, seen, 1.0, generator(seed)).value.view(repeats, -1).mean(1)
    return float(value.mean()), float(value.std() / math.sqrt(repeats))


def log_weights(model, x, samples: int, seed: int = 0) -> torch.Tensor:
    """The log weights that an objective draws with this seed."""
    noise = torch.randn(samples, len(x), model.noise_dim, generator=generator(seed), dtype=x.dtype)
    with torch.no_grad():
        return model.log_weights(x, None, noise).log_w


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("blanks", [False, True])
def test_bounds_rise_with_samples_to_the_log_probability(blanks):
    model, x = a_model(), binary_rows()
    seen = torch.tensor([[True, False, True, True]]).expand(3, -1) if blanks else None
    exact = quadrature(model, x, seen).mean().item()
    values = [
        average(objective, model, x, seen) for objective in (ELBO(), IWAE(1), IWAE(2), IWAE(8), IWAE(64))
    ]
    (elbo, e0), (one, e1) = values[:2]
    assert abs(elbo - one) < 4 * math.hypot(e0, e1)  # one sample is the ELBO
    for (low, e_low), (high, e_high) in pairwise(values[1:]):
        assert high > low + 2 * math.hypot(e_low, e_high)
    assert values[-1][0] <= exact + 4 * values[-1][1]
    assert values[-1][0] == pytest.approx(exact, abs=0.1)


def test_renyi_falls_in_alpha_and_passes_the_log_probability_below_zero():
    model, x = a_model(), binary_rows()
    exact = quadrature(model, x, None).mean().item()
    values = [average(Renyi(alpha, 64), model, x, repeats=1000) for alpha in ALPHAS]
    for (high, _), (low, _) in pairwise(values):
        assert high > low + 0.01
    found = dict(zip(ALPHAS, values, strict=True))
    assert found[0.5][0] <= exact + 4 * found[0.5][1]
    assert found[-2.0][0] > exact + 4 * found[-2.0][1]  # no bound with so many draws


def test_a_mean_of_bounds_has_the_mean_of_one():
    model, x = a_model(), binary_rows()
    for groups, samples in ((4, 2), (2, 8)):
        many, e_many = average(MIWAE(groups, samples), model, x, seed=5)
        one, e_one = average(IWAE(samples), model, x, seed=6)
        assert abs(many - one) < 4 * math.hypot(e_many, e_one)
        assert e_many < 0.9 * e_one  # of more draws
    ends = [average(objective, model, x, seed=7)[0] for objective in (ELBO(samples=8), IWAE(8))]
    for beta in (0.0, 0.25, 1.0):
        value, error = average(CIWAE(beta, 8), model, x, seed=8)
        assert value == pytest.approx(beta * ends[0] + (1 - beta) * ends[1], abs=6 * error)


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_values_are_reductions_of_the_log_weights(gradient):
    model, x = a_model(), binary_rows()
    log_w = log_weights(model, x, 6)
    groups = torch.stack([multi_sample(log_w[:3]), multi_sample(log_w[3:])]).mean(0)
    cases = [
        (IWAE(6, gradient), multi_sample(log_w)),
        (MIWAE(2, 3, gradient), groups),
        (PIWAE(2, 3, gradient), multi_sample(log_w)),
        (CIWAE(0.3, 6, gradient), 0.3 * elbo(log_w) + 0.7 * multi_sample(log_w)),
        *[
            (Renyi(a, 6, gradient, backward), renyi(log_w, a))
            for a in ALPHAS
            for backward in ("all", "one")
            if not (math.isinf(a) and gradient == "dreg")
        ],
    ]
    for objective, expected in cases:
        bound = objective(model, x, None, 1.0, generator())
        torch.testing.assert_close(bound.value, expected, msg=str(objective))
        torch.testing.assert_close(bound.reconstruction - bound.kl, elbo(log_w), msg=str(objective))
        assert bound.loss.shape == bound.kl.shape == (3,)
        assert bound.loss.requires_grad
        assert not any(t.requires_grad for t in (bound.value, bound.z, bound.reconstruction, bound.kl))


def test_the_elbo_takes_its_kl_in_closed_form():
    model, x = a_model(), binary_rows()
    bound = ELBO(samples=3)(model, x, None, 1.0, generator())
    q = model.posterior(x)
    closed = 0.5 * (q.mean.square() + torch.exp(2 * q.log_scale) - 1 - 2 * q.log_scale).sum(-1)
    torch.testing.assert_close(bound.kl, closed.detach())
    torch.testing.assert_close(bound.value, bound.reconstruction - bound.kl)
    model, _, x = linear_model()  # no closed form: from the draws
    torch.testing.assert_close(
        ELBO(samples=3)(model, x, None, 1.0, generator()).value, elbo(log_weights(model, x, 3))
    )


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(),
        ELBO(gradient="stl"),
        IWAE(1),
        IWAE(7),
        IWAE(7, "plain"),
        *[Renyi(a, 7) for a in ALPHAS],
        Renyi(0.5, 7, backward="one"),
        MIWAE(2, 3),
        PIWAE(2, 3),
        CIWAE(0.4, 7),
    ],
    ids=str,
)
def test_every_bound_is_the_log_probability_where_the_posterior_is_exact(objective):
    model, path, x = linear_model(components=3)
    seen = some_seen(x)
    x = x * seen
    with torch.no_grad():
        bound = objective(model, x, seen, 1.0, generator())
    torch.testing.assert_close(bound.value, path.log_prob(x, seen), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("alpha", "samples", "gains"),
    [(-1.0, 4, True), (-1.0, 3, True), (-0.2, 3, False), (0.5, 4, False), (2.0, 4, False)],
)
def test_a_wider_posterior_gains_only_where_many_draws_exceed_the_log_probability(alpha, samples, gains):
    """By second order around the exact posterior: where (1 − α)(S − 1)/S > 1."""
    assert gains == ((1 - alpha) * (samples - 1) / samples > 1)
    toy = Toy(100_000)
    w, x = 1.5, 1.2  # the toy's; its posterior is N(w x / (1 + w²), 1 / (1 + w²)), p(x) = N(0, 1 + w²)
    with torch.no_grad():
        toy.leaves[:] = torch.tensor([w * x / (1 + w**2), -0.5 * math.log(1 + w**2) + 0.3, w])
        rows = torch.full((len(toy.leaves), 1), x, dtype=torch.float64)
        value = Renyi(alpha, samples)(toy, rows, None, 1.0, generator()).value
    exact = -0.5 * (x**2 / (1 + w**2) + math.log(2 * math.pi * (1 + w**2)))
    apart, error = float(value.mean()) - exact, float(value.std()) / math.sqrt(len(value))
    assert abs(apart) > 4 * error
    assert (apart > 0) == gains


def test_the_draw_handed_on_is_from_the_reweighted_posterior():
    """z feeds the partial encoder: of many draws its law is that of p(z|x), not of q."""
    toy = Toy(10_000)
    rows = torch.full((10_000, 1), 1.2, dtype=torch.float64)
    exact, error = 1.5 * 1.2 / (1 + 1.5**2), math.sqrt(1 / (1 + 1.5**2) / 10_000)
    for objective in (IWAE(100), Renyi(0.5, 100, backward="one")):
        z = objective(toy, rows, None, 1.0, generator(1)).z
        assert z.shape == (10_000, 1)
        assert abs(float(z.mean()) - exact) < 5 * error + 0.005
        assert float(z.var()) == pytest.approx(1 / (1 + 1.5**2), rel=0.06)
    assert (
        abs(float(IWAE(1)(toy, rows, None, 1.0, generator(1)).z.mean()) - 0.2) < 0.05
    )  # of one draw that of q


# ---------------------------------------------------------------- what changes the loss only


def test_beta_and_warmup_change_the_loss_and_not_the_value():
    model, x = a_model(), binary_rows()
    objective = ELBO(warmup=0.5)
    start, middle, end = (objective(model, x, None, p, generator()) for p in (0.0, 0.25, 0.5))
    late = objective(model, x, None, 1.0, generator())
    torch.testing.assert_close(start.value, end.value)
    torch.testing.assert_close(start.value, late.value)
    torch.testing.assert_close(late.loss, -late.value)
    torch.testing.assert_close(end.loss, late.loss)
    torch.testing.assert_close(start.loss + late.kl, late.loss)
    torch.testing.assert_close(middle.loss + 0.5 * late.kl, late.loss)
    heavy = ELBO(beta=4.0)(model, x, None, 1.0, generator())
    torch.testing.assert_close(heavy.value, late.value)
    torch.testing.assert_close(heavy.loss, late.loss + 3 * late.kl)
    both = ELBO(beta=4.0, warmup=0.5)(model, x, None, 0.25, generator())
    torch.testing.assert_close(both.loss, late.loss + late.kl)


def test_free_bits_leave_quiet_units_alone():
    model, x = a_model(), binary_rows()
    plain = ELBO()(model, x, None, 1.0, generator())
    units = model.posterior(x).kl_to_standard_normal().detach()
    per_unit = units.mean(0)
    threshold = float(per_unit.min() + per_unit.max()) / 2
    free = ELBO(free_bits=threshold)(model, x, None, 1.0, generator())
    torch.testing.assert_close(free.value, plain.value)
    quiet = per_unit < threshold
    assert quiet.any()
    assert not quiet.all()
    torch.testing.assert_close(plain.loss - free.loss, units[:, quiet].sum(-1))


def test_forward_kl_is_least_at_the_exact_partial_posterior():
    model, _, x = linear_model(components=1)
    seen = torch.ones_like(x) > 0
    seen[:, :2] = False
    with torch.no_grad():
        z = model.posterior(x).transport(
            torch.randn(1, len(x), model.noise_dim, generator=generator()).double()
        )[0]
        exact = forward_kl(model, x, seen, z).mean()
        for shift in (-0.3, 0.3):
            model.encoder.net[-1].bias[:2] = shift  # the posterior's means
            assert forward_kl(model, x, seen, z).mean() > exact + 0.005
            model.encoder.net[-1].bias[:2] = 0.0
            model.encoder.net[-1].bias[2:] = shift  # and its widths
            assert forward_kl(model, x, seen, z).mean() > exact + 0.005
            model.encoder.net[-1].bias[2:] = 0.0


# ---------------------------------------------------------------- bad input


class Sampled(DiagonalNormal):
    reparameterized = False


class Blunt(VariationalAutoencoder):
    """A model whose posterior lets no gradient through its draws."""

    def posterior(self, x, observed=None):
        q = super().posterior(x, observed)
        return Sampled(q.mean, q.log_scale)


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(gradient="stl"),
        IWAE(3, "dreg"),
        Renyi(-math.inf, 3),
        Renyi(0.5, 3),
        MIWAE(),
        PIWAE(),
        CIWAE(gradient="plain"),
    ],
    ids=str,
)
def test_a_posterior_without_reparameterised_draws_is_refused(objective):
    model = a_model()
    model.__class__ = Blunt
    message = (
        f"gradient='{objective.gradient}' needs a posterior with reparameterised draws, Sampled has none"
    )
    with pytest.raises(ValueError, match=message):
        objective(model, binary_rows(), None, 1.0)


@pytest.mark.parametrize(
    ("arguments", "gradient", "named"),
    [
        ({"posterior": "full"}, "plain", "FullNormal, StandardNormal, 'plain'"),
        ({"prior": "mixture"}, "plain", "DiagonalNormal, DiagonalMixture, 'plain'"),
        ({}, "stl", "DiagonalNormal, StandardNormal, 'stl'"),
    ],
)
def test_free_bits_need_a_closed_form(arguments, gradient, named):
    schema = Schema.infer(binary_rows().numpy(), "binary")
    model = build_vae(schema, Choice(2, (3,), components=3, **arguments)).double()
    with pytest.raises(ValueError, match=rf"free_bits needs the KL of each unit in closed form.*{named}"):
        ELBO(free_bits=0.1, gradient=gradient)(model, binary_rows(), None, 1.0)


COUNTS = [
    (cls, name)
    for cls, names in (
        (ELBO, ["samples"]),
        (IWAE, ["samples"]),
        (Renyi, ["samples"]),
        (MIWAE, ["samples", "groups"]),
        (PIWAE, ["samples", "groups"]),
        (CIWAE, ["samples"]),
    )
    for name in names
]


@pytest.mark.parametrize(("cls", "name"), COUNTS)
@pytest.mark.parametrize("value", [0, -3, True, 2.0, math.nan, "5", None])
def test_counts_are_whole_and_positive(cls, name, value):
    with pytest.raises(ValueError, match=f"{name} must be an int >= 1, got {value!r}"):
        cls(**{name: value})
    assert getattr(cls(**{name: np.int64(3)}), name) == 3


@pytest.mark.parametrize("cls", [ELBO, IWAE, Renyi, MIWAE, PIWAE, CIWAE])
def test_gradients_are_known(cls):
    for wrong in ("score", "", None if cls is not Renyi else 3):
        with pytest.raises(
            ValueError, match=rf"gradient must be one of \['plain', 'stl', 'dreg'\], got {wrong!r}"
        ):
            cls(gradient=wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(warmup=1.0), r"warmup .* must be in \[0, 1\), got 1.0"),
        (lambda: ELBO(warmup=-0.1), "warmup"),
        (lambda: ELBO(warmup=math.nan), "warmup"),
        (lambda: ELBO(warmup="half"), "warmup"),
        (lambda: ELBO(warmup=True), "warmup"),
        (lambda: ELBO(beta=-1.0), "beta must be >= 0, got -1.0"),
        (lambda: ELBO(beta=math.nan), "beta must be >= 0, got nan"),
        (lambda: ELBO(free_bits=-1), "free_bits must be >= 0 nats, got -1"),
        (lambda: ELBO(free_bits=math.nan), "free_bits"),
        (lambda: ELBO(total_correlation=-1), "total_correlation must be >= 0, got -1"),
        (lambda: ELBO(mmd="1"), "mmd must be >= 0, got '1'"),
        (lambda: ELBO(dip=True), "dip must be >= 0, got True"),
        (lambda: CIWAE(1.5), r"beta must be in \[0, 1\], got 1.5"),
        (lambda: CIWAE(-0.1), r"beta must be in \[0, 1\], got -0.1"),
        (lambda: CIWAE(math.nan), "beta"),
        (lambda: Renyi(math.nan), "alpha must be a real number or ±inf, got nan"),
        (lambda: Renyi("0.5"), "alpha must be a real number or ±inf, got '0.5'"),
        (lambda: Renyi(True), "alpha must be a real number or ±inf, got True"),
        (lambda: Renyi(math.inf, gradient="dreg"), "'dreg' does not exist at alpha=inf"),
        (lambda: Renyi(-math.inf, gradient="dreg"), "'dreg' does not exist at alpha=-inf"),
        (lambda: Renyi(backward="some"), r"backward must be one of \['all', 'one'\], got 'some'"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_renyi_chooses_where_it_may():
    for alpha in ALPHAS:
        objective, infinite = Renyi(alpha), math.isinf(alpha)
        assert objective.gradient == ("plain" if infinite else "dreg")
        assert objective.backward == ("one" if infinite else "all")


# ---------------------------------------------------------------- kept
