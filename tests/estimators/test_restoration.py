"""Restoring clean data in their own units: every observation against Kalman's formula, levels of noise, and bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, stats
from torch.nn import functional as F

from abduce import (
    PCA,
    RBM,
    VAE,
    Blanks,
    Blur,
    Downsample,
    Flips,
    GaussianMixture,
    KMeans,
    LinearMap,
    Noise,
    Quantise,
)
from abduce.estimators.noise_level import most_likely, robust_noise


def smooth_images(n: int = 300, shape: tuple[int, ...] = (6, 6), seed: int = 0) -> np.ndarray:
    """Images of a Gaussian law around 50, neighbours alike."""
    rng = np.random.default_rng(seed)
    sigma = (0, 1.5, 1.5, *([0] * (len(shape) - 2)))
    return (
        50 + 40 * ndimage.gaussian_filter(rng.normal(size=(n, *shape)), sigma) + rng.normal(size=(n, *shape))
    )


@pytest.fixture(scope="module", params=["grey", "colour"])
def gaussian(request) -> tuple[PCA, np.ndarray]:
    """A Gaussian model of images, and new images."""
    shape = (6, 6) if request.param == "grey" else (4, 4, 3)
    X = smooth_images(shape=shape)
    return PCA(components=8, kinds="real", random_state=0).fit(X[:250]), X[250:258]


@pytest.fixture(scope="module")
def vae() -> tuple[VAE, np.ndarray]:
    X = smooth_images()
    return VAE(kinds="real", latent_dim=6, max_epochs=4, random_state=0).fit(X[:250]), X[250:]


def in_units(model: PCA) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a Gaussian model in the data's units."""
    loc = np.broadcast_to([f.loc for f in model.schema_.fields], model.schema_.n_cells)
    scale = np.broadcast_to([f.scale for f in model.schema_.fields], model.schema_.n_cells)
    law = model.model_.law
    return loc + scale * law.means[0].numpy(), law.covariances[0].numpy() * np.outer(scale, scale)


MOTION = np.array([[0.0, 0.0, 0.0], [0.5, 0.3, 0.2], [0.0, 0.0, 0.0]])


def degrade(images: np.ndarray, name: str) -> np.ndarray:
    """What an observation does to images (n, H, W[, C]), by another library."""
    grey = images.reshape(*images.shape[:3], -1)
    n, h, w, c = grey.shape
    if name == "box":
        out = grey.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    elif name == "bicubic":
        out = F.interpolate(
            torch.from_numpy(grey).permute(0, 3, 1, 2), (h // 2, w // 2), mode="bicubic", antialias=True
        )
        out = out.permute(0, 2, 3, 1).numpy()
    elif name == "blur":
        out = ndimage.gaussian_filter(grey, (0, 0.8, 0.8, 0), mode="mirror", radius=(0, 4, 4, 0))
    elif name == "motion":
        out = ndimage.convolve(grey, MOTION[None, :, :, None], mode="constant")
    else:
        out = grey
    return out.reshape(n, *out.shape[1:3], *images.shape[3:])


CASES = {
    "noise": (Noise(8.0), 8.0),
    "quantise": (Quantise(30.0), 30 / 12**0.5),
    "box": (Downsample(2, noise=2.0), 2.0),
    "bicubic": (Downsample(2, "bicubic", noise=2.0), 2.0),
    "blur": (Blur(0.8, noise=3.0), 3.0),
    "motion": (Blur(MOTION, noise=3.0, border="zero"), 3.0),
}


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_observation_is_kalmans_formula(gaussian, name, holes):
    model, X = gaussian
    observation, sigma = CASES[name]
    mean, cov = in_units(model)
    eye = np.eye(len(mean)).reshape(-1, *X.shape[1:])
    A = degrade(eye, name).reshape(len(mean), -1).T
    rng = np.random.default_rng(1)
    Y = degrade(X, name)
    Y = Y + sigma * rng.normal(size=Y.shape)
    if holes:
        Y[rng.random(Y.shape) < 0.3] = np.nan
    found, std = model.restore(Y, observation, return_std=True)
    assert found.shape == std.shape == X.shape
    copies = model.restore(Y, observation, draws=400, random_state=0)
    for i, y in enumerate(Y.reshape(len(Y), -1)):
        o = ~np.isnan(y)
        gain = cov @ A[o].T @ np.linalg.inv(A[o] @ cov @ A[o].T + sigma**2 * np.eye(o.sum()))
        expected = mean + gain @ (y[o] - A[o] @ mean)
        left = np.sqrt(np.diag(cov - gain @ A[o] @ cov))
        np.testing.assert_allclose(found[i].ravel(), expected, atol=1e-3)
        np.testing.assert_allclose(std[i].ravel(), left, rtol=0.2)
        assert np.mean(std[i].ravel() / left) == pytest.approx(1, abs=0.05)
        average = np.mean([copy[i].ravel() for copy in copies], 0)
        np.testing.assert_allclose(average, expected, atol=5 * left.max() / 20)


def test_linear_maps_of_images_and_tables(gaussian):
    model, X = gaussian
    mean, cov = in_units(model)
    rng = np.random.default_rng(0)
    M = rng.normal(size=(10, len(mean)))
    flat = X.reshape(len(X), -1)
    sigma = rng.uniform(1, 3, 10)
    Y = flat @ M.T + sigma * rng.normal(size=(len(X), 10))
    gain = cov @ M.T @ np.linalg.inv(M @ cov @ M.T + np.diag(sigma**2))
    expected = mean + (Y - M @ mean) @ gain.T
    np.testing.assert_allclose(model.restore(Y, LinearMap(M, sigma)).reshape(len(X), -1), expected, atol=1e-3)
    # a table whose columns have units of their own: only the sum of two of them is known
    rows = pd.DataFrame(
        rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) * [1, 10, 100], columns=list("abc")
    )
    table = PCA(components=2, kinds="real").fit(rows)
    mean, cov = in_units(table)
    total = LinearMap([[10.0, 1.0, 0.0]], 1.0)
    y = rows.to_numpy()[:5] @ np.array([[10.0], [1.0], [0.0]])
    A = np.array([[10.0, 1.0, 0.0]])
    gain = cov @ A.T / (A @ cov @ A.T + 1.0)
    restored = table.restore(y, total)
    assert list(restored.columns) == list("abc")
    np.testing.assert_allclose(restored.to_numpy(), mean + (y - A @ mean) @ gain.T, rtol=1e-4)


