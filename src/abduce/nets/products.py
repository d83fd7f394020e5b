"""Convolutions in double precision on a processor, as products of matrices: several times as fast as torch's own there.

    convolved    3 x 3, of stride 1 or 2: patches (rows · places, 9 · planes) times the weights; of fewer planes out than in, the
                 product first, and then its nine shifts summed
    transposed   4 x 4 of stride 2: every 2 x 2 patch makes 2 x 2 pixels, one for each of four sets of 2 x 2 weights

Both take and give (rows, planes, H, W), as torch does, and give planes first in memory.  Elsewhere, and where gradients are
needed, torch's own convolutions run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution padded by 1, of stride 1 or 2."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__(before, after, 3, stride, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        if not _as_products(input):
            return super().forward(input)
        stride = self.stride[0]
        spread = stride == 1 and self.out_channels < self.in_channels
        return (_spread if spread else _gathered)(input, self.weight, self.bias, stride)


class Doubling(nn.ConvTranspose2d):
    """A transposed 4 x 4 convolution that doubles the size."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _as_products(input):
            return super().forward(input, output_size)
        return _doubled(input, self.weight, self.bias)


def _as_products(x: Tensor) -> bool:
    return x.dtype == torch.float64 and x.device.type == "cpu" and not torch.is_grad_enabled()


def _patches(x: Tensor, side: int, stride: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Patches of a padded image as (rows · H · W, side · side · planes), and (rows, H, W)."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    n, high, wide, planes = padded.shape
    h, w = (high - side) // stride + 1, (wide - side) // stride + 1
    image, line = high * wide * planes, wide * planes
    shape, strides = (n, h, w, side, side * planes), (image, stride * line, stride * planes, line, 1)
    return padded.as_strided(shape, strides).reshape(n * h * w, -1), (n, h, w)


def _times(weight: Tensor, patches: Tensor, bias: Tensor | None) -> Tensor:
    """Weights (out, in) times patches (m, in), (out, m): quicker than the other way around, as out is few and m many."""
    if bias is None:
        return weight @ patches.t()
    return torch.addmm(bias.unsqueeze(1), weight, patches.t())


def _gathered(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    patches, (n, h, w) = _patches(x, 3, stride)
    flat = weight.permute(0, 2, 3, 1).flatten(1)
    return _times(flat, patches, bias).view(-1, n, h, w).transpose(0, 1)


def _spread(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    n, planes, h, w = x.shape
    flat = weight.permute(2, 3, 0, 1).reshape(-1, planes)
    parts = (flat @ x.transpose(0, 1).reshape(planes, -1)).view(3, 3, -1, n, h, w)
    out = parts[1, 1] if bias is None else parts[1, 1].add_(bias.view(-1, 1, 1, 1))
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        # place (y, x) of the result takes (y + i − 1, x + j − 1)
        own, other = zip(*(_overlap(shift - 1, size) for shift, size in ((i, h), (j, w))), strict=True)
        out[:, :, *own] += parts[i, j][:, :, *other]
    return out.transpose(0, 1)


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where places 0..size−1 and the same moved by ``shift`` are both inside."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size + min(0, shift))


def _doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    n, _, h, w = x.shape
    patches, _ = _patches(x, 2, 1)
    # a pixel at 2 i takes weights 3 and 1 of its places i − 1 and i, one at 2 i + 1 takes 2 and 0 of i and i + 1
    taps = torch.tensor([[3, 1], [2, 0]])
    flat = weight[:, :, taps[:, None, :, None], taps[None, :, None, :]]  # (in, out, 2, 2, 2, 2)
    flat = flat.permute(2, 3, 1, 4, 5, 0).reshape(-1, patches.shape[1])
    each = None if bias is None else bias.repeat(4)
    parts = _times(flat, patches, each).view(2, 2, -1, n, h + 1, w + 1)
    out = parts.new_empty(parts.shape[2], n, h, 2, w, 2)
    for i in (0, 1):
        for j in (0, 1):
            out[:, :, :, i, :, j] = parts[i, j, :, :, i : i + h, j : j + w]
    return out.view(-1, n, 2 * h, 2 * w).transpose(0, 1)
