"""The methods of the gallery: what each is fitted with, what a right picture of it shows, and what that teaches.

Rows go in as images of one row and two pixels, so that one mean and one scale serve both axes and the plane keeps its shape;
methods for binary data get the bits of :class:`~abduce.showcase.gallery.bits.BitCoded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from abduce.estimators.autoencoders import (
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SaturatingAutoencoder,
    SparseAutoencoder,
)
from abduce.estimators.classical import ICA, PCA, GaussianMixture, KMeans
from abduce.estimators.contrastive import RBM, EnergyNetwork
from abduce.estimators.sparse import PSD, SparseCoding
from abduce.estimators.vae import VAE
from abduce.fit.contrastive import (
    NCE,
    ContrastiveDivergence,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from abduce.fit.maximum_likelihood import MaximumLikelihood
from abduce.inference import weights
from abduce.inference.importance import by_chunk, draw
from abduce.showcase.gallery.bits import BitCoded

STRATEGIES = (
    "a probability model",
    "1 · constant volume",
    "2 · down here, up everywhere",
    "3 · up at chosen places",
    "4 · flat here, curved around",
    "5 · dynamics go to the data",
    "6 · limit the volume",
    "7 · make G(Y) constant",
)
DRAWS = 32  # of the VAE's posterior, behind its −ELBO and its log p at a point of the grid


class Planar:
    """An estimator asked about points (n, 2) of the plane, which it is shown as images (n, 1, 2).

    ``energy`` is a function of the estimator and such images, in the method's own units; by default the estimator's own.
    """

    def __init__(self, model: Any, energy: Callable[[Any, np.ndarray], np.ndarray] | None = None):
        self.model = model
        self._energy = energy or (lambda model, images: model.energy(images))

    def fit(self, X: np.ndarray) -> Planar:
        """Fit the estimator to points (n, 2), and find log Z."""
        self.model.fit(_images(X))
        if getattr(self.model, "log_z_", ()) is None:
            self.model.normalize()
        return self

    def energy(self, X: np.ndarray) -> np.ndarray:
        """Energy of points, (n,)."""
        return self._energy(self.model, _images(X))

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """log p of points, nats, (n,)."""
        return self.model.score_samples(_images(X))


def _negative_elbo(vae: VAE, images: np.ndarray) -> np.ndarray:
    """−ELBO = KL(q(z|x) ‖ p(z)) − E_q[log p(x|z)] by draws that all points share, (n,)."""

    model: Any = vae.model_

    def bound(x: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor]:
        return (weights.elbo(draw(model, x, observed, DRAWS, vae.inference_seed_).log_w),)

    values, observed = vae.schema_.encode(images)
    with torch.no_grad():
        elbo = by_chunk(bound, torch.from_numpy(values), torch.from_numpy(observed))[0]
    return -elbo.numpy() - vae.schema_.log_jacobian(values, observed)


def _images(X: np.ndarray) -> np.ndarray:
    return np.asarray(X).reshape(-1, 1, 2)


@dataclass(frozen=True)
class Method:
    """An estimator and its arguments, the strategy's number (0: none), what a right picture shows and what it teaches.

    ``bits`` an axis code the plane for methods of binary data; 0 for those of numbers.  ``energy`` as in :class:`Planar`.
    """

    name: str
    title: str
    strategy: int
    estimator: type
    arguments: Mapping[str, Any]
    right: str
    teaches: str
    bits: int = 0
    energy: Callable[[Any, np.ndarray], np.ndarray] | None = None

    @property
    def heading(self) -> str:
        """The strategy, in words."""
        return STRATEGIES[self.strategy]

    def make(self, seed: int = 0, quick: bool = False) -> Any:
        """The method on the plane, not yet fitted: fit(X), energy(X), score_samples(X); ``quick`` trains a tenth as long."""
        model = self.estimator(**self.arguments)
        model.set_params(random_state=seed)
        if quick and "max_epochs" in self.arguments:
            model.set_params(max_epochs=max(1, self.arguments["max_epochs"] // 10))
        if self.bits:
            return BitCoded(model, self.bits)
        return Planar(model, self.energy)


NETWORK = {"hidden": (64, 64), "learning_rate": 5e-3, "batch_size": 128, "max_epochs": 150}
MACHINE = {"hidden": 64, "learning_rate": 0.5, "max_epochs": 200}
CHAINS = {"step_size": 0.15}

METHODS: tuple[Method, ...] = (
    Method(
        "pca",
        "PCA",
        1,
        PCA,
        {"components": 1, "form": "reconstruction"},
        "one straight valley through the mean, at about −32°",
        "The volume is constant because the valley is a line, whatever the data are.",
    ),
    Method(
        "autoencoder",
        "auto-encoder, one code",
        1,
        Autoencoder,
        {"code": 1, "hidden": (64, 64), "activation": "tanh", "learning_rate": 3e-3, "max_epochs": 150},
        "a curved valley along the spiral, with branches that leave the box",
        "A line that may bend; nothing says where it goes beyond the data.",
    ),
    Method(
        "k-means",
        "k-means, 20",
        1,
        KMeans,
        {"components": 20},
        "20 round wells on the spiral, ridges on the Voronoi edges",
        "20 points are all the volume there is: low energy cannot spread, and cannot join up either.",
    ),
    Method(
        "gaussian-mixture",
        "Gaussian mixture, 20",
        1,
        GaussianMixture,
        {"components": 20},
        "smooth wells stretched along the tangent",
        "Normalised by construction: energy and −log p are the same picture.",
    ),
    Method(
        "ica",
        "ICA",
        1,
        ICA,
        {},
        "one convex bowl at the mean",
        "A square mixing matrix has two axes and no more: the spiral is not made of independent sources.",
    ),
    Method(
        "maximum-likelihood",
        "maximum likelihood",
        2,
        EnergyNetwork,
        NETWORK | {"objective": MaximumLikelihood(points=64)},
        "an even valley, a high wall between the arms",
        "Every point of the box is pushed up as hard as the model believes in it; two dimensions can pay for that.",
    ),
    Method(
        "cd",
        "contrastive divergence",
        3,
        EnergyNetwork,
        NETWORK | CHAINS | {"objective": ContrastiveDivergence(k=10)},
        "right near the data; perhaps wells far away",
        "Chains that start at the data push up only where they get to.",
    ),
    Method(
        "pcd",
        "persistent CD",
        3,
        EnergyNetwork,
        NETWORK | CHAINS | {"objective": ContrastiveDivergence(k=10, persistent=True, chains=128)},
        "an even valley, as maximum likelihood",
        "Chains that go on from step to step find the wells that contrastive divergence leaves.",
    ),
    Method(
        "nce",
        "noise-contrastive",
        3,
        EnergyNetwork,
        NETWORK | {"objective": NCE()},
        "right where the noise has mass",
        "Places to push up are drawn from a noise that is fitted first; log Z is learnt with the rest.",
    ),
    Method(
        "ratio-matching",
        "ratio matching (bits)",
        3,
        RBM,
        MACHINE | {"objective": RatioMatching(), "learning_rate": 2.0},
        "the spiral in cells of the code, with stripes where a bit turns over",
        "A flip of one bit is the place that is pushed up: next door, and a mirror image away.",
        bits=6,
    ),
    Method(
        "probability-flow",
        "probability flow (bits)",
        3,
        RBM,
        MACHINE | {"objective": MinimumProbabilityFlow()},
        "the same",
        "As ratio matching, by how fast probability would leave the data.",
        bits=6,
    ),
    Method(
        "pseudo-likelihood",
        "pseudo-likelihood (bits)",
        3,
        RBM,
        MACHINE | {"objective": PseudoLikelihood()},
        "the same",
        "As ratio matching, by the logarithm of each bit's conditional probability.",
        bits=6,
    ),
    Method(
        "score-matching",
        "score matching",
        4,
        EnergyNetwork,
        NETWORK | {"objective": ScoreMatching()},
        "the right local shape, depth along the arm perhaps uneven",
        "Only slopes and curvatures at the data count, so what is far from them is not seen.",
    ),
    Method(
        "sliced-score-matching",
        "sliced score matching",
        4,
        EnergyNetwork,
        NETWORK | {"objective": SlicedScoreMatching()},
        "the same",
        "One random direction a row in place of all of them: the same picture, a little noisier.",
    ),
    Method(
        "denoising-score-matching",
        "denoising score matching",
        4,
        EnergyNetwork,
        NETWORK | {"objective": DenoisingScoreMatching(0.05)},
        "the valley, wider by the noise",
        "The energy of the data with noise added: no second derivatives, and a width of its own.",
    ),
    Method(
        "denoising-autoencoder",
        "DAE, reconstruction",
        5,
        DenoisingAutoencoder,
        {"code": 64, "hidden": (64,), "corruption": 0.15, "learning_rate": 3e-3, "max_epochs": 150},
        "zero on the spiral and on the ridge between the arms",
        "‖r(y) − y‖ is the length of the score: zero where the density is largest, and where it is least.",
    ),
    Method(
        "denoising-potential",
        "DAE, potential",
        5,
        DenoisingAutoencoder,
        {"form": "potential", "code": 32, "corruption": 0.3, "learning_rate": 0.1, "max_epochs": 300},
        "low on the spiral, the ridge between the arms high",
        "The same slope, integrated: a ridge is not a valley any more.",
    ),
    Method(
        "sparse-coding",
        "sparse coding, 20",
        6,
        SparseCoding,
        {"code": 20, "sparsity": 0.5},
        "convex, even, polygonal: no spiral",
        "The least ℓ1 code of y is a norm of y: one bowl about the middle, in whichever data.",
    ),
    Method(
        "sparse-autoencoder",
        "sparse auto-encoder, 20",
        6,
        SparseAutoencoder,
        {
            "code": 20,
            "activation": "relu",
            "strength": 0.1,
            "target": None,
            "learning_rate": 1e-2,
            "max_epochs": 100,
        },
        "strips along tangents",
        "An encoder chooses the code, and need not be even.",
    ),
    Method(
        "psd",
        "PSD, 20",
        6,
        PSD,
        {"code": 20, "sparsity": 0.005, "prediction": 1.0, "learning_rate": 1e-2, "max_epochs": 100},
        "strips along tangents",
        "Sparse coding whose code must be easy to predict: what is drawn is the energy at the predicted code.",
    ),
    Method(
        "contractive",
        "contractive AE",
        7,
        ContractiveAutoencoder,
        {
            "code": 32,
            "hidden": (32,),
            "activation": "tanh",
            "strength": 0.03,
            "learning_rate": 1e-2,
            "max_epochs": 50,
        },
        "a valley on the data, about quadratic growth where G is constant",
        "A code that barely moves cannot reconstruct what is off the data.",
    ),
    Method(
        "saturating",
        "saturating AE",
        7,
        SaturatingAutoencoder,
        {"code": 50, "activation": "ramp", "strength": 0.03, "learning_rate": 1e-2, "max_epochs": 100},
        "a valley on the data, about quadratic growth where G is constant",
        "Units rest where they are flat; only those that data need are on their slope.",
    ),
    Method(
        "vae",
        "VAE: −ELBO, −log p",
        0,
        VAE,
        {"latent_dim": 2, "samples": DRAWS, "max_epochs": 150},
        "a valley of the decoder's width",
        "A probability model; its energy is bounded by −ELBO, which is drawn above −log p.",
        energy=_negative_elbo,
    ),
)


def find(names: list[str] | None) -> tuple[Method, ...]:
    """The methods of these names, in the gallery's order (None: all); ValueError naming all for one that there is not."""
    if not names:
        return METHODS
    known = {method.name for method in METHODS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"only must be of {', '.join(m.name for m in METHODS)}, got {', '.join(unknown)}")
    return tuple(method for method in METHODS if method.name in names)