def test_blanks_are_fill(gaussian):
    model, X = gaussian
    Y = np.where(np.random.default_rng(0).random(X.shape) < 0.4, np.nan, X)
    found, std = model.restore(Y, Blanks(), return_std=True)
    np.testing.assert_array_equal(found, model.fill(Y))
    assert (std[~np.isnan(Y)] == 0).all()
    assert (std[np.isnan(Y)] > 0).all()
    copies = model.restore(Y, Blanks(), draws=2, random_state=3)
    np.testing.assert_array_equal(copies[1], model.fill(Y, draws=2, random_state=3)[1])


def test_wrappers_and_equal_observations(gaussian):
    model, X = gaussian
    noisy = X + 5 * np.random.default_rng(0).normal(size=X.shape)
    clean = model.restore(noisy, Noise(5.0))
    np.testing.assert_array_equal(model.denoise(noisy, 5.0), clean)
    delta = np.zeros((3, 3))
    delta[1, 1] = 1.0
    np.testing.assert_allclose(model.restore(noisy, Blur(delta, noise=5.0)), clean, atol=1e-9)
    np.testing.assert_allclose(model.restore(noisy, Blur(1e-3, noise=5.0)), clean, atol=1e-9)
    np.testing.assert_allclose(model.restore(noisy, Downsample(1, noise=5.0)), clean, atol=1e-9)
    small = degrade(X, "bicubic")
    np.testing.assert_array_equal(
        model.upscale(small, 2, 1.0, kernel="bicubic"), model.restore(small, Downsample(2, "bicubic", 1.0))
    )
    first, second = model.denoise(noisy, 5.0, draws=2, random_state=0)
    assert not np.array_equal(first, second)
    assert len(model.upscale(small, 2, 1.0, draws=3)) == 3


def test_a_vae_restores_what_a_gaussian_does(vae):
    """On Gaussian data a VAE with a linear path comes close to the best linear estimate, under every observation."""
    model, X = vae
    for name, (observation, sigma) in CASES.items():
        Y = degrade(X, name)
        Y = Y + sigma * np.random.default_rng(1).normal(size=Y.shape)
        found, std = model.restore(Y, observation, return_std=True)
        linear = PCA(components=6, kinds="real").fit(smooth_images()[:250]).restore(Y, observation)
        error, best = ((found - X) ** 2).mean(), ((linear - X) ** 2).mean()
        assert error < 1.15 * best, name
        assert np.sqrt((((found - X) / std) ** 2).mean()) == pytest.approx(1, abs=0.15)  # honest about it
        np.testing.assert_allclose(
            model.restore(Y[:2], observation), found[:2], rtol=1e-6
        )  # whatever rows come along
    copies = model.restore(Y[:20], observation, draws=200, random_state=0)
    np.testing.assert_allclose(np.mean(copies, 0), found[:20], atol=6 * std.max() / 200**0.5)


