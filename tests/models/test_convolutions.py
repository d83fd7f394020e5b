"""Convolutional networks: shapes, neighbourhoods, gradients, and the estimator that has them, from fitting to bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from models_for_tests import shaken
from sklearn.datasets import load_digits

import abduce
from abduce import VAE, Blur
from abduce.data.schema import Schema
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.shapes import DataSummary, Shapes
from abduce.models.vae import VariationalAutoencoder
from abduce.nets.convolutions import ConvolutionalDecoder, ConvolutionalEncoder, halvings

SHAPES = [(8, 8), (5, 7), (1, 9), (6, 3, 3), (1, 1)]


def cells(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hidden", [(4,), (4, 6, 8)])
@pytest.mark.parametrize("blocks", [0, 1])
def test_any_size_goes_in_and_comes_out(shape, hidden, blocks):
    n = cells(shape)
    encoder = ConvolutionalEncoder(shape, 2, 3, hidden, 5, blocks=blocks)
    assert encoder(torch.randn(4, 2, 2 * n + 3)).shape == (4, 2, 5)
    decoder = ConvolutionalDecoder(5, shape, 3, hidden, blocks=blocks)
    z = torch.randn(6, 2, 5)
    out = decoder(z)
    assert out.shape == (6, 2, 3 * n)
    decoder.rows = 5  # the same in slices, which no gradient needs
    with torch.no_grad():
        torch.testing.assert_close(decoder(z), out)


def test_sizes_are_halved_upward():
    assert halvings((28, 9), 2) == [(28, 9), (14, 5), (7, 3)]


def test_cells_are_read_and_written_where_they_lie():
    """One cell of one plane moves only the outputs near it, of its own plane and channel order."""
    shape = (8, 8, 3)
    encoder = ConvolutionalEncoder(shape, 2, 0, (4,), 5, activation="relu")
    x = torch.zeros(1, 2 * 192)
    seen = []
    encoder.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x[0, 192 + np.ravel_multi_index((2, 5, 1), shape)] = 1.0  # the mask of row 2, column 5, channel 1
    encoder(x)
    (planes,) = seen
    assert planes.shape == (1, 6, 8, 8)
    assert planes[0, 3 + 1, 2, 5] == 1
    assert planes.sum() == 1
    decoder = ConvolutionalDecoder(4, shape, 2, (4,), activation="relu")
    with torch.no_grad():
        decoder.start[0].weight.zero_()
        decoder.start[0].bias.zero_()
        decoder.start[0].bias.view(4, 4, 4)[2, 1, 3] = 1.0  # one pixel of the small image
        last = decoder.steps[-1][0]
        last.bias.zero_()
        last.weight.zero_()
        last.weight[2, 3 + 2] = 1.0  # into plane 1, channel 2
        out = decoder(torch.zeros(1, 4)).view(2, *shape)
    rows, columns = np.nonzero(out[1, :, :, 2].numpy())
    assert set(rows) == {1, 2, 3, 4}
    assert set(columns) == {5, 6, 7}  # a 4 x 4 patch, cut by the border
    assert out.abs().sum() == out[1, :, :, 2].abs().sum()


def image_model(shape=(5, 6), path=False, kinds="real", blocks=0, **arguments):
    X = np.random.default_rng(0).normal(size=(40, *shape))
    if kinds != "real":
        X = (X > 0).astype(float) if kinds == "binary" else np.rint(np.abs(3 * X))
    schema = Schema.infer(X, kinds)
    torch.manual_seed(0)
    choice = Choice(3, (4, 6), network="conv", **arguments)
    shapes = replace(Shapes.of(schema, choice), blocks=blocks)
    model = VariationalAutoencoder(schema, choice, shapes.beside(2, tied=True) if path else shapes).double()
    return model, torch.from_numpy(schema.encode(X)[0])


@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize(("shape", "kinds"), [((5, 6), "real"), ((4, 3, 3), "pixel"), ((5, 5), "binary")])
def test_every_parameter_learns(path, blocks, shape, kinds):
    if path and kinds == "binary":
        path = False
    likelihood = "discretized_logistic_mixture" if kinds == "pixel" else "auto"
    model, x = image_model(shape, path, kinds, blocks, likelihood=likelihood)
    shaken(model, 0.05)
    noise = torch.randn(4, len(x), model.noise_dim, dtype=torch.float64)
    seen = torch.rand(x.shape) < 0.7
    model.log_weights(x, seen, noise).log_w.mean().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("prior."):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


def test_starts_from_the_linear_path():
    """With a linear path the networks start at zero, whatever they are made of."""
    X = np.random.default_rng(0).normal(size=(40, 5, 6))
    schema = Schema.infer(X, "real")
    x = torch.from_numpy(schema.encode(X)[0])
    noise = torch.randn(4, 40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = []
    for network, hidden in (("mlp", (7,)), ("conv", (4, 6))):
        torch.manual_seed(0)
        choice = Choice(3, hidden, network=network)
        model = VariationalAutoencoder(schema, choice, Shapes.of(schema, choice).beside(1)).double()
        with torch.no_grad():
            model.decoder.linear.weight.fill_(0.3)
            model.decoder.linear.bias.fill_(0.1)
        values.append(model.log_weights(x, None, noise).log_w)
    torch.testing.assert_close(values[0], values[1])


def test_binary_pixels_start_at_their_frequencies():
    X = (np.random.default_rng(0).random((60, 4, 5)) < np.linspace(0.1, 0.9, 20).reshape(4, 5)).astype(float)
    schema = Schema.infer(X)
    rows = X.reshape(60, -1)
    model = build_vae(
        schema, Choice(2, (4,), network="conv"), DataSummary.of(rows, np.ones(rows.shape, bool))
    )
    with torch.no_grad():
        model.decoder.steps[-1][0].weight.zero_()
        model.decoder.steps[-1][0].bias.zero_()
        p = model.likelihood(torch.zeros(1, 2)).moments()[0].flatten()
    np.testing.assert_allclose(p, X.reshape(60, -1).mean(0).clip(0.002, 0.998), atol=1e-5)


def test_fewer_weights_than_an_mlp_of_large_images():
    schema = Schema.infer(np.random.default_rng(0).random((3, 28, 28)), "real")
    conv = build_vae(schema, Choice(10, (16, 32), network="conv", scale="cell")).encoder
    mlp = build_vae(schema, Choice(10, (128, 128), scale="cell")).encoder
    assert sum(p.numel() for p in conv.parameters()) < 0.2 * sum(p.numel() for p in mlp.parameters())


# ---------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images = load_digits().images
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:700]], images[order[1500:1560]]


@pytest.mark.parametrize("path", [False, True])
def test_learns_digits(digits, path):
    """A few epochs beat an untrained model by far: 20 nats of held-out images without a linear path, with one by 2."""
    train, test = digits
    arguments = {
        "network": "conv",
        "hidden": (8, 16),
        "latent_dim": 8,
        "linear_path": path,
        "samples": 30,
        "random_state": 0,
    }
    start = VAE(max_epochs=1, learning_rate=1e-9, **arguments).fit(train)
    model = VAE(max_epochs=25, learning_rate=3e-3, **arguments).fit(train)
    assert model.score(test) > start.score(test) + (2 if path else 20)


@pytest.fixture(scope="module", params=["grey", "colour"])
def fitted(request, digits) -> tuple[VAE, np.ndarray]:
    train, test = digits
    if request.param == "colour":  # odd sizes, three channels of whole numbers
        train, test = (np.stack([x, 16 - x, x // 2], -1)[:, :7, :5].astype(np.uint8) for x in (train, test))
    model = VAE(network="conv", hidden=(4, 8), latent_dim=4, max_epochs=3, samples=20, random_state=0)
    return model.fit(train[:300]), test[:12]


def test_bytes_come_back(fitted):
    model, X = fitted
    packed = model.compress(X)
    np.testing.assert_array_equal(model.decompress(packed), X)


def test_keeping_and_loading(fitted, tmp_path):
    model, X = fitted
    model.save(tmp_path / "model")
    again = abduce.load(tmp_path / "model")
    assert again.network == "conv"
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.decompress(model.compress(X)), X)


def test_every_question(fitted):
    model, X = fitted
    blank = np.random.default_rng(0).random(X.shape) < 0.4
    gaps = np.where(blank, np.nan, X.astype(float))
    filled = model.fill(gaps)
    np.testing.assert_array_equal(filled[~blank], X[~blank])
    mean = np.nanmean(gaps, 0)
    assert ((filled - X)[blank] ** 2).mean() < 1.1 * ((np.broadcast_to(mean, X.shape) - X)[blank] ** 2).mean()
    np.testing.assert_allclose(model.score_samples(X)[:3], model.score_samples(X[:3]), rtol=1e-9)
    noisy = X + 3.0 * np.random.default_rng(1).normal(size=X.shape)
    clean, std = model.restore(noisy, Blur(0.5, noise=3.0), return_std=True)
    assert clean.shape == std.shape == X.shape
    assert ((model.denoise(noisy, 3.0) - X.astype(float)) ** 2).mean() < 8.0  # of a noise of variance 9
    assert model.sample(3, random_state=0).shape == (3, *X.shape[1:])
    assert model.transform(X).shape == (len(X), 4)
    assert np.isfinite(model.anomaly_score(X)).all()


def test_the_same_fit_twice(digits):
    train, test = digits
    arguments = {
        "network": "conv",
        "hidden": (4,),
        "latent_dim": 2,
        "max_epochs": 1,
        "samples": 5,
        "random_state": 3,
    }
    first, second = (VAE(**arguments).fit(train[:100]).score_samples(test[:5]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_is_refused(digits):
    train, _ = digits
    for X in (train[:50].reshape(50, -1), pd.DataFrame(train[:50, 0])):
        with pytest.raises(ValueError, match=r"network='conv' is for images \(n, H, W\[, C\]\), X is"):
            VAE(network="conv").fit(X)
    with pytest.raises(ValueError, match="images of numbers or bits, these pixels are categorical"):
        VAE(network="conv", kinds="categorical").fit(train[:50])
    with pytest.raises(ValueError, match="network='conv' needs at least one layer"):
        VAE(network="conv", hidden=()).fit(train[:50])
    with pytest.raises(ValueError, match="'network' parameter of VAE must be"):
        VAE(network="transformer").fit(train[:50])
    with pytest.raises(ValueError, match="activation must be one of"):
        ConvolutionalEncoder((4, 4), 1, 0, (4,), 2, activation="cubic")
