"""Riccati's recursion and LQG against a figure, SciPy, dense least squares and covariances carried along."""

import numpy as np
import scipy.linalg
import torch
from worlds_for_tests import double_integrator

from abduce.world.planners.riccati import kalman, lqg, regulator

F64 = {"dtype": torch.float64}


def test_figure_of_the_double_integrator():
    found = regulator(*double_integrator(), 50)
    known = torch.tensor([[13.3163, 3.2012], [3.2012, 4.6034]], **F64)
    assert torch.allclose(found.value[0], known, atol=5e-5, rtol=0)


def test_plan_is_that_of_dense_least_squares():
    """All actions at once: x = Φ x_0 + Γ u, a single quadratic in u."""
    a, b, q, r, end = double_integrator()
    h = 30
    found = regulator(a, b, q, r, end, h)
    x0 = torch.tensor([1.0, -2.0], **F64)
    powers = [torch.linalg.matrix_power(a, t) for t in range(h + 1)]
    phi = torch.cat(powers)
    gamma = torch.zeros(2 * (h + 1), h, **F64)
    for t in range(h):
        for later in range(t + 1, h + 1):
            gamma[2 * later : 2 * later + 2, t : t + 1] = powers[later - t - 1] @ b
    weight = torch.block_diag(*[q] * h, end)
    u = -torch.linalg.solve(
        gamma.T @ weight @ gamma + r.item() * torch.eye(h, **F64), gamma.T @ weight @ phi @ x0
    )
    x, taken = x0, []
    for gain in found.gains:
        taken.append(gain @ x)
        x = a @ x + b @ taken[-1]
    assert torch.allclose(torch.cat(taken), u, atol=1e-8, rtol=0)
    states = phi @ x0 + gamma @ u
    cost = states @ weight @ states + r.item() * u @ u
    assert torch.allclose(x0 @ found.value[0] @ x0, cost, rtol=1e-10)


def test_long_horizon_is_the_algebraic_equation():
    a, b, q, r, end = double_integrator()
    found = regulator(a, b, q, r, end, 1000)
    known = scipy.linalg.solve_discrete_are(*(m.numpy() for m in (a, b, q, r)))
    assert np.allclose(found.value[0].numpy(), known, atol=1e-8, rtol=0)
    c, w, v = torch.tensor([[1.0, 0.0]], **F64), 0.01 * torch.eye(2, **F64), 0.1 * torch.eye(1, **F64)
    spread = kalman(a, c, w, v, torch.eye(2, **F64), 1000).spread[-1]
    ahead = scipy.linalg.solve_discrete_are(*(m.numpy() for m in (a.T, c.T, w, v)))
    assert np.allclose((a @ spread @ a.T + w).numpy(), ahead, atol=1e-8, rtol=0)


def expected_cost(world, noise, costs, start, gains, filters):
    """Expected cost of u_t = K_t x̂_t with x̂ by gains L_t, from the mean and covariance of (x, x̂) carried along."""
    (a, b, c), (w, v), (q, r, end), (centre, spread) = world, noise, costs, start
    s = len(a)
    eye, zero = torch.eye(s, **F64), torch.zeros(s, s, **F64)
    mean = torch.cat([centre, centre])  # of x and x̂ before y
    covariance = torch.block_diag(spread, zero)
    cost = torch.zeros((), **F64)
    for t in range(len(gains)):
        look = torch.cat([torch.cat([eye, zero], 1), torch.cat([filters[t] @ c, eye - filters[t] @ c], 1)])
        grain = torch.block_diag(zero, filters[t] @ v @ filters[t].T)
        mean, covariance = look @ mean, look @ covariance @ look.T + grain
        weight = torch.block_diag(q, gains[t].T @ r @ gains[t])
        cost = cost + mean @ weight @ mean + (weight * covariance).sum()
        step = torch.cat([torch.cat([a, b @ gains[t]], 1), torch.cat([zero, a + b @ gains[t]], 1)])
        mean, covariance = step @ mean, step @ covariance @ step.T + torch.block_diag(w, zero)
    weight = torch.block_diag(end, zero)
    return cost + mean @ weight @ mean + (weight * covariance).sum()


def test_lqg_is_kalman_then_lqr():
    """Its cost is that of covariances carried along, and no gain of either part can be bettered."""
    a, b, q, r, end = double_integrator()
    world = (a, b, torch.tensor([[1.0, 0.0]], **F64))
    noise = (0.02 * torch.eye(2, **F64), 0.1 * torch.eye(1, **F64))
    start = (torch.tensor([2.0, 0.5], **F64), 0.3 * torch.eye(2, **F64))
    found = lqg(world, noise, (q, r, end), start, 20)
    gains = found.regulator.gains.clone().requires_grad_()
    filters = found.filter.gains.clone().requires_grad_()
    cost = expected_cost(world, noise, (q, r, end), start, gains, filters)
    assert torch.allclose(found.cost, cost.detach(), rtol=1e-10)
    slopes = torch.autograd.grad(cost, (gains, filters))
    assert max(float(g.abs().max()) for g in slopes) < 1e-9
    worse = expected_cost(world, noise, (q, r, end), start, gains * 1.1, filters)
    assert float(worse.detach()) > float(cost.detach()) + 1e-3
