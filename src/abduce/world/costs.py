"""Costs of transitions: what a plan is judged by, given by the user and never changed.

The total cost of a rollout s_0, a_0, s_1, ..., s_H is Σ_t cost(s_t, a_t, s_{t+1}) + terminal(s_H).  Functions take rows
(batch, S), (batch, A), (batch, S) and give (batch,); those that are torch operations have gradients.

Where a cost is a sum of squares, its ``residuals`` r (batch, R) with cost = |r|² make a convex quadratic from first
derivatives alone (Gauss-Newton): gradient 2 Jᵀr, curvature 2 JᵀJ.  Without them it is the positive part of the second
derivatives: negative eigenvalues are set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from abduce.checks import check_number
from abduce.world.products import apply, rows_last, times
from abduce.world.transitions import derivatives

Values = Callable[[Tensor, Tensor, Tensor], Tensor]
ROWS = 2**14  # transitions that a user's function is asked about at once
FLAT = 1e-9  # of the largest curvature: what is taken for none


@dataclass(frozen=True)
class Cost:
    """``cost(obs, action, next_obs)`` with, where there are any, ``terminal(obs)`` and the ``residuals`` of either.

    >>> cost = Cost(lambda obs, action, after: after.square().sum(1) + 0.1 * action.square().sum(1))
    >>> cost(torch.zeros(2, 3, 2), torch.ones(2, 3, 1), torch.ones(2, 3, 2))  # any leading axes
    tensor([[2.1000, 2.1000, 2.1000],
            [2.1000, 2.1000, 2.1000]])
    """

    function: Values
    terminal: Callable[[Tensor], Tensor] | None = None
    residuals: Values | None = None
    terminal_residuals: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(cls, cost: Any) -> Cost:
        """A user's cost: a :class:`Cost`, a :class:`Goal`, or a callable that may have ``terminal`` and ``residuals``."""
        if isinstance(cost, Goal):
            return cls(cost.value, None, cost.residuals)
        if isinstance(cost, cls):
            return cost
        if not callable(cost):
            raise ValueError(f"cost must be a callable cost(obs, action, next_obs) or a Goal, got {cost!r}")
        own: Any = cost
        parts = (getattr(own, name, None) for name in ("terminal", "residuals", "terminal_residuals"))
        return cls(own, *parts)

    def __call__(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Cost of each transition, (...,)."""
        rows = (x.reshape(-1, x.shape[-1]).split(ROWS) for x in (state, action, after))
        found = [_checked("cost", self.function(*some), some) for some in zip(*rows, strict=True)]
        return torch.cat(found).view(state.shape[:-1])

    def end(self, state: Tensor) -> Tensor:
        """Cost of each last state, (...,); zero where the user gave none."""
        if self.terminal is None:
            return state.new_zeros(state.shape[:-1])
        rows = state.reshape(-1, state.shape[-1])
        return _checked("cost.terminal", self.terminal(rows), [rows]).view(state.shape[:-1])

    def quadratic(
        self, state: Tensor, action: Tensor, after: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient (D, N) and curvature (D, D, N), not negative, of the cost in a state (N, S) and its action (N, A) together,
        D = S + A; ``slopes`` (S, D, N) say how the next state moves with both."""
        s = state.shape[-1]
        both = torch.cat([state, action], -1)
        if self.residuals is None:
            of = self.function
            gradient, curvature = _second(lambda x, y: of(x[..., :s], x[..., s:], y), both, after)
            d = both.shape[1]
            direct, through = gradient[:d], gradient[d:]
            cross = times(curvature[:d, d:], slopes)
            inner = times(slopes.transpose(0, 1), times(curvature[d:, d:], slopes))
            whole = curvature[:d, :d] + cross + cross.transpose(0, 1) + inner
            return direct + apply(slopes.transpose(0, 1), through), whole
        parts = self.residuals
        direct, through = derivatives(lambda x, y: parts(x[..., :s], x[..., s:], y), both, after)
        jacobian = rows_last(direct) + times(rows_last(through), slopes)
        return _gauss_newton(parts(state, action, after), jacobian)

    def quadratic_end(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (S, N) and curvature (S, S, N) of the terminal cost."""
        none = state[..., :0]
        if self.terminal_residuals is not None:
            parts = self.terminal_residuals
            slopes, _ = derivatives(lambda x, _: parts(x), state, none)
            return _gauss_newton(parts(state), rows_last(slopes))
        if self.terminal is None:
            zero = state.new_zeros(state.shape[1], state.shape[1], len(state))
            return zero[0], zero
        end = self.terminal
        return _second(lambda x, _: end(x), state, none)


@dataclass(frozen=True)
class Goal:
    """A state to come to: cost = Σ ((next_obs − obs) / tolerance)² + effort ‖action‖², a step.

    NaN in ``obs`` are cells that do not matter; ``tolerance`` is a number, or one a cell, in the units of observations.

    >>> goal = Goal([1.0, float("nan")], tolerance=0.5)
    >>> goal.value(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 2))
    tensor([4.])
    """

    obs: Sequence[float] | Tensor
    tolerance: float | Sequence[float] | Tensor = 1.0
    effort: float = 0.0
    _target: Tensor = field(init=False, repr=False, compare=False)
    _rate: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        target = torch.as_tensor(self.obs, dtype=torch.float64)
        tolerance = torch.as_tensor(self.tolerance, dtype=torch.float64)
        if target.ndim != 1 or bool(target.isnan().all()):
            raise ValueError(
                f"obs must be one state with a cell that is not NaN, got shape {tuple(target.shape)}"
            )
        if not bool((tolerance > 0).all()) or tolerance.shape not in ((), target.shape):
            raise ValueError(
                f"tolerance must be a number > 0 or one for each cell of obs, got {self.tolerance!r}"
            )
        check_number("effort", self.effort, 0.0)
        matters = ~target.isnan()
        object.__setattr__(self, "_target", target.nan_to_num())
        object.__setattr__(self, "_rate", matters / tolerance)

    def residuals(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """r (batch, S + A) with cost = |r|²."""
        far = (next_obs - self._target.to(next_obs)) * self._rate.to(next_obs)
        return torch.cat([far, self.effort**0.5 * action], -1)

    def value(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """The cost (batch,)."""
        return self.residuals(obs, action, next_obs).square().sum(-1)


def _checked(name: str, value: Any, rows: Sequence[Tensor]) -> Tensor:
    """The user's values, infinite where states have left the numbers; anything else that is no number a row is refused."""
    n = len(rows[0])
    if not isinstance(value, Tensor) or value.shape != (n,):
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return a tensor of shape ({n},), one number a row, got {came}")
    bad = value.isnan()
    if bool(bad.any()):
        whole = torch.stack([x.isfinite().all(1) for x in rows]).all(0)
        if bool((bad & whole).any()):
            raise ValueError(
                f"{name} must return numbers, got NaN for {int((bad & whole).sum())} of {n} rows"
            )
        value = torch.where(bad, torch.inf, value)
    return value


def _gauss_newton(r: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (D, N) and curvature (D, D, N) of |r|² for residuals (N, R) and their slopes (R, D, N)."""
    twice = 2 * jacobian.transpose(0, 1)
    return apply(twice, rows_last(r)), times(twice, jacobian)


def _second(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and the positive part of second derivatives of rows' values in x and y together, rows last."""
    n = x.shape[-1]

    def total(rows: Tensor) -> Tensor:
        return function(rows[..., :n], rows[..., n:]).sum()

    slope = torch.func.grad(total)
    joined = torch.cat([x, y], -1)
    curvature, _ = derivatives(lambda rows, _: slope(rows), joined, joined[..., :0])
    return rows_last(slope(joined)), rows_last(positive_part(curvature))


def positive_part(matrix: Tensor) -> Tensor:
    """Symmetric matrices (N, D, D) with their negative eigenvalues set to zero; those that have none stay as they are.

    >>> positive_part(torch.tensor([[[2.0, 0.0], [0.0, -3.0]]]))
    tensor([[[2., 0.],
             [0., 0.]]])
    """
    matrix = 0.5 * (matrix + matrix.mT)
    size = matrix.diagonal(dim1=1, dim2=2).abs().amax(1).clamp_min(torch.finfo(matrix.dtype).tiny)
    slack = (size * max(FLAT, 10 * torch.finfo(matrix.dtype).eps)).view(-1, 1, 1)
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    failed = torch.linalg.cholesky_ex(matrix + slack * eye).info > 0
    if bool(failed.any()):
        values, vectors = torch.linalg.eigh(matrix[failed])
        matrix = matrix.clone()
        matrix[failed] = (vectors * values.clamp_min(0.0).unsqueeze(1)) @ vectors.mT
    return matrix
