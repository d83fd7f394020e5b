"""Convolutions in whole numbers: their sums are exact, in float32 as in float64, and what they give is torch's but for what is
cut off."""

from typing import Any

import pytest
import torch
from torch import nn

from abduce.nets import whole
from abduce.nets.convolutions import ConvolutionalDecoder, ConvolutionalEncoder
from abduce.nets.whole import BITS, SUM, Convolution, Doubling, whole_numbers

LAYERS = {
    "plain": lambda: Convolution(5, 7),
    "halving": lambda: Convolution(5, 7, stride=2),
    "doubling": lambda: Doubling(5, 7),
    "wide, cut twice": lambda: Convolution(300, 2),
    "wide doubling, cut twice": lambda: Doubling(300, 2),
}


def made(name: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    return layer, torch.randn(6, layer.in_channels, 7, 6, dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_off_is_what_was_cut_off(name):
    layer, x = made(name)
    expected = layer(x)
    with torch.no_grad(), whole_numbers(layer):
        found = layer(x)
        assert len(layer.whole.units) == 1 + ("twice" in name)
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-6 < error < 0.01
    assert torch.equal(layer(x), expected)  # again torch's own


@pytest.mark.parametrize("name", LAYERS)
def test_sums_are_exact(name):
    """The largest numbers that can be read, with the signs of the weights of a place, reach the largest sum there can be."""
    layer, x = made(name)
    with torch.no_grad(), whole_numbers(layer):
        numbers = torch.randint(-(2**BITS), 2**BITS + 1, x.shape).double()
        for read in (numbers, torch.full_like(x, 2**BITS), numbers.sign() * 2**BITS):
            found = layer.whole.sums(read)
            exact = layer.whole.run(read, layer.whole.weight.double())
            assert torch.equal(found, exact)
            assert torch.equal(found, found.round())
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = made(name)[0].cut().weight.double().abs()
    most = weight.sum([axis for axis in range(4) if axis != transposed]).max()
    assert most <= 2 ** (SUM - BITS) * (4 if transposed else 1)


def test_rows_do_not_depend_on_those_beside_them_nor_on_threads():
    torch.manual_seed(0)
    net = ConvolutionalDecoder(4, (9, 12, 1), planes=3, hidden=(8, 16), blocks=1).double()
    z = torch.randn(20, 4, dtype=torch.float64)
    threads = torch.get_num_threads()
    step: Any = net.steps[0]
    with torch.no_grad(), whole_numbers(net):
        image = net.start(z).view(20, -1, *net.sizes[-1])
        every = step(image)
        assert torch.equal(step(image[3:4]), every[3:4])
        try:
            torch.set_num_threads(threads % 2 + 1)
            assert torch.equal(step(image), every)
        finally:
            torch.set_num_threads(threads)


def test_where_float32_will_not_do_float64_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    net = ConvolutionalEncoder((9, 12, 1), 2, 0, (8, 16), 5, blocks=1).double()
    x = torch.randn(20, 2 * 9 * 12, dtype=torch.float64)
    with torch.no_grad(), whole_numbers(net):
        found = net(x)
        monkeypatch.setattr(whole, "exact", lambda: False)
        assert torch.equal(net(x), found)
