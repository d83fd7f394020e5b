"""How the law of steps learns: stochastic gradients of −log p of single steps, each with the window before it.

Whole sequences are held out, by which the best of the averaged weights is picked: windows of one sequence overlap, so that
the loop of :mod:`abduce.fit.loop`, which holds out rows, would judge by what it has seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abduce.sequences.steps.network import ChainNet

ROWS = 512  # steps that are judged at once
CHECKS = 12  # times that the held-out sequences are judged
HELD = 5000  # steps of these, at most, that choose
HELD_CELLS = 315_000  # and their cells
WARMUP = 100


@dataclass(frozen=True)
class Learning:
    """How to train: gradient steps, steps of sequences in each, and by how many places they may be moved."""

    updates: int
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-2
    shift: int = 0
    clip: float = 5.0
    average: float = 0.998
    seed: int = 0


class Windows:
    """Steps of all sequences with what came before each, zeros before the first: (n,) indices to windows (n, M, D)."""

    def __init__(self, sequences: list[np.ndarray], memory: int):
        width = sequences[0].shape[1]
        blank = np.zeros((memory, width), sequences[0].dtype)
        self.frames = torch.from_numpy(np.concatenate([part for s in sequences for part in (blank, s)]))
        self.lengths = [len(s) for s in sequences]
        starts = np.cumsum([0] + [memory + n for n in self.lengths])[:-1] + memory
        parts = [np.arange(start, start + n) for start, n in zip(starts, self.lengths, strict=True)]
        self.at = torch.from_numpy(np.concatenate(parts))
        self.time = torch.from_numpy(np.concatenate([np.arange(n) for n in self.lengths]))
        self.offsets = torch.arange(-memory, 0)

    def __len__(self) -> int:
        return len(self.at)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (B, M, D), steps since the start (B,) and the steps themselves (B, D)."""
        at = self.at[index]
        return self.frames[at[:, None] + self.offsets], self.time[index], self.frames[at]


@torch.no_grad()
def step_log_p(net: ChainNet, windows: Windows, index: Tensor | None = None) -> Tensor:
    """log p of each cell given all before it, nats; (n, D)."""
    net.eval()
    index = torch.arange(len(windows)) if index is None else index
    rows = max(1, min(ROWS, 2**15 // net.shape.cells))
    return torch.cat([_chosen(net, *windows.take(part)) for part in index.split(rows)])


def _chosen(net: ChainNet, window: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return net(window, t, x).gather(2, x.long()[..., None])[..., 0]


def learn(
    net: ChainNet,
    train: list[np.ndarray],
    held: list[np.ndarray],
    how: Learning,
    show: Callable[[dict[str, Any]], None],
) -> list[dict[str, float]]:
    """Leave in ``net`` the averaged weights that were best on the sequences held out, the last ones without any."""
    windows = Windows(train, net.shape.memory)
    judged = Windows(held, net.shape.memory) if held else None
    generator = torch.Generator().manual_seed(how.seed)
    chosen = None
    if judged is not None:
        most = max(64, min(HELD, HELD_CELLS // net.shape.cells))
        chosen = torch.randperm(len(judged), generator=torch.Generator().manual_seed(0))[:most]
    averaged = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=how.rate, weight_decay=how.decay)
    history, best, weights = [], -math.inf, None
    every, total = max(1, how.updates // CHECKS), 0.0
    cells = math.sqrt(net.shape.cells)
    net.train()
    for step in range(how.updates):
        rate = how.rate * min(1.0, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / how.updates))
        optimizer.param_groups[0]["lr"] = rate
        index = torch.randint(len(windows), (how.batch,), generator=generator)
        window, t, x = windows.take(index)
        if how.shift:
            window, x = shifted(window, x, how.shift, generator)
        loss = -_chosen(net, window, t, x).sum() / len(x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), how.clip * max(1.0, cells / 8))
        optimizer.step()
        total += float(loss.detach())
        _follow(averaged, net, min(how.average, step / (step + 10)))
        if (step + 1) % every == 0 or step + 1 == how.updates:
            record = {"epoch": (step + 1) / how.updates, "epochs": 1.0, "train": -total / every}
            total = 0.0
            if judged is not None:
                record["valid"] = float(step_log_p(averaged, judged, chosen).sum(1).mean())
            value = record.get("valid", step)
            if value > best:
                best, weights = value, copy.deepcopy(averaged.state_dict())
            history.append(record)
            show(record)
    if weights is None:
        raise FloatingPointError(
            "training diverged: no weights gave the held-out sequences a log p; lower learning_rate"
        )
    net.load_state_dict(weights)
    net.eval().requires_grad_(False)
    return history


@torch.no_grad()
def _follow(averaged: nn.Module, net: nn.Module, kept: float) -> None:
    for mean, now in zip(averaged.parameters(), net.parameters(), strict=True):
        mean.lerp_(now, 1 - kept)


def shifted(window: Tensor, x: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each window and its step moved along the line by up to ``most`` places, less where cells would fall off the ends.

    >>> w = torch.tensor([[[0, 1, 0]]])
    >>> moved = [shifted(w, w[:, 0], 9, torch.Generator().manual_seed(s))[1].tolist() for s in range(9)]
    >>> sorted({tuple(m[0]) for m in moved})
    [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    """
    d = x.shape[1]
    on = (window != 0).any(1) | (x != 0)
    first = torch.where(on.any(1), on.int().argmax(1), 0)
    last = torch.where(on.any(1), d - 1 - on.flip(1).int().argmax(1), d - 1)
    low, high = -first.clamp_max(most), (d - 1 - last).clamp_max(most)
    share = torch.rand(len(x), generator=generator)
    move = low + (share * (high - low + 1)).long()
    places = (torch.arange(d) - move[:, None]) % d
    return window.gather(2, places[:, None].expand_as(window)), x.gather(1, places)
