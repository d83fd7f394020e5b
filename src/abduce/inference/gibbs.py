"""Gibbs sampling and its kin for binary cells and for Boltzmann machines, on many chains at once.

Each kernel leaves a target f(x) ∝ exp(−β E(x) + aᵀx) b(x) as it is, with a unary ``field`` a (what noisy observations say of
single cells), a base b of independent rates, and ``clamp`` the cells that never change: then it is f given those cells.

    BlockGibbs            h ~ P(h | v), v ~ P(v | h) of a restricted machine: all cells at once
    Gibbs                 each cell in turn from its conditional, x_i = 1 with probability σ(log-odds of cell i)
    GibbsWithGradients    proposes to flip the cell i ~ softmax(d/2), with d_i = (1 − 2x_i) ∂log f/∂x_i what the flip is
                          expected to gain, and accepts with probability min(1, f(x') q(i | x') / (f(x) q(i | x)))

Two paths from a base b, normalised over the cells that are not clamped, to exp(−β E), for tempered SMC and AIS:

    BlockGibbsPath        log f_t(v) = t A(v) + Σ_j softplus(t u_j) + (1 − t) (log b(v) − hidden · log 2),   β = 1,
                          with −E(v) = A(v) + Σ_j softplus(u_j): a restricted machine at every t, moved by block Gibbs
    BinaryPath            log f_t(x) = (1 − t) log b(x) − t β E(x), moved by Gibbs with gradients

Sources: Geman & Geman 1984; Salakhutdinov & Murray 2008 (AIS from the base rates); Grathwohl et al. 2021 (arXiv:2102.04509).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.distributions.cells import LOG_2PI
from abduce.inference.energy import Bipartite, Energy, Pairwise, softplus_sum


class State(NamedTuple):
    """Where the chains are: x ``(n, D)``."""

    x: Tensor


class GradientState(NamedTuple):
    """Where the chains are: x ``(n, D)``, log f(x) ``(n,)`` up to a constant, and its gradient there."""

    x: Tensor
    log_density: Tensor
    gradient: Tensor


class Info(NamedTuple):
    """What a step did: acceptance probability ``(n,)``."""

    acceptance: Tensor


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True, eq=False)
class BlockGibbs:
    """Draw all hidden units given the cells, then all cells given the hidden units; β = 1 and no base.

    (exp(−β E(v)) is a restricted machine only for β = 1.)  ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Bipartite
    clamp: Tensor | None = None
    field: Tensor | None = None

    def init(self, x: Tensor) -> State:
        """Start the chains at x."""
        return State(x)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator | None = None) -> tuple[State, Info]:
        """Move every chain once."""
        (old,) = state
        h = _bernoulli(self.model.hidden_logits(old), generator)
        if self.model.support == "binary":
            logits = self.model.visible(h)
            x = _bernoulli(logits if self.field is None else logits + self.field, generator)
        else:
            mean, scale = self.model.visible(h), self.model.visible_scale()
            if self.field is not None:
                mean = mean + scale.square() * self.field
            x = mean + scale * _normal(mean, generator)
        if self.clamp is not None:
            x = torch.where(self.clamp, old, x)
        return State(x), Info(old.new_ones(len(old)))


