"""Worlds whose equations are known, for tests and benchmarks: linear ones, a pendulum, a car in a valley."""

import math

import torch

from abduce.world.actions import Box
from abduce.world.costs import Cost
from abduce.world.equations import Equations


def double_integrator(dt=0.1):
    """A, B, Q, R, P_H of a mass that is pushed: position and speed."""
    f64 = {"dtype": torch.float64}
    a, b = torch.tensor([[1.0, dt], [0.0, 1.0]], **f64), torch.tensor([[dt * dt / 2], [dt]], **f64)
    return a, b, torch.eye(2, **f64), 0.1 * torch.eye(1, **f64), torch.eye(2, **f64)


def linear(a, b, noise=0.0):
    return Equations(lambda s, u: s @ a.to(s).mT + u @ b.to(s).mT, *b.shape, noise)


def quadratic(q, r, end, residuals=True):
    """x'Qx + u'Ru of each state but the last, whose cost is x'Px."""
    roots = [torch.linalg.cholesky(m).mT for m in (q, r, end)]

    def value(obs, action, after):
        return ((obs @ q.to(obs)) * obs).sum(1) + ((action @ r.to(obs)) * action).sum(1)

    def parts(obs, action, after):
        return torch.cat([obs @ roots[0].to(obs).mT, action @ roots[1].to(obs).mT], -1)

    return Cost(
        value,
        lambda obs: ((obs @ end.to(obs)) * obs).sum(1),
        parts if residuals else None,
        (lambda obs: obs @ roots[2].to(obs).mT) if residuals else None,
    )


PENDULUM_BOX = Box.of(-2.0, 2.0)


def pendulum():
    """Gymnasium's Pendulum-v1: observations (cos θ, sin θ, θ'), torque in [-2, 2], .05 s a step, speed within 8."""

    def step(obs, action):
        cos, sin, speed = obs.unbind(-1)
        torque = action[..., 0].clamp(-2.0, 2.0)
        speed = (speed + 0.05 * (15.0 * sin + 3.0 * torque)).clamp(-8.0, 8.0)
        turn = 0.05 * speed
        c, s = turn.cos(), turn.sin()
        return torch.stack([cos * c - sin * s, sin * c + cos * s, speed], -1)

    return Equations(step, 3, 1)


def pendulum_cost():
    """θ² + .1 θ'² + .001 a² of the state that is left, as in Pendulum-v1."""

    def value(obs, action, after):
        angle = torch.atan2(obs[..., 1], obs[..., 0])
        return angle.square() + 0.1 * obs[..., 2].square() + 0.001 * action[..., 0].square()

    def residuals(obs, action, after):
        angle = torch.atan2(obs[..., 1], obs[..., 0])
        return torch.stack([angle, math.sqrt(0.1) * obs[..., 2], math.sqrt(0.001) * action[..., 0]], -1)

    return Cost(value, None, residuals)


def pendulum_starts(seeds, dtype=torch.float32):
    """Observations that Pendulum-v1 is reset to: angle and speed uniform in ±π and ±1, NumPy's generator of each seed."""
    import numpy as np

    high = np.array([np.pi, 1.0])
    drawn = np.stack([np.random.Generator(np.random.PCG64(s)).uniform(-high, high) for s in seeds])
    angle, speed = torch.as_tensor(drawn, dtype=dtype).unbind(1)
    return torch.stack([angle.cos(), angle.sin(), speed], 1)
