"""Models of series as one: each cell from all of them, weighed by how well they filled cells like it.

What a cell is like is its *situation*: between observed steps, and then how far the nearest observed cell of its feature is;
or beyond the last observed step, and how far; or before the first.  Distances come in doublings (1, 2-3, 4-7, ...).  And how
many steps were seen of its series, few, some or many: who needs a long past is not believed on a short one.

    centre = Σ_m w_m(situation) centre_m,     variance = Σ_m w_m (deviation_m² + (centre_m − centre)²)

Members without an opinion of a cell stand back, the others share their weights.  Intervals and draws use the errors that the
pool made on the hidden cells of the same situation, in units of its deviation, so that they hold what they say whatever the
shape of the errors.  Whole paths take each cell's own distribution and the *order* of draws of a state space: how high a cell
is drawn among the draws goes with how high its neighbours are.

Sources: Bates & Granger 1969 (weighing); Schefzik, Thorarinsdottir & Gneiting 2013 (paths by the ranks of draws).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.data.seen import Seen
from abduce.sequences.paths import Paths, SequenceModel, stretch

DISTANCES = 10  # doublings told apart: the last is 512 steps and more
PLACES = ("inside", "future", "past")
SPANS = (96, 512)  # steps seen of a series, from the first to the last: below, between, from there on
CODES = (len(SPANS) + 1) * len(PLACES) * DISTANCES
LEVELS = 41  # quantiles of errors that are kept
LEAST = 1e-3  # weight below which a member need not be asked


class Situation(NamedTuple):
    """Of each cell of series: ``place`` 0 between observed steps, 1 beyond the last, 2 before the first, ``distance``, the
    doubling of how far the nearest observation is, and ``span``, how many of `SPANS` the steps seen reach; one shape each."""

    place: Tensor
    distance: Tensor
    span: Tensor

    @property
    def code(self) -> Tensor:
        """All as one number below `CODES`."""
        return (self.span * len(PLACES) + self.place) * DISTANCES + self.distance

    @classmethod
    def of_code(cls, code: Tensor) -> Situation:
        """From the number."""
        rest = torch.div(code, DISTANCES, rounding_mode="floor")
        span = torch.div(rest, len(PLACES), rounding_mode="floor")
        return cls(torch.remainder(rest, len(PLACES)), torch.remainder(code, DISTANCES), span)


def situation(mask: Tensor) -> Situation:
    """Where each cell of series with this mask (N, T, F) lies.

    >>> mask = torch.tensor([False, True, False, False, True, False, False]).view(1, 7, 1)
    >>> situation(mask).place.flatten().tolist(), situation(mask).distance.flatten().tolist()
    ([2, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1])
    """
    n, length, f = mask.shape
    at = torch.arange(length).view(1, length, 1)
    step = mask.any(2, keepdim=True)
    last, first = (
        torch.where(step, at, -1).amax(1, keepdim=True),
        torch.where(step, at, length).amin(1, keepdim=True),
    )
    place = torch.where(at > last, 1, torch.where(at < first, 2, 0)).expand(n, length, f)
    before = at - torch.where(mask, at, -(10**6)).cummax(1).values
    after = torch.where(mask, at, 10**6).flip(1).cummin(1).values.flip(1) - at
    near = torch.minimum(before, after)
    beyond = torch.where(place == 1, at - last, first - at).expand(n, length, f)
    away = torch.where(place == 0, near, beyond).clamp(1, 2**DISTANCES - 1)
    span = torch.bucketize((last - first + 1).contiguous(), torch.tensor(SPANS), right=True)
    return Situation(place, torch.log2(away.double() + 0.5).floor().long(), span.expand(n, length, f))


class SequencePool(SequenceModel):
    """``members`` with weights ``shares`` (situations, F, M), and ``errors`` (situations, LEVELS), quantiles of its errors in
    units of its deviation.  ``order`` is the member that says how cells move together, and what is odd."""

    spreads = True
    shares: Tensor
    errors: Tensor

    def __init__(self, members: Sequence[SequenceModel], order: int, reports: Sequence[dict[str, Any]] = ()):
        super().__init__(members[0].n_cells)
        self.members, self.order = torch.nn.ModuleList(members), order
        self.reports = [dict(r) for r in reports]
        equal = torch.full((CODES, self.n_cells, len(members)), 1 / len(members), dtype=torch.float64)
        self.register_buffer("shares", equal)
        usual = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
        self.register_buffer("errors", usual.repeat(CODES, 1))

    @property
    def parts(self) -> list[SequenceModel]:
        return list(self.members)  # pyright: ignore[reportReturnType]

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        code = situation(seen.mask).code
        blank = ~seen.mask
        needed = self.shares[code[blank].unique()].sum((0, 1)) > LEAST
        steps = blank.any(2).any(0)
        first = int(steps.to(torch.uint8).argmax()) if bool(steps.any()) else seen.y.shape[1]
        said = [
            late_answer(member, seen, first, effort) if use else None
            for member, use in zip(self.parts, needed.tolist(), strict=True)
        ]
        empty = torch.full_like(seen.y, torch.nan)
        centres = torch.stack([empty if a is None else a.centre for a in said], 3)
        spreads = torch.stack([empty if a is None else a.deviation for a in said], 3)
        weights = self.shares[code, torch.arange(self.n_cells)]
        centre, deviation = combined(centres, spreads, weights)
        lead = self.parts[self.order]
        return PooledPaths(
            self, seen, centre, deviation, code, lambda: late_answer(lead, seen, first, effort)
        )


def late_answer(member: SequenceModel, seen: Seen, first: int, effort: Effort = EFFORT) -> Paths:
    """A member's answer about the steps from ``first`` on, from as much before them as it remembers; NaN before that."""
    early = 0 if member.memory is None else max(0, first - member.memory)
    if not early:
        return member.answer(seen, effort)  # pyright: ignore[reportReturnType]
    part: Any = member.answer(stretch(seen, early, seen.y.shape[1]), effort)

    def padded(values: Tensor, before: Tensor) -> Tensor:
        return torch.cat([before.expand(*values.shape[:-3], -1, -1, -1), values], -2)

    nothing = torch.full_like(seen.y[:, :early], torch.nan)

    def draw(n: int, generator: Generator) -> Tensor:
        return padded(part.draws(n, generator), seen.y[:, :early])

    return Paths(seen, padded(part.centre, nothing), padded(part.deviation, nothing), None, draw, part.kind)


