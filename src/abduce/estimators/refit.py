"""Ex-post density estimation: another prior for latents that are learned already.

Source: Ghosh et al. 2020 (arXiv:1903.12436).
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from abduce.distributions.priors import GaussianMixturePrior
from abduce.fit.density import fit_density
from abduce.models.parts import PRIORS
from abduce.models.vae import VariationalAutoencoder

CHUNK = 256


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
