"""Several layers of latents: p(z) = p(z_L) Π p(z_l | z_{l+1}), the decoder reading the lowest only.

All layers lie side by side in one z, from the top (most abstract) to the bottom, so that log p(z) and log q(z|x) are sums
over layers and everything that reads log importance weights works as with one layer.  Two ways to infer them:

    bottom-up   q(z|x) = q(z_1|x) Π q(z_{l+1} | z_l)                             as in Burda et al. 2016
    top-down    q(z|x) = q(z_L|x) Π q(z_l | z_{l+1}, x), each the product of the prior p(z_l | z_{l+1}) and a Gaussian
                read off x (the ladder of Sønderby et al. 2016)

Sources: arXiv:1509.00519, arXiv:1602.02282.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from abduce.distributions.posteriors import DiagonalNormal
from abduce.nets.mlp import MLP


class LayeredPrior(nn.Module):
    """p(z_L) Π_l N(z_l; MLP(z_{l+1})): ``top`` is the prior of the top layer, ``dims`` the layers from the top down."""

    def __init__(self, top: Any, dims: Sequence[int], hidden: Sequence[int], activation: str = "tanh"):
        super().__init__()
        self.dims = tuple(dims)
        self.latent_dim = sum(dims)
        self.top = top
        pairs = itertools.pairwise(dims)
        self.below = nn.ModuleList(MLP(above, hidden, 2 * own, activation) for above, own in pairs)

    def conditional(self, level: int, above: Tensor) -> DiagonalNormal:
        """p(z_l | z_{l+1}) of the layer ``level`` steps below the top."""
        return DiagonalNormal.read(self.below[level - 1](above))

    def log_prob(self, z: Tensor) -> Tensor:
        layers = z.split(self.dims, -1)
        total = self.top.log_prob(layers[0])
        for level, (above, own) in enumerate(itertools.pairwise(layers), 1):
            total = total + self.conditional(level, above).log_prob(own)
        return total

    def sample(self, n: int, generator: Generator | None = None, **factory) -> Tensor:
        layers = [self.top.sample(n, generator, **factory)]
        for level, own in enumerate(self.dims[1:], 1):
            noise = torch.randn(n, own, generator=generator, **factory)
            layers.append(self.conditional(level, layers[-1]).transport(noise))
        return torch.cat(layers, -1)


class LayeredNormal:
    """q(z|x) of several layers, each a diagonal Gaussian given the layers drawn before it.

    ``head`` chooses the order and the networks; ``h`` (batch, ...) is what it reads of x.
    """

    reparameterized = True

    def __init__(self, head: BottomUp | TopDown, h: Tensor, frozen: bool = False):
        self.head, self.h, self.frozen = head, h, frozen

    def _walk(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if not self.frozen:
            return self.head.walk(self.h, value, inverse)
        walk = _Walk(self.head)
        weights = {name: p.detach() for name, p in walk.named_parameters()}
        return functional_call(walk, weights, (self.h, value, inverse))

    @property
    def mean(self) -> Tensor:
        """Each layer's mean given the means of the layers before it."""
        return self.transport(self.h.new_zeros(1, 1, sum(self.head.dims)))[0]

    def detach(self) -> LayeredNormal:
        return LayeredNormal(self.head, self.h.detach(), frozen=True)

    def transport(self, noise: Tensor) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self._walk(noise.expand(*noise.shape[:-2], len(self.h), noise.shape[-1]), False)

    def log_prob(self, z: Tensor) -> Tensor:
        return self._walk(z, True)[1]


class _Walk(nn.Module):
    """A head's walk through its layers as a module's forward pass, so that all weights in it can be replaced for one call."""

    def __init__(self, head: BottomUp | TopDown):
        super().__init__()
        self.head = head
        if isinstance(head, TopDown):
            self.prior = head.prior

    def forward(self, h: Tensor, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return self.head.walk(h, value, inverse)


def _visit(
    values: Sequence[Tensor], inverse: bool, q: Callable[[int, Tensor], DiagonalNormal], h: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Draw layers one after another with noise ``values``, or with ``inverse`` take ``values`` as drawn; and log q of all.

    ``q`` gives a layer's law by its number and the layer before it, ``h`` for the first.
    """
    layers, total = [h], torch.zeros(())
    for level, value in enumerate(values):
        law = q(level, layers[-1])
        z, log_q = (value, law.log_prob(value)) if inverse else law.draw(value)
        layers.append(z)
        total = total + log_q
    return layers[1:], total


class BottomUp(nn.Module):
    """Makes q(z_1|x) Π q(z_{l+1}|z_l): the encoder gives the bottom layer, a network each of the layers above."""

    def __init__(self, dims: Sequence[int], hidden: Sequence[int], activation: str = "tanh"):
        super().__init__()
        self.dims = tuple(dims)
        self.noise_dim, self.n_parameters = sum(dims), 2 * dims[-1]
        pairs = itertools.pairwise(reversed(dims))
        self.above = nn.ModuleList(MLP(own, hidden, 2 * above, activation) for own, above in pairs)

    def forward(self, h: Tensor) -> LayeredNormal:
        return LayeredNormal(self, h)

    def walk(self, h: Tensor, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Visit the layers from the bottom up: all of z, and log q(z|x)."""

        def q(level: int, below: Tensor) -> DiagonalNormal:
            return DiagonalNormal.read(self.above[level - 1](below) if level else below)

        layers, total = _visit(value.split(self.dims, -1)[::-1], inverse, q, h)
        return torch.cat(layers[::-1], -1), total


class TopDown(nn.Module):
    """Makes the ladder's q(z|x): a deterministic pass up, then Gaussians merged with the prior on the way down.

    Two Gaussians' product has the sum of their precisions and the precision-weighted mean of their means.
    """

    def __init__(self, prior: LayeredPrior, hidden: Sequence[int], activation: str = "tanh"):
        super().__init__()
        self.dims = dims = prior.dims
        width = hidden[-1] if len(hidden) else 2 * dims[-1]
        self.noise_dim, self.n_parameters = sum(dims), width
        self._prior = (prior,)  # the model's own, in a tuple so that its weights are not kept here again
        rising = list(reversed(dims))
        self.up = nn.ModuleList(MLP(width, hidden, width, activation) for _ in rising[1:])
        self.heads = nn.ModuleList(nn.Linear(width, 2 * own) for own in rising)

    @property
    def prior(self) -> LayeredPrior:
        return self._prior[0]

    def forward(self, h: Tensor) -> LayeredNormal:
        return LayeredNormal(self, h)

    def walk(self, h: Tensor, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Visit the layers from the top down: all of z, and log q(z|x)."""
        features = [h]
        for net in self.up:
            features.append(net(features[-1]))
        read = [DiagonalNormal.read(head(f)) for head, f in zip(self.heads, features, strict=True)][::-1]

        def q(level: int, above: Tensor) -> DiagonalNormal:
            own = read[level]
            if not level:
                return own
            p = self.prior.conditional(level, above)
            a, b = torch.exp(-2 * p.log_scale), torch.exp(-2 * own.log_scale)
            return DiagonalNormal((p.mean * a + own.mean * b) / (a + b), -0.5 * (a + b).log())

        layers, total = _visit(value.split(self.dims, -1), inverse, q, h)
        return torch.cat(layers, -1), total
