"""Data sets to try things on, and toy densities whose log p is known.

The data sets come with installed packages, or from the folder that the environment variable ABDUCE_DATA
names. The toy densities live in the plane; each has `sample(n, random_state)` -> (n, 2) and `log_prob(x)` ->
(n,), nats.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.special import i0e, logsumexp

_CHUNK = 2048


# ---------------------------------------------------------------- data sets


def load_digits_images() -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's handwritten digits: images (1797, 8, 8) float64 of 0..16, labels (1797,).

    >>> load_digits_images()[0].shape
    (1797, 8, 8)
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return digits.images, digits.target


def penguins() -> pd.DataFrame:
    """Load Palmer penguins (344 rows, 8 columns, real blanks) as pandas reads them.

    Only the CSV inside the package `palmerpenguins` is read: importing it would load its plotting code.
    ModuleNotFoundError if the package is not installed.
    """
    spec = find_spec("palmerpenguins")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the penguins come with the package palmerpenguins: pip install palmerpenguins"
        )
    return pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "penguins.csv")


def data_folder() -> Path:
    """Find the folder of larger data sets, named by ABDUCE_DATA; FileNotFoundError if it is not there."""
    name = os.environ.get("ABDUCE_DATA")
    if not name:
        raise FileNotFoundError(
            "the environment variable ABDUCE_DATA is not set: let it name the folder of data sets"
        )
    folder = Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"the environment variable ABDUCE_DATA names {name}, which is not a folder")
    return folder


class Mnist(NamedTuple):
    """MNIST: images uint8 (60000, 28, 28) and (10000, 28, 28) with their labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def mnist() -> Mnist:
    """Load MNIST from `mnist.npz` in the data folder."""
    with np.load(_data_file("mnist.npz"), allow_pickle=False) as file:
        return Mnist(*(file[name] for name in Mnist._fields))


_FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


def fashion_mnist() -> Mnist:
    """Load Fashion-MNIST from the idx files of Debian's package `dataset-fashion-mnist`.

    They are looked for in `fashion-mnist/` in the data folder, then where the package puts them.  Source: Xiao, Rasul &
    Vollgraf 2017 (arXiv:1708.07747).
    """
    places = [_FASHION]
    with contextlib.suppress(FileNotFoundError):
        places.insert(0, data_folder() / "fashion-mnist")
    for place in places:
        if (place / "train-images-idx3-ubyte.gz").is_file():
            parts = [_idx(place / f"{part}-{what}-ubyte.gz") for part in ("train", "t10k") for what in _IDX]
            return Mnist(*parts)
    raise FileNotFoundError(
        f"there is no Fashion-MNIST in {' or '.join(map(str, places))}: install Debian's dataset-fashion-mnist"
    )


_IDX = ("images-idx3", "labels-idx1")


def _idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of bytes: two zeros, the type (8), the number of axes, their lengths, the values."""
    body = gzip.decompress(path.read_bytes())
    if body[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    axes = body[3]
    shape = np.frombuffer(body, ">u4", axes, 4)
    return np.frombuffer(body, np.uint8, offset=4 + 4 * axes).reshape(shape)


def adbench(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Load an anomaly set of ADBench, "glass" or "14_glass": X (n, D) float64, y (n,), 1 = anomaly."""
    folder = data_folder() / "adbench"
    names = adbench_names()
    found = [stem for stem in names if name in (stem, stem.split("_", 1)[1])]
    if not found:
        raise FileNotFoundError(
            f"there is no ADBench set {name!r} in {folder}; there are {', '.join(names) or 'none'}"
        )
    with np.load(folder / f"{found[0]}.npz", allow_pickle=False) as file:
        return np.asarray(file["X"], np.float64), np.asarray(file["y"], np.int64)


def adbench_names() -> list[str]:
    """List the anomaly sets in the data folder, by number."""
    stems = [path.stem for path in (data_folder() / "adbench").glob("*_*.npz")]
    return sorted(stems, key=lambda stem: (int(n) if (n := stem.split("_")[0]).isdigit() else 10**9, stem))


def table(name: str) -> pd.DataFrame:
    """Load a table ("adult", "wine_quality") from `tables/` in the data folder, as pandas reads it."""
    return pd.read_csv(_data_file(f"tables/{name}.csv"))


def _data_file(name: str) -> Path:
    path = data_folder() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {name} in {path.parents[len(Path(name).parts) - 1]} (ABDUCE_DATA)"
        )
    return path


# ---------------------------------------------------------------- toy densities


