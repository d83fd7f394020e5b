"""One Gaussian over windows of a few steps, its covariance shrunk to that of a vector autoregression.

    S = (Σ E[x xᵀ] + ν n S₀) / (n + ν n)         over n windows x of W steps, S₀ implied by the autoregression

Windows start at one phase of the season, so that S may say that nights are unlike days.  Any mask of any series is answered
by sliding windows, a cell from the one in which it lies nearest the middle.  Without the shrinkage, EM over windows with many
blanks learns noise.

Source: Ledoit & Wolf 2004 (shrinkage to a target); Dempster, Laird & Rubin 1977 (EM, here for the posterior mode).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.gaussians.em import heed
from abduce.models.model import filled
from abduce.sequences.paths import Paths, SequenceModel

BUDGET = 2**21  # numbers of the covariances of patterns at once


class WindowGaussian(SequenceModel):
    """``covariance`` (W F, W F) of windows of ``steps`` W of ``features`` F that start where time is a multiple of ``stride``.

    Of steps that no seen cell shares a window with it says nothing (NaN): the mean of all time is no forecast.

    >>> model = filled(WindowGaussian(1, 2, 2), covariance=torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double())
    >>> seen = Seen(torch.tensor([[[2.0], [0.0]]]).double(), torch.tensor([[[True], [False]]]))
    >>> model.answer(seen).mean().flatten()
    tensor([2., 1.], dtype=torch.float64)
    """

    covariance: Tensor

    def __init__(self, features: int, steps: int, stride: int):
        super().__init__(features)
        check_count("steps", steps)
        check_count("stride", stride)
        self.steps, self.stride, self.memory = steps, stride, 2 * steps
        self.config = {"features": features, "steps": steps, "stride": stride}
        self.register_buffer("covariance", torch.eye(features * steps, dtype=torch.float64))

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        n, _, f = seen.y.shape
        cut = cut_windows(seen, self.steps, self.stride)
        mean, variance = conditional(self.covariance, cut.y, cut.mask)
        some = cut.mask.any(1)
        mean[~some] = torch.nan
        place, inside = _nearest_middle(seen, self.steps, self.stride, some.view(n, cut.count))
        shape = (n, cut.count, self.steps, f)
        rows = torch.arange(n).unsqueeze(1)
        centre, spread = mean.view(shape)[rows, place, inside], variance.view(shape)[rows, place, inside]
        return Paths(seen, centre, spread.clamp_min(0.0).sqrt())


class _Cut:
    """Windows of series as rows (n count, W F), with their mask."""

    def __init__(self, y: Tensor, mask: Tensor, count: int):
        self.y, self.mask, self.count = y, mask, count


def starts(seen: Seen, stride: int) -> Tensor:
    """How many steps before its first step each series' first window begins, (N,)."""
    if seen.time is None:
        return torch.zeros(len(seen.y), dtype=torch.long)
    return torch.remainder(seen.time[:, 0].round().long(), stride)


