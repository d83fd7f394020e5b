"""Example data and toy densities: shapes, and log p that is a density."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from abduce.data import examples


def test_digits():
    X, y = examples.load_digits_images()
    assert X.shape == (1797, 8, 8)
    assert X.dtype == np.float64
    assert (X.min(), X.max(), y.shape) == (0, 16, (1797,))


def test_penguins_come_without_their_package_being_imported():
    X = examples.penguins()
    assert X.shape == (344, 8)
    assert X.isna().sum().sum() == 19
    assert "palmerpenguins" not in sys.modules


def test_penguins_missing(monkeypatch):
    monkeypatch.setattr(examples, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install palmerpenguins"):
        examples.penguins()


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ABDUCE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="ABDUCE_DATA is not set"):
        examples.data_folder()
    monkeypatch.setenv("ABDUCE_DATA", str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError, match="which is not a folder"):
        examples.data_folder()
    monkeypatch.setenv("ABDUCE_DATA", str(tmp_path))
    assert examples.data_folder() == tmp_path
    for call, name in ((examples.mnist, "mnist.npz"), (lambda: examples.table("adult"), "tables/adult.csv")):
        with pytest.raises(FileNotFoundError, match=f"there is no {name} in {tmp_path}"):
            call()
    with pytest.raises(FileNotFoundError, match=r"no ADBench set 'glass' .*; there are none"):
        examples.adbench("glass")
    (tmp_path / "adbench").mkdir()
    for name in ("14_glass", "4_breastw"):
        np.savez(tmp_path / "adbench" / f"{name}.npz", X=np.ones((2, 3), np.float32), y=[0, 1])
    assert examples.adbench_names() == ["4_breastw", "14_glass"]
    for name in ("glass", "14_glass"):
        X, y = examples.adbench(name)
        assert (X.dtype, X.shape, y.tolist()) == (np.float64, (2, 3), [0, 1])
    with pytest.raises(FileNotFoundError, match="there are 4_breastw, 14_glass"):
        examples.adbench("lass")
    small = {
        "x_train": np.zeros((2, 28, 28), np.uint8),
        "y_train": [1, 2],
        "x_test": np.zeros((1, 28, 28)),
        "y_test": [3],
    }
    np.savez(tmp_path / "mnist.npz", **small)
    assert examples.mnist().y_train.tolist() == [1, 2]


def idx(values: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.tobytes())


def test_fashion_mnist(monkeypatch, tmp_path):
    monkeypatch.setattr(examples, "_FASHION", tmp_path / "package")
    monkeypatch.setenv("ABDUCE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install Debian's dataset-fashion-mnist"):
        examples.fashion_mnist()
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    labels = np.array([5, 0, 9], np.uint8)
    for folder, keep in (("package", 3), ("fashion-mnist", 2)):
        (tmp_path / folder).mkdir()
        for part in ("train", "t10k"):
            (tmp_path / folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images[:keep]))
            (tmp_path / folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[:keep]))
        data = examples.fashion_mnist()  # the data folder comes first
        np.testing.assert_array_equal(data.x_train, images[:keep])
        np.testing.assert_array_equal(data.y_test, labels[:keep])
    (tmp_path / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"not idx"))
    with pytest.raises(ValueError, match="not an idx file"):
        examples.fashion_mnist()


def test_real_files():
    try:
        examples.data_folder()
    except FileNotFoundError as error:
        pytest.skip(f"needs the data folder: {error}")
    data = examples.mnist()
    assert data.x_train.shape == (60000, 28, 28)
    assert data.x_test.dtype == np.uint8
    for name in examples.adbench_names():
        X, y = examples.adbench(name)
        assert len(X) == len(y)
        assert set(np.unique(y)) == {0, 1}


# ---------------------------------------------------------------- toy densities

every_toy = pytest.mark.parametrize("name", sorted(examples.TOYS))


def grid(low: float, high: float, n: int) -> tuple[np.ndarray, float]:
    axis = np.linspace(low, high, n)
    x, y = np.meshgrid(axis, axis)
    return np.stack([x.ravel(), y.ravel()], axis=1), (axis[1] - axis[0]) ** 2


@every_toy
def test_density_integrates_to_one(name):
    points, area = grid(-2.6, 3.0, 240)
    assert np.exp(examples.TOYS[name]().log_prob(points)).sum() * area == pytest.approx(1, abs=1e-5)


@every_toy
def test_samples_agree_with_log_prob(name):
    """The mean of log p and the marginal distributions are what quadrature says."""
    toy = examples.TOYS[name]()
    n = 20_000
    x = toy.sample(n, random_state=1)
    assert x.shape == (n, 2)
    points, area = grid(-2.6, 3.0, 240)
    log_p = toy.log_prob(points)
    p = np.exp(log_p) * area
    spread = np.sqrt((p * log_p**2).sum() - (p * log_p).sum() ** 2)
    assert toy.log_prob(x).mean() == pytest.approx((p * log_p).sum(), abs=4 * spread / np.sqrt(n) + 1e-3)
    axis = np.linspace(-2.6, 3.0, 240)
    for side in (0, 1):
        cumulative = np.cumsum(p.reshape(240, 240).sum(axis=side))
        assert (
            kstest(x[:, side], lambda v, c=cumulative: np.interp(v, axis + (axis[1] - axis[0]) / 2, c)).pvalue
            > 1e-3
        )


@every_toy
def test_samples_are_repeatable(name):
    toy = examples.TOYS[name]()
    np.testing.assert_array_equal(toy.sample(10, random_state=3), toy.sample(10, random_state=3))
    assert not np.array_equal(toy.sample(10, random_state=3), toy.sample(10, random_state=4))
    generator = np.random.default_rng(0)
    assert not np.array_equal(toy.sample(3, generator), toy.sample(3, generator))


@every_toy
def test_far_away_and_wrong_shapes(name):
    toy = examples.TOYS[name]()
    far = toy.log_prob(np.array([[50.0, 50.0], [0.0, 0.0]]))
    assert np.isfinite(far).all()
    assert far[0] < far[1]
    assert toy.log_prob(np.zeros((0, 2))).shape == (0,)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \(3,\)"):
        toy.log_prob(np.zeros(3))


def test_a_ring_is_the_curve_it_says():
    def circle(t):
        return np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=1)[None]

    x = np.random.default_rng(0).normal(size=(200, 2))
    by_quadrature = examples.NoisyCurves(circle, 0.1).log_prob(x)
    np.testing.assert_allclose(examples.Ring().log_prob(x), by_quadrature, rtol=1e-8)


def test_spiral_quadrature_has_converged():
    x = examples.spiral(noise=0.02).sample(300, random_state=0)
    few, many = examples.spiral(noise=0.02), examples.NoisyCurves(examples.spiral().curve, 0.02, nodes=3000)
    np.testing.assert_allclose(few.log_prob(x), many.log_prob(x), rtol=1e-9)


def test_spiral_passes_through_its_formula():
    curve = examples.spiral().curve(np.array([0.0, 0.25, 1.0]))[0]
    np.testing.assert_allclose(curve, [[-0.25, 0], [-0.25, 0.235], [0.69, 0]], atol=1e-12)


def test_mixture_matches_scipy():
    toy = examples.gaussian_mixture(3)
    x = toy.sample(50, random_state=0)
    parts = [
        w * multivariate_normal.pdf(x, m, c)
        for w, m, c in zip(toy.weights, toy.means, toy.covariances, strict=True)
    ]
    np.testing.assert_allclose(toy.log_prob(x), np.log(sum(parts)), rtol=1e-10)