def test_k_means_draws_by_rejection():
    """Draws under noise from a hard mixture, against a grid of its posterior."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) + np.array([-3.0, 3.0])[rng.integers(0, 2, 300), None]
    model = KMeans(components=2, kinds="real", random_state=0).fit(X)
    model.normalize()
    y = np.array([[0.6]])
    drawn = np.array(model.restore(y, Noise(1.5), draws=4000, random_state=0)).ravel()
    grid = np.linspace(-12, 12, 20001)
    weight = np.exp(model.score_samples(grid[:, None])) * stats.norm.pdf(y[0, 0], grid, 1.5)
    cdf = np.cumsum(weight) / weight.sum()
    assert stats.kstest(drawn, lambda v: np.interp(v, grid, cdf)).pvalue > 1e-3
    mean = (grid * weight).sum() / weight.sum()
    assert model.restore(y, Noise(1.5))[0, 0] == pytest.approx(mean, abs=0.1)


def test_binary_images():
    rng = np.random.default_rng(0)
    X = np.repeat(
        (rng.random((200, 2, 1)) < 0.5) * np.ones((200, 2, 4)), 2, 1
    )  # two halves, each of one colour
    model = VAE(latent_dim=2, max_epochs=200, learning_rate=0.01, random_state=0).fit(X[:150])
    new = X[150:]
    flipped = np.where(rng.random(new.shape) < 0.05, 1 - new, new)
    clean = model.denoise(flipped, 0.05)
    np.testing.assert_array_equal(model.restore(flipped, Flips(0.05)), clean)
    assert (clean == new).mean() > (flipped == new).mean() + 0.01
    assert model.estimate_noise(np.where(rng.random(X.shape) < 0.1, 1 - X, X)) == pytest.approx(0.1, abs=0.03)
    grey = new + 0.3 * rng.normal(size=new.shape)
    assert (model.restore(grey, Noise(0.3)) == new).mean() > 0.97
    assert (model.upscale(new[:, ::2, ::2], 2) == new).all()


# ---------------------------------------------------------------- how much noise


@pytest.mark.parametrize("sigma", [3.0, 15.0])
def test_the_noise_is_found_by_its_likelihood(gaussian, vae, sigma):
    rng = np.random.default_rng(2)
    shape = gaussian[1].shape[1:]
    mixture = GaussianMixture(components=2, kinds="real", random_state=0, reg_covar=1e-3)
    for model in (gaussian[0], mixture.fit(smooth_images(shape=shape))):
        X = model.sample(64, random_state=0)
        assert model.estimate_noise(X + sigma * rng.normal(size=X.shape)) == pytest.approx(sigma, rel=0.08)
    model, X = vae
    noisy = X + sigma * rng.normal(size=X.shape)
    found = model.estimate_noise(noisy)
    assert found == pytest.approx(sigma, rel=0.15)
    np.testing.assert_array_equal(model.denoise(noisy, "estimate"), model.denoise(noisy, found))


def test_the_noise_of_images_without_a_likelihood():
    X = smooth_images(100, (8, 8))
    model = KMeans(components=3, kinds="real", random_state=0).fit(X)
    model.normalize()
    noisy = X + 20 * np.random.default_rng(0).normal(size=X.shape)
    noisy[0, :2] = np.nan
    assert model.estimate_noise(noisy) == pytest.approx(20, rel=0.15)
    table = KMeans(components=3, kinds="real", random_state=0).fit(X.reshape(100, -1))
    with pytest.raises(ValueError, match="KMeans has no log p of noisy rows to estimate the noise by"):
        table.estimate_noise(X.reshape(100, -1))
    with pytest.raises(ValueError, match="no complete block of 2 x 2 pixels"):
        robust_noise(np.full((2, 4, 4, 1), np.nan))
    with pytest.raises(ValueError, match="no observed cell"):
        model.estimate_noise(np.full((2, 8, 8), np.nan))


def test_golden_section_finds_peaks_at_the_ends():
    assert most_likely(lambda s: -s, 0.1, 10.0) == pytest.approx(0.1, rel=0.02)
    assert most_likely(lambda s: s, 0.1, 10.0) == pytest.approx(10.0, rel=0.02)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Noise(-1), "noise must be finite and >= 0, got -1"),
        (Noise(np.inf), "noise must be finite"),
        (Noise([1.0, 2.0]), r"noise must be finite and >= 0, got \[1.0, 2.0\]"),
        (Quantise(0.0), "step must be finite and above 0, got 0.0"),
        (Blur(0), "width must be finite and above 0, got 0"),
        (Blur(-1.0), "width must be finite and above 0, got -1.0"),
        (Blur(1.0, noise=-2), "noise must be finite and >= 0, got -2"),
        (Blur(1.0, border="wrap"), "border must be one of"),
        (Blur(np.ones((2, 2))), "2-D with odd sides"),
        (Downsample(4), "factor must be a positive int that divides both 6 and 6, got 4"),
        (Downsample(0), "factor must be a positive int"),
        (Downsample(2.0), "factor must be a positive int"),
        (Downsample(2, "lanczos"), "kernel must be one of"),
        (Downsample(2, noise=-0.1), "noise must be finite and >= 0, got -0.1"),
        (LinearMap(np.ones((2, 5))), r"matrix must be finite and of shape \(d, 36\), got \(2, 5\)"),
        (Flips(0.1), "Flips takes all-binary data"),
    ],
)
def test_observations_out_of_range(vae, observation, message):
    model, X = vae
    with pytest.raises(ValueError, match=message):
        model.restore(X, observation)


def test_wrong_shapes_and_arguments(vae):
    model, X = vae
    for observation, Y, shape in (
        (Noise(1.0), X[:, :5], "n, 6, 6"),
        (Blur(1.0), X[..., None], "n, 6, 6"),
        (Downsample(2), X, "n, 3, 3"),
    ):
        with pytest.raises(ValueError, match=rf"X must have shape \({shape}\), got"):
            model.restore(Y, observation)
    with pytest.raises(ValueError, match="X has 3 features, but 2 features are expected"):
        model.restore(np.ones((4, 3)), LinearMap(np.ones((2, 36))))
    with pytest.raises(ValueError, match="X contains infinity"):
        model.restore(np.full((1, 6, 6), np.inf), Noise(1.0))
    with pytest.raises(TypeError, match="observation must be Blanks"):
        model.restore(X, 0.3)
    with pytest.raises(ValueError, match="draws must be an int >= 1, got 0"):
        model.restore(X, Noise(1.0), draws=0)
    with pytest.raises(ValueError, match="noise must be a number, or 'estimate', got 'guess'"):
        model.denoise(X, "guess")


def test_images_asked_of_a_table_and_kinds_that_do_not_fit():
    rng = np.random.default_rng(0)
    table = PCA(components=1, kinds="real").fit(rng.normal(size=(50, 4)))
    for observation in (Blur(1.0), Downsample(2)):
        with pytest.raises(
            ValueError, match=f"{type(observation).__name__} needs a model of images, this one was"
        ):
            table.restore(np.ones((2, 4)), observation)
    with pytest.raises(ValueError, match="one for each of 4 columns, got"):
        table.restore(np.ones((2, 4)), Noise([1.0, 2.0]))
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.choice(["x", "y", "z"], 60)})
    mixed = VAE(latent_dim=1, max_epochs=1, random_state=0).fit(frame)
    with pytest.raises(
        ValueError, match=r"Noise takes real, pixel or all-binary data, this model also has kinds"
    ):
        mixed.restore(frame, Noise(0.1))
    with pytest.raises(ValueError, match="return_std is for the kinds real, pixel, binary"):
        mixed.restore(frame, Blanks(), return_std=True)
    words = pd.DataFrame({"a": rng.choice(["yes", "no"], 60), "b": rng.choice(["yes", "no"], 60)})
    yes = VAE(latent_dim=1, max_epochs=1, random_state=0).fit(words)
    with pytest.raises(ValueError, match="categories that are no numbers"):
        yes.restore(words, Noise(0.1))
    assert yes.restore(words, Flips(0.1)).shape == words.shape
    X = (rng.random((60, 6)) < 0.5).astype(float)
    machine = RBM(hidden=2, max_epochs=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="RBM has no log p of noisy rows"):
        machine.estimate_noise(X)