@dataclass(frozen=True, eq=False)
class Gibbs:
    """Sweep over the cells in order, each drawn from its conditional given the others.

    An Ising energy costs O(D) a cell and chain, its log-odds being kept up to date; any other binary energy costs one
    evaluation a cell.  ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Energy
    beta: float = 1.0
    base: RatesBase | None = None
    clamp: Tensor | None = None
    field: Tensor | None = None

    def __post_init__(self) -> None:
        _check_binary(self.model)

    def init(self, x: Tensor) -> State:
        """Start the chains at x."""
        return State(x)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator | None = None) -> tuple[State, Info]:
        """Move every chain once: one sweep."""
        x = state.x.clone()
        uniform = _uniform(x, generator)
        free = torch.ones_like(x) if self.clamp is None else 1 - self.clamp.to(x).expand_as(x)
        linear = _linear(self.base, self.field)
        sweep = self._sweep_ising if isinstance(self.model, Pairwise) else self._sweep
        return State(sweep(x, uniform, free, linear)), Info(x.new_ones(len(x)))

    def _sweep_ising(self, x: Tensor, uniform: Tensor, free: Tensor, linear: Tensor | float) -> Tensor:
        assert isinstance(self.model, Pairwise)
        coupling = self.beta * self.model.coupling
        fields = self.beta * self.model.local_fields(x) + linear
        for i in range(x.shape[1]):  # a sweep is a sequence: each cell is drawn given those before it
            new = (uniform[:, i] < torch.sigmoid(fields[:, i])).to(x)
            change = free[:, i] * (new - x[:, i])
            x[:, i] += change
            fields.addcmul_(change.unsqueeze(1), coupling[i])
        return x

    def _sweep(self, x: Tensor, uniform: Tensor, free: Tensor, linear: Tensor | float) -> Tensor:
        energy = self.model.energy(x)
        linear = (x.new_zeros(()) + linear).expand_as(x)
        for i in range(x.shape[1]):
            flipped = x.clone()
            flipped[:, i] = 1 - x[:, i]
            other = self.model.energy(flipped)
            gain = self.beta * (energy - other) + (flipped - x)[:, i] * linear[:, i]  # of log f by the flip
            # one uniform number decides what the cell becomes, whatever it was
            up = torch.where(x[:, i] > 0.5, -gain, gain)
            new = torch.where(free[:, i] > 0, (uniform[:, i] < torch.sigmoid(up)).to(x), x[:, i])
            moved = new != x[:, i]
            energy = torch.where(moved, other, energy)
            x[:, i] = new
        return x


@dataclass(frozen=True, eq=False)
class GibbsWithGradients:
    """Propose ``flips`` times to flip the cell that the gradient says gains most, and accept by Metropolis-Hastings.

    For any binary energy whose formula extends to values between 0 and 1.  One evaluation and gradient a flip, whatever D is.
    ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Energy
    beta: float = 1.0
    base: RatesBase | None = None
    clamp: Tensor | None = None
    field: Tensor | None = None
    flips: int = 1

    def __post_init__(self) -> None:
        _check_binary(self.model)
        if self.flips < 1:
            raise ValueError(f"flips must be at least 1, got {self.flips}")

    def _log_density(self, x: Tensor) -> Tensor:
        return (x * _linear(self.base, self.field)).sum(-1) - self.beta * self.model.energy(x)

    def init(self, x: Tensor) -> GradientState:
        """Start the chains at x."""
        return GradientState(x, *_value_and_gradient(self._log_density, x))

    def step(
        self, state: GradientState, generator: torch.Generator | None = None
    ) -> tuple[GradientState, Info]:
        """Move every chain once: ``flips`` proposals."""
        acceptance = torch.zeros_like(state.log_density)
        for _ in range(self.flips):
            state, accepted = _flip(self._log_density, state, self.clamp, generator)
            acceptance += accepted / self.flips
        return state, Info(acceptance)


def _flip(
    log_density: Callable[[Tensor], Tensor],
    state: GradientState,
    clamp: Tensor | None,
    generator: torch.Generator | None,
    shared: bool = False,
) -> tuple[GradientState, Tensor]:
    """One proposal of Gibbs with gradients for chains of any leading axes, and its acceptance probability."""
    x, value, gradient = state

    def log_q(x: Tensor, gradient: Tensor) -> Tensor:
        gain = (1 - 2 * x) * gradient
        if clamp is not None:
            gain = gain.masked_fill(clamp, -torch.inf)
        return torch.log_softmax(gain / 2, -1)

    forward = log_q(x, gradient)
    cumulative = forward.exp().cumsum(-1)
    point = _uniform(value.unsqueeze(-1), generator, shared) * cumulative[..., -1:]
    cell = torch.searchsorted(cumulative, point.expand(*value.shape, 1), right=True).clamp_max(
        x.shape[-1] - 1
    )
    proposal = x.scatter(-1, cell, 1 - x.gather(-1, cell))
    new_value, new_gradient = _value_and_gradient(log_density, proposal)
    backward = log_q(proposal, new_gradient)
    ratio = new_value - value + (backward.gather(-1, cell) - forward.gather(-1, cell)).squeeze(-1)
    acceptance = ratio.nan_to_num(nan=-torch.inf).clamp_max(0.0).exp()  # NaN: a chain with no cell to flip
    accept = _uniform(value, generator, shared) < acceptance
    wide = accept.unsqueeze(-1)
    moved = GradientState(
        torch.where(wide, proposal, x),
        torch.where(accept, new_value, value),
        torch.where(wide, new_gradient, gradient),
    )
    return moved, acceptance


