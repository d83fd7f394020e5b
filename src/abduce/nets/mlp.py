"""Networks: the encoder and the decoder that a latent-variable model is made of, and what an encoder reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from abduce.nets.dropout import Dropout

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU}


def activation_of(name: str) -> nn.Module:
    """The activation of that name; ValueError where there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def zeroed(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Set a layer's weights to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class OwnRate(nn.Module):
    """A module whose parameters learn at a rate of their own, which training's settings know by name, and do not decay."""

    rate: ClassVar[str]


class PathLayer(nn.Linear, OwnRate):
    """A linear path W z + b, already fitted when a network beside it starts to learn."""

    rate = "linear"


class MLP(nn.Module):
    """Multi-layer perceptron, optionally beside a linear path: y = W x + b + net(x).

    With a linear path, or ``zero_start``, the network's last layer starts at zero, so that training starts from the linear
    model and the network learns only what it leaves over.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
        linear_path: bool = False,
        dropout: float = 0.0,
        zero_start: bool = False,
    ):
        super().__init__()
        sizes = [in_dim, *hidden, out_dim]
        linear = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        layers: list[nn.Module] = []
        for layer in linear[:-1]:
            layers += [layer, activation_of(activation)]
            if dropout:
                layers.append(Dropout(dropout))
        self.net = nn.Sequential(*layers, linear[-1])
        if activation == "tanh":  # torch's own start shrinks what passes each layer of tanh by about √3
            for layer in linear[:-1]:
                nn.init.xavier_uniform_(layer.weight)  # Glorot & Bengio 2010
                nn.init.zeros_(layer.bias)
        self.linear = PathLayer(in_dim, out_dim) if linear_path else None
        if linear_path or zero_start:
            zeroed(linear[-1])

    @property
    def offset(self) -> Tensor:
        """What the network adds to each output wherever it is."""
        last: Any = self.net[-1]
        return last.bias

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y if self.linear is None else y + self.linear(x)


class Features(nn.Module):
    """What the encoder reads of a row: ``[features · observed, observed]``.

    Numbers pass as they are (model space is standardised) but for ``numeric_loc``, which centres binary ones; counts as
    log(1 + x) less ``count_loc``; grades less their mean, in standard deviations (``grade_loc``, ``grade_scale``); classes,
    pairs of a cell and its number of classes, one-hot.  A hidden cell reads as zeros, and with ``reads_mask`` the mask itself
    is appended, so that a hidden cell differs from a mean one.
    """

    cell: Tensor  # that each feature is read of, the mask's left out
    numeric_loc: Tensor
    count_loc: Tensor
    grade_loc: Tensor
    grade_scale: Tensor
    class_code: Tensor

    def __init__(
        self,
        n_cells: int,
        numeric: Sequence[int] = (),
        count: Sequence[int] = (),
        grades: Sequence[int] = (),
        classes: Sequence[tuple[int, int]] = (),
        reads_mask: bool = True,
        numeric_loc: Sequence[float] | None = None,
        count_loc: Sequence[float] = (),
        grade_loc: Sequence[float] = (),
        grade_scale: Sequence[float] = (),
    ):
        super().__init__()
        self.n_cells, self.reads_mask = n_cells, reads_mask
        self.centres = numeric_loc is not None
        self.all_numeric = list(numeric) == list(range(n_cells))
        cells = [cell for cell, size in classes for _ in range(size)]
        codes = [float(code) for _, size in classes for code in range(size)]
        self.sizes = [len(numeric), len(count), len(grades), len(cells)]
        every = torch.tensor([*numeric, *count, *grades, *cells], dtype=torch.long)
        self.register_buffer("cell", every, persistent=False)
        self.register_buffer("numeric_loc", torch.tensor(list(numeric_loc or [0.0] * len(numeric))))
        self.register_buffer("count_loc", torch.tensor(list(count_loc)))
        self.register_buffer("grade_loc", torch.tensor(list(grade_loc)))
        self.register_buffer("grade_scale", torch.tensor(list(grade_scale)))
        self.register_buffer("class_code", torch.tensor(codes), persistent=False)
        self.n_features = len(every) + (n_cells if reads_mask else 0)

    def places(self, cells: Sequence[int]) -> Tensor:
        """Where the features of some cells are, cell by cell."""
        at = torch.isin(self.cell, torch.tensor(list(cells))).nonzero()[:, 0]
        return at[self.cell[at].argsort(stable=True)]

    @property
    def loc(self) -> Tensor:
        """What is taken off each feature's value, counts, grades and classes apart."""
        return nn.functional.pad(self.numeric_loc, (0, len(self.cell) - self.sizes[0]))

    def forward(self, x: Tensor, observed: Tensor | None) -> Tensor:
        features, seen = self.cells(x, observed)
        if seen is not None:
            features = torch.where(seen, features, features.new_zeros(()))
        if not self.reads_mask:
            return features
        mask = torch.ones_like(x) if observed is None else observed.to(x.dtype)
        return torch.cat([features, mask], -1)

    def cells(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The features of a row, blanks as they come, and which of them are observed."""
        if self.all_numeric:
            return (x - self.numeric_loc if self.centres else x), observed
        numeric, count, grades, classes = x[..., self.cell].split(self.sizes, -1)
        count = torch.log1p(count.clamp_min(0)) - self.count_loc
        grades = (grades - self.grade_loc) / self.grade_scale
        onehot = torch.eq(classes, self.class_code).to(x.dtype)
        features = torch.cat([numeric - self.numeric_loc, count, grades, onehot], -1)
        return features, None if observed is None else observed[..., self.cell]
