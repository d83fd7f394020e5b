"""The families of prior and posterior that a model may be put together from, by name.

With several layers of latents the prior named is that of the top layer, and the posterior is one of ``LAYERED``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from abduce.distributions.flows import FlowHead, FlowPrior
from abduce.distributions.posteriors import DiagonalHead, FullHead
from abduce.distributions.priors import DiagonalMixture, GaussianMixturePrior, StandardNormal, VampPrior
from abduce.models.hierarchy import BottomUp, TopDown

# made of: the number of latents, components of a mixture, a VampPrior's encoder and the pseudo-inputs that it starts from
PRIORS: dict[str, Callable[..., Any]] = {
    "normal": lambda k, *_: StandardNormal(k),
    "mixture": lambda k, components, *_: DiagonalMixture(k, components),
    "vamp": lambda k, components, encode, pseudo: VampPrior(encode, pseudo, k),
    "flow": lambda k, *_: FlowPrior(k, transforms=4),
}
# those that are fitted, not learned: a linear path's, and what a mixture refitted to latents is kept as
FIXED = {GaussianMixturePrior.name: lambda k, components, *_: GaussianMixturePrior.blank(k, components)}

# heads that read q(z|x) off an encoder; made of: the number of latents, transforms of a flow and widths of its layers
POSTERIORS: dict[str, Callable[..., Any]] = {
    "diagonal": lambda k, *_: DiagonalHead(k),
    "full": lambda k, *_: FullHead(k),
    "flow": lambda k, transforms, hidden: FlowHead(k, "nsf", transforms, hidden),  # coupling splines
    "iaf": lambda k, transforms, hidden: FlowHead(k, "iaf", transforms, hidden),  # inverse autoregressive
}

# made of: the prior of the layers, widths of networks between them, their activation
LAYERED: dict[str, Callable[..., Any]] = {
    "bottom_up": lambda prior, hidden, activation: BottomUp(prior.dims, hidden, activation),
    "top_down": lambda prior, hidden, activation: TopDown(prior, hidden, activation),
}
