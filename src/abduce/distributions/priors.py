"""Priors p(z): what the latents look like before any x is seen.

The best prior for given encoder and decoder is the aggregate posterior, the average of q(z|x) over the data (Hoffman &
Johnson 2016): mixtures and flows (:mod:`abduce.distributions.flows`) come closer to it than N(0, I) does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from abduce.distributions.cells import LOG_2PI, standard_log_prob
from abduce.distributions.posteriors import DiagonalNormal, FullNormal, Posterior
from abduce.together import ALONE, within


class Prior(Protocol):
    """What models and inference ask of p(z)."""

    latent_dim: int

    def log_prob(self, z: Tensor) -> Tensor: ...  # nats, summed over the last axis
    def sample(
        self, n: int, generator: torch.Generator | None = None, **factory
    ) -> Tensor: ...  # (n, latent)


class StandardNormal(nn.Module):
    """Standard normal prior, p(z) = N(z; 0, I).

    >>> prior = StandardNormal(2)
    >>> round(prior.log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    name, components = "normal", 1

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_log_prob(z)

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        return torch.randn(n, self.latent_dim, generator=generator, **factory)


class GaussianMixturePrior(nn.Module):
    """Mixture prior p(z) = Σ_c π_c N(z; m_c, S_c): latents in clusters.

    ``weights`` (C,), ``means`` (C, k), ``covariances`` (C, k, k); kept fixed in training.
    """

    name = "gaussians"
    weights: Tensor
    means: Tensor
    roots: Tensor
    whitening: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        super().__init__()
        self.components, self.latent_dim = means.shape
        self.register_buffer("weights", weights.float())
        self.register_buffer("means", means.float())
        self.register_buffer("roots", torch.linalg.cholesky(covariances).float())
        eye = torch.eye(self.latent_dim, dtype=covariances.dtype).expand_as(covariances)
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), eye, upper=False)
        self.register_buffer("whitening", inverse.float())  # whitening_c (z − m_c) is standard normal

    @classmethod
    def blank(cls, latent_dim: int, components: int) -> GaussianMixturePrior:
        """A mixture of so many components, all N(0, I): to be loaded into."""
        eye = torch.eye(latent_dim).repeat(components, 1, 1)
        return cls(torch.full((components,), 1 / components), eye.new_zeros(components, latent_dim), eye)

    def component_log_prob(self, z: Tensor) -> Tensor:
        """log π_c + log N(z; m_c, S_c), nats, ``(..., C)``."""
        components, k = self.means.shape
        offset = (self.whitening @ self.means.unsqueeze(-1)).flatten()
        white = (z.reshape(-1, k) @ self.whitening.flatten(0, 1).T - offset).unflatten(1, (components, k))
        log_det = torch.diagonal(self.whitening, dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() + log_det - 0.5 * k * LOG_2PI
        return (constant - 0.5 * white.square().sum(-1)).view(*z.shape[:-1], components)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.component_log_prob(z), -1)

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        c = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.latent_dim, generator=generator, **factory)
        return self.means[c] + (self.roots[c] @ noise.unsqueeze(-1)).squeeze(-1)


