"""Models of the same rows as one: pooled by weights that come from predicting cells hidden from them.

    p(x_b | x_o) = Σ_m w_m p_m(x_b | x_o),      log p(x) = log Σ_m v_m p_m(x)

Any model may be a member.  Weights w are those of numbers and of classes when cells are filled, v those of whole rows when
they are scored: a fill and a score come from different weights, and the answer's kind, "pooled", says so.  Forests may revise
what the members together say of a cell, given the rows that they completed (:class:`~abduce.models.forests.Forests`).  Draws
of one cell have the mean that a fill gives: some are taken more often, others less (:mod:`~abduce.models.tilting`).

Given what was seen, the posterior of the density would ask one member only, since in many cells one p_m is far above the
others though all fill alike; an average has the mean squared error of the members less their spread about it.

Sources: Wolpert 1992, Breiman 1996 (stacking); Stone 1961 (the linear opinion pool); Krogh & Vedelsby 1995 (the ambiguity
decomposition).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Answer, Effort, joined
from abduce.answers.exact import padded_chunks
from abduce.data.schema import Schema
from abduce.data.seen import Seen, Unanswerable
from abduce.data.units import Units
from abduce.models.forests import Forests
from abduce.models.model import Model, draw_classes
from abduce.models.oddness import Oddness
from abduce.models.tilting import tilted

FEWEST = 64  # draws that a cell's own distribution is made of, at least


class Pool(Model):
    """``members`` of a ``schema``'s rows, with weights (M,) of ``numbers``, of ``classes`` and of ``rows``, equal by default.

    ``repeats`` (D',) marks numbers that often repeat a value: where one of these is blank, draws come from members that
    repeat values as often as the data do, ``atoms`` (M,).  ``spread`` (D',) scales the deviations of the others' draws from
    their mean, so that intervals hold what they should.  ``codes`` are the members whose latents the pool gives.  ``reports``
    say of each member its name and how it did.  ``forests`` revise cells; ``odd`` tells odd rows.
    """

    numbers: Tensor
    classes: Tensor
    rows: Tensor
    oddness: Oddness | None

    def __init__(
        self,
        schema: Schema,
        members: Sequence[Model],
        weights: tuple[Tensor, Tensor, Tensor] | None = None,
        spread: Sequence[float] | None = None,
        repeats: Sequence[bool] | None = None,
        atoms: Sequence[bool] | None = None,
        codes: Sequence[int] = (0,),
        reports: Sequence[dict[str, Any]] = (),
        forests: Forests | None = None,
        odd: Oddness | None = None,
    ):
        super().__init__()
        if not members:
            raise ValueError("members must hold at least one model, got none")
        self.schema, self.layout, self.n_cells = schema, schema.layout, schema.n_cells
        self.members, self.forests = torch.nn.ModuleList(members), forests
        self.spread = None if spread is None else [float(s) for s in spread]
        self.repeats = [False] * len(self.layout.numbers) if repeats is None else [bool(r) for r in repeats]
        self.atoms = [False] * len(members) if atoms is None else [bool(a) for a in atoms]
        self.codes, self.reports = list(codes), [dict(r) for r in reports]
        equal = torch.full((len(members),), 1 / len(members), dtype=torch.float64)
        for name, given in zip(("numbers", "classes", "rows"), weights or (equal, equal, equal), strict=True):
            self.register_buffer(name, given.clone())
        self.oddness = odd
        self.units = Units(schema)

    @property
    def config(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {
            "schema": self.schema.to_json(),
            "members": [{"family": type(m).__name__, "config": m.config} for m in self.parts],
            "spread": self.spread,
            "repeats": self.repeats,
            "atoms": self.atoms,
            "codes": self.codes,
            "reports": self.reports,
            "forests": self.forests and self.forests.config,
            "odd": None if self.oddness is None else self.oddness.config,
        }

    @property
    def odd(self) -> Oddness | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What tells odd rows, if anything better than log p."""
        return self.oddness

    @property
    def parts(self) -> list[Model]:
        return list(self.members)  # pyright: ignore[reportReturnType]

    @cached_property
    def views(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What any member answers; those that can't stand back."""
        return frozenset().union(*(m.views for m in self.parts))

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer:
        self.check(seen)
        return _Pooled(self, seen, effort)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw rows (n, D) of the density that scores give: a member each by the weights of rows.

        Where a number repeats values, members that do so draw all rows: a density has no spikes.
        """
        weights = self.share(self.rows) if any(self.repeats) else self.rows
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        out = torch.zeros(n, self.n_cells, dtype=torch.float64)
        for m in chosen.unique().tolist():
            rows = (chosen == m).nonzero().squeeze(1)
            out[rows] = self.parts[m].sample(len(rows), generator).double()
        return out

    def share(self, weights: Tensor) -> Tensor:
        """Weights of the members that repeat values, none of them nothing; of all where none does."""
        if not any(self.atoms):
            return weights
        return torch.where(torch.tensor(self.atoms), weights + 1e-9, 0.0)

    def allot(self, n: int, generator: Generator) -> Tensor:
        """Which member makes which of n draws, systematic, in random order: (2, n), of all and of those that repeat values."""
        u = (torch.arange(n) + torch.rand(1, generator=generator)) / n
        order = torch.randperm(n, generator=generator)
        out = []
        for weights in (self.numbers, self.share(self.numbers)):
            chosen = torch.searchsorted(weights.cumsum(0), u.double() * weights.sum())
            out.append(chosen.clamp_max(len(self.parts) - 1)[order])
        return torch.stack(out)


def log_evidences(members: Sequence[Model], seen: Seen, effort: Effort = EFFORT) -> Tensor:
    """log p(seen) under each member, nats, (rows, M); of rows with classes chunk by chunk: members with one coding code the
    rows of a chunk once."""
    chunks = padded_chunks(seen) if members[0].layout.classes else [(seen, len(seen.y))]
    parts = [
        torch.stack([m.answer(chunk, effort).log_evidence for m in members], 1)[:n] for chunk, n in chunks
    ]
    return joined(parts, len(members))


class _Pooled(Answer):
    """Answers of the members, weighed."""

    kind = "pooled"

    def __init__(self, pool: Pool, seen: Seen, effort: Effort):
        self.pool, self.seen, self.effort = pool, seen, effort
        self.able = [i for i, m in enumerate(pool.parts) if seen.view.name in m.views]
        if not self.able:
            raise Unanswerable(f"no member of the pool answers rows seen through {seen.view!r}")

    @cached_property
    def _answers(self) -> dict[int, Answer]:
        return {i: self.pool.parts[i].answer(self.seen, self.effort) for i in self.able}

    def _weights(self, weights: Tensor) -> list[float]:
        """Weights of the members that can answer, adding up to one."""
        if len(self.able) == len(weights):
            return weights.tolist()
        some = weights[self.able] + 1e-6
        return (some / some.sum()).tolist()

    @property
    def log_evidence(self) -> Tensor:
        weights = self._weights(self.pool.rows)
        asked = [(self.pool.parts[i], w) for i, w in zip(self.able, weights, strict=True) if w > 0]
        log_w = torch.tensor([w for _, w in asked], dtype=torch.float64).log()
        return torch.logsumexp(log_evidences([m for m, _ in asked], self.seen, self.effort) + log_w, 1)

    @property
    def ess(self) -> Tensor:
        return torch.stack([a.ess for a in self._answers.values()]).amin(0)

    # ------------------------------------------------------------------ clean rows

    def mean(self) -> Tensor:
        pool, seen = self.pool, self.seen
        if not seen.exact and not pool.layout.classes:
            weights = self._weights(pool.numbers)
            asked = [(i, w) for i, w in zip(self.able, weights, strict=True) if w > 0]
            return sum(w * self._answers[i].mean() for i, w in asked)  # pyright: ignore[reportReturnType]
        out = torch.zeros(len(seen.y), pool.n_cells, dtype=torch.float64)
        if seen.exact and len(pool.units.cells):
            out[:, pool.units.cells] = pool.units.to_model(self.centre)
        for j in pool.layout.classes:
            out[:, j] = self.chances(j).argmax(1).double()
        return torch.where(seen.mask, seen.y, out) if seen.exact else out

    @cached_property
    def centre(self) -> Tensor:
        """Means of numbers in data units, (rows, D')."""
        forests, seen = self.pool.forests, self.seen
        if forests is None:
            return self._together
        return forests.numbers(self.pool.units.cells, self._together, seen.mask, self.completed)

    @cached_property
    def completed(self) -> Tensor:
        """Rows (n, D), numbers in data units, with blanks as all members together have them, before forests revise."""
        pool, seen = self.pool, self.seen
        cells, out = pool.units.cells, seen.y.clone()
        if len(cells):
            known = pool.units.to_data(seen.y[:, cells])
            out[:, cells] = torch.where(seen.mask[:, cells], known, self._together)
        for j in pool.layout.classes:
            if not bool(seen.mask[:, j].all()):
                likely = self._chances(j).argmax(1).double()
                out[:, j] = torch.where(seen.mask[:, j], seen.y[:, j], likely)
        return out

    @cached_property
    def _together(self) -> Tensor:
        """Means of numbers in data units of all members, (rows, D')."""
        units = self.pool.units
        out = torch.zeros(len(self.seen.y), len(units.cells), dtype=torch.float64)
        for i, w in zip(self.able, self._weights(self.pool.numbers), strict=True):
            if w > 0:
                answer: Any = self._answers[i]
                if self.pool.parts[i].in_units:
                    out += w * torch.from_numpy(answer.numbers())
                else:
                    out += w * units.to_data(answer.mean()[:, units.cells])
        return out

    def chances(self, cell: int) -> Tensor:
        said, forests, seen = self._chances(cell), self.pool.forests, self.seen.mask[:, cell]
        if forests is None or not forests.lean[cell] or bool(seen.all()):
            return said
        return forests.revised(cell, said, seen, self.completed)

    def _chances(self, cell: int) -> Tensor:
        """Chances of a class by all members."""
        weights = self._weights(self.pool.classes)
        asked = [(i, w) for i, w in zip(self.able, weights, strict=True) if w > 0]
        return sum(w * self._answers[i].chances(cell) for i, w in asked)  # pyright: ignore[reportReturnType]

    def draws(self, n: int, generator: Generator, what: str = "rows") -> Tensor:
        if not self.seen.exact:
            return self._in_turn(n, generator)
        if what == "rows":
            return self._joint(n, generator)
        if what == "numbers":
            return self._numbers(self.pool.allot(n, generator), generator)
        out = self._rows(self._cells(n, generator))
        for j in self.pool.layout.classes:
            drawn = torch.multinomial(self.chances(j), n, replacement=True, generator=generator)
            out[..., j] = torch.where(self.seen.mask[:, j], self.seen.y[:, j], drawn.mT.double())
        return out

    def _joint(self, n: int, generator: Generator) -> Tensor:
        """Class after class given those before, then the numbers given all."""
        pool, (x, observed, view) = self.pool, self.seen[:3]
        values, mask = x.repeat(n, 1), observed.repeat(n, 1)
        draw_classes(pool, values, mask, pool.layout.classes, generator, self.effort)
        values, mask = values.view(n, *x.shape), mask.view(n, *x.shape)
        chosen = pool.allot(n, generator)
        if bool((mask == observed).all()):
            drawn = self._numbers(chosen, generator)
        else:
            each = [_Pooled(pool, Seen(values[i], mask[i], view), self.effort) for i in range(n)]
            drawn = torch.cat([a._numbers(chosen[:, i : i + 1], generator) for i, a in enumerate(each)])
        return torch.where(observed, x, torch.where(mask, values, drawn))

    def _numbers(self, chosen: Tensor, generator: Generator) -> Tensor:
        """Rows with numbers drawn together by the chosen members (2, n), (n, rows, D); classes as they are."""
        data = self._drawn(chosen, generator)
        if self.pool.spread is None and self.pool.forests is None:
            return self._rows(data)
        return self._rows(self._stretched(data, self._together))

    def _cells(self, n: int, generator: Generator) -> Tensor:
        """Numbers drawn each from its own distribution, in data units (n, rows, D'): the mean is what a fill gives."""
        data = self._drawn(self.pool.allot(max(n, FEWEST), generator), generator)
        blank = ~self.seen.mask[:, self.pool.units.cells]
        data[:, blank] = tilted(data[:, blank], self.centre[blank])
        return self._stretched(data, self.centre)[:n]

    def _stretched(self, data: Tensor, mean: Tensor) -> Tensor:
        """Numbers (n, rows, D') drawn about a ``mean``, about the centre with their spread; those that repeat stay."""
        repeated = torch.tensor(self.pool.repeats, dtype=torch.bool)
        spread = torch.tensor(self.pool.spread or [1.0] * len(repeated), dtype=torch.float64)
        return torch.where(repeated, data, self.centre + spread * (data - mean))

    def _drawn(self, chosen: Tensor, generator: Generator) -> Tensor:
        """Numbers as the chosen members (2, n) draw them, in data units (n, rows, D')."""
        pool, units, seen = self.pool, self.pool.units, self.seen
        cells = torch.tensor(units.cells, dtype=torch.long)
        data = torch.empty(chosen.shape[1], len(seen.y), len(cells), dtype=torch.float64)
        which_rows = (~seen.mask[:, cells[torch.tensor(pool.repeats, dtype=torch.bool)]]).any(1)
        for kind, own in enumerate(chosen):
            rows = (which_rows == bool(kind)).nonzero().squeeze(1)
            some = seen.rows(rows)
            for m in own.unique().tolist() if len(rows) else ():
                draws = (own == m).nonzero().squeeze(1)
                drawn = pool.parts[m].answer(some, self.effort).draws(len(draws), generator, "numbers")
                data[draws.unsqueeze(1), rows] = units.to_data(drawn[..., cells].double())
        return data

    def _rows(self, data: Tensor) -> Tensor:
        """Rows with numbers in data units (n, rows, D') where they were blank, (n, rows, D); classes as they are."""
        units, seen = self.pool.units, self.seen
        out = seen.y.expand(len(data), *seen.y.shape).clone()
        out[..., units.cells] = units.to_model(data)
        return torch.where(seen.mask, seen.y, out)

    def _in_turn(self, n: int, generator: Generator) -> Tensor:
        """Draws of the members in turn, each as often as it weighs: of numbers evenly, of classes by chance."""
        pool = self.pool
        weights = self._weights(pool.classes if pool.layout.classes else pool.numbers)
        share = torch.tensor(weights, dtype=torch.float64)
        if pool.layout.classes:
            turn = torch.multinomial(share, n, replacement=True, generator=generator)
        else:
            turn = torch.searchsorted(share.cumsum(0), (torch.arange(n) + 0.5).double() / n)
        counts = torch.bincount(turn.clamp_max(len(share) - 1), minlength=len(share)).tolist()
        asked = zip(self.able, counts, strict=True)
        return torch.cat([self._answers[i].draws(c, generator) for i, c in asked if c])

    def latents(self) -> Tensor:
        members = [self.pool.parts[i] for i in self.pool.codes]
        return torch.cat([m.answer(self.seen, self.effort).latents() for m in members], 1)

    def points(self, count: int) -> Tensor:
        return self.draws(count, Generator().manual_seed(self.effort.seed), "cells")
