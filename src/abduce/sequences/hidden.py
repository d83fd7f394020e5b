"""Which observed cells to hide, so that members can be weighed by how they fill them: shaped like the blanks that there are.

Inside a series the blanks themselves are the pattern: moved along in time they fall on observed cells.  Whole runs of them are
taken or left, so that points stay points, gaps gaps, and whole steps whole steps, and at most a quarter of what was seen is
hidden.  Series without blanks get points and a few gaps.  For forecasts, series are cut off at several origins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen

MOST = 0.25  # share of the observed cells that are hidden
FEW = 1000  # hidden cells, each in a run of its own, that suffice: then only the last part of the steps is judged
LATE = 0.2  # that part
WIDER = 0.5  # and where runs are few, since the cells of a run err alike
LAST = 4096  # steps of it, at most; WIDER / LATE times as many where runs are few
ORIGINS = 32  # at most, of a series that is forecast from several
AGAIN = 3  # at least
LATEST = 0.25  # share of the steps that they lie in


def like_blanks(mask: Tensor, seed: int) -> Tensor:
    """Mark observed cells of series (N, T, F) to hide, shaped like their blanks; bool, as ``mask``."""
    generator = Generator().manual_seed(seed)
    n, length, f = mask.shape
    spans = mask.any(2)
    first = torch.where(spans.any(1), spans.to(torch.uint8).argmax(1), 0)
    last = length - spans.flip(1).to(torch.uint8).argmax(1)
    at = torch.arange(length)
    within = (at >= first.unsqueeze(1)) & (at < last.unsqueeze(1))
    blank = ~mask & within.unsqueeze(2)
    share = float(blank.sum()) / max(1.0, float(within.sum() * f))
    if share < 0.01:
        pattern = _made_up(mask.shape, generator)
    else:
        pattern = _moved(blank, generator)
        pattern &= _runs_kept(pattern, min(1.0, MOST / share), generator)
    hidden = pattern & mask
    some, wider = (hidden & judged_part(n, length, seed, part).unsqueeze(2) for part in (LATE, WIDER))
    begins = some & ~torch.cat([torch.zeros_like(some[:, :1]), some[:, :-1]], 1)
    if int(begins.sum()) >= FEW:
        hidden = some
    elif int(wider.sum()) >= FEW or length > 2 * LAST:
        hidden = wider
    # a series keeps something of each feature
    return hidden & (mask & ~hidden).any(1, keepdim=True)


def judged_part(n: int, length: int, seed: int, share: float = LATE) -> Tensor:
    """The steps (N, T) whose hidden cells are judged where they are many: the last of one series, or all of some series."""
    if n == 1:
        return torch.arange(length).unsqueeze(0) >= max(
            int(length * (1 - share)), length - int(LAST * share / LATE)
        )
    return (torch.rand(n, 1, generator=Generator().manual_seed(seed)) < share).expand(n, length)


def _moved(blank: Tensor, generator: Generator) -> Tensor:
    """The pattern of blanks elsewhere: each series' own, turned round in time by about half, or another series'."""
    n, length, _ = blank.shape
    if n > 1:
        return blank.roll(int(torch.randint(1, n, (1,), generator=generator)), 0)
    shift = length // 2 + int(torch.randint(0, max(1, length // 4), (1,), generator=generator))
    return blank.roll(shift, 1)


def _runs_kept(pattern: Tensor, share: float, generator: Generator) -> Tensor:
    """Which cells' runs are used: one die for all runs that begin at a step, whatever the feature."""
    n, length, _ = pattern.shape
    die = (torch.rand(n, length, 1, generator=generator) < share).expand(pattern.shape)
    begin = torch.where(~pattern, torch.arange(length).view(1, length, 1), -1).cummax(1).values + 1
    return torch.gather(die, 1, begin.clamp_max(length - 1))


