"""Where the cells of a frame came from: the last frame moved by each small shift, weighed by how well that shift explains.

    m_i = Σ_o w_io x_t−1,i+o,   w_io = softmax_o(g_o(e_1(i+·, ·), e_2(i+·, ·)) − a e_3(i, o))

e_1 and e_2 count the cells around i + o that differ when frames t−1 and t−2, or t−2 and t−3, lie on each other shifted by o:
how things there moved so far, of which a small network g makes what to expect.  e_3 counts those cells of frame t before i,
near it, that differ from frame t−1 shifted by o: how they move now, which also tells a bounce.  Counts have no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AROUND = 3  # cells to either side of the square in which cells that differ are counted
WIDTH = 32  # hidden units of what to expect
SCALE = 10.0  # cells that differ, as its unit
LEAST = 0.02  # added to shares before their logarithm


class Moved(NamedTuple):
    """The last frame under every shift, (B, V, D), a zero after its end, and what the frames before say of it, (B, V, D)."""

    values: Tensor
    expected: Tensor


class Motion(nn.Module):
    """Expected indicators of cells by local motion of up to ``most`` cells a step, on a grid of ``size``."""

    window: Tensor

    causal: Tensor

    def __init__(self, size: tuple[int, int], most: int, above: int, below: int):
        super().__init__()
        self.size, self.most, side = size, most, 2 * most + 1
        offsets = [(r, c) for r in range(side) for c in range(side)]
        window = torch.zeros(len(offsets), 1, side + 2 * AROUND, side + 2 * AROUND)
        for k, (r, c) in enumerate(offsets):
            window[k, 0, r : r + 2 * AROUND + 1, c : c + 2 * AROUND + 1] = 1
        self.register_buffer("window", window, persistent=False)
        causal = torch.ones(1, 1, 2 * above + 1, 2 * below + 1)
        causal.flatten()[causal.numel() // 2 :] = 0  # rows above, and this one up to the cell itself
        self.register_buffer("causal", causal, persistent=False)
        v = len(offsets)
        self.expect = nn.Sequential(nn.Linear(2 * v, WIDTH), nn.ReLU(), nn.Linear(WIDTH, v))
        self.trust = nn.Parameter(torch.tensor([0.2, 0.7]))

    def moved(self, window: Tensor) -> Moved:
        """Of windows (B, M, D), M >= 3."""
        frames = window[:, -3:].float()
        shifted = [self._shifts(frames[:, k]) for k in range(3)]
        recent, earlier = (self._differ(frames[:, k], shifted[k - 1]) for k in (2, 1))
        told = self.expect(torch.cat([recent, earlier], 1).transpose(1, 2) / SCALE).transpose(1, 2)
        return Moved(F.pad(shifted[2], (0, 1)), told - self.trust[0] * recent)

    @torch.no_grad()
    def _shifts(self, frame: Tensor) -> Tensor:
        """A frame (B, D) at i + o for every shift o, zeros beyond the edge: (B, V, D)."""
        return F.unfold(frame.view(-1, 1, *self.size), 2 * self.most + 1, padding=self.most)

    @torch.no_grad()
    def _differ(self, frame: Tensor, before: Tensor) -> Tensor:
        wrong = (before != frame[:, None]).float().view(len(frame), -1, *self.size)
        return F.conv2d(wrong, self.window, padding=self.most + AROUND, groups=wrong.shape[1]).flatten(2)

    @torch.no_grad()
    def now_all(self, moved: Tensor, x: Tensor) -> Tensor:
        """How many of the cells before each and near it differ between a frame (B, D) and the moved ones: (B, V, D)."""
        wrong = (moved != x[:, None]).float().view(-1, 1, *self.size)
        padding = (self.causal.shape[2] // 2, self.causal.shape[3] // 2)
        return F.conv2d(wrong, self.causal, padding=padding).view(moved.shape)

    @torch.no_grad()
    def now(self, moved: Tensor, seen: Tensor, near: Tensor) -> Tensor:
        """The same of one cell, given what is drawn, (B, D + 1), and the places near it, (P,): (B, V)."""
        return (moved[:, :, near] != seen[:, None, near]).float().sum(-1)

    def forward(self, values: Tensor, expected: Tensor, now: Tensor, levels: int) -> Tensor:
        """log of the shares of the levels 1 ... K−1 over that of 0: (B, V, ...) each -> (B, ..., K−1)."""
        w = torch.softmax(expected - self.trust[1] * now, 1)
        shares = torch.stack([(w * (values == k)).sum(1) for k in range(levels)], -1)
        log_shares = torch.log(shares + LEAST)
        return log_shares[..., 1:] - log_shares[..., :1]
