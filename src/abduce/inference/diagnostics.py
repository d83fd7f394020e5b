"""What a latent-variable model does with its latents: how the ELBO splits, which units are used.

    ELBO = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))                                  reconstruction and KL
    mean KL over the data = I(x; z) + KL(q(z) ‖ p(z))                           mutual information and marginal KL

with q(z) the aggregate posterior.  A unit is active if its posterior mean moves with x: variance over the data above 0.01.

Sources: Burda et al. 2016 (arXiv:1509.00519) for active units; Hoffman & Johnson 2016, ELBO surgery, for the second split.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from abduce.distributions.priors import closed_form_kl
from abduce.inference.latent import LatentVariableModel

ACTIVE = 0.01
ROWS = 256


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` finds; nats a row."""

    elbo: float
    reconstruction: float
    kl: float
    kl_per_unit: tuple[float, ...] | None  # of a diagonal posterior under a standard normal prior
    activity: tuple[float, ...]  # variance of each unit's posterior mean over the data
    active_units: int
    mutual_information: float | None = None
    marginal_kl: float | None = None


@torch.no_grad()
def diagnose(
    model: LatentVariableModel,
    x: Tensor,
    observed: Tensor | None = None,
    samples: int = 16,
    surgery: bool = False,
    seed: int = 0,
) -> Diagnosis:
    """Split the ELBO of rows x and count the active units; with ``surgery`` split the KL too.

    The aggregate posterior is that of these rows, so I(x; z) is at most log of their number.
    """
    generator = Generator().manual_seed(seed)
    means, units, likely, kls, drawn, own = [], [], [], [], [], []
    for i in range(0, len(x), ROWS):
        xs, seen = x[i : i + ROWS], None if observed is None else observed[i : i + ROWS]
        q = model.posterior(xs, seen)
        noise = torch.randn(samples, len(xs), model.noise_dim, generator=generator, dtype=x.dtype)
        z, log_q = q.draw(noise.to(x.device))
        likely.append(model.likelihood(z).log_prob(xs, seen).mean(0))
        means.append(q.mean)
        if (per_unit := closed_form_kl(q, model.prior)) is not None:
            units.append(per_unit)
            kls.append(per_unit.sum(-1))
        else:
            kls.append((log_q - model.prior.log_prob(z)).mean(0))
        drawn.append(z[0])
        own.append(log_q[0])
    reconstruction, kl = torch.cat(likely).mean().item(), torch.cat(kls).mean().item()
    activity = torch.cat(means).var(0, correction=0)
    found = Diagnosis(
        elbo=reconstruction - kl,
        reconstruction=reconstruction,
        kl=kl,
        kl_per_unit=tuple(torch.cat(units).mean(0).tolist()) if units else None,
        activity=tuple(activity.tolist()),
        active_units=int((activity > ACTIVE).sum()),
    )
    if not surgery:
        return found
    information = (torch.cat(own) - _aggregate(model, x, observed, torch.cat(drawn))).mean().item()
    return replace(found, mutual_information=information, marginal_kl=kl - information)


def _aggregate(model: LatentVariableModel, x: Tensor, observed: Tensor | None, z: Tensor) -> Tensor:
    """log q(z) = log (1/N) Σ_n q(z|x_n) of each z (m, latent), in chunks of both."""
    total = z.new_full((len(z),), -math.inf)
    for i in range(0, len(x), ROWS):
        q = model.posterior(x[i : i + ROWS], None if observed is None else observed[i : i + ROWS])
        rows = len(x[i : i + ROWS])
        for j in range(0, len(z), ROWS):
            every = q.log_prob(z[j : j + ROWS].unsqueeze(1).expand(-1, rows, -1))
            total[j : j + ROWS] = torch.logaddexp(total[j : j + ROWS], torch.logsumexp(every, 1))
    return total - math.log(len(x))


def warn_of_heavy_tails(pareto_k: Tensor, few: float = 0.01) -> None:
    """Warn where more than a few rows' importance weights have tails too heavy to average (k̂ > 0.7)."""
    heavy = int((pareto_k > 0.7).sum())
    if heavy > max(1, few * len(pareto_k)):
        worst = float(pareto_k[pareto_k > 0.7].max())
        warnings.warn(
            f"log p of {heavy} of {len(pareto_k)} rows is doubtful: the Pareto k of their importance weights is above "
            f"0.7, the worst {worst:.2f}. Give more samples, or method='ais'.",
            RuntimeWarning,
            stacklevel=3,
        )
