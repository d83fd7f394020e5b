"""Heads: modules that turn a decoder's output into a likelihood, one head for each kind of cell.

Columns of one kind share one head, so the cost does not grow with a Python loop over columns.  Parameters that do not
depend on z (noise scales, correlations, thresholds, dispersions) live here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abduce.distributions.continuous import (
    ContinuousBernoulli,
    Gaussian,
    Laplace,
    RoundedGaussian,
    StudentT,
)
from abduce.distributions.discrete import Bernoulli, BetaBinomial, Categorical, NegativeBinomial, Poisson
from abduce.distributions.likelihoods import Distribution, Product
from abduce.distributions.pixels import DiscretizedLogisticMixture

SCALES = ("network", "cell", "shared")


def _raw_scale(n_cells: int, scale: str) -> nn.Parameter:
    if scale not in SCALES:
        raise ValueError(f"scale must be 'shared', 'cell' or 'network', got {scale!r}")
    return nn.Parameter(torch.zeros(n_cells if scale != "shared" else 1))


def _split(h: Tensor, raw: Tensor, n_cells: int, scale: str, floor: float) -> tuple[Tensor, Tensor]:
    """Read location and scale off a decoder's output; the scale is positive and never below ``floor``."""
    loc = h[..., :n_cells]
    if scale == "network":
        raw = raw + h[..., n_cells:].clamp(-4.0, 4.0)
    log_floor = math.log(floor)
    return loc, torch.exp(log_floor + F.softplus(raw - log_floor)).expand_as(loc)


class GaussianHead(nn.Module):
    """Gaussian cells: means from the network, noise scale ``"shared"``, per ``"cell"`` or from the ``"network"``.

    Scales never fall below ``floor`` (in standard deviations of the data); ``half`` is half the step of the lattice that
    values were rounded to, 0 if they were not.
    """

    def __init__(self, n_cells: int, scale: str = "cell", floor: float = 0.01, half: float = 0.0):
        super().__init__()
        self.n_cells, self.scale, self.floor, self.half_step = n_cells, scale, floor, half
        self.raw_scale = _raw_scale(n_cells, scale)
        self.n_parameters = n_cells * (1 + (scale == "network"))

    def forward(self, h: Tensor) -> Gaussian | RoundedGaussian:
        mean, scale = _split(h, self.raw_scale, self.n_cells, self.scale, self.floor)
        return RoundedGaussian(mean, scale, self.half_step) if self.half_step else Gaussian(mean, scale)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean."""
        return moments.squeeze(-1)


class LaplaceHead(nn.Module):
    """Laplace cells: as :class:`GaussianHead`; ``floor`` is the smallest mean absolute deviation."""

    def __init__(self, n_cells: int, scale: str = "cell", floor: float = 0.01, half: float = 0.0):
        super().__init__()
        self.n_cells, self.scale, self.floor, self.half_step = n_cells, scale, floor, half
        self.raw_scale = _raw_scale(n_cells, scale)
        self.n_parameters = n_cells * (1 + (scale == "network"))

    def forward(self, h: Tensor) -> Laplace:
        return Laplace(*_split(h, self.raw_scale, self.n_cells, self.scale, self.floor), self.half_step)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean."""
        return moments.squeeze(-1)


class StudentTHead(nn.Module):
    """Student-t cells: as :class:`GaussianHead`, with degrees of freedom above 2.1 learned for each cell, 8 at first.

    The floor of the scale is at least ``half``, where the mass of a rounding interval is exact enough.
    """

    def __init__(self, n_cells: int, scale: str = "cell", floor: float = 0.01, half: float = 0.0):
        super().__init__()
        self.n_cells, self.scale, self.floor, self.half_step = n_cells, scale, max(floor, half), half
        self.raw_scale = _raw_scale(n_cells, scale)
        self.log_df = nn.Parameter(torch.full((n_cells,), math.log(5.9)))
        self.n_parameters = n_cells * (1 + (scale == "network"))

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of each cell."""
        return 2.1 + self.log_df.clamp(-6.0, 6.0).exp()

    def forward(self, h: Tensor) -> StudentT:
        loc, scale = _split(h, self.raw_scale, self.n_cells, self.scale, self.floor)
        return StudentT(loc, scale, self.df, self.half_step)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean."""
        return moments.squeeze(-1)


class ContinuousBernoulliHead(nn.Module):
    """Pixel cells as shares of light; ``half`` is half the step between grey levels, 0 for a density."""

    def __init__(self, n_cells: int, half: float = 0.0):
        super().__init__()
        self.n_parameters, self.half_step = n_cells, half

    def forward(self, h: Tensor) -> ContinuousBernoulli:
        return ContinuousBernoulli(h, self.half_step)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean."""
        return moments.squeeze(-1)


class BernoulliHead(nn.Module):
    """Binary cells."""

    def __init__(self, n_cells: int):
        super().__init__()
        self.n_parameters = n_cells

    def forward(self, h: Tensor) -> Bernoulli:
        return Bernoulli(h)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mode."""
        return (moments.squeeze(-1) >= 0.5).to(moments.dtype)


