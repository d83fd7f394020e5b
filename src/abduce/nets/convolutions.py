"""Convolutional networks of images: an encoder and a decoder that share weights over places, for images of any size.

    encoder   planes of an image (values, mask)  ->  half the size, width w_1  ->  ...  ->  w_L  ->  flat  ->  linear
    decoder   linear  ->  w_L  ->  twice the size  ->  ...  ->  w_1  ->  planes of parameters, plus one number a cell

The encoder's layers are 3 x 3 convolutions of stride 2, sizes rounded up.  The decoder goes back through the same sizes by
transposed 4 x 4 convolutions of stride 2, each pixel of which sums as many terms (no checkerboard), cropped where a size is
odd.  With ``blocks`` so many residual pairs, x + conv(act(conv(act(x)))), 3 x 3, follow at each of the smaller sizes, and the
decoder reaches the whole size with 24 planes, of which a last 3 x 3 convolution makes parameters.  Rows are flat, as
everywhere: planes of cells (H, W, C) in C order.

Sources: LeCun et al. 1998; He et al. 2016 (arXiv:1512.03385); Radford, Metz & Chintala 2016 (arXiv:1511.06434); Odena,
Dumoulin & Olah 2016 (checkerboards).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abduce.nets.dropout import Dropout
from abduce.nets.mlp import PathLayer, activation_of, zeroed
from abduce.nets.whole import Convolution, Doubling

# numbers in the widest tensor of a slice of rows, where no gradient needs all of them: what a cache holds
BUDGET = 2**20
LAST = 24  # planes of the whole size before the parameters, with residual blocks


def halvings(shape: Sequence[int], levels: int) -> list[tuple[int, int]]:
    """Sizes of an image halved ``levels`` times, rounded up, from the whole one down.

    >>> halvings((28, 5), 3)
    [(28, 5), (14, 3), (7, 2), (4, 1)]
    """
    sizes = [(int(shape[0]), int(shape[1]))]
    for _ in range(levels):
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the identity: x + conv(act(conv(act(x))))."""

    def __init__(self, width: int, activation: str):
        super().__init__()
        first, last = (Convolution(width, width) for _ in range(2))
        self.net = nn.Sequential(activation_of(activation), first, activation_of(activation), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class ConvolutionalEncoder(nn.Module):
    """Rows of flat planes (..., planes · H · W · C + extra) -> (..., out_dim); the ``extra`` numbers join the last layer.

    ``hidden`` are the widths w_1 ... w_L.  With ``zero_start`` the last layer starts at zero.

    >>> net = ConvolutionalEncoder((5, 7, 3), planes=2, extra=4, hidden=(8, 16), out_dim=6)
    >>> net(torch.zeros(9, 2 * 5 * 7 * 3 + 4)).shape
    torch.Size([9, 6])
    """

    def __init__(
        self,
        shape: Sequence[int],
        planes: int,
        extra: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: str = "silu",
        dropout: float = 0.0,
        zero_start: bool = False,
        blocks: int = 0,
    ):
        super().__init__()
        self.shape = _whole(shape)
        self.planes, self.extra = planes, extra
        widths = [planes * self.shape[2], *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers.append(Convolution(before, after, stride=2))
            layers += [*_residuals(after, blocks, activation), activation_of(activation)]
            if dropout:
                layers.append(Dropout(dropout, images=True))
        self.net = nn.Sequential(*layers)
        h, w = halvings(self.shape, len(hidden))[-1]
        self.last = nn.Linear(widths[-1] * h * w + extra, out_dim)
        if zero_start:
            zeroed(self.last)
        self.to(memory_format=torch.channels_last)  # quicker on a processor  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        h, w, c = self.shape
        rows = x.reshape(-1, x.shape[-1])
        image, extra = rows[:, : rows.shape[1] - self.extra], rows[:, rows.shape[1] - self.extra :]
        image = image.view(-1, self.planes, h, w, c).permute(0, 1, 4, 2, 3).reshape(-1, self.planes * c, h, w)
        read = self.net(image).flatten(1)
        return self.last(torch.cat([read, extra], 1)).view(*x.shape[:-1], -1)


class ConvolutionalDecoder(nn.Module):
    """Latents (..., in_dim) -> flat planes of parameters (..., planes · H · W · C), optionally beside a linear path.

    ``hidden`` are the encoder's widths, w_1 ... w_L.  ``offset`` is one number for each output, as pixels differ by place.
    With a linear path, W z + b is added and the last convolution starts at zero.

    >>> net = ConvolutionalDecoder(4, (5, 7, 3), planes=2, hidden=(8, 16), linear_path=True)
    >>> net(torch.zeros(6, 9, 4)).shape
    torch.Size([6, 9, 210])
    """

    def __init__(
        self,
        in_dim: int,
        shape: Sequence[int],
        planes: int,
        hidden: Sequence[int],
        activation: str = "silu",
        linear_path: bool = False,
        dropout: float = 0.0,
        blocks: int = 0,
    ):
        super().__init__()
        self.shape, self.planes = _whole(shape), planes
        h, w, c = self.shape
        self.sizes = halvings(self.shape, len(hidden))
        out = planes * c
        deep = blocks > 0 and len(hidden) > 0
        widths = [LAST if deep else out, *hidden]  # of the result of each size
        (small_h, small_w), width = self.sizes[-1], widths[-1]
        self.start = nn.Sequential(nn.Linear(in_dim, width * small_h * small_w), activation_of(activation))
        steps: list[nn.Module] = []
        for level in range(len(hidden), 0, -1):
            after = widths[level - 1]
            step: list[nn.Module] = _residuals(widths[level], blocks, activation)
            step.append(Doubling(widths[level], after))
            if level > 1 or deep:
                step.append(activation_of(activation))
            if level > 1 and dropout:
                step.append(Dropout(dropout, images=True))
            steps.append(nn.Sequential(*step))
        self.steps = nn.ModuleList(steps)
        self.last = Convolution(LAST, out) if deep else nn.Identity()
        self.offset = nn.Parameter(torch.zeros(out * h * w))
        self.linear = PathLayer(in_dim, out * h * w) if linear_path else None
        if linear_path and steps:
            last: Any = self.last if deep else self.steps[-1][-1]  # pyright: ignore[reportIndexIssue]
            zeroed(last)
        widest = [16 * n * size[0] * size[1] for n, size in zip(widths[:-1], self.sizes[1:], strict=True)]
        self.rows = max(1, BUDGET // max([out * h * w, *widest]))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, z: Tensor) -> Tensor:
        rows = z.reshape(-1, z.shape[-1])
        if torch.is_grad_enabled() or len(rows) <= self.rows:
            y = self._decode(rows)
        else:
            y = torch.cat([self._decode(part) for part in rows.split(self.rows)])
        return y.view(*z.shape[:-1], -1)

    def _decode(self, z: Tensor) -> Tensor:
        h, w, c = self.shape
        y = self.start(z).view(len(z), -1, *self.sizes[-1])
        for step, size in zip(self.steps, reversed(self.sizes[:-1]), strict=True):
            y = step(y)[:, :, : size[0], : size[1]]
        y = self.last(y).reshape(-1, self.planes, c, h, w).permute(0, 1, 3, 4, 2).flatten(1) + self.offset
        return y if self.linear is None else y + self.linear(z)


def _residuals(width: int, blocks: int, activation: str) -> list[nn.Module]:
    return [Residual(width, activation) for _ in range(blocks)]


def _whole(shape: Sequence[int]) -> tuple[int, int, int]:
    h, w, c = (*shape, 1)[:3]
    return int(h), int(w), int(c)