class _LearnedMixture(nn.Module):
    """A mixture of Gaussians that is learned with the model: draws are of the mixture as it is now."""

    def gaussian_mixture(self) -> GaussianMixturePrior:
        """The mixture as it is now, fixed."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        return self.gaussian_mixture().sample(n, generator, **factory)


class DiagonalMixture(_LearnedMixture):
    """Mixture prior p(z) = Σ_c π_c N(z; m_c, diag(s_c²)) whose weights, means and scales are learned with the model."""

    name = "mixture"

    def __init__(self, latent_dim: int, components: int):
        super().__init__()
        self.latent_dim, self.components = latent_dim, components
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(components, latent_dim))

    def log_prob(self, z: Tensor) -> Tensor:
        return _mixture_log_prob(z, torch.log_softmax(self.logits, -1), self.means, self.log_scales)

    @torch.no_grad()
    def gaussian_mixture(self) -> GaussianMixturePrior:
        covariances = torch.diag_embed(torch.exp(2 * self.log_scales))
        return GaussianMixturePrior(torch.softmax(self.logits, -1), self.means, covariances).to(self.means)


class VampPrior(_LearnedMixture):
    """Variational mixture of posteriors: p(z) = 1/K Σ_k q(z | u_k), the aggregate posterior of K learned pseudo-inputs.

    ``encode`` is the encoder, from what it reads of a row to q(z|x); ``pseudo`` (K, features) start as rows of the data.

    Source: Tomczak & Welling 2018 (arXiv:1705.07120).
    """

    name = "vamp"

    def __init__(self, encode: Callable[[Tensor], Posterior], pseudo: Tensor, latent_dim: int):
        super().__init__()
        self.latent_dim, self.components = latent_dim, len(pseudo)
        self.pseudo = nn.Parameter(pseudo.clone())
        self._encode = encode  # the encoder is the model's own; its weights are not kept here again

    def _components(self) -> DiagonalNormal | FullNormal:
        with within(ALONE):  # no rows of a batch, which processes share
            q = self._encode(self.pseudo)
        if not isinstance(q, DiagonalNormal | FullNormal):
            raise TypeError(f"a VampPrior mixes Gaussian posteriors, got {type(q).__name__}")
        return q

    def log_prob(self, z: Tensor) -> Tensor:
        q = self._components()
        if isinstance(q, DiagonalNormal):
            weights = q.mean.new_full((len(self.pseudo),), -math.log(len(self.pseudo)))
            return _mixture_log_prob(z, weights, q.mean, q.log_scale)
        every = q.log_prob(z.reshape(-1, 1, self.latent_dim).expand(-1, len(self.pseudo), -1))
        return (torch.logsumexp(every, -1) - math.log(len(self.pseudo))).view(z.shape[:-1])

    @torch.no_grad()
    def gaussian_mixture(self) -> GaussianMixturePrior:
        q = self._components()
        root = torch.diag_embed(q.log_scale.exp()) if isinstance(q, DiagonalNormal) else q.root
        weights = q.mean.new_full((len(self.pseudo),), 1 / len(self.pseudo))
        return GaussianMixturePrior(weights, q.mean, root @ root.mT).to(q.mean)


def _mixture_log_prob(z: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """log Σ_c π_c N(z; m_c, diag(s_c²)); the squares by two matrix products, so nothing of size z x components x latents.

    The products are of double precision where the device has it: they are as large as |z / s|², and their difference is not.
    """
    wide = torch.float32 if z.device.type == "mps" else torch.float64
    log_weights, means, log_scales = log_weights.to(wide), means.to(wide), log_scales.to(wide)
    precision = torch.exp(-2 * log_scales)
    constant = log_weights - log_scales.sum(-1) - 0.5 * (means.square() * precision).sum(-1)
    flat = z.reshape(-1, z.shape[-1]).to(wide)
    energy = 0.5 * flat.square() @ precision.T - flat @ (means * precision).T
    total = torch.logsumexp(constant - energy, -1) - 0.5 * z.shape[-1] * LOG_2PI
    return total.view(z.shape[:-1]).to(z.dtype)


def as_mixture(prior: nn.Module) -> GaussianMixturePrior | None:
    """The prior as a fixed mixture of Gaussians, where it is one."""
    if isinstance(prior, GaussianMixturePrior):
        return prior
    return prior.gaussian_mixture() if isinstance(prior, _LearnedMixture) else None


def closed_form_kl(q: Posterior, prior: object) -> Tensor | None:
    """KL(q ‖ p) of each latent unit, nats ``(batch, latent)``, where there is a closed form: else None."""
    if isinstance(q, DiagonalNormal) and isinstance(prior, StandardNormal):
        return q.kl_to_standard_normal()
    return None
