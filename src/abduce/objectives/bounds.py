"""Variational bounds: what a latent-variable model maximises, each a reduction of one tensor of log weights.

    ELBO            E_q[log w]                         closed-form KL, warm-up, free bits
    IWAE(samples)   E_q[log (1/S) Σ_s w_s]             plain or doubly-reparameterised gradient

The bound's *value* is always reported as it is; warm-up, free bits and the gradient's estimator change only the gradient.

Sources: Kingma & Welling 2014; Burda et al. 2016 (arXiv:1509.00519); Tucker et al. 2019, doubly reparameterised
gradients (arXiv:1810.04152); Kingma et al. 2016, free bits (arXiv:1606.04934).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from abduce.distributions.posteriors import DiagonalNormal
from abduce.distributions.priors import StandardNormal
from abduce.models.latent import LatentVariableModel
from abduce.weights import multi_sample, normalized, resample, take


class Bound(NamedTuple):
    """A bound on log p(x_obs) for a batch."""

    loss: Tensor  # to minimise, (batch,); its gradient is the chosen estimator's
    value: Tensor  # the bound itself, nats, (batch,)
    z: Tensor  # one posterior draw a row, (batch, latent), no gradient: what the partial encoder learns from
    kl: Tensor | None  # KL of each latent unit where it has a closed form, (batch, latent)


class Objective(Protocol):
    """Called as ``objective(model, x, observed, progress, generator)``; ``progress`` runs from 0 to 1 over training."""

    def __call__(
        self,
        model: LatentVariableModel,
        x: Tensor,
        observed: Tensor | None,
        progress: float,
        generator: torch.Generator | None = None,
    ) -> Bound: ...


def _noise(model: LatentVariableModel, x: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(
        samples, x.shape[0], model.noise_dim, generator=generator, dtype=x.dtype, device=x.device
    )


class ELBO:
    """Evidence lower bound, E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)), with the KL in closed form.

    ``warmup`` is the share of the run over which the KL's weight rises from 0 to 1 (it must end before the run does);
    a latent unit whose average KL is below ``free_bits`` nats is not pressed further.
    """

    def __init__(self, warmup: float = 0.0, free_bits: float = 0.0, samples: int = 1):
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the run and must be in [0, 1), got {warmup!r}")
        if not free_bits >= 0:
            raise ValueError(f"free_bits must be >= 0 nats, got {free_bits!r}")
        self.warmup, self.free_bits, self.samples = warmup, free_bits, samples

    def __call__(self, model, x, observed, progress, generator=None) -> Bound:
        q = model.posterior(x, observed)
        z = q.transport(_noise(model, x, self.samples, generator))
        reconstruction = model.likelihood(z).log_prob(x, observed).mean(0)
        weight = min(1.0, progress / self.warmup) if self.warmup else 1.0
        if isinstance(q, DiagonalNormal) and isinstance(model.prior, StandardNormal):
            kl = q.kl_to_standard_normal()
            pressed = kl * (kl.detach().mean(0) > self.free_bits) if self.free_bits else kl
            cost, pressed = kl.sum(-1), pressed.sum(-1)
        else:  # one draw's estimate where there is no closed form
            kl = None
            cost = pressed = (q.log_prob(z) - model.prior.log_prob(z)).mean(0)
        loss = weight * pressed - reconstruction
        return Bound(loss, (reconstruction - cost).detach(), z[0].detach(), None if kl is None else kl.detach())


class IWAE:
    """Multi-sample bound, E[log (1/S) Σ_s w_s].

    ``gradient="dreg"`` (default) is the doubly-reparameterised estimator: the encoder's gradient weighs each draw's path
    by its squared normalised weight and leaves out the score term, which vanishes in expectation; ``"plain"`` differentiates
    the bound as it stands.
    """

    def __init__(self, samples: int = 5, gradient: str = "dreg"):
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        if gradient not in ("dreg", "plain"):
            raise ValueError(f"gradient must be 'dreg' or 'plain', got {gradient!r}")
        self.samples, self.gradient = samples, gradient

    def __call__(self, model, x, observed, progress, generator=None) -> Bound:
        q = model.posterior(x, observed)
        z = q.transport(_noise(model, x, self.samples, generator))
        if self.gradient == "plain":
            log_w = model.log_joint(z, x, observed) - q.log_prob(z)
            loss = -multi_sample(log_w)
        else:
            log_w = model.log_joint(z, x, observed) - q.detach().log_prob(z)
            w = normalized(log_w.detach())
            if z.requires_grad:  # the decoder's gradient is Σ w ∂log w, the path's through z is Σ w² ∂log w
                z.register_hook(lambda g: g * w.unsqueeze(-1))
            loss = -(w * log_w).sum(0)
        log_w = log_w.detach()
        drawn = take(z.detach(), resample(log_w, 1, generator))[0]
        return Bound(loss, multi_sample(log_w), drawn, None)


def forward_kl(model: LatentVariableModel, x: Tensor, seen: Tensor, z: Tensor) -> Tensor:
    """Fit the encoder of a more hidden row to draws ``z`` of the less hidden one: −log q(z | x_seen), nats, (batch,).

    Up to a constant this is the forward KL from the fuller posterior, averaged over what the hidden cells could have been,
    so its optimum is the true p(z | x_seen): the partial encoder covers every completion instead of picking one.
    """
    return -model.posterior(x, seen).log_prob(z)
