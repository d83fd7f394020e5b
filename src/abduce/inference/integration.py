"""log Z by adding up everything: all states of a binary energy, a grid under a real one.

    binary     Z = Σ_x exp(−β E(x)) b(x)  over the 2^D rows of zeros and ones, D ≤ 20                      exact
    real       Z ≈ h^D Σ_g exp(−β E(g)) b(g)  over the midpoints g of a grid of spacing h, D ≤ 3         quadrature

b = 1 without a base.  Sums run in chunks; where gradients are wanted a chunk keeps none of its intermediate results but
computes them once more on the way back (checkpointing), so memory does not grow with the number of points.

An integral over all of R^D is a sum over dyadic shells: a box, then the part of the box twice as large that is outside of
the one before, and so on, each with a grid of its own, so that the spacing grows with the distance from the middle.  The
error is what changes when every grid is doubled, plus what is still outside: shells that shrink by a factor r leave
r / (1 − r) of the last.  Where they do not shrink, Z is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.distributions.bases import BoxBase
from abduce.inference.energy import Base, Energy, LogZ, log_density
from abduce.inference.flips import ENUMERABLE, log_sum, log_sum_states

WIDTH = 16  # numbers that an energy may hold for each cell of a state
CHUNK = 1 << 15  # points at once
START = 6.0  # half the width of the first box, in standard deviations
COARSE = {1: 256, 2: 128, 3: 32}  # points along an axis of the first grid, by the number of cells
FINE = {1: 1 << 16, 2: 1 << 11, 3: 1 << 7}  # and of the last
TOLERANCE = {1: 1e-5, 2: 1e-5, 3: 1e-3}  # nats: in three cells a finer grid has eight times as many points
RISES = 5  # shells in a row that hold more than the one before, and Z is infinite: data are not that far away
SHELLS = 16


def _zero(energy: Energy) -> Tensor:
    """A number of the type and on the device of the energy's."""
    tensors = (*energy.parameters(), *energy.buffers())
    return next((t.new_zeros(()) for t in tensors if t.is_floating_point()), torch.zeros(()))


def log_z_by_enumeration(
    energy: Energy, beta: float | Tensor = 1.0, base: Base | None = None, width: int | None = None
) -> Tensor:
    """log Σ_x exp(−β E(x)) b(x) over all binary x, nats: a differentiable scalar.

    ``width`` is how many numbers the energy holds for each state (None: 16 a cell).  At most 20 cells.
    """
    d = energy.n_cells
    if energy.support != "binary" or d > ENUMERABLE:
        raise ValueError(
            f"enumeration needs at most {ENUMERABLE} binary cells, got {d} {energy.support} ones of "
            f"{type(energy).__name__}"
        )
    return log_sum_states(lambda x: log_density(energy, x, beta, base), d, width or WIDTH * d, _zero(energy))


