"""Score matching: make the energy flat at the data and curved up around them; log Z never enters.

With the score ∇ log p = −∇E and the Laplacian tr ∇²E (of all D cells, not divided by D):

    score matching       ½ ‖∇E(x)‖² − tr ∇²E(x)                                   D second derivatives
    sliced               mean over directions v of ½ ‖∇E(x)‖² − vᵀ∇²E(x) v,   E[v vᵀ] = I       one a direction
                         (or of ½ (vᵀ∇E)², with more variance)
    denoising            ½ ‖σ ∇E(x + σε) − ε‖²,   ε ~ N(0, I)                      none: first derivatives only
                         averaged over ε and −ε

The first two equal ½ E‖∇E + ∇ log p_data‖² up to a constant, denoising the same for data with Gaussian noise of standard
deviation σ, times σ²: its best energy is that of the noisy density p_σ, for Gaussian data of covariance S a precision
(S + σ²I)⁻¹.  With noise of many sizes but one energy the best −∇E is the average of the scores of all p_σ, each weighted by
σ² p_σ(x): close to the data the small noise counts, far away the large, which gives wells a slope to be found by.

Of denoising's gradient in the parameters θ the part that is odd in ε, first of all −σ ε·∂∇E(x)/∂θ, is pure noise, the more
so the smaller σ is.  Seeing each row with ε and with −ε (antithetic noise) cancels it; a second row would only halve its
variance.

All are blind to the weights of modes that are far apart.

Sources: Hyvärinen 2005 (JMLR 6); Vincent 2011, a connection between score matching and denoising auto-encoders; Song et al.
2019, sliced score matching (arXiv:1905.07088); Li, Chen & Sommer 2019, one energy, many scales (arXiv:1910.07762).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from abduce.checks import check_choice, check_count, check_number
from abduce.fit.loss import RowObjective
from abduce.inference.energy import Energy
from abduce.together import of_rows


def _gradient(model: Energy, x: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """x as a leaf, and ∇E there (batch, D), itself differentiable in the parameters where ``keep``."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=keep)
    return x, gradient


def _curvature(gradient: Tensor, x: Tensor, v: Tensor, keep: bool) -> Tensor:
    """vᵀ∇²E(x) v for directions v (directions, batch, D), all in one pass: (directions, batch)."""
    if not gradient.requires_grad:  # E is linear in x
        return v.new_zeros(v.shape[:-1])
    batched = len(v) > 1  # one direction costs less on its own
    (product,) = torch.autograd.grad(
        gradient,
        x,
        v if batched else v[0],
        create_graph=keep,
        retain_graph=True,
        is_grads_batched=batched,
        materialize_grads=True,
    )
    return (product * v).sum(-1)


def _slope(model: Energy, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """∇E(x) (batch, D), and vᵀ∇²E(x) v (directions, batch), as differentiable in the parameters as gradients are on."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x, gradient = _gradient(model, x, True)
        curvature = _curvature(gradient, x, v, keep)
    return gradient if keep else gradient.detach(), curvature if keep else curvature.detach()


def sliced_score_matching(model: Energy, x: Tensor, v: Tensor, variance_reduced: bool = True) -> Tensor:
    """½ ‖∇E‖² (or ½ (vᵀ∇E)²) − vᵀ∇²E v, averaged over directions v (directions, batch, D), of each row (batch,)."""
    gradient, curvature = _slope(model, x, v)
    slope = gradient.square().sum(-1) if variance_reduced else (v * gradient).sum(-1).square().mean(0)
    return 0.5 * slope - curvature.mean(0)


def denoising_score_matching(model: Energy, x: Tensor, sigma: Tensor | float, noise: Tensor) -> Tensor:
    """½ ‖σ ∇E(x + σε) − ε‖² of each row (..., D) -> (...), for ``noise`` ε (..., D) and σ that broadcasts against them."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        _, gradient = _gradient(model, x + sigma * noise, keep)
    return 0.5 * (sigma * gradient - noise).square().sum(-1)


class SmoothObjective(RowObjective):
    """An objective of two derivatives of the energy in real cells."""

    def check(self, model: Energy) -> None:
        self.check_support(model, "real", "RatioMatching, PseudoLikelihood or MinimumProbabilityFlow")
        if not model.smooth:
            raise self.illegal(
                model,
                "two derivatives of the energy in x, and this model has kinks (ReLU, a minimum); take a smooth activation, "
                "DenoisingScoreMatching, NCE or ContrastiveDivergence",
            )


@dataclass(frozen=True)
class ScoreMatching(SmoothObjective):
    """Minimise ½ ‖∇E‖² − tr ∇²E, exactly: D second derivatives a row, in one pass; for many cells take the sliced kind."""

    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        axes = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).unsqueeze(1)
        gradient, curvature = _slope(model, x, axes.expand(-1, *x.shape))
        return 0.5 * gradient.square().sum(-1) - curvature.sum(0)


@dataclass(frozen=True)
class SlicedScoreMatching(SmoothObjective):
    """Minimise score matching's loss along random directions, ``projections`` a row, of ``law`` "rademacher" or "normal".

    ``variance_reduced`` takes ½ ‖∇E‖² as it is instead of along the directions.

    >>> SlicedScoreMatching(law="uniform")
    Traceback (most recent call last):
    ValueError: law must be one of ['rademacher', 'normal'], got 'uniform'
    """

    projections: int = 1
    variance_reduced: bool = True
    law: str = "rademacher"

    def __post_init__(self):
        check_count("projections", self.projections)
        check_choice("law", self.law, ("rademacher", "normal"))

    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        shape = self.projections, *x.shape
        v = of_rows(torch.randn, shape, 1, generator=generator, dtype=x.dtype, device=x.device)
        if self.law == "rademacher":
            v = torch.where(v < 0, -1.0, 1.0).to(x.dtype)
        return sliced_score_matching(model, x, v, self.variance_reduced)


@dataclass(frozen=True)
class DenoisingScoreMatching(RowObjective):
    """Minimise ½ ‖σ ∇E(x + σε) − ε‖² at noise ``sigma`` in standard deviations of a cell, or from σ = ``(low, high)``.

    Each row is seen with ε and with −ε, so that a step costs two of as many rows, and is far less noisy where σ is small.

    A pair draws each row's log σ uniformly between the two: geometric noise levels, all for one energy, weighted by σ².

    >>> DenoisingScoreMatching([0.05, 1.0])
    DenoisingScoreMatching(sigma=(0.05, 1.0))
    """

    sigma: float | tuple[float, float] = 0.1

    def __post_init__(self):
        if isinstance(self.sigma, (list, tuple)):
            object.__setattr__(self, "sigma", tuple(self.sigma))
            if len(self.sigma) != 2:
                raise ValueError(f"sigma must be a number or a pair (low, high), got {self.sigma!r}")
            low, high = self.sigma
            check_number("the lower sigma", low, 0, above=True)
            check_number("the higher sigma", high, low)
        else:
            check_number("sigma", self.sigma, 0, above=True)

    def check(self, model: Energy) -> None:
        self.check_support(model, "real", "RatioMatching, PseudoLikelihood or MinimumProbabilityFlow")

    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        factory = {"generator": generator, "dtype": x.dtype, "device": x.device}
        low, high = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        sigma: Tensor | float = low
        if high > low:
            sigma = low * (high / low) ** of_rows(torch.rand, (len(x), 1), 0, **factory)
        noise = of_rows(torch.randn, x.shape, 0, **factory)
        return denoising_score_matching(model, x, sigma, torch.stack([noise, -noise])).mean(0)
