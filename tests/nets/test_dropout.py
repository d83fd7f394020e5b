"""Dropout: torch's own, and for processes that train together their rows of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from abduce.nets.convolutions import ConvolutionalDecoder, ConvolutionalEncoder
from abduce.nets.dropout import Dropout
from abduce.nets.mlp import MLP
from abduce.together import Place, within

ROWS, COUNT = 12, 3
NETS = {
    "mlp": lambda: (MLP(4, (8, 6), 5, dropout=0.4), ()),
    "mlp of draws": lambda: (MLP(4, (8, 6), 5, dropout=0.4), (7,)),
    "encoder": lambda: (ConvolutionalEncoder((5, 4, 3), 2, 1, (6, 4), 5, dropout=0.4), ()),
    "decoder of draws": lambda: (ConvolutionalDecoder(3, (5, 4, 3), 2, (6, 4), dropout=0.4), (7,)),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net: Any
    net, draws = NETS[name]()
    width = {"encoder": 2 * 5 * 4 * 3 + 1, "decoder of draws": 3}.get(name, 4)
    return net.train(), torch.randn(*draws, ROWS, width)


def run(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return net(x)


@pytest.mark.parametrize("name", NETS)
def test_it_is_torchs(name):
    net, x = made(name)
    found = run(net, x)
    for module in list(net.modules()):
        for place, part in module.named_children():
            if isinstance(part, Dropout):
                setattr(module, place, nn.Dropout(part.p))
    assert torch.equal(found, run(net, x))
    assert not torch.equal(found, run(net.eval(), x))


@pytest.mark.parametrize("name", NETS)
def test_processes_leave_out_what_one_would(name):
    net, x = made(name)
    parts = []
    for rank, own in enumerate(x.chunk(COUNT, -2)):
        with within(Place(rank, COUNT), ROWS // COUNT):
            parts.append(run(net, own))
    torch.testing.assert_close(torch.cat(parts, -2), run(net, x))