def log_z_on_grid(
    energy: Energy,
    low: Tensor,
    high: Tensor,
    points: int,
    beta: float | Tensor = 1.0,
    base: Base | None = None,
    shift: Tensor | None = None,
    hollow: bool = False,
) -> Tensor:
    """log ∫ exp(−β E) b over the box low < x < high by the midpoint rule, ``points`` an axis: a differentiable scalar, nats.

    ``shift`` (D,), in (−½, ½), moves the grid by that share of its spacing.  A ``hollow`` box is without the box half as
    wide in its middle (``points`` a multiple of 4, so that the grid's cells are inside or outside).
    """
    d = energy.n_cells
    low, high = low.to(_zero(energy)), high.to(_zero(energy))
    spacing = (high - low) / points
    middle = 0.5 if shift is None else 0.5 + shift.to(low)
    powers = torch.tensor([points**i for i in range(d - 1, -1, -1)], device=low.device)

    def part(start: int, stop: int) -> Tensor:
        index = torch.arange(start, stop, device=low.device).unsqueeze(-1) // powers % points
        if hollow:
            inside = ((index >= points // 4) & (index < 3 * points // 4)).all(-1)
            index = index[~inside]
        return log_density(energy, low + spacing * (index + middle), beta, base)

    return log_sum(part, points**d, CHUNK) + spacing.log().sum()


def _first_box(energy: Energy, base: Base | None) -> tuple[Tensor, Tensor]:
    """Six standard deviations about the mean: the base's where it has them, else those of standardised cells."""
    zero = _zero(energy).expand(energy.n_cells)
    if isinstance(base, BoxBase):
        return base.low.to(zero), base.high.to(zero)
    mean, scale = getattr(base, "mean", zero), getattr(base, "scale", zero + 1)
    return (mean - START * scale).to(zero), (mean + START * scale).to(zero)


def _log_sum(values: Iterable[float]) -> float:
    """log Σ exp, of nothing −∞."""
    return float(torch.tensor([-math.inf, *values], dtype=torch.float64).logsumexp(0))


class _Part(NamedTuple):
    """A box or a shell: the log of its mass, of the mass's change on the last doubling of the grid, points an axis."""

    mass: float
    change: float
    points: int


def _refined(log_mass: Callable[[int], Tensor], points: int, finest: int, bar: float, inside: float) -> _Part:
    """Double a grid until its mass changes by less than the share e^bar of it and the mass inside, or it is the finest."""
    value = float(log_mass(points))
    while True:
        points *= 2
        before, value = value, float(log_mass(points))
        apart = -abs(before - value)  # NaN where both are −∞: nothing has changed
        change = max(before, value) + math.log(-math.expm1(apart)) if apart < 0 else -math.inf
        if change <= bar + _log_sum([value, inside]) or points >= finest:
            return _Part(value, change, points)


@torch.no_grad()
def log_z_by_quadrature(
    energy: Energy, base: Base | None = None, beta: float = 1.0, tolerance: float | None = None
) -> LogZ:
    """log ∫ exp(−β E) b over R^D (over the box of a :class:`BoxBase`), D ≤ 3, to about ``tolerance`` nats; kind "quadrature".

    ``tolerance`` None is 1e-5, or 1e-3 in three cells.  The interval is the change on doubling the grids and growing the box.
    Wells narrower than about 1/40 of a standard deviation (1/10 in three cells) can fall between the points.  Raises
    ``ValueError`` where the mass keeps growing with the box: Z is infinite, and a base measure is needed.
    """
    if energy.support != "real" or energy.n_cells > 3:
        raise ValueError(
            f"quadrature needs at most 3 real cells, got {energy.n_cells} {energy.support} ones of "
            f"{type(energy).__name__}"
        )
    infinite = (
        f"the integral of exp(−{beta:g} E) of {type(energy).__name__} is infinite: its mass keeps growing with the box. "
        "Give a base measure, such as NormalBase.fit(x) or BoxBase.fit(x)"
    )
    if base is None and not energy.proper:
        raise ValueError(infinite)
    low, high = _first_box(energy, base)
    parts: list[_Part] = []
    outside, rises = -math.inf, 0
    bar = math.log(TOLERANCE[energy.n_cells] if tolerance is None else tolerance)
    while True:
        inside = _log_sum(part.mass for part in parts)
        mass = partial(log_z_on_grid, energy, low, high, beta=beta, base=base, hollow=bool(parts))
        grid = COARSE[energy.n_cells], FINE[energy.n_cells]
        parts.append(_refined(mass, *grid, bar, inside))
        if isinstance(base, BoxBase):
            break
        if len(parts) > 1:
            growth = parts[-1].mass - parts[-2].mass if parts[-1].mass > -math.inf else -math.inf
            rises = rises + 1 if growth >= 0 else 0
            if rises >= RISES or (len(parts) == SHELLS and growth > math.log(0.9)):
                raise ValueError(infinite)
            outside = parts[-1].mass + growth - math.log1p(-math.exp(growth)) if growth < 0 else math.inf
            if outside - inside < bar or len(parts) == SHELLS:
                break
        low, high = 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low
    total = _log_sum(part.mass for part in parts)
    error = math.exp(_log_sum([*(part.change for part in parts), outside]) - total)
    points = max(part.points for part in parts)
    found = {"method": "quadrature", "boxes": len(parts), "points": points, "error": error}
    return LogZ(total, total - error, total + error, "quadrature", found)
