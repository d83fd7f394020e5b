"""Small models that several test files build."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from abduce.data.schema import Schema
from abduce.gaussians.linear import LinearPath, fit
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.vae import VariationalAutoencoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factor_rows(n: int = 400, d: int = 5, k: int = 2, seed: int = 0) -> np.ndarray:
    """Rows of a factor model: k factors seen in d cells of unit variance."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(d, k))
    y = rng.normal(size=(n, k)) @ W.T + (0.4 + 0.4 * rng.random(d)) * rng.normal(size=(n, d))
    return (y - y.mean(0)) / y.std(0)


def some_seen(x: torch.Tensor, share: float = 0.6, seed: int = 1) -> torch.Tensor:
    """A mask with rows of all kinds: complete, empty, and mixed."""
    seen = torch.rand(x.shape, generator=generator(seed)) < share
    seen[0], seen[1] = True, False
    return seen


def linear_model(
    d: int = 5,
    k: int = 2,
    components: int = 1,
    hidden: tuple[int, ...] = (),
    scale: str = "cell",
    seed: int = 0,
) -> tuple[VariationalAutoencoder, LinearPath, torch.Tensor]:
    """A model of Gaussian cells at its start, the linear path in it (in single precision), the data."""
    rows = factor_rows(d=d, k=k, seed=seed)
    if components > 1:  # clusters, so that the mixture is one
        rows[::2] += 2.0
        rows = (rows - rows.mean(0)) / rows.std(0)
    x = torch.from_numpy(rows)
    schema = Schema.infer(rows, "real")
    path = fit(x, None, k, components, generator(seed))
    torch.manual_seed(seed)
    model = build_vae(schema, Choice(k, hidden, scale=scale), path=path).double()
    parts = (path.W, path.b, path.noise, path.weights, path.means, path.covariances)
    return model, LinearPath(*(t.float().double() for t in parts)), x


def shaken(model: nn.Module, size: float = 0.3, seed: int = 0) -> nn.Module:
    """Move every parameter off its start, so that networks are not zero."""
    g = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return model


def plain_model(kind: str = "binary", d: int = 4, k: int = 2, hidden: tuple[int, ...] = (8,), seed: int = 0):
    """A model without a linear path, random networks, double precision."""
    values = np.random.default_rng(seed).integers(0, 2, size=(50, d)).astype(float)
    schema = Schema.infer(values, kind)
    torch.manual_seed(seed)
    return build_vae(schema, Choice(k, hidden)).double(), schema


def quadrature(model: VariationalAutoencoder, x: torch.Tensor, observed: torch.Tensor | None) -> torch.Tensor:
    """log p(x_obs) by integrating p(x|z) p(z) over a fine grid of one or two latents."""
    points = torch.linspace(-9, 9, 1801 if model.latent_dim == 1 else 361, dtype=torch.float64)
    z = torch.cartesian_prod(*[points] * model.latent_dim).view(-1, 1, model.latent_dim)
    step = float(points[1] - points[0])
    with torch.no_grad():
        parts = [model.log_joint(chunk, x, observed) for chunk in z.split(20_000)]
    return torch.logsumexp(torch.cat(parts), 0) + model.latent_dim * np.log(step)
