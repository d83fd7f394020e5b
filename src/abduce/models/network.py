"""The free-form energy: a network with one output, in a bowl that keeps its integral finite.

    E(x) = f_θ(x) + ‖x‖² / 2w²     real cells: f grows at most linearly, so that the bowl wins far away and Z is finite
    E(x) = f_θ(x)                  binary cells: a sum over finitely many states

x in model space, where real cells are standardised; w, ``width``, in their standard deviations.  With f = 0 the model is the
Gaussian N(0, w² I); θ is shaped by any objective that needs no log Z.  β = 1 is what training meant: the energy is in nats.

Sources: LeCun, Chopra, Hadsell, Ranzato & Huang 2006 (A tutorial on energy-based learning); Du & Mordatch 2019
(arXiv:1903.08689), for the convolutional net.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from abduce.checks import check_choice, check_number
from abduce.inference.energy import Energy, Traits, arguments, check_whole
from abduce.nets.mlp import ACTIVATIONS, MLP


class NetworkEnergy(Energy):
    """A network as energy, E(x) = f_θ(x) + ‖x‖² / 2w², nats; without the bowl where cells are binary.

    ``architecture`` "mlp" reads the cells in any order, ``hidden`` the sizes of its layers; "conv" reads them as an image of
    ``shape`` (H, W) or (H, W, C), flattened row by row with the channel last, through 3 × 3 convolutions of stride 2 with
    ``hidden`` channels, and a linear layer on top.  With ReLU the energy has kinks, and score matching is refused.

    Raises ValueError where an argument is not one of its choices, or the shape does not hold ``n_cells`` cells.

    >>> import torch
    >>> model = NetworkEnergy(2, hidden=(8,))
    >>> model.energy(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        n_cells: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        shape: Sequence[int] | None = None,
        architecture: str = "mlp",
        support: str = "real",
        width: float = 2.0,
    ):
        super().__init__()
        self.config = arguments(locals()) | {"hidden": list(hidden), "shape": shape and list(shape)}
        check_choice("architecture", architecture, ("mlp", "conv"))
        check_choice("support", support, ("real", "binary"))
        if not hidden:
            raise ValueError("hidden must name at least one layer, got none")
        check_number("width", width, 0, above=True)
        self.n_cells, self.width = n_cells, width
        self.traits = Traits(support, smooth=activation != "relu")
        if architecture == "mlp":
            layers = MLP(n_cells, hidden, 1, activation).net
        else:
            layers = _convolutions(n_cells, hidden, activation, shape)
        self.body, self.top = layers[:-1], layers[-1]

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "EnergyNetwork")
        f = self.top(self.represent(x)).squeeze(-1)
        return f if self.support == "binary" else f + x.square().sum(-1) / (2 * self.width**2)

    def represent(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer, (..., features); of a convolutional one, flattened."""
        return self.body(x.reshape(-1, self.n_cells)).reshape(*x.shape[:-1], -1)


def _convolutions(
    n_cells: int, channels: Sequence[int], activation: str, shape: Sequence[int] | None
) -> nn.Sequential:
    """Strided convolutions over an image, their activations flattened, and a linear layer: (n, n_cells) -> (n, 1)."""
    check_choice("activation", activation, sorted(ACTIVATIONS))
    if shape is None or len(shape) not in (2, 3) or math.prod(shape) != n_cells:
        raise ValueError(
            f"shape must be (H, W) or (H, W, C) with {n_cells} cells for a convolutional net, got {shape}"
        )
    height, width, depth = [*shape, 1][:3]
    layers: list[nn.Module] = [nn.Unflatten(1, (height, width, depth)), _ChannelsFirst()]
    for out in channels:
        layers += [nn.Conv2d(depth, out, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
        height, width, depth = (height + 1) // 2, (width + 1) // 2, out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(height * width * depth, 1))


class _ChannelsFirst(nn.Module):
    """(n, H, W, C) -> (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)