def _made_up(shape: torch.Size, generator: Generator) -> Tensor:
    """A tenth of the cells as points, and gaps of up to 24 steps in which a tenth lies, of one feature each."""
    n, length, f = shape
    points = torch.rand(shape, generator=generator) < 0.1
    longest = max(1, min(24, length // 6))
    size = torch.randint(1, longest + 1, (n, length, f), generator=generator)
    begins = torch.rand(shape, generator=generator) < 0.1 / (0.5 * longest + 0.5)
    reach = torch.where(begins, torch.arange(length).view(1, length, 1) + size, 0).cummax(1).values
    return points | (reach > torch.arange(length).view(1, length, 1))


class CutOff(NamedTuple):
    """Series cut off before their end: what is ``seen`` of them (R, L + horizon, F), the mask of the cells that were cut off,
    which steps (N, T) of the series lie after the earliest cut, so that who is judged by them does not learn from them,
    which series (R,) each is of, and which ``turn`` (R,), the last of each series' cuts being 0."""

    seen: Seen
    future: Tensor
    late: Tensor
    series: Tensor
    turn: Tensor


def evenly(count: int, most: int) -> Tensor:
    """Numbers of ``most`` of so many, evenly spread; of all where they are fewer.

    >>> evenly(5, 3), evenly(2, 3)
    (tensor([0, 2, 4]), tensor([0, 1]))
    """
    return torch.linspace(0, count - 1, min(count, max(1, most))).round().long()


def cuts(seen: Seen, horizon: int, most: int, cells: int) -> CutOff:
    """Cut series off so that ``horizon`` steps are to be forecast from at most ``most`` before them.

    Of few series the cuts are spread over the last quarter of their steps, since what comes next hangs on the time of year;
    of many series a few cuts serve, a horizon apart.  What is cut off is of about so many ``cells`` at most, some of all.
    """
    n, length, f = seen.y.shape
    spans = seen.mask.any(2)
    at = torch.arange(length)
    size = torch.where(spans, at + 1, 0).amax(1)
    begin = torch.where(spans, at, length).amin(1)
    turns = max(AGAIN, min(ORIGINS, 8 * ORIGINS // max(1, n)))
    rows, ends, turned = [], [], []
    late = torch.zeros(n, length, dtype=torch.bool)
    # steps that the earliest cut may lie before the last: what is late is learnt from only in the end
    room = (LATEST * (size - begin)).long() - horizon
    if n > ORIGINS:
        room = room.clamp_max((turns - 1) * horizon)
    before = torch.full_like(size, -1)
    for turn in range(turns):
        back = (room.clamp_min(0) * turn).div(max(1, turns - 1), rounding_mode="floor")
        end = size - back
        able = (end - horizon - begin >= 2) & (back > before) & ((room >= 0) | (turn == 0))
        before = back
        rows.append(able.nonzero().squeeze(1))
        ends.append(end[able])
        turned.append(torch.full_like(ends[-1], turn))
        late |= able.unsqueeze(1) & (at >= (end - horizon).unsqueeze(1))
    keep = min(length, most + horizon)
    row, end, turned = (torch.cat(parts) for parts in (rows, ends, turned))
    some = evenly(len(row), cells // (keep * f))
    row, end, turned = row[some], end[some], turned[some]
    place = end.unsqueeze(1) - keep + torch.arange(keep)
    there = place >= 0
    index = (row.unsqueeze(1), place.clamp_min(0))
    y, mask = seen.y[index], seen.mask[index] & there.unsqueeze(2)
    time = seen.time[index] if seen.time is not None else place.double()
    # steps before the first are counted on backward
    time = torch.where(there, time, time[:, -1:] - (keep - 1 - torch.arange(keep)).double())
    future = torch.zeros_like(mask)
    future[:, -horizon:] = mask[:, -horizon:]
    return CutOff(Seen(y, mask & ~future, time=time), future, late, row, turned)


def pieces(seen: Seen, length: int) -> tuple[Seen, Tensor]:
    """Series (N, T, F) cut into pieces (R, length, F) where time is a multiple of ``length``, as days and weeks are cut, and
    which series each is of.  What is left at the ends is left out."""
    n, steps, _ = seen.y.shape
    time = torch.arange(steps).double().expand(n, -1) if seen.time is None else seen.time
    skipped = torch.remainder(-time[:, :1].round().long(), length)
    place = (skipped + torch.arange(steps // length * length)).view(n, -1, length)
    series, piece = (place[..., -1] < steps).nonzero(as_tuple=True)
    index = (series.unsqueeze(1), place[series, piece])
    return Seen(seen.y[index], seen.mask[index], time=time[index]), series
