"""Convolutions in whole numbers: sums without rounding, so that they are the same bits on any machine, in any order.

    x ≈ unit of the row · whole numbers of :data:`BITS` bits           w ≈ unit of the plane · whole numbers

Weights are cut such that no sum of products goes beyond 2²⁴, up to which float32 has every whole number: its convolutions,
several times as quick as those of float64, are exact.  What is off is what was cut off: of the numbers read a part in 2¹⁰ of
the row's largest, of the weights about as much; where a sum has so many terms that little is left for each weight, what is
cut off a weight is cut again and follows in a second convolution.  Where float32 would not do (:func:`exact`), float64 gives
the same.

Layers work as torch's until :func:`whole_numbers` says otherwise.  Cf. Jacob et al. 2018 (arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = 9  # of what is read, beside the sign
SUM = 24  # bits of float32
TINY = 1e-300
ENOUGH = 32  # mean of a weight that need not be cut twice


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution padded by 1, of stride 1 or 2."""

    whole: WholeWeights | None = None

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__(before, after, 3, stride, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.whole is None else self.whole(input)

    def cut(self) -> WholeWeights:
        """The layer in whole numbers."""
        return WholeWeights(
            partial(F.conv2d, stride=self.stride[0], padding=1), self, 0, 9 * self.in_channels
        )


class Doubling(nn.ConvTranspose2d):
    """A transposed 4 x 4 convolution that doubles the size."""

    whole: WholeWeights | None = None

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input, output_size) if self.whole is None else self.whole(input)

    def cut(self) -> WholeWeights:
        """The layer in whole numbers; a pixel sums over 2 x 2 places."""
        return WholeWeights(partial(F.conv_transpose2d, stride=2, padding=1), self, 1, 4 * self.in_channels)


class WholeWeights:
    """A layer's convolution ``run`` in whole numbers; planes of the result are on axis ``out`` of the weights, and
    each of its numbers is a sum of so many ``terms``."""

    def __init__(
        self, run: Callable[..., Tensor], layer: nn.Conv2d | nn.ConvTranspose2d, out: int, terms: int
    ):
        largest = 2 ** (SUM - BITS)  # that the absolute values of a sum's weights may reach together
        rest = [axis for axis in range(4) if axis != out]
        weight = layer.weight.detach().double()
        # rounding adds at most half of the terms
        unit = weight.abs().sum(rest, keepdim=True).clamp_min(TINY) / (largest - terms / 2)
        high = (weight / unit).round()
        parts, self.units = [high], [unit.view(1, -1, 1, 1)]
        if largest < ENOUGH * terms:
            fine = 2 ** max(0, int(2 * largest / terms - 1).bit_length() - 1)
            parts.append(((weight / unit - high) * fine).round())
            self.units.append(unit.view(1, -1, 1, 1) / fine)
        self.weight = torch.cat(parts, out).float().contiguous(memory_format=torch.channels_last)
        assert layer.bias is not None
        self.bias = layer.bias.detach().double().view(1, -1, 1, 1)
        self.run = run

    def __call__(self, x: Tensor) -> Tensor:
        unit = x.abs().amax((1, 2, 3), keepdim=True).clamp_min_(TINY) / 2**BITS
        sums = self.sums((x / unit).round_()).chunk(len(self.units), 1)
        y = self.bias
        for part, own in zip(sums, self.units, strict=True):
            y = torch.addcmul(y, part, own * unit)
        return y

    def sums(self, whole: Tensor) -> Tensor:
        """Sums of whole numbers (rows, planes, H, W) times weights, as float64."""
        if exact():
            return self.run(whole.float(), self.weight).double()
        return self.run(whole, self.weight.double())


@cache
def exact() -> bool:
    """Whether torch's convolutions of float32 are exact on whole numbers here: not so where they go by way of transforms."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**BITS), 2**BITS, (16, 32, 14, 14), generator=g).float()
    w = torch.randint(-113, 114, (64, 32, 3, 3), generator=g).float()
    with torch.no_grad():
        return torch.equal(F.conv2d(x, w, padding=1).double(), F.conv2d(x.double(), w.double(), padding=1))


@contextmanager
def whole_numbers(network: nn.Module) -> Iterator[None]:
    """Let the convolutions of a network work in whole numbers."""
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution | Doubling)]
    try:
        for layer in layers:
            layer.whole = layer.cut()
        yield
    finally:
        for layer in layers:
            layer.whole = None
