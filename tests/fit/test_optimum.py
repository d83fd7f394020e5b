"""What the bounds have in common where all of them can be tight: the maximum-likelihood solution of probabilistic PCA.

A VAE without hidden layers, with one noise scale, is probabilistic PCA, whose maximum of the likelihood has a closed form
(Tipping & Bishop 1999): W = U (Λ − σ² I)^½ R of the leading eigenvectors U, σ² the mean of the eigenvalues left over.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal

from abduce.data.schema import Schema
from abduce.distributions.heads import FLOOR
from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from abduce.models.build import build_vae
from abduce.models.choice import Choice

STEPS = 550


def rows(n: int = 200, d: int = 5, k: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + 0.5 * rng.normal(size=(n, d))
    return y - y.mean(0) + 0.2


def principal_components(x: np.ndarray, k: int) -> tuple[float, np.ndarray, float]:
    """Mean log-likelihood, the columns of W, and the noise's standard deviation."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[k:].mean()
    W = vectors[:, :k] * np.sqrt(values[:k] - noise)
    law = multivariate_normal(x.mean(0), W @ W.T + noise * np.eye(x.shape[1]))
    return law.logpdf(x).mean(), W, math.sqrt(noise)


def trained(objective, x: torch.Tensor, k: int = 2):
    torch.manual_seed(0)
    schema = Schema.infer(x.numpy(), "real")
    model = build_vae(schema, Choice(k, (), scale="shared", masking=False)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    noise = generator(1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.025 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        objective(model, x, None, 1.0, noise).loss.mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("objective", "above"),
    [
        (ELBO(), 0),
        (ELBO(gradient="stl"), 0),
        (IWAE(5), 0),
        (Renyi(0.5, 5), 0),
        (Renyi(2.0, 5), 0),
        (MIWAE(2, 3), 0),
        (PIWAE(2, 3), 0),
        (CIWAE(0.5, 5), 0),
        (Renyi(-1.0, 5), 0.1),
        (Renyi(-math.inf, 5), 0.5),
    ],
    ids=str,
)
def test_every_bound_finds_the_principal_components(objective, above):
    """So do the Rényi bounds that are no bounds, whose encoder gains by being too wide: by as much at any decoder."""
    data = rows()
    best, W, noise = principal_components(data, 2)
    assert noise > 2 * FLOOR
    x = torch.from_numpy(data)
    model = trained(objective, x)
    with torch.no_grad():
        found, mean = (t[:5].numpy() for t in (model.decoder.net[-1].weight, model.decoder.net[-1].bias))
        scale = float(model.likelihood(torch.zeros(1, 1, 2).double()).parts[0][1].scale.flatten()[0])
        bound = objective(model, x.repeat(50, 1), None, 1.0, generator(2)).value.mean().item()
    value = multivariate_normal(mean, found @ found.T + scale**2 * np.eye(5)).logpdf(data).mean()
    assert best - 0.01 < value <= best + 1e-9
    assert np.rad2deg(subspace_angles(W, found)).max() < 1
    assert scale == pytest.approx(noise, abs=0.02)
    if above:
        assert bound > best + above
    else:  # the value of draws has some noise where its weights are not even
        assert bound == pytest.approx(best, abs=0.05)
