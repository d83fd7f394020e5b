"""Variational bounds: their order, their gradients, and what warm-up and free bits may change."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, quadrature, shaken, some_seen

from abduce.objectives.bounds import ELBO, IWAE, forward_kl


def binary_rows() -> torch.Tensor:
    return torch.tensor(
        [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64
    )


def a_model(seed: int = 0):
    model, _ = plain_model(seed=seed)
    return shaken(model, 0.15, seed)


def average(objective, model, x, observed=None, repeats: int = 4000) -> tuple[float, float]:
    """Mean bound over rows and fresh draws, with its standard error."""
    many = x.repeat(repeats, 1)
    seen = None if observed is None else observed.repeat(repeats, 1)
    with torch.no_grad():
        value = objective(model, many, seen, 1.0, generator(3)).value.view(repeats, -1).mean(1)
    return float(value.mean()), float(value.std() / math.sqrt(repeats))


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
    assert values[-1][0] == pytest.approx(exact, abs=0.05)


def test_every_bound_is_the_log_probability_where_the_posterior_is_exact():
    model, path, x = linear_model(components=3)
    seen = some_seen(x)
    x = x * seen
    exact = path.log_prob(x, seen)
    for objective in (ELBO(), IWAE(1), IWAE(7), IWAE(7, "plain")):
        with torch.no_grad():
            bound = objective(model, x, seen, 1.0, generator())
        torch.testing.assert_close(bound.value, exact, atol=2e-3, rtol=0)


def gradient(objective, model, x, repeats: int, seed: int) -> torch.Tensor:
    """Average gradient over ``repeats`` draws, all parameters in one vector."""
    model.zero_grad()
    objective(model, x.repeat(repeats, 1), None, 1.0, generator(seed)).loss.mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def gradients(objective, model, x, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = torch.stack([gradient(objective, model, x, 500, seed + i) for i in range(60)])
    return parts.mean(0), parts.std(0) / math.sqrt(len(parts))


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("path", [False, True])
def test_the_doubly_reparameterised_gradient_has_the_plain_ones_mean(samples, path):
    if path:
        model, _, x = linear_model(d=3, k=1, components=2, hidden=(4,))
        shaken(model, 0.1)
        x = x[:3]
    else:
        model, x = a_model(), binary_rows()
    plain, e_plain = gradients(IWAE(samples, "plain"), model, x, 1000)
    dreg, e_dreg = gradients(IWAE(samples, "dreg"), model, x, 5000)
    z = (plain - dreg) / (e_plain.square() + e_dreg.square() + 1e-16).sqrt()
    assert z.abs().max() < 4.8  # some hundred parameters at once
    assert z.square().mean() < 4  # many parameters, all from the same draws
    assert plain.norm() > 0.1


def test_at_the_exact_posterior_the_encoders_gradient_has_no_noise():
    """Every path derivative of log w vanishes there, which the plain estimator only reaches on average."""
    model, _, x = linear_model(d=4, k=2, hidden=(4,))

    def encoder_gradient(kind: str) -> float:
        gradient(IWAE(4, kind), model, x[:5], 1, 0)
        return max(float(p.grad.abs().max()) for n, p in model.named_parameters() if n.startswith("encoder"))

    assert encoder_gradient("dreg") < 1e-5
    assert encoder_gradient("plain") > 1e-2


def test_elbo_gradient_is_that_of_the_bound():
    model, x = a_model(), binary_rows()
    elbo, e0 = gradients(ELBO(), model, x, 1000)
    plain, e1 = gradients(IWAE(1, "plain"), model, x, 5000)
    z = (elbo - plain) / (e0.square() + e1.square() + 1e-16).sqrt()
    assert z.abs().max() < 4.8
    assert z.square().mean() < 4  # many parameters, all from the same draws


def test_warmup_changes_the_loss_and_not_the_value():
    model, x = a_model(), binary_rows()
    objective = ELBO(warmup=0.5)
    start, middle, end = (objective(model, x, None, p, generator()) for p in (0.0, 0.25, 0.5))
    late = objective(model, x, None, 1.0, generator())
    torch.testing.assert_close(start.value, end.value)
    torch.testing.assert_close(start.value, late.value)
    torch.testing.assert_close(late.loss, -late.value)
    torch.testing.assert_close(end.loss, late.loss)
    assert late.kl is not None
    torch.testing.assert_close(start.loss + late.kl.sum(-1), late.loss)
    torch.testing.assert_close(middle.loss + 0.5 * late.kl.sum(-1), late.loss)


def test_free_bits_leave_quiet_units_alone():
    model, x = a_model(), binary_rows()
    plain = ELBO()(model, x, None, 1.0, generator())
    assert plain.kl is not None
    per_unit = plain.kl.mean(0)
    threshold = float(per_unit.min() + per_unit.max()) / 2
    free = ELBO(free_bits=threshold)(model, x, None, 1.0, generator())
    torch.testing.assert_close(free.value, plain.value)
    quiet = per_unit < threshold
    assert quiet.any()
    assert not quiet.all()
    torch.testing.assert_close(plain.loss - free.loss, plain.kl[:, quiet].sum(-1))


def test_kl_is_reported_where_it_has_a_closed_form():
    bound = ELBO()(a_model(), binary_rows(), None, 1.0, generator())
    assert bound.kl is not None
    assert bound.kl.shape == (3, 2)
    assert (bound.kl >= 0).all()
    assert not bound.z.requires_grad
    assert IWAE(2)(a_model(), binary_rows(), None, 1.0, generator()).kl is None
    model, _, x = linear_model()
    assert ELBO()(model, x, None, 1.0, generator()).kl is None


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(warmup=1.0), r"warmup .* must be in \[0, 1\), got 1.0"),
        (lambda: ELBO(warmup=-0.1), "warmup"),
        (lambda: ELBO(free_bits=-1), "free_bits must be >= 0 nats, got -1"),
        (lambda: ELBO(free_bits=math.nan), "free_bits"),
        (lambda: IWAE(0), "samples must be at least 1, got 0"),
        (lambda: IWAE(3, "score"), "gradient must be 'dreg' or 'plain', got 'score'"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
