"""Linear maps of images against torch, scipy, and their own dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from abduce.data.operators import (
    IDENTITY,
    Dense,
    Identity,
    bicubic,
    convolution,
    gaussian_blur,
    shrink,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


@st.composite
def operators(draw):
    """An operator, and how many cells it maps."""
    factor = draw(st.integers(1, 3))
    shape = (
        factor * draw(st.integers(1, 4)),
        factor * draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 3])),
    )
    border = draw(st.sampled_from(["reflect", "zero"]))
    kind = draw(st.sampled_from(["box", "bicubic", "blur", "kernel", "dense"]))
    if kind in ("box", "bicubic"):
        return shrink(shape, factor, kind), int(np.prod(shape))
    if kind == "blur":
        return gaussian_blur(shape, draw(st.floats(0.1, 5.0)), border), int(np.prod(shape))
    if kind == "kernel":
        sides = draw(st.sampled_from([(1, 1), (3, 3), (1, 5), (5, 3)]))
        return convolution(shape, kernel(*sides), border), int(np.prod(shape))
    return Dense(normal(4, int(np.prod(shape)))), int(np.prod(shape))


@settings(max_examples=60, deadline=None)
@given(operators(), st.integers(0, 1000))
def test_the_adjoint_is_the_transpose(built, seed):
    operator, cells = built
    x = normal(2, cells, seed=seed)
    image = operator.apply(x)
    y = normal(*image.shape, seed=seed + 1)
    torch.testing.assert_close((image * y).sum(-1), (x * operator.adjoint(y)).sum(-1))


@settings(max_examples=60, deadline=None)
@given(operators())
def test_entries_are_mapped_and_disjoint_means_diagonal(built):
    operator, cells = built
    eye = torch.eye(cells, dtype=torch.float64)
    A = operator.apply(eye).mT
    torch.testing.assert_close(operator.each(torch.square).apply(eye).mT, A.square())
    gram = (A * (0.5 + normal(cells).square())) @ A.mT
    if operator.disjoint:
        torch.testing.assert_close(gram, torch.diag(torch.diagonal(gram)))


@pytest.mark.parametrize("shape", [(12, 18), (6, 6, 3), (24, 12)])
@pytest.mark.parametrize("factor", [2, 3])
def test_bicubic_is_torchs(shape, factor):
    x = normal(4, *(*shape, 1)[:3])
    size = shape[0] // factor, shape[1] // factor
    expected = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
    found = shrink(shape, factor, "bicubic").apply(x.flatten(1))
    torch.testing.assert_close(found, expected.flatten(1))


def test_bicubic_is_pillows():
    image = np.random.default_rng(0).random((12, 20)).astype(np.float32)
    expected = Image.fromarray(image).resize((5, 3), Image.Resampling.BICUBIC)
    found = shrink((12, 20), 4, "bicubic").apply(torch.from_numpy(image).double().flatten())
    np.testing.assert_allclose(found.view(3, 5), np.asarray(expected), atol=1e-5)
    # all in one pixel, where only the middle of the cubic is left
    torch.testing.assert_close(bicubic(2, 2), torch.full((1, 2), 0.5, dtype=torch.float64))


def test_means_over_blocks_of_colour():
    x = normal(2, 4, 6, 3)
    expected = x.view(2, 2, 2, 3, 2, 3).mean((2, 4)).flatten(1)
    torch.testing.assert_close(shrink((4, 6, 3), 2).apply(x.flatten(1)), expected)
    assert shrink((4, 6), 1) is IDENTITY


@pytest.mark.parametrize(("border", "mode"), [("reflect", "mirror"), ("zero", "constant")])
def test_blurs_are_scipys(border, mode):
    x = normal(3, 7, 9)
    blurred = gaussian_blur((7, 9), 1.3, border).apply(x.flatten(1)).view(3, 7, 9)
    for image, found in zip(x, blurred, strict=True):
        # reach ⌈4 · 1.3⌉ = 6 on both sides
        expected = ndimage.gaussian_filter(image.numpy(), 1.3, mode=mode, radius=6)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    k = kernel(3, 5)
    convolved = convolution((7, 9), k, border).apply(x.flatten(1)).view(3, 7, 9)
    for image, found in zip(x, convolved, strict=True):
        np.testing.assert_allclose(found, ndimage.convolve(image.numpy(), k, mode=mode), atol=1e-12)


def test_a_delta_is_the_identity():
    x = normal(3, 48)
    delta = np.zeros((3, 3))
    delta[1, 1] = 1.0
    torch.testing.assert_close(convolution((4, 4, 3), delta).apply(x), x)
    torch.testing.assert_close(gaussian_blur((4, 4, 3), 1e-3).apply(x), x)
    assert convolution((4, 4, 3), delta).disjoint
    assert Identity().apply(x) is x


def test_colours_do_not_mix():
    x = torch.zeros(1, 5, 5, 3, dtype=torch.float64)
    x[..., 1] = 1.0
    for operator in (gaussian_blur((5, 5, 3), 1.0), convolution((5, 5, 3), np.ones((3, 3)) / 9)):
        y = operator.apply(x.flatten(1)).view(1, 5, 5, 3)
        torch.testing.assert_close(y, x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gaussian_blur((4, 4), 0.0), "width must be finite and above 0, got 0.0"),
        (lambda: gaussian_blur((4, 4), 1.0, "wrap"), "border must be one of"),
        (lambda: convolution((4, 4), np.ones((2, 3))), r"2-D with odd sides, got shape \(2, 3\)"),
        (lambda: convolution((4, 4), np.full((3, 3), np.nan)), "a kernel must be finite"),
        (lambda: shrink((4, 4), 2, "lanczos"), "kernel must be one of"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
