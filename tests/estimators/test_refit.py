"""Priors that are moved to where training has put the latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from abduce import VAE
from abduce.estimators import refit


@pytest.fixture(scope="module")
def fitted() -> tuple[VAE, np.ndarray]:
    X = load_digits().images[:300].astype(np.uint8)
    return VAE(latent_dim=6, max_epochs=3, random_state=0).fit(X), X


def test_a_settled_prior_is_nearer_the_latents(fitted):
    model, X = fitted
    seen = model._encode(X)
    z = refit.latents(model.model_, seen.y, seen.mask, 8, 1)
    before = model.model_.prior.log_prob(z).mean()
    for _ in range(3):
        refit.settle(model.model_, seen.y, seen.mask, 1)
        after = model.model_.prior.log_prob(z).mean()
        assert after > before
        before = after


def test_settling_with_weight_on_the_data_alone_is_the_step_of_em(fitted, monkeypatch):
    model, X = fitted
    monkeypatch.setattr(refit, "PSEUDO", 0.0)
    seen, old = model._encode(X), model.model_.prior
    z = refit.latents(model.model_, seen.y, seen.mask, 8, 1)
    r = torch.softmax(old.component_log_prob(z), 1)
    refit.settle(model.model_, seen.y, seen.mask, 1)
    new = model.model_.prior
    for c in range(new.components):
        mean, cov = np.average(z, 0, r[:, c]), np.cov(z.T, aweights=r[:, c], ddof=0)
        np.testing.assert_allclose(new.means[c], mean, atol=1e-5)
        np.testing.assert_allclose(new.roots[c] @ new.roots[c].T, cov, atol=1e-4 * cov.max())
    np.testing.assert_allclose(new.weights, r.mean(0), atol=1e-6)
