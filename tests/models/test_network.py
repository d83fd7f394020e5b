"""The network as energy: its shapes, its bowl, and the derivatives it promises."""

from __future__ import annotations

import math

import pytest
import torch

from abduce.models.network import NetworkEnergy

IMAGE = {"n_cells": 7 * 6 * 2, "hidden": (4, 8), "shape": (7, 6, 2), "architecture": "conv"}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(**arguments) -> NetworkEnergy:
    torch.manual_seed(0)
    return NetworkEnergy(**{"n_cells": 5, "hidden": (16, 12), **arguments}).double()


@pytest.mark.parametrize("arguments", [{}, {"activation": "relu"}, {"support": "binary"}, IMAGE], ids=str)
def test_leading_axes_do_not_mix(arguments):
    model = network(**arguments)
    x = rows(3, 4, model.n_cells)
    energy = model.energy(x)
    assert energy.shape == (3, 4)
    one_by_one = torch.stack([model.energy(row) for row in x.reshape(-1, model.n_cells)])
    torch.testing.assert_close(energy.flatten(), one_by_one)
    assert model.represent(x).shape == (3, 4, 2 * 2 * 8 if arguments is IMAGE else 12)


def test_the_top_is_linear_in_what_it_represents():
    model = network(width=1.5)
    x = rows(6, 5)
    f = model.represent(x) @ model.top.weight[0] + model.top.bias
    torch.testing.assert_close(model.energy(x), f + x.square().sum(-1) / (2 * 1.5**2))


def test_without_a_network_it_is_a_gaussian():
    """E = ‖x‖²/2w²: exp(−E) integrates to (2πw²)^{d/2}, here in one dimension."""
    model = network(n_cells=1, hidden=(3,), width=0.7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(-1)
    z = torch.trapezoid(torch.exp(-model.energy(x)), x[:, 0]).item()
    assert math.log(z) == pytest.approx(0.5 * math.log(2 * math.pi * 0.7**2), abs=1e-9)


@pytest.mark.parametrize("arguments", [{}, {"activation": "relu"}, {"activation": "tanh"}, IMAGE], ids=str)
def test_the_bowl_wins_far_away(arguments):
    """However large the network's slope, E / r² goes to 1/2w² along every direction."""
    model = network(**arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5
    direction = torch.nn.functional.normalize(rows(50, model.n_cells), dim=-1)
    for sign in (1, -1):
        rise = model.energy(sign * 1e7 * direction) / 1e14
        torch.testing.assert_close(rise, torch.full_like(rise, 1 / (2 * 2.0**2)), rtol=2e-2, atol=0)


def test_binary_cells_have_no_bowl():
    real, binary = network(), network(support="binary")
    x = (rows(8, 5) > 0).double()
    torch.testing.assert_close(real.energy(x) - binary.energy(x), x.sum(-1) / 8)


@pytest.mark.parametrize("arguments", [{}, {"activation": "tanh"}, IMAGE], ids=str)
def test_two_derivatives(arguments):
    model = network(**arguments)
    assert model.smooth
    x = rows(1, model.n_cells).requires_grad_()
    assert torch.autograd.gradcheck(model.energy, x)
    assert torch.autograd.gradgradcheck(model.energy, x)
    assert not network(activation="relu").smooth


def test_an_image_is_read_row_by_row_with_the_channel_last():
    """A convolutional energy with one 3 x 3 filter over a 2 x 3 image of 2 channels, by hand."""
    model = network(n_cells=12, hidden=(1,), shape=(2, 3, 2), architecture="conv", activation="tanh")
    image = rows(2, 3, 2, seed=3)
    filters, bias = model.body[2].weight[0], model.body[2].bias
    padded = torch.zeros(4, 5, 2, dtype=torch.float64)
    padded[1:3, 1:4] = image
    units = [torch.tanh((padded[0:3, j : j + 3].permute(2, 0, 1) * filters).sum() + bias[0]) for j in (0, 2)]
    expected = torch.stack(units) @ model.top.weight[0] + model.top.bias[0] + image.square().sum() / 8
    torch.testing.assert_close(model.energy(image.flatten()), expected)


@pytest.mark.parametrize("arguments", [{"width": 1.0}, {"support": "binary"}, IMAGE], ids=str)
def test_it_comes_back_from_its_configuration(arguments):
    model = network(**arguments)
    again = NetworkEnergy(**model.config).double()
    again.load_state_dict(model.state_dict())
    x = rows(4, model.n_cells)
    assert torch.equal(again.energy(x), model.energy(x))
    assert model.log_z() is None
    assert model.law() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "cnn"}, r"architecture must be one of \['mlp', 'conv'\], got 'cnn'"),
        ({"support": "mixed"}, "support must be one of"),
        ({"activation": "step"}, "activation must be one of"),
        ({"hidden": ()}, "hidden must name at least one layer"),
        ({"width": 0.0}, "width must be > 0"),
        ({"architecture": "conv"}, "shape must be"),
        ({"architecture": "conv", "shape": (2, 3)}, "with 5 cells"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)
    model = network()
    with pytest.raises(ValueError, match="EnergyNetwork has no exact energy of a row with blanks"):
        model.energy(rows(2, 5), torch.zeros(2, 5, dtype=torch.bool))