def combined(centres: Tensor, deviations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a mixture of members (..., M); NaN is no opinion, and weights of the others then sum to one."""
    known = torch.isfinite(centres)
    w = torch.where(known, weights, 0.0)
    total = w.sum(-1, keepdim=True)
    w = torch.where(
        total > 1e-9, w / total.clamp_min(1e-300), known.to(w) / known.sum(-1, keepdim=True).clamp_min(1)
    )
    c = torch.where(known, centres, 0.0)
    centre = (w * c).sum(-1)
    spread = torch.where(known, deviations, 0.0).square() + (c - centre.unsqueeze(-1)).square()
    return centre, (w * spread).sum(-1).sqrt()


class PooledPaths(Paths):
    """The pool's answer: cells by its centre, deviation and kept errors, paths by the ranks of one member's draws."""

    def __init__(
        self,
        pool: SequencePool,
        seen: Seen,
        centre: Tensor,
        deviation: Tensor,
        code: Tensor,
        lead: Callable[[], Paths],
    ):
        super().__init__(seen, centre, deviation, None, self._paths, "pooled")
        self.pool, self.code, self._lead = pool, code, lead

    @property
    def log_evidence(self) -> Tensor:
        """That of the member that says what is odd."""
        return self.pool.parts[self.pool.order].answer(self.seen).log_evidence

    def quantile(self, level: float) -> Tensor:
        """The value that each blank cell lies below with this probability, (N, T, F); observed cells as they are."""
        return self._at(torch.full((1, *self.centre.shape), level, dtype=torch.float64))[0]

    def points(self, count: int) -> Tensor:
        grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return self._at(grid[:, None, None, None].expand(count, *self.centre.shape))

    def draws(self, n: int, generator: Generator, what: str = "rows") -> Tensor:
        if what == "rows":
            return self._paths(n, generator)
        return self._at(torch.rand(n, *self.centre.shape, generator=generator, dtype=torch.float64))

    def _paths(self, n: int, generator: Generator) -> Tensor:
        lead = self._lead()
        drawn = lead.draws(n, generator)
        if n == 1:  # no draws to be ranked among: by the member's own distribution
            z = (drawn - lead.centre) / lead.deviation.clamp_min(1e-12)
            return self._at(torch.special.ndtr(z))
        rank = drawn.argsort(0).argsort(0)
        jitter = torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float64)
        return self._at((rank + jitter) / n)

    def _at(self, level: Tensor) -> Tensor:
        """Values of cells at levels (n, N, T, F) of their distributions."""
        out = self.seen.y.expand(level.shape).clone()
        blank = ~self.seen.mask
        table = self.pool.errors[self.code[blank]]
        place = level[:, blank] * LEVELS - 0.5
        low = place.floor().clamp(0, LEVELS - 2)
        share = place - low
        low = low.long()
        rows = torch.arange(table.shape[0])
        first, second = table[rows, low], table[rows, low + 1]
        # beyond the outermost kept levels errors grow as a normal's do
        outer = torch.special.ndtri(level[:, blank].clamp(1e-9, 1 - 1e-9))
        edge = torch.special.ndtri(torch.tensor(1 - 0.5 / LEVELS, dtype=torch.float64))
        value = first + share.clamp(0, 1) * (second - first)
        value = torch.where(
            outer > edge, second * outer / edge, torch.where(outer < -edge, -first * outer / edge, value)
        )
        out[:, blank] = self.centre[blank] + self.deviation[blank] * value
        return out
