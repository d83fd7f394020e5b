"""Normalising flows as priors and posteriors: invertible maps of standard normal noise, by zuko.

    posterior   z = T(ε),  ε ~ N(0, I),     log q(z) = log N(ε; 0, I) − log |det ∂T/∂ε|: draws are the quick direction
    prior       ε = T(z)                    log p(z) = log N(T(z); 0, I) + log |det ∂T/∂z|: densities are

``"nsf"`` is a coupling flow of rational-quadratic splines, quick in both directions; ``"iaf"`` is affine and inverse
autoregressive: quick forward, while the way back takes one pass for each latent.

Sources: Kingma et al. 2016 (arXiv:1606.04934) for IAF; Durkan et al. 2019 (arXiv:1906.04032) for NSF.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from zuko.flows import MaskedAutoregressiveTransform
from zuko.transforms import MonotonicRQSTransform

from abduce.distributions.cells import standard_log_prob

KINDS = ("nsf", "iaf")
BINS = 8


class Flow(nn.Module):
    """An invertible map T, with or without a context; quicker forward than back, and close to the identity at first."""

    def __init__(
        self,
        dim: int,
        context: int = 0,
        kind: str = "nsf",
        transforms: int = 3,
        hidden: Sequence[int] = (64,),
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind of a flow must be one of {KINDS}, got {kind!r}")
        if transforms < 1:
            raise ValueError(f"transforms must be at least 1, got {transforms!r}")
        extra: dict[str, Any] = {}
        if kind == "nsf":
            shapes = [(BINS,), (BINS,), (BINS - 1,)]
            extra = {"univariate": MonotonicRQSTransform, "shapes": shapes, "passes": 2}
        extra |= {"hidden_features": tuple(hidden), "activation": nn.ELU}
        order: Any = torch.arange(dim)
        self.layers = nn.ModuleList(
            MaskedAutoregressiveTransform(dim, context, order=order if i % 2 == 0 else order.flip(0), **extra)
            for i in range(transforms)
        )
        with torch.no_grad():
            for layer in self.layers:
                last = [m for m in layer.modules() if isinstance(m, nn.Linear)]
                for p in last[-1].parameters() if last else layer.parameters():
                    p.mul_(0.01)

    def forward(
        self, value: Tensor, context: Tensor | None = None, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map a value forward, or with ``inverse`` back; also log |det| of the forward map's derivative there, ``(...)``."""
        total: Tensor | float = 0.0
        for layer in reversed(self.layers) if inverse else self.layers:
            transform = layer() if context is None else layer(context)
            if inverse:
                moved = transform.inv(value)
                total = total + transform.log_abs_det_jacobian(moved, value)
            else:
                moved, log_det = transform.call_and_ladj(value)
                total = total + log_det
            value = moved
        assert isinstance(total, Tensor)
        return value, total


class FlowPrior(nn.Module):
    """Prior p(z) of any shape: the flow takes z to noise, so that densities are one pass and draws are inverted."""

    name, components = "flow", 1

    def __init__(
        self, latent_dim: int, kind: str = "nsf", transforms: int = 3, hidden: Sequence[int] = (128, 128)
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.flow = Flow(latent_dim, 0, kind, transforms, hidden)

    def log_prob(self, z: Tensor) -> Tensor:
        noise, log_det = self.flow(z)
        return standard_log_prob(noise) + log_det

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        return self.flow(torch.randn(n, self.latent_dim, generator=generator, **factory), inverse=True)[0]


class FlowNormal:
    """Posterior z = mean + scale · T(ε; context), one for each row: a Gaussian bent by a flow."""

    reparameterized = True

    def __init__(self, flow: Flow, location: Tensor, log_scale: Tensor, context: Tensor, frozen=False):
        self.flow, self.location, self.log_scale, self.context = flow, location, log_scale, context
        self.frozen = frozen

    def _map(self, value: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        context = self.context.expand(*value.shape[:-1], -1)
        if not self.frozen:
            return self.flow(value, context, inverse)
        weights = {name: p.detach() for name, p in self.flow.named_parameters()}
        return functional_call(self.flow, weights, (value, context, inverse))

    @functools.cached_property
    def mean(self) -> Tensor:
        """Mean over 64 quasi-random draws, the same for every row."""
        points = torch.quasirandom.SobolEngine(self.location.shape[-1], scramble=True, seed=0).draw(64)
        noise = torch.special.ndtri(points.double().clamp(1e-6, 1 - 1e-6)).unsqueeze(1).to(self.location)
        return self.transport(noise).mean(0)

    def detach(self) -> FlowNormal:
        still = (t.detach() for t in (self.location, self.log_scale, self.context))
        return FlowNormal(self.flow, *still, frozen=True)

    def transport(self, noise: Tensor) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise = noise.expand(*noise.shape[:-2], *self.location.shape)
        bent, log_det = self._map(noise)
        z = self.location + self.log_scale.exp() * bent
        return z, standard_log_prob(noise) - log_det - self.log_scale.sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        noise, log_det = self._map((z - self.location) * torch.exp(-self.log_scale), inverse=True)
        return standard_log_prob(noise) - log_det - self.log_scale.sum(-1)


class FlowHead(nn.Module):
    """Reads a :class:`FlowNormal` off an encoder's output ``[mean, log_scale, context]``."""

    def __init__(
        self,
        latent_dim: int,
        kind: str = "nsf",
        transforms: int = 2,
        hidden: Sequence[int] = (64,),
        context: int | None = None,
    ):
        super().__init__()
        self.context = latent_dim if context is None else context
        self.noise_dim, self.n_parameters = latent_dim, 2 * latent_dim + self.context
        self.flow = Flow(latent_dim, self.context, kind, transforms, hidden)

    def forward(self, h: Tensor) -> FlowNormal:
        k = self.noise_dim
        location, log_scale, context = h.split([k, k, self.context], -1)
        return FlowNormal(self.flow, location, log_scale.clamp(-7.0, 3.0), context)
