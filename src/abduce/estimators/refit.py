"""Ex-post density estimation: another prior for latents that are learned already.

Source: Ghosh et al. 2020 (arXiv:1903.12436).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from abduce.distributions.priors import GaussianMixturePrior
from abduce.fit.density import fit_density
from abduce.models.parts import PRIORS
from abduce.models.vae import VariationalAutoencoder

CHUNK = 256
SETTLED = 20_000  # rows, at most, by which a prior is settled
PSEUDO = 50.0  # rows that a prior counts as when it is settled


@torch.no_grad()
def latents(model: VariationalAutoencoder, x: Tensor, observed: Tensor, draws: int, seed: int) -> Tensor:
    """Draws from the aggregate posterior, ``draws`` of each row, ``(draws · n, latent)``."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(0, len(x), CHUNK):
        xs = x[i : i + CHUNK]
        q = model.posterior(xs, observed[i : i + CHUNK])
        noise = torch.randn(draws, len(xs), model.noise_dim, generator=generator, dtype=x.dtype)
        found.append(q.transport(noise).flatten(0, 1))
    return torch.cat(found)


def prior(
    model: VariationalAutoencoder,
    x: Tensor,
    observed: Tensor,
    family: str,
    components: int,
    draws: int,
    epochs: int,
    seed: int,
) -> nn.Module:
    """Fit a prior of a ``family``, "normal", "mixture" or "flow", to the latents of x."""
    z = latents(model, x, observed, draws, seed)
    if family == "mixture":
        count = min(components, len(z))
        found = GaussianMixture(count, reg_covar=1e-4, random_state=seed % 2**32).fit(z.numpy())
        parts = (found.weights_, found.means_, found.covariances_)
        return GaussianMixturePrior(*(torch.from_numpy(np.asarray(t)) for t in parts)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        law = PRIORS[family](model.latent_dim)
        if family == "flow":
            fit_density(law, z.float(), epochs, seed)
    return law.double()


@torch.no_grad()
def settle(model: VariationalAutoencoder, x: Tensor, observed: Tensor, seed: int) -> None:
    """Move a mixture prior to where training has put the latents: one step of expectation-maximisation on draws of theirs.

    The prior as it is counts as ``PSEUDO`` rows of each component, so that components of few rows keep their shape:

        S_c ← (Σ_n r_nc (z_n − m_c)(z_n − m_c)ᵀ + PSEUDO S_c) / (Σ_n r_nc + PSEUDO),      m_c and π_c likewise

    Source: MAP estimates of mixtures, Gauvain & Lee 1994.
    """
    old: Any = model.prior
    draws = 8
    z = latents(model, x[:SETTLED], observed[:SETTLED], draws, seed)
    r = torch.cat([torch.softmax(old.component_log_prob(part), 1) for part in z.split(8 * CHUNK)]) / draws
    count = r.sum(0)
    share = ((count + PSEUDO * old.weights) / (count.sum() + PSEUDO)).double()
    centre = (r.T @ z + PSEUDO * old.means) / (count + PSEUDO).unsqueeze(1)
    spread = []
    for c, mean in enumerate(centre):
        moved, shift = (z - mean) * r[:, c : c + 1].sqrt(), (old.means[c] - mean).unsqueeze(1)
        before = old.roots[c] @ old.roots[c].T + shift @ shift.T
        spread.append((moved.T @ moved + PSEUDO * before) / (count[c] + PSEUDO))
    model.set_prior(GaussianMixturePrior(share, centre, torch.stack(spread)).double())
