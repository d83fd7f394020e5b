"""A stack of laws: several models of the same rows, pooled by how well each predicts cells that were hidden from it.

    p(x_b | x_o) = Σ_m w_m p_m(x_b | x_o)

Each member is a law over features (:class:`~abduce.data.coding.Coding`): one Gaussian, mixtures of factor analysers, Parzen
windows, of the numbers themselves or of their normal scores.  A member's number is its conditional mean, its class the
normalised conditional means of the indicators, so that

    log p_m(x) = log p_m(numbers) + Σ_j log p_m(class_j | numbers, classes before j)

is a probability of mixed rows, and log p(x) = log Σ_m v_m p_m(x) that of the stack.

Sources: Wolpert 1992, Breiman 1996 (stacking); Stone 1961 (the linear opinion pool).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.distributions.factor_law import FactorMixtureLaw
from abduce.distributions.parzen_law import ParzenLaw

POINTS = 24  # of a cell's law, behind the mean of a number that was coded by its score
FLOOR = 1e-3  # least probability of a class, times the number of its levels


class Member(NamedTuple):
    """A law of the features that one of the codings makes."""

    name: str
    coding: int
    law: FactorMixtureLaw | ParzenLaw


@dataclass
class Stack:
    """Members with their weights: of numbers and of classes when cells are filled, and of whole rows when they are scored.

    ``codings`` are what members read; ``spread`` scales the deviations of drawn numbers from their mean, so that intervals
    hold what they should.
    """

    codings: Sequence[Coding]
    members: Sequence[Member]
    numbers: Tensor  # (M,)
    classes: Tensor  # (M,)
    rows: Tensor  # (M,)
    spread: float = 1.0
    report: list[dict[str, Any]] = field(default_factory=list)

    @property
    def coding(self) -> Coding:
        """The coding in the numbers' own units."""
        return self.codings[0]

    # ------------------------------------------------------------------ predict

    def coded(self, x: Tensor, observed: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features and mask of rows in model space under each coding."""
        out = []
        for coding in self.codings:
            features, seen = coding.code(x.numpy(), observed.numpy())
            out.append((torch.from_numpy(features), torch.from_numpy(seen)))
        return out

    def best(self, x: Tensor, observed: Tensor) -> Tensor:
        """Rows with blanks at their mean (numbers) or mode (classes), in model space."""
        numbers, classes = self.predict(x, observed)
        out = x.clone()
        out[:, self.coding.numbers] = torch.from_numpy(self.coding.to_model(numbers))
        for j, p in classes.items():
            out[:, j] = torch.from_numpy(p.argmax(1).astype(float))
        return torch.where(observed, x, out)

    def predict(self, x: Tensor, observed: Tensor) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Means of numbers in data units (n, D'), and probabilities (n, L) of each class cell."""
        coded = self.coded(x, observed)
        numbers: Any = 0.0
        classes: dict[int, Any] = dict.fromkeys(self.coding.classes, 0.0)
        for member, w, c in zip(self.members, self.numbers.tolist(), self.classes.tolist(), strict=True):
            if w == 0 and (c == 0 or not classes):
                continue
            found, probabilities = predicted(member, self.codings[member.coding], *coded[member.coding])
            numbers = numbers + w * found
            for j, p in probabilities.items():
                classes[j] = classes[j] + c * p
        return numbers, classes

    # ------------------------------------------------------------------ draw

    def marginal_draws(self, x: Tensor, observed: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draws of each cell given the row (n, rows, D), numbers jointly, classes each on its own."""
        out = self._numbers_drawn(x, observed, self._allot(n, generator), generator)
        if self.coding.classes:
            _, classes = self.predict(x, observed)
            for j, p in classes.items():
                drawn = torch.multinomial(torch.from_numpy(p), n, replacement=True, generator=generator)
                out[..., j] = torch.where(observed[:, j], x[:, j], drawn.mT.double())
        return out

    def draws(self, x: Tensor, observed: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Joint draws of whole rows (n, rows, D): class after class given those before, then the numbers given all."""
        classes = [j for j in self.coding.classes if not bool(observed[:, j].all())]
        chosen = self._allot(n, generator)
        if not classes:
            return self._numbers_drawn(x, observed, chosen, generator)
        out = x.new_empty(n, *x.shape)
        for i in range(n):
            values, seen = x.clone(), observed.clone()
            for j in classes:
                rows = (~seen[:, j]).nonzero().squeeze(1)
                p = torch.from_numpy(self.predict(values[rows], seen[rows])[1][j])
                values[rows, j] = torch.multinomial(p, 1, generator=generator)[:, 0].double()
                seen[:, j] = True
            drawn = self._numbers_drawn(values, seen, chosen[i : i + 1], generator)[0]
            out[i] = torch.where(observed, x, torch.where(seen & ~observed, values, drawn))
        return out

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """New rows (n, D): the draw of a row of which nothing is known."""
        out = torch.zeros(n, self.coding.schema.n_cells, dtype=torch.float64)
        if self.coding.classes:
            blank = torch.zeros_like(out, dtype=torch.bool)
            return self.draws(out, blank, 1, generator)[0]
        member = torch.multinomial(self.rows, n, replacement=True, generator=generator)
        for m in member.unique().tolist():
            rows = (member == m).nonzero().squeeze(1)
            coding = self.codings[self.members[m].coding]
            features = self.members[m].law.sample(len(rows), generator)
            out[rows] = torch.from_numpy(coding.to_model(coding.decode_numbers(features.numpy())))
        return out

    def _allot(self, n: int, generator: torch.Generator) -> Tensor:
        """Which member makes which of n draws: systematic, in random order."""
        u = (torch.arange(n) + torch.rand(1, generator=generator)) / n
        chosen = torch.searchsorted(self.numbers.cumsum(0), u.double() * self.numbers.sum())
        return chosen.clamp_max(len(self.members) - 1)[torch.randperm(n, generator=generator)]

    def _numbers_drawn(
        self, x: Tensor, observed: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Rows with numbers drawn by the chosen members (n,), (n, rows, D); classes as they are."""
        coded = self.coded(x, observed)
        numbers = torch.from_numpy(self.coding.numbers)
        data = np.empty((len(chosen), len(x), len(numbers)))
        for m in chosen.unique().tolist():
            member = self.members[m]
            which = (chosen == m).nonzero().squeeze(1)
            drawn = member.law.complete(*coded[member.coding], len(which), generator)
            data[which.numpy()] = self.codings[member.coding].decode_numbers(drawn.numpy())
        if self.spread != 1.0 and len(numbers):
            centre, _ = self.predict(x, observed)
            data = centre + self.spread * (data - centre)
        out = x.expand(len(chosen), *x.shape).clone()
        out[..., numbers] = torch.from_numpy(self.coding.to_model(data))
        return torch.where(observed, x, out)

    # ------------------------------------------------------------------ score

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p of the observed cells, nats (n,): densities of numbers in data units, probabilities of classes."""
        each = self.log_probs(x, observed)
        return torch.logsumexp(each + self.rows.log(), 1)

    def log_probs(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p of the observed cells under each member, (n, M)."""
        coded = self.coded(x, observed)
        slopes = [torch.from_numpy(c.log_slope(x.numpy(), observed.numpy())) for c in self.codings]
        out = x.new_empty(len(x), len(self.members))
        for m, member in enumerate(self.members):
            coding = self.codings[member.coding]
            features, seen = coded[member.coding]
            known = seen.clone()
            known[:, len(coding.numbers) :] = False
            out[:, m] = member.law.log_prob(features, known) + slopes[member.coding]
            for j, (block, _, _) in coding.classes.items():
                rows = observed[:, j].nonzero().squeeze(1)
                if len(rows):
                    mean = member.law.mean(features[rows], known[rows])
                    p = coding.probabilities(mean.numpy(), j, _floor(coding, j))
                    level = x[rows, j].long().numpy()
                    out[rows, m] += torch.from_numpy(np.log(p[np.arange(len(level)), level]))
                known[:, block] = seen[:, block]
        return out


def predicted(
    member: Member, coding: Coding, features: Tensor, seen: Tensor
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What one member makes of rows: numbers in data units (n, D') and probabilities of each class cell."""
    count = len(coding.numbers)
    mean = member.law.mean(features, seen).numpy() if coding.classes or not coding.scores else None
    if coding.scores:
        numbers = np.zeros((len(features), count))
        for i in range(0, len(features), 2048):  # points of all rows at once would not fit into memory
            rows = slice(i, i + 2048)
            points = member.law.points(features[rows], seen[rows], POINTS)[..., :count]
            numbers[rows] = coding.decode_numbers(points.numpy()).mean(0)
    else:
        assert mean is not None
        numbers = coding.decode_numbers(mean)
    classes = {j: coding.probabilities(mean, j, _floor(coding, j)) for j in coding.classes}  # pyright: ignore[reportArgumentType]
    return numbers, classes


def _floor(coding: Coding, j: int) -> float:
    return FLOOR / len(coding.classes[j][1])
