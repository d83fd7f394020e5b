"""Codes against principal components, and against distances between what they decode to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from abduce import VAE
from abduce.data.examples import load_digits_images
from abduce.inference.codes import code_axes


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_codes_of_a_linear_decoder_are_its_principal_components():
    """Whatever scale and rotation the latents have, and though two of them move the data by nearly the same."""
    W, z = normal(12, 4, seed=1), normal(300, 4)
    W[:, 3] = W[:, 2] + 0.01 * W[:, 3]
    rows = (z @ W.T).numpy()
    for mix in (
        torch.eye(4).double(),
        torch.diag(torch.tensor([1e-2, 1.0, 10.0, 1e3]).double()),
        normal(4, 4, seed=2),
    ):
        inverse = torch.linalg.inv(mix)
        axes = code_axes(lambda u, W=W, back=inverse: u @ back.T @ W.T, z @ mix.T)
        codes = axes.codes(z @ mix.T)
        scores = PCA(4, svd_solver="full").fit_transform(rows)
        np.testing.assert_allclose(np.abs(codes.numpy()), np.abs(scores), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(axes.latents(codes), z @ mix.T, rtol=1e-4, atol=1e-5)


def test_a_latent_that_moves_nothing_has_no_code():
    W, z = normal(6, 3, seed=1), normal(200, 3)
    W[:, 1] = 0.0
    axes = code_axes(lambda u: u @ W.T, z)
    codes = axes.codes(z)
    assert codes.std(0)[2] < 1e-9
    back = axes.latents(codes)
    np.testing.assert_allclose(back[:, [0, 2]], z[:, [0, 2]], atol=1e-9)
    np.testing.assert_allclose(back[:, 1], axes.centre[1].expand(200), atol=1e-9)


def test_axes_point_one_way():
    """Latents turned round, one by one and together, give the same codes."""
    W, z = normal(8, 3, seed=3), normal(200, 3)
    axes = code_axes(lambda u: torch.tanh(u @ W.T), z)
    for sign in ([-1, 1, 1], [1, -1, -1]):
        turned = torch.tensor(sign).double()
        other = code_axes(lambda u, s=turned: torch.tanh((u * s) @ W.T), z * turned)
        np.testing.assert_allclose(other.codes(z * turned), axes.codes(z), atol=1e-7)


@pytest.mark.parametrize("linear_path", [False, True])
def test_distances_between_codes_are_distances_between_images(linear_path):
    X = load_digits_images()[0][:400]
    model = VAE(latent_dim=6, hidden=[32], linear_path=linear_path, max_epochs=40, random_state=0).fit(X)
    Z = model.transform(X)
    assert np.all(np.diff(Z.std(0)) < 1e-9)  # the widest axis first
    pixels = model.schema_.fields[0].scale
    rng = np.random.default_rng(0)
    near = Z + 0.05 * rng.normal(size=Z.shape)  # a small move, seen on the images
    moved = (model.inverse_transform(near) - model.inverse_transform(Z)).reshape(len(X), -1) / pixels
    ratio = np.sqrt((moved**2).sum(1).mean() / ((near - Z) ** 2).sum(1).mean())
    assert ratio == pytest.approx(1, abs=0.15)
    again = VAE(latent_dim=6, hidden=[32], linear_path=linear_path, max_epochs=40, random_state=0).fit(X)
    np.testing.assert_allclose(again.transform(X), Z, atol=1e-6)