def _value_and_gradient(log_density: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = log_density(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


# ---------------------------------------------------------------- paths


@dataclass(frozen=True, eq=False)
class BlockGibbsPath:
    """The path of restricted machines whose weights grow with t, from ``base`` to ``model`` (β = 1).

    ``base`` is a :class:`RatesBase` for binary cells and a :class:`NormalBase` with a diagonal covariance for real ones.
    Populations may stand for rows with cells that are known: ``x`` and ``observed`` ``(populations, D)``; then ∫ f_1 runs
    over the blank cells.  ``field`` ``(D,)`` or ``(populations, D)`` adds aᵀx to log f_1.  With ``shared`` all populations use
    the same random numbers.
    """

    model: Bipartite
    base: RatesBase | NormalBase
    x: Tensor | None = None
    observed: Tensor | None = None
    field: Tensor | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        _check_base(self.model, self.base)
        _check_given(self.x, self.observed)

    def draw(self, particles: int, populations: int, generator: torch.Generator) -> Tensor:
        """Draw from f_0."""
        return _draw(self, particles, populations, generator)

    def statistic(self, x: Tensor) -> Tensor:
        """A(x) − log b(x) + hidden · log 2, then the inputs u of the hidden units; (particles, populations, 1 + hidden)."""
        u = self.model.hidden_logits(x)
        visible = -self.model.energy(x) - softplus_sum(u)
        if self.field is not None:
            visible = visible + (x * self.field).sum(-1)
        rest = visible - _log_base(self.base, x, self.observed) + u.shape[-1] * math.log(2)
        return torch.cat([rest.unsqueeze(-1), u], -1).double()

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        rest, u = statistic[..., 0], statistic[..., 1:]
        hidden = softplus_sum(new.unsqueeze(-1) * u) - softplus_sum(t.unsqueeze(-1) * u)
        return (new - t) * rest + hidden

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the hidden units at t, then the blank cells; ``size`` does not matter."""
        model, base, t = self.model, self.base, t.unsqueeze(-1)
        h = _bernoulli(t * model.hidden_logits(x), generator, self.shared)
        field = 0.0 if self.field is None else self.field
        if model.support == "binary":
            assert isinstance(base, RatesBase)
            logits = torch.lerp(base.logits, model.visible(h) + field, t)
            new = _bernoulli(logits, generator, self.shared)
        else:
            assert isinstance(base, NormalBase)
            first, last = base.scale.square().reciprocal(), model.visible_scale().square().reciprocal()
            precision = torch.lerp(first, last, t)
            pull = torch.lerp(first * base.mean, last * model.visible(h) + field, t)
            new = pull / precision + _normal(x, generator, self.shared) / precision.sqrt()
        return _clamped(new, x, self.observed), x.new_ones(x.shape[:-1])


@dataclass(frozen=True, eq=False)
class BinaryPath:
    """The geometric path from ``base`` to exp(−β E) of any binary energy, moved by ``flips`` steps of Gibbs with gradients.

    ``x``, ``observed``, ``field`` and ``shared`` as in :class:`BlockGibbsPath`.
    """

    model: Energy
    base: RatesBase
    beta: float = 1.0
    x: Tensor | None = None
    observed: Tensor | None = None
    field: Tensor | None = None
    shared: bool = False
    flips: int = 8

    def __post_init__(self) -> None:
        _check_binary(self.model)
        _check_base(self.model, self.base)
        _check_given(self.x, self.observed)

    def draw(self, particles: int, populations: int, generator: torch.Generator) -> Tensor:
        """Draw from f_0."""
        return _draw(self, particles, populations, generator)

    def _target(self, x: Tensor) -> Tensor:
        log_f = -self.beta * self.model.energy(x)
        return log_f if self.field is None else log_f + (x * self.field).sum(-1)

    def statistic(self, x: Tensor) -> Tensor:
        """log f_1 − log f_0."""
        return (self._target(x) - _log_base(self.base, x, self.observed)).double()

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        return (new - t) * statistic

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Propose ``flips`` flips, one after the other; ``size`` does not matter."""

        def log_density(x: Tensor) -> Tensor:
            base = _log_base(self.base, x, self.observed)
            return torch.lerp(base, self._target(x), t.expand_as(base))

        state = GradientState(x, *_value_and_gradient(log_density, x))
        acceptance = x.new_zeros(x.shape[:-1])
        for _ in range(self.flips):
            state, accepted = _flip(log_density, state, self.observed, generator, self.shared)
            acceptance += accepted / self.flips
        return state.x, acceptance


def _draw(
    path: BlockGibbsPath | BinaryPath, particles: int, populations: int, generator: torch.Generator
) -> Tensor:
    if path.x is not None and len(path.x) != populations:
        raise ValueError(f"populations must be the {len(path.x)} rows of x, got {populations}")
    rows = 1 if path.shared else populations
    new = path.base.sample(particles * rows, generator).unflatten(0, (particles, rows))
    new = new.expand(particles, populations, -1)
    return _clamped(new, path.x, path.observed)


def _log_base(base: RatesBase | NormalBase, x: Tensor, observed: Tensor | None) -> Tensor:
    """log b of the blank cells, (...)."""
    if isinstance(base, RatesBase):
        cells = x * base.logits - torch.nn.functional.softplus(base.logits)
    else:
        cells = -0.5 * ((x - base.mean) / base.scale).square() - base.scale.log() - 0.5 * LOG_2PI
    return (cells if observed is None else cells.masked_fill(observed, 0.0)).sum(-1)


def _clamped(new: Tensor, old: Tensor | None, observed: Tensor | None) -> Tensor:
    return new if old is None or observed is None else torch.where(observed, old, new)


def _linear(base: RatesBase | None, field: Tensor | None) -> Tensor | float:
    """What multiplies x in log f besides the energy, (D,) or (n, D)."""
    return (0.0 if base is None else base.logits) + (0.0 if field is None else field)


def _bernoulli(logits: Tensor, generator: torch.Generator | None, shared: bool = False) -> Tensor:
    """Draw zeros and ones with these log-odds, at least in single precision: uniform numbers in bfloat16 are 1/256 apart."""
    p = torch.sigmoid(logits.float() if logits.dtype.itemsize < 4 else logits)
    uniform = _uniform(p, generator, shared)
    return (uniform < p).to(p.dtype) if shared else uniform.lt_(p)


def _uniform(like: Tensor, generator: torch.Generator | None, shared: bool = False) -> Tensor:
    return torch.rand(_shape(like, shared), generator=generator, dtype=like.dtype, device=like.device)


def _normal(like: Tensor, generator: torch.Generator | None, shared: bool = False) -> Tensor:
    return torch.randn(_shape(like, shared), generator=generator, dtype=like.dtype, device=like.device)


def _shape(like: Tensor, shared: bool) -> tuple[int, ...]:
    """The shape of random numbers; where populations (axis 1) share them, they have one."""
    return (like.shape[0], 1, *like.shape[2:]) if shared else like.shape


def _check_binary(model: Energy) -> None:
    if model.support != "binary":
        raise ValueError(f"model: needs binary cells, but {type(model).__name__} has {model.support} cells")


def _check_base(model: Energy, base: RatesBase | NormalBase) -> None:
    if base.support != model.support:
        raise ValueError(f"base: needs {model.support} cells like the model, got {base.support} ones")
    if isinstance(base, NormalBase) and bool(base.root.tril(-1).any()):
        raise ValueError(
            "base: needs a diagonal covariance, so that cells are independent given the hidden units"
        )


def _check_given(x: Tensor | None, observed: Tensor | None) -> None:
    if (x is None) != (observed is None):
        raise ValueError("x and observed: give both or neither")
