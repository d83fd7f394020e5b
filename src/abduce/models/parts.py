"""The families of prior and posterior that a model may be put together from, by name.

    prior       "normal"  "mixture"  "vamp"  "flow"
    posterior   "diagonal"  "full"  "flow" (coupling splines)  "iaf" (inverse autoregressive)

With several layers of latents the prior named is that of the top layer, and the posterior is "bottom_up" or "top_down".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from abduce.distributions.flows import FlowHead, FlowPrior
from abduce.distributions.posteriors import DiagonalHead, FullHead, Posterior
from abduce.distributions.priors import DiagonalMixture, GaussianMixture, StandardNormal, VampPrior
from abduce.models.hierarchy import BottomUp, LayeredPrior, TopDown

PRIORS = ("normal", "mixture", "vamp", "flow")
POSTERIORS = ("diagonal", "full", "flow", "iaf")
LAYERED = ("bottom_up", "top_down")


def make_prior(
    name: str,
    latent_dim: int,
    components: int = 50,
    transforms: int = 4,
    encode: Callable[[Tensor], Posterior] | None = None,
    pseudo: Tensor | None = None,
) -> nn.Module:
    """Build a prior: ``components`` of a mixture, ``transforms`` of a flow, ``encode`` and ``pseudo`` inputs of a VampPrior.

    ``"gaussians"`` is a fixed mixture with full covariances, to be loaded into: what a refitted mixture is kept as.
    """
    if name == "normal":
        return StandardNormal(latent_dim)
    if name == "mixture":
        return DiagonalMixture(latent_dim, components)
    if name == "gaussians":
        eye = torch.eye(latent_dim).repeat(components, 1, 1)
        return GaussianMixture(
            torch.full((components,), 1 / components), torch.zeros(components, latent_dim), eye
        )
    if name == "vamp":
        assert encode is not None
        assert pseudo is not None
        return VampPrior(encode, pseudo, latent_dim)
    if name == "flow":
        return FlowPrior(latent_dim, transforms=transforms)
    raise ValueError(f"prior must be one of {PRIORS}, got {name!r}")


def make_posterior(
    name: str, latent_dim: int, transforms: int = 2, hidden: Sequence[int] = (64,)
) -> nn.Module:
    """Build the head that reads q(z|x) off the encoder."""
    if name == "diagonal":
        return DiagonalHead(latent_dim)
    if name == "full":
        return FullHead(latent_dim)
    if name in ("flow", "iaf"):
        return FlowHead(latent_dim, "nsf" if name == "flow" else "iaf", transforms, hidden)
    raise ValueError(f"posterior must be one of {POSTERIORS}, got {name!r}")


def make_layers(
    name: str, dims: Sequence[int], top: nn.Module, hidden: Sequence[int], activation: str
) -> tuple[LayeredPrior, nn.Module]:
    """Build prior and posterior of several layers of latents."""
    if name not in LAYERED:
        raise ValueError(f"posterior of several layers of latents must be one of {LAYERED}, got {name!r}")
    prior = LayeredPrior(top, dims, hidden, activation)
    if name == "bottom_up":
        return prior, BottomUp(dims, hidden, activation)
    read = hidden[-1] if len(hidden) else 2 * dims[-1]
    return prior, TopDown(prior, read, hidden, activation)
