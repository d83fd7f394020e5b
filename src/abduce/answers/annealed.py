"""Answers of an energy without an exact law: particles annealed to its posterior given what was seen.

Particles of each row start from the data's base given the observed cells and end at the energy with these clamped, as for a
partition function; the weights' mean is the marginal exp(−F(seen)), so the same run scores a row with blanks,
F = −log ∫ exp(−β E) b over the blank cells.

    Blanks        cells clamped
    Linear        y = A x + σ · noise: start and target are both multiplied by N(y; A x, σ²)
    Flips         binary cells: a field of ± log((1 − ε)/ε) on each

Particles move in single precision.  Rows run in padded chunks of one shape with shared random numbers: a row's answer does
not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abduce.answers.answer import Answer, Effort
from abduce.answers.views import Flips
from abduce.data.seen import Seen, Unanswerable
from abduce.distributions.bases import NormalBase
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.importance import chunks
from abduce.inference.paths import Density, path_given
from abduce.inference.tempering import GeometricPath, Particles, Path, Plan, temper
from abduce.inference.weights import effective_sample_size

STEPS = 16  # temperatures: from the base given what was seen the way is short
LEAPFROGS = 3
MOST_PARTICLES = 256


class Annealed(Answer):
    """What a density says of rows; ``log_z`` is that of the density, None where it is not known.

    Without it the evidence is −F, log p up to a constant, of kind "unnormalised".
    """

    def __init__(self, density: Density, seen: Seen, effort: Effort, log_z: float | None):
        self.density, self.seen, self.effort, self.log_z = density, seen, effort, log_z
        self.kind = "unnormalised" if log_z is None else "estimate"

    # ------------------------------------------------------------------ evidence

    @property
    def log_evidence(self) -> Tensor:
        if not self.seen.exact:
            raise Unanswerable(
                f"{type(self.density.model).__name__} has no log p of rows seen through {self.seen.view!r}: particles give "
                "their clean rows alone"
            )
        value = self._log_mass
        return value if self.log_z is None else value - self.log_z

    @cached_property
    def _log_mass(self) -> Tensor:
        """−F of each row; where nothing is hidden, −β E + log b itself."""
        seen, out = self.seen, torch.empty(len(self.seen.y), dtype=torch.float64)
        whole = seen.mask.all(1)
        for rows, partly in ((whole, False), (~whole, True)):
            index = rows.nonzero().squeeze(1)
            for part, ys, ms in chunks(seen.y[index], seen.mask[index]):
                if partly:
                    value = self._run(Seen(ys.float(), ms, seen.view), self.effort.particles).log_z
                else:
                    with torch.no_grad():
                        value = self.density(ys)
                out[index[part]] = value[: part.stop - part.start].double()
        return out

    @property
    def ess(self) -> Tensor:
        sizes = [effective_sample_size(p.log_w)[:n] for p, n in self._particles(self.effort.particles)]
        return torch.cat(sizes).double()

    # ------------------------------------------------------------------ clean rows

    def mean(self) -> Tensor:
        mean = self.expectation()
        return (mean > 0.5).to(mean) if self._binary else mean

    def expectation(self) -> Tensor:
        """E[x | seen], (rows, D): of binary cells the probability of 1."""
        out = []
        for p, n in self._particles(self.effort.particles):
            out.append(torch.einsum("pr,prd->rd", p.log_w.exp().to(p.x), p.x)[:n].double())
        mean = torch.cat(out)
        if self.seen.exact:
            mean = torch.where(
                self.seen.mask, self.seen.y.double(), mean
            )  # weights add up to one but for rounding
        return mean

    def draws(self, n: int, generator: torch.Generator, what: str = "rows") -> Tensor:
        count = min(MOST_PARTICLES, max(self.effort.particles, n))
        return torch.cat([p.draws(n, generator)[:, :rows].double() for p, rows in self._particles(count)], 1)

    def chances(self, cell: int) -> Tensor:
        if not self._binary:
            raise ValueError(f"cell {cell} holds a number, not a class")
        p = self.expectation()[:, cell]
        return torch.stack([1 - p, p], 1)

    def latents(self) -> Tensor:
        whole = self.seen.exact and bool(self.seen.mask.all())
        x = self.seen.y if whole else self.expectation()
        parts = [
            self.density.model.represent(xs)[: part.stop - part.start].detach()
            for part, xs, _ in chunks(x, self.seen.mask[:, :1].expand_as(x))
        ]
        return torch.cat(parts)

    def points(self, count: int) -> Tensor:
        return self.draws(count, torch.Generator().manual_seed(self.effort.seed))

    # ------------------------------------------------------------------ particles

    @property
    def _binary(self) -> bool:
        return self.density.model.support == "binary"

    @cached_property
    def _single(self) -> Density:
        return self.density.float()

    def _particles(self, count: int) -> Iterator[tuple[Particles, int]]:
        """Weighted particles of all rows, a padded chunk at a time, with the number of rows that count."""
        for part, ys, ms in chunks(self.seen.y, self.seen.mask):
            yield self._run(Seen(ys.float(), ms, self.seen.view), count), part.stop - part.start

    @torch.no_grad()
    def _run(self, chunk: Seen, particles: int) -> Particles:
        path = path_of(self._single, chunk)
        return temper(path, particles, len(chunk.y), self.effort.seed, plan=Plan.even(STEPS), shared=True)


def path_of(density: Density, seen: Seen) -> Path:
    """The path of one chunk from the density's start given what was seen to the density given it."""
    y, mask, view = seen[:3]
    if seen.exact:
        return path_given(density, y, mask, leapfrogs=LEAPFROGS)
    width = density.model.n_cells
    nothing = torch.zeros(len(y), width, dtype=torch.bool)
    blank = torch.zeros(len(y), width, dtype=y.dtype)
    if view.name == Flips.name:
        flips: Any = view
        return path_given(density, blank, nothing, field=flips.field(y, mask))
    apply, noise = view.affine(y)

    def likelihood(x: Tensor) -> Tensor:
        off = (y - apply(x)) / noise
        return -0.5 * (off.square() * mask).sum(-1)

    start = density.start
    if density.model.support == "binary" or not isinstance(start, NormalBase):
        return path_given(density, blank, nothing, likelihood)
    # from the base's own posterior given y, which is exact: only the energy is left to anneal
    base = GaussianMixtureLaw.gaussian(start.mean, start.covariance)

    def draw(n: int, _: int, generator: torch.Generator) -> Tensor:
        return base.draws(seen, n, generator, shared=True)

    scale = draw(256, len(y), torch.Generator().manual_seed(0)).std(0)
    return GeometricPath(
        lambda x: start.log_prob(x) + likelihood(x),
        lambda x: density(x) + likelihood(x),
        scale,
        draw,
        LEAPFROGS,
        shared=True,
    )
