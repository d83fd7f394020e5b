"""Optimal control of linear dynamics with quadratic costs, exact: Riccati's recursion, and its twin for estimation.

    x_{t+1} = A x_t + B u_t + w_t,   w ~ N(0, W)        cost Σ_t x_tᵀQx_t + u_tᵀRu_t + x_HᵀP_Hx_H
    y_t = C x_t + v_t,               v ~ N(0, V)

    K_t = −(R + BᵀP_{t+1}B)⁻¹ BᵀP_{t+1}A,   P_t = Q + K_tᵀRK_t + (A + BK_t)ᵀP_{t+1}(A + BK_t),   u_t = K_t x_t

The least cost from x_0 is x_0ᵀP_0x_0, and with noise Σ_t tr(P_{t+1}W) more.  Where only y is seen, actions follow the Kalman
filter's mean in place of x, by the same gains (certainty equivalence): LQG is a filter and then a regulator.

Matrices are float64: A (S, S), B (S, A), C (Y, S).  Source: Åström 1970; Bertsekas 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Regulator(NamedTuple):
    """Feedback ``gains`` K (H, A, S) and the cost to go ``value`` P (H + 1, S, S)."""

    gains: Tensor
    value: Tensor


class KalmanGains(NamedTuple):
    """Kalman's ``gains`` L (H + 1, S, Y) and the covariance of its error after y_t, ``spread`` (H + 1, S, S)."""

    gains: Tensor
    spread: Tensor


class Lqg(NamedTuple):
    """A filter, a regulator, and the expected ``cost`` of both from a start N(``centre``, ``spread``)."""

    filter: KalmanGains
    regulator: Regulator
    cost: Tensor


def regulator(a: Tensor, b: Tensor, q: Tensor, r: Tensor, end: Tensor, horizon: int) -> Regulator:
    """Gains and cost to go over ``horizon`` steps, by the symmetric form of the recursion.

    >>> eye = torch.eye(1, dtype=torch.float64)
    >>> found = regulator(eye, eye, eye, eye, eye, 30)
    >>> found.value[0]  # the golden ratio
    tensor([[1.6180]], dtype=torch.float64)
    """
    value, gains, values = end, [], [end]
    for _ in range(horizon):
        gain = -torch.linalg.solve(r + b.mT @ value @ b, b.mT @ value @ a)
        closed = a + b @ gain
        value = q + gain.mT @ r @ gain + closed.mT @ value @ closed
        gains.append(gain)
        values.append(value)
    return Regulator(torch.stack(gains[::-1]), torch.stack(values[::-1]))


def kalman(a: Tensor, c: Tensor, w: Tensor, v: Tensor, first: Tensor, horizon: int) -> KalmanGains:
    """Gains of the filter x̂_t = x̄_t + L_t (y_t − C x̄_t) for t = 0, …, ``horizon`` from the prior covariance ``first``."""
    eye = torch.eye(len(a), dtype=a.dtype)
    ahead, gains, spreads = first, [], []
    for _ in range(horizon + 1):
        gain = torch.linalg.solve(c @ ahead @ c.mT + v, c @ ahead).mT
        kept = eye - gain @ c
        spread = kept @ ahead @ kept.mT + gain @ v @ gain.mT
        ahead = a @ spread @ a.mT + w
        gains.append(gain)
        spreads.append(spread)
    return KalmanGains(torch.stack(gains), torch.stack(spreads))


def lqg(
    dynamics: tuple[Tensor, Tensor, Tensor],
    noise: tuple[Tensor, Tensor],
    costs: tuple[Tensor, Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    horizon: int,
) -> Lqg:
    """Filter and regulator of A, B, C with noises W, V, costs Q, R, P_H, from N(centre, spread).

        cost = centreᵀP_0 centre + tr(P_0 spread) + Σ_t tr(P_{t+1} W) + tr(K_tᵀ(R + BᵀP_{t+1}B)K_t Σ_t)

    Σ_t is the error covariance of the filter: what not seeing the state costs.
    """
    (a, b, c), (w, v), (q, r, end), (centre, spread) = dynamics, noise, costs, start
    control = regulator(a, b, q, r, end, horizon)
    estimate = kalman(a, c, w, v, spread, horizon)
    later = control.value[1:]
    weight = control.gains.mT @ (r + b.mT @ later @ b) @ control.gains
    blind = (weight * estimate.spread[:-1]).sum()
    cost = centre @ control.value[0] @ centre + (control.value[0] * spread).sum() + (later * w).sum() + blind
    return Lqg(estimate, control, cost)
