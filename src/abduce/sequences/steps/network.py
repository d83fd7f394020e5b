"""The law of a step's cells one after the other, given the last steps: a network whose weights are shared over places.

    p(x_t | x_<t) = Π_i p(x_ti | x_t,<i, x_t−1, ..., x_t−M)
    h_i   = b_i + past(window)_i + Σ_{j ∈ near(i)} W_{i−j} x_j + [ context(window, clock) + Σ_{j<i} V_j x_j + n(count_{j<i}) ]
    h'    = relu(h) + A relu(h),   logits_i = C relu(h')

``past`` are convolutions over places of the frames at some lags, of how long each cell has had its value, and of the mean of
the last steps.  ``near(i)`` are the places before i, in the order of the chain, within ``below`` of it: a causal convolution.
What is in brackets has weights of its own for each place (a NADE with a context); grids do without.  A value v of 0 ... K−1 is
K−1 indicators, so that binary cells are single planes, and level 0 has the logit 0.  On grids the hidden units and the
logits also have the cell that local motion would bring (:mod:`abduce.sequences.steps.motion`).

Given the window, the whole chain is evaluated at once for known cells (:meth:`ChainNet.forward`), or cell by cell
(:meth:`ChainNet.walk`), which draws.

Sources: Larochelle & Murray 2011 (NADE); Boulanger-Lewandowski et al. 2012 (arXiv:1206.6392); van den Oord et al. 2016
(arXiv:1601.06759); Johnson 2017 (tied networks over pitches).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abduce.sequences.steps.motion import Motion

COUNTED = 12  # cells that are on so far, counted up to this many
CLOCK = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)  # periods, in steps from the start of a sequence
RECENT = 16  # steps over which values are averaged
Pick = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class ChainShape:
    """What a network is built of.  ``rows`` and ``columns`` of cells: a line has one row."""

    rows: int
    columns: int
    levels: tuple[int, ...]  # values that each cell can have
    lags: tuple[int, ...]
    near: bool = True  # whether places near each other share weights
    whole: bool = True  # whether each place has weights of its own
    reach: int = 12  # places that convolutions of the past see on either side
    below: int = 24  # places before a cell, in its row, that it is told
    above: int = 0  # rows before it that it is told, on a grid
    depth: int = 1  # convolutions of the past
    width: int = 64
    frames: int = 4  # whose cells the context sees
    dropout: float = 0.2
    clock: bool = True
    motion: int = 0  # cells that things move by in a step, at most; on a grid, with three steps of memory

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def memory(self) -> int:
        """Steps that the law looks back."""
        return max(self.lags)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> ChainShape:
        lists: dict[str, Any] = {k: tuple(body[k]) for k in ("levels", "lags")}
        return cls(**(body | lists))


class ChainNet(nn.Module):
    """Logits of each cell's values, given the cells before it and a window of steps."""

    near_cells: Tensor
    allowed: Tensor

    def __init__(self, shape: ChainShape):
        super().__init__()
        self.shape, h, d = shape, shape.width, shape.cells
        self.planes = planes = max(shape.levels) - 1
        levels = torch.tensor(shape.levels)
        self.register_buffer("allowed", torch.arange(1, planes + 1) < levels[:, None], persistent=False)
        self.register_buffer("near_cells", _near(shape), persistent=False)
        self.place = nn.Parameter(torch.zeros(d, h))
        self.drop = nn.Dropout(shape.dropout)
        self.mix, self.out = nn.Linear(h, h), nn.Linear(h, planes)
        nn.init.constant_(self.out.bias, -2.0)
        if shape.near:
            channels = planes * (len(shape.lags) + 2) + 2
            layers: list[nn.Module] = []
            for k in range(shape.depth):
                reach = shape.reach if k == 0 else 1
                size = (min(reach, shape.rows - 1), min(reach, shape.columns - 1))
                layers += [nn.ReLU()] * (k > 0)
                kernel = (2 * size[0] + 1, 2 * size[1] + 1)
                layers.append(nn.Conv2d(h if k else channels, h, kernel, padding=size))
            self.past = nn.Sequential(*layers)
            self.present = nn.Linear(self.near_cells.shape[1] * planes, h, bias=False)
        if shape.motion:
            self.motion = Motion((shape.rows, shape.columns), shape.motion, shape.above, shape.below)
            self.lean, self.along = nn.Linear(planes, planes, bias=False), nn.Linear(planes, h, bias=False)
            nn.init.eye_(self.lean.weight)
        if shape.whole:
            n = shape.frames * d * planes + 1 + shape.clock * (2 * len(CLOCK) + 1)
            self.context = nn.Sequential(
                nn.Linear(n, 2 * h), nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(2 * h, h)
            )
            self.before = nn.Parameter(0.01 * torch.randn(d, planes, h))
            self.counted = nn.Embedding(COUNTED, h)
            nn.init.normal_(self.counted.weight, 0, 0.1)

    def code(self, x: Tensor) -> Tensor:
        """Values (..., D) as indicators (..., D, K−1) of the levels above 0."""
        if self.planes == 1:
            return x[..., None].float()
        return (x[..., None] == torch.arange(1, self.planes + 1)).float()

    def base(self, window: Tensor, t: Tensor) -> Tensor:
        """What the past says of each cell: (B, M, D) and steps since the start (B,) -> (B, D, width)."""
        shape, b = self.shape, len(window)
        h = self.place.expand(b, -1, -1)
        recent = window.flip(1)[:, :RECENT]
        kept = (recent[:, 1:] == recent[:, :1]).float().cumprod(1)
        if shape.near:
            held = torch.log1p(kept.sum(1) + 1)
            lagged = self.code(window[:, [-lag for lag in shape.lags]]).transpose(2, 3).flatten(1, 2)
            averaged = self.code(recent).mean(1).transpose(1, 2)
            last = self.code(window[:, -1]).transpose(1, 2)
            here = torch.ones(b, 1, shape.cells)
            planes = torch.cat([lagged, averaged, last * held[:, None], held[:, None], here], 1)
            past = self.past(planes.view(b, -1, shape.rows, shape.columns))
            h = h + past.flatten(2).transpose(1, 2)
        if shape.whole:
            same = torch.log1p((recent[:, 1:] == recent[:, :-1]).all(2).float().cumprod(1).sum(1))
            parts = [self.code(window[:, -shape.frames :]).flatten(1), same[:, None]]
            if shape.clock:
                angle = 2 * torch.pi * t[:, None] / torch.tensor(CLOCK)
                parts += [angle.sin(), angle.cos(), (t[:, None] < 4).float()]
            h = h + self.context(torch.cat(parts, 1))[:, None]
        return h

    def head(self, h: Tensor, brought: Tensor | None) -> Tensor:
        """Hidden units (..., width), and what motion brings (..., K−1), to logits (..., K−1)."""
        if brought is not None:
            h = h + self.along(brought)
        h = self.drop(F.relu(h))
        logits = self.out(F.relu(h + self.mix(h)))
        return logits if brought is None else logits + self.lean(brought)

    def log_p(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """log p of the values 0 ... K−1 of logits (..., K−1)."""
        logits = logits.masked_fill(~allowed, -torch.inf)
        return torch.log_softmax(F.pad(logits, (1, 0)), -1)

    def forward(self, window: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """log p of the values of every cell given those before it: (B, M, D), (B,), (B, D) -> (B, D, K)."""
        h, seen = self.base(window, t), self.code(x)
        if self.shape.near:
            near = F.pad(seen, (0, 0, 0, 1))[:, self.near_cells]
            h = h + self.present(near.flatten(2))
        if self.shape.whole:
            step = torch.einsum("bdk,dkh->bdh", seen, self.before)
            on = (x > 0).long()
            count = F.pad(on.cumsum(1)[:, :-1], (1, 0)).clamp_max(COUNTED - 1)
            h = h + F.pad(step.cumsum(1)[:, :-1], (0, 0, 1, 0)) + self.counted(count)
        brought = None
        if self.shape.motion:
            moved = self.motion.moved(window)
            frames = moved.values[:, :, :-1]
            now = self.motion.now_all(frames, x)
            brought = self.motion(frames, moved.expected, now, self.planes + 1)
        return self.log_p(self.head(h, brought), self.allowed)

    @torch.no_grad()
    def walk(self, window: Tensor, t: Tensor, pick: Pick) -> Tensor:
        """Go through the cells: ``pick(i, log p (B, K))`` gives the value of cell i, (B,); the step that comes out, (B, D)."""
        shape, b, d = self.shape, len(window), self.shape.cells
        base, brought = self.base(window, t), None
        moved = self.motion.moved(window) if shape.motion else None
        seen = torch.zeros(b, d + 1, self.planes)
        x = torch.zeros(b, d + 1, dtype=torch.long)
        before, count = torch.zeros(b, shape.width), torch.zeros(b, dtype=torch.long)
        for i in range(d):
            h = base[:, i]
            if shape.near:
                h = h + self.present(seen[:, self.near_cells[i]].flatten(1))
            if shape.whole:
                h = h + before + self.counted(count.clamp_max(COUNTED - 1))
            if moved is not None:
                now = self.motion.now(moved.values, x, self.near_cells[i])
                brought = self.motion(moved.values[:, :, i], moved.expected[:, :, i], now, self.planes + 1)
            x[:, i] = pick(i, self.log_p(self.head(h, brought), self.allowed[i]))
            seen[:, i] = self.code(x[:, i])
            if shape.whole:
                before = before + seen[:, i] @ self.before[i]
                count = count + (x[:, i] > 0)
        return x[:, :d]


def _near(shape: ChainShape) -> Tensor:
    """Of each cell the places of those before it that are near, D where there is none: (D, P).

    >>> _near(ChainShape(1, 3, (2, 2, 2), (1,), below=2)).tolist()
    [[3, 3], [3, 0], [0, 1]]
    """
    below = min(shape.below, shape.columns - 1)
    steps = [(r, c) for r in range(-shape.above, 1) for c in range(-below, below + 1) if (r, c) < (0, 0)]
    offsets = torch.tensor(steps or [(-shape.rows, 0)])
    row, column = torch.meshgrid(torch.arange(shape.rows), torch.arange(shape.columns), indexing="ij")
    r, c = row.reshape(-1, 1) + offsets[:, 0], column.reshape(-1, 1) + offsets[:, 1]
    inside = (r >= 0) & (c >= 0) & (c < shape.columns)
    return torch.where(inside, r * shape.columns + c, shape.cells)