class CategoricalHead(nn.Module):
    """Categorical cells with ``sizes[i]`` classes each, padded to the largest."""

    illegal: Tensor

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.k = max(sizes)
        self.n_parameters = len(sizes) * self.k
        legal = torch.arange(self.k) < torch.tensor(list(sizes)).unsqueeze(-1)
        self.register_buffer("illegal", ~legal, persistent=False)

    def forward(self, h: Tensor) -> Categorical:
        logits = h.unflatten(-1, (-1, self.k)).masked_fill(self.illegal, -torch.inf)
        return Categorical(torch.log_softmax(logits, -1))

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mode."""
        return moments.argmax(-1).to(moments.dtype)


class OrdinalHead(nn.Module):
    """Ordinal cells by cumulative logits, P(x ≤ k | z) = σ(t_k − location(z)), thresholds t rising (McCullagh 1980)."""

    beyond: Tensor

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.k = max(2, *sizes)
        self.n_parameters = len(sizes)
        self.first = nn.Parameter(torch.tensor([-0.75 * math.log(max(s - 1, 1)) - 0.1 for s in sizes]))
        self.gaps = nn.Parameter(torch.zeros(len(sizes), max(self.k - 2, 0)))
        last = torch.arange(self.k - 1) >= torch.tensor(list(sizes)).unsqueeze(-1) - 1
        self.register_buffer("beyond", last, persistent=False)

    def forward(self, h: Tensor) -> Categorical:
        thresholds = torch.cat([self.first.unsqueeze(-1), F.softplus(self.gaps)], -1).cumsum(-1)
        a = thresholds - h.unsqueeze(-1)  # (..., d, K − 1)
        below = F.logsigmoid(a).masked_fill(self.beyond, 0.0)  # log P(x ≤ k), 0 past the last class
        above = F.logsigmoid(-a).masked_fill(self.beyond, -torch.inf)  # log P(x > k)
        first, last = below[..., :1], above[..., -1:]
        gap = (a[..., 1:] - a[..., :-1]).clamp_min(1e-6)
        middle = torch.log(-torch.expm1(-gap)) + below[..., 1:] + above[..., :-1]
        middle = torch.where(self.beyond[..., 1:], above[..., :-1], middle)
        return Categorical(torch.cat([first, middle, last], -1))

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mode."""
        return moments.argmax(-1).to(moments.dtype)


class NegativeBinomialHead(nn.Module):
    """Count cells; the network moves the log-mean around ``means``, the dispersion is one a column.

    It starts where half of the counts' ``variances`` beyond Poisson's is left: r = 2 mean² / (variance − mean), as z explains
    some of it.
    """

    log_base: Tensor

    def __init__(self, means: Sequence[float], variances: Sequence[float] | None = None):
        super().__init__()
        self.n_parameters = len(means)
        self.register_buffer(
            "log_base", torch.log(torch.tensor(list(means), dtype=torch.float32).clamp_min(1e-2))
        )
        mean = torch.tensor(list(means), dtype=torch.float32).clamp_min(1e-2)
        beyond = torch.tensor(list(variances or [2.0 * m + 1.0 for m in means]), dtype=torch.float32) - mean
        self.log_dispersion = nn.Parameter(
            (2 * mean.square() / beyond.clamp_min(1e-2)).log().clamp(-2.0, 6.0)
        )

    def forward(self, h: Tensor) -> NegativeBinomial:
        return NegativeBinomial((self.log_base + h).clamp(-12.0, 15.0), self.log_dispersion.clamp(-6.0, 9.0))

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean, to the nearest whole number."""
        return moments.squeeze(-1).round()


class PoissonHead(nn.Module):
    """Count cells; the network moves the log-rate around the log of ``means``."""

    log_base: Tensor

    def __init__(self, means: Sequence[float]):
        super().__init__()
        self.n_parameters = len(means)
        base = torch.tensor(list(means), dtype=torch.float32).clamp_min(1e-2).log()
        self.register_buffer("log_base", base)

    def forward(self, h: Tensor) -> Poisson:
        return Poisson((self.log_base + h).clamp(-12.0, 15.0))

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean, to the nearest whole number."""
        return moments.squeeze(-1).round()


