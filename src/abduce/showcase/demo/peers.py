"""The peers that stand beside the model in the demonstration: what a careful person would try without it.

Each is fitted to the same blanked training images; for those that cannot read blanks, nearest neighbours
complete them.
"""

from __future__ import annotations

import bz2
import io
import lzma
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes the next import work)
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from threadpoolctl import threadpool_limits

TOP = 16.0  # the brightest value of a pixel


class GaussianPeer:
    """One Gaussian with a full covariance: the best linear answer to every restoration.

    With y = A x + σ·noise: mean(x|y) = μ + ΣAᵀ(AΣAᵀ + σ²I)⁻¹(y − Aμ).
    """

    def __init__(self, complete: np.ndarray):
        self.mean = complete.mean(0)
        self.covariance = np.cov(complete.T) + 1e-2 * np.eye(complete.shape[1])

    def restore(self, y: np.ndarray, operator: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
        """Infer clean rows from ``y`` (rows, m) seen through ``operator`` (m, d): mean, deviation (d,)."""
        seen = operator @ self.covariance @ operator.T + noise**2 * np.eye(len(operator))
        gain = np.linalg.solve(seen, operator @ self.covariance).T
        left = self.covariance - gain @ operator @ self.covariance
        return self.mean + (y - operator @ self.mean.T) @ gain.T, np.sqrt(np.diag(left).clip(0))

    def fill(self, blanked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill the NaN of each row: mean and deviation, both of the shape of ``blanked``."""
        mean, deviation = blanked.copy(), np.zeros_like(blanked)
        for row, (m, d) in enumerate(zip(mean, deviation, strict=True)):
            seen = ~np.isnan(blanked[row])
            restored, left = self.restore(blanked[row, seen], np.eye(len(m))[seen], 0.0)
            m[~seen], d[~seen] = restored[~seen], left[~seen]
        return mean, deviation


def imputers(training: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Fit the imputers to blanked training rows; each maps blanked rows to whole ones."""
    mean = np.nanmean(training, 0)
    near = KNNImputer().fit(training)
    chained = IterativeImputer(min_value=0.0, max_value=TOP, random_state=0)
    # its many small solves are slower on several threads than on one
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        chained.fit(training)
    return {
        "column mean": lambda rows: np.where(np.isnan(rows), mean, rows),
        "KNNImputer": lambda rows: np.asarray(near.transform(rows)),
        "IterativeImputer": lambda rows: np.asarray(chained.transform(rows)),
    }


def denoisers(complete: np.ndarray, side: int, noise: float, rng: np.random.Generator) -> dict[str, Callable]:
    """Set up denoisers of known noise; their one number each is chosen on the training rows."""
    noisy = complete + rng.normal(0.0, noise, complete.shape)

    def blur(rows: np.ndarray, width: float) -> np.ndarray:
        return ndimage.gaussian_filter(rows.reshape(-1, side, side), (0, width, width)).reshape(rows.shape)

    def median(rows: np.ndarray) -> np.ndarray:
        return ndimage.median_filter(rows.reshape(-1, side, side), (1, 3, 3)).reshape(rows.shape)

    width = min((0.3, 0.4, 0.5, 0.6, 0.8, 1.0), key=lambda w: np.mean((blur(noisy, w) - complete) ** 2))
    mean = complete.mean(0)
    directions = np.linalg.svd(complete - mean, full_matrices=False)[2]

    def project(rows: np.ndarray, k: int) -> np.ndarray:
        return mean + (rows - mean) @ directions[:k].T @ directions[:k]

    k = min(range(4, 64, 4), key=lambda k: np.mean((project(noisy, k) - complete) ** 2))
    gaussian, whole = GaussianPeer(complete), np.eye(complete.shape[1])
    return {
        "Gaussian blur": lambda rows: blur(rows, width),
        "median filter": median,
        f"PCA, {k} components": lambda rows: project(rows, k),
        "full Gaussian": lambda rows: gaussian.restore(rows, whole, noise)[0],
    }


def upscalers(complete: np.ndarray, side: int) -> dict[str, Callable]:
    """Set up enlargers by two, of images ``(n, h, w)``."""
    gaussian, operator, how = GaussianPeer(complete), block_mean(side, 2), Image.Resampling

    def resize(method: Image.Resampling, images: np.ndarray) -> np.ndarray:
        pictures = (Image.fromarray(image.astype(np.float32)) for image in images)
        return np.stack([np.asarray(picture.resize((side, side), method)) for picture in pictures])

    def regress(images: np.ndarray) -> np.ndarray:
        return gaussian.restore(images.reshape(len(images), -1), operator, 0.0)[0].reshape(-1, side, side)

    return {
        "nearest": partial(resize, how.NEAREST),
        "bicubic": partial(resize, how.BICUBIC),
        "Lanczos": partial(resize, how.LANCZOS),
        "full Gaussian": regress,
    }


def block_mean(side: int, factor: int) -> np.ndarray:
    """Build the matrix that averages blocks of factor × factor pixels, ``((side/factor)², side²)``.

    >>> block_mean(2, 2)
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    one = np.kron(np.eye(side // factor), np.full((1, factor), 1.0 / factor))
    return np.kron(one, one)


def detectors(complete: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Fit outlier detectors; each maps rows to a score, higher for odder."""
    forest = IsolationForest(random_state=0).fit(complete)
    local = LocalOutlierFactor(novelty=True).fit(complete)
    return {
        "IsolationForest": lambda rows: -forest.score_samples(rows),
        "LocalOutlierFactor": lambda rows: -local.score_samples(rows),
    }


class MixturePeer:
    """A Gaussian mixture on dequantised pixels: its mass over a unit cube is a probability of whole values.

    log P(x) = log ∫ p(x + u) du over u in [0, 1)^d is taken as the logmeanexp of 32 draws of u.
    """

    def __init__(self, complete: np.ndarray, components: int, seed: int):
        self.rng = np.random.default_rng(seed)
        dequantised = np.round(complete) + self.rng.random(complete.shape)
        self.mixture = GaussianMixture(components, random_state=seed).fit(dequantised)

    def log_prob(self, rows: np.ndarray, draws: int = 32) -> np.ndarray:
        """Estimate log P of each row of whole values, nats."""
        each = [self.mixture.score_samples(rows + self.rng.random(rows.shape)) for _ in range(draws)]
        return np.logaddexp.reduce(each, axis=0) - np.log(draws)

    def sample(self, n: int) -> np.ndarray:
        return np.floor(self.mixture.sample(n)[0]).clip(0, TOP)


def compressed_bits(rows: np.ndarray, training: np.ndarray, side: int) -> dict[str, float]:
    """Compress whole-valued rows with general compressors: bits a pixel, everything counted."""
    raw = rows.astype(np.uint8)
    strip = io.BytesIO()
    Image.fromarray(raw.reshape(-1, side)).save(strip, "PNG", optimize=True)
    size = {
        "bz2": len(bz2.compress(raw.tobytes())),
        "xz": len(lzma.compress(raw.tobytes(), preset=9)),
        "PNG": strip.tell(),
    }
    bits = {name: 8 * n / rows.size for name, n in size.items()}
    # each pixel's own histogram in the training rows, half a count added to each level
    counts = (training[:, :, None] == np.arange(int(TOP) + 1)).sum(0) + 0.5
    own = -np.log2(counts / counts.sum(1, keepdims=True))
    return {**bits, "per-pixel histogram": float(np.take_along_axis(own, raw.astype(int).T, axis=1).mean())}
