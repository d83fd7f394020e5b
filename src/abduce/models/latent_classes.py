"""Latent classes: a mixture of independent cells, for tables whose cells are classes (binary, ordinal, categorical).

    p(x) = Σ_k π_k Π_j p_j(x_j | k)

Cells are independent within a component, so any of them are summed out by leaving them out, and everything is exact:

    blanks     p(k | x_obs) ∝ π_k Π_{j observed} p_j(x_j | k),        p(x_j | x_obs) = Σ_k p(k | x_obs) p_j(x_j | k)
    flips      binary cells y_j, x_j turned over with probability ε:  p(y_j | k) = (1−ε) p_j(y_j | k) + ε p_j(1−y_j | k),
               and p(x_j | y_j, k) by Bayes' rule

Rows are read as indicators of levels H (rows, ΣL), 0 at blanks, so that log p(x_obs | k) = H log pᵀ is one product of
matrices.  A value between two codes (a mean of binary cells, say) is read as a share of each.

Sources: Lazarsfeld & Henry 1968, Latent Structure Analysis; Goodman 1974 (maximum likelihood by EM).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from abduce.checks import check_count
from abduce.data.seen import Seen, Unanswerable, View
from abduce.gaussians.mixture import choose, slices
from abduce.inference.energy import Normalised, Traits
from abduce.models.model import filled


class Levels:
    """The levels of all cells one after the other, ΣL of them: cell j has ``sizes[j]``, from ``first[j]`` on.

    ``cells`` and ``codes`` (ΣL,) say which cell a level belongs to, and which code of it is meant.

    >>> levels = Levels([2, 3])
    >>> levels.indicators(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
    tensor([[0., 0., 0., 0., 1.]])
    """

    def __init__(self, sizes: Sequence[int]):
        if not len(sizes) or min(sizes) < 1:
            raise ValueError(
                f"levels must hold at least one level for each of at least one cell, got {sizes}"
            )
        self.sizes = torch.tensor([int(size) for size in sizes])
        self.first = self.sizes.cumsum(0) - self.sizes
        self.cells = torch.repeat_interleave(self.sizes)
        self.codes = torch.arange(len(self.cells)) - self.first[self.cells]
        self.binary = self.sizes == 2

    def part(self, j: int) -> slice:
        """The levels of cell j."""
        return slice(int(self.first[j]), int(self.first[j] + self.sizes[j]))

    def indicators(self, x: Tensor, observed: Tensor, part: slice = slice(None)) -> Tensor:
        """H (..., ΣL) of rows (..., D): 1 at the level that an observed cell holds, 0 elsewhere; of all levels, or of some."""
        x = torch.where(observed, x, 0.0)
        wrong = (x < 0) | (x > self.sizes - 1)
        if bool(wrong.any()):
            *_, j = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"x must hold codes from 0 to levels − 1: cell {j} has {int(self.sizes[j])} levels and holds "
                f"{float(x[wrong][0]):g}"
            )
        cells = self.cells[part]
        share = (1 - (x[..., cells] - self.codes[part]).abs()).clamp_min(0)
        return share * observed[..., cells]

    def totals(self, values: Tensor) -> Tensor:
        """Sums over the levels of each cell, (..., ΣL) -> (..., D)."""
        out = values.new_zeros(*values.shape[:-1], len(self.sizes))
        return out.index_add_(-1, self.cells, values)

    def log_normalised(self, log_p: Tensor) -> Tensor:
        """Log-probabilities (..., ΣL) that add up to one in each cell, and are finite: zeros count as the least number."""
        limits = torch.finfo(log_p.dtype)
        top = log_p.new_full((*log_p.shape[:-1], len(self.sizes)), -math.inf)
        top = top.scatter_reduce(-1, self.cells.expand_as(log_p), log_p, "amax")
        p = (log_p - top[..., self.cells]).exp()
        return (p / self.totals(p)[..., self.cells]).clamp_min(limits.tiny).log()

    def likeliest(self, p: Tensor) -> Tensor:
        """Code of the likeliest level of each cell, (rows, ΣL) -> (rows, D), in the dtype of p; the first of equals."""
        out = p.new_empty(len(p), len(self.sizes))
        for size in self.sizes.unique().tolist():  # cells of as many levels at once
            alike = (self.sizes == size).nonzero().squeeze(1)
            place = self.first[alike].unsqueeze(1) + torch.arange(size)
            out[:, alike] = p[:, place].argmax(-1).to(p)
        return out


class LatentClassLaw:
    """The mixture as a distribution: exact scores, conditionals and draws, seen through blanks or flips.

    ``levels`` (D,) of each cell, ``log_weights`` (K,) log π up to a constant, ``log_p`` (K, ΣL) log p_j(l | k), up to a
    constant of each cell.

    >>> p = torch.tensor([[0.1, 0.9, 0.1, 0.9], [0.9, 0.1, 0.9, 0.1]])
    >>> law = LatentClassLaw([2, 2], torch.zeros(2), p.log())
    >>> seen = Seen(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    >>> law.mean(seen)  # 0.9 · 0.9 + 0.1 · 0.1
    tensor([[1.0000, 0.8200]])
    """

    views = frozenset({"blanks", "flips"})
    rowwise = False

    def __init__(self, levels: Sequence[int], log_weights: Tensor, log_p: Tensor):
        self.levels = Levels(levels)
        k, total = len(log_weights), len(self.levels.cells)
        if log_weights.ndim != 1 or log_p.shape != (k, total):
            raise ValueError(
                f"log_weights and log_p must have shapes (K,) and (K, {total}) for {len(levels)} cells of {total} levels, got "
                f"{tuple(log_weights.shape)} and {tuple(log_p.shape)}"
            )
        self.log_weights = torch.log_softmax(log_weights, 0)
        self.log_p = self.levels.log_normalised(log_p)

    def log_prob(self, seen: Seen) -> Tensor:
        return torch.logsumexp(self._log_joint(seen), 1)

    def responsibilities(self, seen: Seen) -> Tensor:
        """p(k | seen), (rows, K)."""
        return torch.softmax(self._log_joint(seen), 1)

    def mean(self, seen: Seen) -> Tensor:
        """Clean rows given what was seen, (rows, D): binary cells at the probability of 1, others at the likeliest code."""
        out, binary = torch.empty_like(seen.y), self.levels.binary
        for block in self._blocks(len(seen.y)):
            p = self.probabilities(seen.rows(block))
            code = self.levels.likeliest(p)
            code[:, binary] = p[:, self.levels.first[binary] + 1]
            out[block] = code
        return torch.where(self._held(seen), seen.y, out)

    def chances(self, seen: Seen, j: int) -> Tensor:
        """Probability of each level of clean cell j given what was seen, (rows, L); cell j itself counts if it was."""
        return self.probabilities(seen, self.levels.part(j))

    def probabilities(self, seen: Seen, part: slice = slice(None)) -> Tensor:
        """p(x_j = l | seen) of all levels of all cells at once, (rows, ΣL), or of some of them."""
        cells = self.levels.cells[part]
        r, state = self.responsibilities(seen), self._state(seen)[:, cells]
        unseen, *given = self._tables(seen.view)[..., part]
        p = r @ unseen
        for v, table in enumerate(given):
            p = torch.where(state == v + 1, r @ table, p)
        held = self._held(seen)[:, cells]
        return torch.where(held, self.levels.indicators(seen.y, seen.mask, part).to(p), p)

    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        rows, d = seen.y.shape
        k = choose(self.responsibilities(seen).double(), n, generator, shared).contiguous()
        v = torch.rand(n, 1 if shared else rows, d, generator=generator, dtype=torch.float64)
        # one search for all cells: each has the distribution function of its levels on an interval of length one of its own
        rising = self._rising(self._tables(seen.view).flatten(0, 1).double())
        rising += torch.arange(len(rising)).unsqueeze(1) * d + self.levels.cells
        table = self._state(seen) * len(self.log_weights) + k.unsqueeze(-1)  # (n, rows, D)
        found = torch.searchsorted(rising.flatten(), table * d + torch.arange(d) + v, right=True)
        code = found - table * rising.shape[1] - self.levels.first
        code = torch.minimum(code.clamp_min(0), self.levels.sizes - 1)
        return torch.where(self._held(seen), seen.y, code.to(seen.y))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        nothing = Seen.nothing(1, len(self.levels.sizes)).to(self.log_p.dtype)
        return self.draws(nothing, n, generator)[:, 0]

    # ------------------------------------------------------------------ within components

    def _log_joint(self, seen: Seen) -> Tensor:
        """log π_k p(seen | k), (rows, K)."""
        log_q = self._observed(seen.view).log() if _flips(seen.view) else self.log_p
        out = log_q.new_empty(len(seen.y), len(self.log_weights))
        for block in self._blocks(len(seen.y)):
            indicators = self.levels.indicators(seen.y[block], seen.mask[block])
            out[block] = self.log_weights + indicators.to(log_q) @ log_q.mT
        return out

    def _observed(self, view: View) -> Tensor:
        """p(y_j = l | k) of what is seen of each cell, (K, ΣL)."""
        rate = _flips(view)
        p = self.log_p.exp()
        return (1 - rate) * p + rate * p[:, self._other]

    def _tables(self, view: View) -> Tensor:
        """p(x_j = l | k) of a clean cell, (1, K, ΣL); through flips (3, K, ΣL), of cells unseen, seen as 0 and as 1."""
        p = self.log_p.exp()
        rate = _flips(view)
        if not rate:
            return p.unsqueeze(0)
        q = self._observed(view)
        same, other = (1 - rate) * p / q, rate * p / q[:, self._other]
        one = self.levels.codes == 1
        tables = torch.stack([p, torch.where(one, other, same), torch.where(one, same, other)])
        return torch.where(self.levels.binary[self.levels.cells], tables, p)

    @property
    def _other(self) -> Tensor:
        """The other level of a binary cell, (ΣL,); of other cells the same."""
        turned = self.levels.first[self.levels.cells] + 1 - self.levels.codes
        return torch.where(self.levels.binary[self.levels.cells], turned, torch.arange(len(turned)))

    def _state(self, seen: Seen) -> Tensor:
        """Which of the tables a cell goes by, (rows, D)."""
        flipped = seen.mask & self.levels.binary if _flips(seen.view) else torch.zeros_like(seen.mask)
        return torch.where(flipped, seen.y.round() + 1, 0.0).long()

    def _held(self, seen: Seen) -> Tensor:
        """Which clean cells are known, (rows, D)."""
        return seen.mask & ~self.levels.binary if _flips(seen.view) else seen.mask

    def _rising(self, p: Tensor) -> Tensor:
        """Distribution function of each cell, (..., ΣL) -> (..., ΣL), 1 at each cell's last level."""
        total = p.cumsum(-1)
        before = (total - p)[..., self.levels.first]
        rising = (total - before[..., self.levels.cells]).clamp(0, 1)
        rising[..., self.levels.first + self.levels.sizes - 1] = 1.0
        return rising

    def _blocks(self, rows: int) -> Iterator[slice]:
        return slices(rows, len(self.levels.cells))


class LatentClassesEnergy(Normalised):
    """Latent classes as an energy, E(x) = −log Σ_k π_k Π_j p_j(x_j | k), of a row or of the cells of it that were observed.

    ``levels`` (D,) of each cell, ``components`` K; starts with all levels equally likely.  ``represent`` gives the
    responsibilities p(k | x), (rows, K).

    >>> model = LatentClassesEnergy(levels=[2, 3], components=4)
    >>> model.energy(torch.tensor([[1.0, 2.0]]))  # log 6
    tensor([1.7918])
    """

    traits = Traits("mixed", bounded_volume=True, smooth=False)  # it is normalised
    log_weights: Tensor
    log_p: Tensor

    def __init__(self, levels: Sequence[int], components: int):
        super().__init__()
        check_count("components", components)
        sizes = Levels(levels).sizes
        self.config = {"levels": sizes.tolist(), "components": int(components)}
        self.n_cells = len(sizes)
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        start = -torch.repeat_interleave(sizes.float().log(), sizes)
        self.register_buffer("log_p", start.repeat(components, 1))

    @classmethod
    def of(cls, levels: Sequence[int], log_weights: Tensor, log_p: Tensor) -> LatentClassesEnergy:
        """Build from log weights (K,) and log-probabilities of levels (K, ΣL), each up to a constant."""
        law = LatentClassLaw(levels, log_weights, log_p)
        model = cls(levels, len(log_weights)).to(log_p)
        return filled(model, log_weights=law.log_weights, log_p=law.log_p)

    def represent(self, x: Tensor) -> Tensor:
        return self.distribution().responsibilities(Seen.whole(x))

    def distribution(self) -> LatentClassLaw:
        return LatentClassLaw(self.config["levels"], self.log_weights, self.log_p)


def _flips(view: View) -> float:
    """The rate at which binary cells are turned over: 0 for blanks alone; other views are refused."""
    if view.name not in LatentClassLaw.views:
        raise Unanswerable(
            f"latent classes answer what is seen through blanks or flips, not through {view.name!r}"
        )
    return float(view.rate) if view.name == "flips" else 0.0  # pyright: ignore[reportAttributeAccessIssue]