class BetaBinomialHead(nn.Module):
    """Cells that count up to ``n[i]``; the network moves the logit of the mean share around ``shares``.

    The concentration is one a column; it starts where half of the counts' ``variances`` beyond the binomial's is left, as z
    explains some of it.  With ``pixels`` the counts are grey levels, spread over [−1, 1].
    """

    n: Tensor
    base: Tensor

    def __init__(
        self,
        n: Sequence[int],
        means: Sequence[float] | None = None,
        variances: Sequence[float] | None = None,
        pixels: bool = False,
    ):
        super().__init__()
        self.n_parameters, self.pixels = len(n), pixels
        most = torch.tensor(list(n), dtype=torch.float32)
        share = most.new_full(most.shape, 0.5) if means is None else torch.tensor(list(means)) / most
        share = share.clamp(0.01, 0.99)
        self.register_buffer("n", most, persistent=False)
        self.register_buffer("base", torch.logit(share))
        binomial = most * share * (1 - share)
        excess = 4.0 if variances is None else torch.tensor(list(variances)) / binomial
        self.log_concentration = nn.Parameter(self.concentration_of(0.5 * (1 + excess), most).log())

    @staticmethod
    def concentration_of(ratio: Tensor | float, n: Tensor) -> Tensor:
        """Solve variance / binomial variance = (n + c) / (1 + c) for the concentration c, kept in [0.1, 1000]."""
        ratio = torch.as_tensor(ratio, dtype=n.dtype).clamp_min(1.001)
        return ((n - ratio) / (ratio - 1)).clamp(0.1, 1000.0)

    def forward(self, h: Tensor) -> BetaBinomial:
        logits, concentration = (self.base + h).clamp(-15.0, 15.0), self.log_concentration.clamp(-4.0, 8.0)
        return BetaBinomial(logits, concentration, self.n, self.pixels)

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean; of counts to the nearest whole number."""
        return moments.squeeze(-1) if self.pixels else moments.squeeze(-1).round()


class PixelHead(nn.Module):
    """Pixel cells with ``levels`` grey values each: a discretised mixture of ``components`` logistics."""

    def __init__(self, n_cells: int, levels: int, components: int = 3):
        super().__init__()
        self.n_cells, self.levels, self.components = n_cells, levels, components
        self.n_parameters = 3 * components * n_cells
        spread = torch.linspace(-0.8, 0.8, components) if components > 1 else torch.zeros(1)
        self.spread = nn.Parameter(spread.unsqueeze(-1).expand(-1, n_cells).clone())

    def forward(self, h: Tensor) -> DiscretizedLogisticMixture:
        logits, loc, log_scale = h.unflatten(-1, (3, self.components, -1)).unbind(-3)
        return DiscretizedLogisticMixture(
            logits, loc + self.spread, (log_scale - 1.5).clamp(-7.0, 2.0), self.levels
        )

    def point(self, moments: Tensor) -> Tensor:
        """Posterior mean."""
        return moments.squeeze(-1)


class Likelihood(nn.Module):
    """p(x|z) of a whole row: splits a decoder's output among heads and returns their :class:`Product`."""

    def __init__(self, heads: Sequence[tuple[Sequence[int] | None, nn.Module]], n_cells: int):
        super().__init__()
        self.heads = nn.ModuleList([head for _, head in heads])
        self.n_cells = n_cells
        self.n_parameters = sum(int(head.n_parameters) for _, head in heads)  # pyright: ignore[reportArgumentType]
        self._cells: list[Tensor | slice] = []
        for cells, _ in heads:
            whole = cells is None or (len(heads) == 1 and list(cells) == list(range(n_cells)))
            self._cells.append(slice(None) if whole else torch.as_tensor(list(cells or ()), dtype=torch.long))

    def forward(self, h: Tensor) -> Product:
        sizes = [int(head.n_parameters) for head in self.heads]  # pyright: ignore[reportArgumentType]
        pieces = h.split(sizes, -1) if len(sizes) > 1 else (h,)
        parts: list[tuple[Tensor | slice, Distribution]] = [
            (cells, head(piece)) for cells, head, piece in zip(self._cells, self.heads, pieces, strict=True)
        ]
        return Product(parts, self.n_cells)

    def limits(self) -> Tensor:
        """The largest value that each cell can take, (D,): infinity but for bounded counts."""
        out = torch.full((self.n_cells,), torch.inf)
        for cells, head in zip(self._cells, self.heads, strict=True):
            if isinstance(head, BetaBinomialHead) and not head.pixels:
                out[cells] = head.n.to(out.dtype)
        return out

    def cells(self) -> list[list[int]]:
        """The cells' positions of each head."""
        return [list(range(self.n_cells)) if isinstance(c, slice) else c.tolist() for c in self._cells]

    def point(self, moments: list[Tensor]) -> Tensor:
        """Turn averaged moments into one value a cell: means of numbers, modes of classes; shape (..., D)."""
        values = [head.point(m) for head, m in zip(self.heads, moments, strict=True)]  # pyright: ignore[reportCallIssue]
        if isinstance(self._cells[0], slice):
            return values[0]
        out = values[0].new_empty(*values[0].shape[:-1], self.n_cells)
        for cells, value in zip(self._cells, values, strict=True):
            out[..., cells] = value
        return out

    def chances(self, moments: list[Tensor], cell: int, levels: int) -> Tensor:
        """Probability of each of the ``levels`` of a class cell, (..., levels)."""
        for cells, m in zip(self.cells(), moments, strict=True):
            if cell in cells and levels:
                p = m[..., cells.index(cell), :]
                return torch.cat([1 - p, p], -1) if p.shape[-1] == 1 else p[..., :levels]
        raise ValueError(f"cell {cell} holds a number, not a class")

    def extra_repr(self) -> str:
        return f"n_cells={self.n_cells}, n_parameters={self.n_parameters}"