class Toy(Protocol):
    """A density in the plane."""

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        """Draw n points, (n, 2)."""
        ...

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Give log p of points (n, 2), shape (n,), nats."""
        ...


def _points(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x must have shape (n, 2), got {x.shape}")
    return x


@dataclass(frozen=True)
class NoisyCurves:
    """Points on curves c_j(t), t and j uniform, plus Gaussian noise of standard deviation s.

    p(x) = mean over j and t in [0, 1] of N(x; c_j(t), s^2 I), by Gauss-Legendre quadrature over `nodes`
    values of t: exact to rounding as long as nodes lie closer together than s along the curve.
    """

    curve: Callable[[np.ndarray], np.ndarray]  # (m,) -> (curves, m, 2)
    noise: float
    nodes: int = 400

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = np.random.default_rng(random_state)
        on_curve = self.curve(rng.random(n))
        which = rng.integers(0, len(on_curve), n)
        return on_curve[which, np.arange(n)] + self.noise * rng.standard_normal((n, 2))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        x = _points(x)
        t, weight = np.polynomial.legendre.leggauss(self.nodes)
        centres = self.curve((t + 1) / 2)
        log_weight = np.tile(np.log(weight / 2), len(centres)) - np.log(len(centres))
        centres = centres.reshape(-1, 2)
        out = np.empty(len(x))
        for start in range(0, len(x), _CHUNK):  # bounds memory
            part = x[start : start + _CHUNK]
            square = (part[:, :1] - centres[:, 0]) ** 2 + (part[:, 1:] - centres[:, 1]) ** 2
            out[start : start + _CHUNK] = logsumexp(log_weight - square / (2 * self.noise**2), axis=1)
        return out - np.log(2 * np.pi * self.noise**2)


@dataclass(frozen=True)
class Ring:
    """A circle of radius r plus Gaussian noise of standard deviation s.

    p(x) = exp(-(|x|^2 + r^2) / 2s^2) I_0(|x| r / s^2) / (2 pi s^2)
    """

    radius: float = 1.0
    noise: float = 0.1

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = np.random.default_rng(random_state)
        angle = 2 * np.pi * rng.random(n)
        circle = self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return circle + self.noise * rng.standard_normal((n, 2))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        x = _points(x)
        r = np.hypot(x[:, 0], x[:, 1])
        variance = self.noise**2
        # i0e carries the factor exp(-r radius / s^2), which keeps the Bessel function from overflowing.
        wave = np.log(i0e(r * self.radius / variance)) - (r - self.radius) ** 2 / (2 * variance)
        return wave - np.log(2 * np.pi * variance)


@dataclass(frozen=True)
class TwoGaussians:
    """p(x) = sum_k w_k N(x; mean_k, cov_k); weights (K,), means (K, 2), covariances (K, 2, 2)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = np.random.default_rng(random_state)
        which = rng.choice(len(self.weights), n, p=self.weights)
        root = np.linalg.cholesky(self.covariances)
        return self.means[which] + np.einsum("nij,nj->ni", root[which], rng.standard_normal((n, 2)))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        off = _points(x)[:, None] - self.means
        precision = np.linalg.inv(self.covariances)
        square = np.einsum("nki,kij,nkj->nk", off, precision, off)
        log_det = np.linalg.slogdet(self.covariances)[1]
        log_terms = np.log(self.weights) - 0.5 * (square + log_det) - np.log(2 * np.pi)
        return np.asarray(logsumexp(log_terms, axis=1))


def spiral(noise: float = 0.03) -> NoisyCurves:
    """Make one turn of a spiral plus noise.

    y = (-0.25, 0) + 0.94 (t / 2 pi) (cos t, sin t), t uniform in [0, 2 pi]

    >>> x = spiral().sample(5, random_state=0)
    >>> x.shape, spiral().log_prob(x).shape
    ((5, 2), (5,))
    """
    return NoisyCurves(_spiral, noise)


def _spiral(t: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * t
    return (np.array([-0.25, 0.0]) + 0.94 * (t * np.stack([np.cos(angle), np.sin(angle)])).T)[None]


def moons(noise: float = 0.1) -> NoisyCurves:
    """Make two half circles of radius 1 that interlock, plus noise."""
    return NoisyCurves(_moons, noise)


def _moons(t: np.ndarray) -> np.ndarray:
    x, y = np.cos(np.pi * t), np.sin(np.pi * t)
    return np.stack([np.stack([x, y], axis=1), np.stack([1 - x, 0.5 - y], axis=1)])


def gaussian_mixture(components: int = 5, radius: float = 1.0) -> TwoGaussians:
    """Make a pinwheel of Gaussians: long ellipses on a circle, each turned by 45 degrees from its radius."""
    angle = 2 * np.pi * np.arange(components) / components
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turn = angle + np.pi / 4
    cos, sin = np.cos(turn), np.sin(turn)
    axes = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    spread = np.diag([0.3**2, 0.08**2]) * radius**2
    return TwoGaussians(np.full(components, 1 / components), means, axes @ spread @ axes.transpose(0, 2, 1))


TOYS: dict[str, Callable[[], Toy]] = {
    "spiral": spiral, "moons": moons, "ring": Ring, "gaussian_mixture": gaussian_mixture
}  # fmt: skip