def cut_windows(seen: Seen, steps: int, stride: int) -> _Cut:
    """Cut windows that start at multiples of ``stride``; what lies outside the series is blank."""
    n, length, f = seen.y.shape
    early = starts(seen, stride)
    total = length + int(early.max()) if n else length
    count = max(1, -(-(total - steps) // stride) + 1)
    whole = steps + (count - 1) * stride
    y, mask = seen.y.new_zeros(n, whole, f), torch.zeros(n, whole, f, dtype=torch.bool)
    place = early.unsqueeze(1) + torch.arange(length)
    rows = torch.arange(n).unsqueeze(1)
    y[rows, place], mask[rows, place] = torch.where(seen.mask, seen.y, 0.0), seen.mask

    def rows_of(values: Tensor) -> Tensor:
        return values.unfold(1, steps, stride).transpose(2, 3).reshape(n * count, steps * f)

    return _Cut(rows_of(y), rows_of(mask), count)


def _nearest_middle(seen: Seen, steps: int, stride: int, some: Tensor) -> tuple[Tensor, Tensor]:
    """Of each step of each series the window in which it lies nearest the middle, and its place there, (N, T) each.

    Of windows of which nothing was seen (``some`` (N, count) tells) another serves, if the step lies in one that has cells.
    """
    count, rows = some.shape[1], torch.arange(len(some)).unsqueeze(1)
    at = starts(seen, stride).unsqueeze(1) + torch.arange(seen.y.shape[1])
    window = torch.div(at - steps // 2 + stride // 2, stride, rounding_mode="floor").clamp(0, count - 1)
    for k in (sign * k for k in range(1, -(-steps // stride)) for sign in (-1, 1)):
        moved = (window + k).clamp(0, count - 1)
        inside = at - moved * stride
        better = some[rows, moved] & ~some[rows, window] & (inside >= 0) & (inside < steps)
        window = torch.where(better, moved, window)
    return window, at - window * stride


class BlankCells(NamedTuple):
    """The blank cells of some rows: their places (G, b), which of these count (rows have unequally many), and their mean
    (G, b) and covariance (G, b, b) given the observed ones, zero where they don't count."""

    rows: Tensor
    places: Tensor
    real: Tensor
    mean: Tensor
    covariance: Tensor


def blanks_given(covariance: Tensor, y: Tensor, mask: Tensor) -> Iterator[BlankCells]:
    """The blank cells of rows (n, D) of N(0, C) given the observed ones, some rows of about as many blanks at a time.

    With Λ = C⁻¹ the covariance of blanks is Λ_bb⁻¹ and their mean −Λ_bb⁻¹ Λ_bo x_o; where fewer cells are observed than blank,
    it is C_bb − C_bo C_oo⁻¹ C_ob, and C_bo C_oo⁻¹ x_o.  Either way only the smaller side is factorised.
    """
    d = len(covariance)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    blank = ~mask
    count = blank.sum(1)
    order = torch.argsort(count)
    order = order[int((count == 0).sum()) :]
    known = torch.where(mask, y, 0.0)
    start = 0
    while start < len(order):
        some = order[start : start + max(1, BUDGET // d**2)]
        some = some[count[some] <= max(16, int(1.3 * int(count[some[0]])))]
        start += len(some)
        places, real = _places(blank[some], int(count[some[-1]]))
        both = real.unsqueeze(2) & real.unsqueeze(1)
        if 2 * places.shape[1] <= d:
            inner = precision[places.unsqueeze(2), places.unsqueeze(1)] * both + torch.diag_embed(
                (~real).to(y)
            )
            left = torch.cholesky_inverse(torch.linalg.cholesky(inner)) * both
            pull = torch.gather(known[some] @ precision, 1, places) * real
            mean = -(left @ pull.unsqueeze(2)).squeeze(2)
        else:
            seen, there = _places(mask[some], int(d - count[some[0]]))
            pairs = there.unsqueeze(2) & there.unsqueeze(1)
            inner = covariance[seen.unsqueeze(2), seen.unsqueeze(1)] * pairs + torch.diag_embed(
                (~there).to(y)
            )
            root = torch.linalg.cholesky(inner)
            across = covariance[seen.unsqueeze(2), places.unsqueeze(1)] * (
                there.unsqueeze(2) & real.unsqueeze(1)
            )
            half = torch.linalg.solve_triangular(root, across, upper=False)
            z = torch.linalg.solve_triangular(
                root, (torch.gather(known[some], 1, seen) * there).unsqueeze(2), upper=False
            )
            mean = (half.mT @ z).squeeze(2)
            left = covariance[places.unsqueeze(2), places.unsqueeze(1)] * both - half.mT @ half
        yield BlankCells(some, places, real, mean, left)


def _places(cells: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where the marked cells of rows (G, D) are, (G, most), and which of these places count."""
    places = torch.argsort(cells.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
    return places, torch.gather(cells, 1, places)


def conditional(covariance: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each cell of rows (n, D) of N(0, C) given the observed ones; variance 0 where observed."""
    mean, variance = torch.where(mask, y, 0.0), torch.zeros_like(y)
    for rows, places, real, centre, left in blanks_given(covariance, y, mask):
        row = rows.unsqueeze(1).expand_as(places)[real]
        mean[row, places[real]] = centre[real]
        variance[row, places[real]] = left.diagonal(dim1=1, dim2=2)[real]
    return mean, variance


def fit_windows(
    seen: Seen,
    target: Tensor,
    steps: int,
    stride: int,
    strength: float,
    rounds: int = 4,
    start: Tensor | None = None,
) -> WindowGaussian:
    """Fit to series by ``rounds`` of EM from ``target`` S₀, or ``start``; S₀ counts as ``strength`` ν times the windows."""
    covariance = target if start is None else positive(start)
    for _ in range(rounds):
        heed()
        second, n = step_from(seen, covariance, steps, stride)
        covariance = positive((second + strength * n * target) / (n + strength * n))
    return filled(WindowGaussian(seen.y.shape[2], steps, stride), covariance=covariance)


def step_from(seen: Seen, covariance: Tensor, steps: int, stride: int) -> tuple[Tensor, float]:
    """Σ E[x xᵀ] over the windows of series under a covariance, and how many there are: the E-step."""
    cut = cut_windows(seen, steps, stride)
    some = cut.mask.any(1)
    x, d = torch.where(cut.mask[some], cut.y[some], 0.0), len(covariance)
    second = torch.zeros(d * d, dtype=torch.float64)
    for rows, places, real, mean, left in blanks_given(covariance, x, cut.mask[some]):
        row = rows.unsqueeze(1).expand_as(places)[real]
        x[row, places[real]] = mean[real]
        second.index_add_(0, (places.unsqueeze(2) * d + places.unsqueeze(1)).flatten(), left.flatten())
    return x.mT @ x + second.view(d, d), float(some.sum())


def positive(covariance: Tensor, least: float = 1e-9) -> Tensor:
    """The symmetric part, with eigenvalues of at least ``least`` times the mean one."""
    covariance = 0.5 * (covariance + covariance.mT)
    values, vectors = torch.linalg.eigh(covariance)
    floor = least * float(values.mean())
    if float(values[0]) >= floor:
        return covariance
    return (vectors * values.clamp_min(floor)) @ vectors.mT
