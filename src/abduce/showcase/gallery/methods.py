"""The methods of the gallery and what each is fitted with.

Rows go in as images of one row and two pixels, so that one mean and one scale serve both axes and the plane keeps its shape;
methods for binary data get the bits of :class:`~abduce.showcase.gallery.plane.BitCoded`.
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
from abduce.showcase.gallery.plane import BitCoded, Planar

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


def _negative_elbo(vae: VAE, images: np.ndarray) -> np.ndarray:
    """−ELBO = KL(q(z|x) ‖ p(z)) − E_q[log p(x|z)] by draws that all points share, (n,)."""

    model: Any = vae.model_

    def bound(x: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor]:
        return (weights.elbo(draw(model, x, observed, DRAWS, vae.inference_seed_).log_w),)

    values, observed = vae.schema_.encode(images)
    with torch.no_grad():
        elbo = by_chunk(bound, torch.from_numpy(values), torch.from_numpy(observed))[0]
    return -elbo.numpy() - vae.schema_.log_jacobian(values, observed)


@dataclass(frozen=True)
class Method:
    """An estimator and its arguments, and the strategy's number (0: none).

    ``bits`` an axis code the plane for methods of binary data; 0 for those of numbers.  ``energy`` as in :class:`Planar`.
    """

    name: str
    title: str
    strategy: int
    estimator: type
    arguments: Mapping[str, Any]
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


def _network(name: str, title: str, strategy: int, objective: Any, **more: Any) -> Method:
    return Method(name, title, strategy, EnergyNetwork, NETWORK | more | {"objective": objective})


def _machine(name: str, title: str, objective: Any, **more: Any) -> Method:
    return Method(name, title, 3, RBM, MACHINE | more | {"objective": objective}, bits=6)


METHODS: tuple[Method, ...] = (
    Method("pca", "PCA", 1, PCA, {"components": 1, "form": "reconstruction"}),
    Method(
        "autoencoder",
        "auto-encoder, one code",
        1,
        Autoencoder,
        {"code": 1, "hidden": (64, 64), "activation": "tanh", "learning_rate": 3e-3, "max_epochs": 150},
    ),
    Method("k-means", "k-means, 20", 1, KMeans, {"components": 20}),
    Method("gaussian-mixture", "Gaussian mixture, 20", 1, GaussianMixture, {"components": 20}),
    Method("ica", "ICA", 1, ICA, {}),
    _network("maximum-likelihood", "maximum likelihood", 2, MaximumLikelihood(points=64)),
    _network("cd", "contrastive divergence", 3, ContrastiveDivergence(k=10), step_size=0.15),
    _network(
        "pcd", "persistent CD", 3, ContrastiveDivergence(k=10, persistent=True, chains=128), step_size=0.15
    ),
    _network("nce", "noise-contrastive", 3, NCE()),
    _machine("ratio-matching", "ratio matching (bits)", RatioMatching(), learning_rate=2.0),
    _machine("probability-flow", "probability flow (bits)", MinimumProbabilityFlow()),
    _machine("pseudo-likelihood", "pseudo-likelihood (bits)", PseudoLikelihood()),
    _network("score-matching", "score matching", 4, ScoreMatching()),
    _network("sliced-score-matching", "sliced score matching", 4, SlicedScoreMatching()),
    _network("denoising-score-matching", "denoising score matching", 4, DenoisingScoreMatching(0.05)),
    Method(
        "denoising-autoencoder",
        "DAE, reconstruction",
        5,
        DenoisingAutoencoder,
        {"code": 64, "hidden": (64,), "corruption": 0.15, "learning_rate": 3e-3, "max_epochs": 150},
    ),
    Method(
        "denoising-potential",
        "DAE, potential",
        5,
        DenoisingAutoencoder,
        {"form": "potential", "code": 32, "corruption": 0.3, "learning_rate": 0.1, "max_epochs": 300},
    ),
    Method("sparse-coding", "sparse coding, 20", 6, SparseCoding, {"code": 20, "sparsity": 0.5}),
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
    ),
    Method(
        "psd",
        "PSD, 20",
        6,
        PSD,
        {"code": 20, "sparsity": 0.005, "prediction": 1.0, "learning_rate": 1e-2, "max_epochs": 100},
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
    ),
    Method(
        "saturating",
        "saturating AE",
        7,
        SaturatingAutoencoder,
        {"code": 50, "activation": "ramp", "strength": 0.03, "learning_rate": 1e-2, "max_epochs": 100},
    ),
    Method(
        "vae",
        "VAE: −ELBO, −log p",
        0,
        VAE,
        {"latent_dim": 2, "samples": DRAWS, "max_epochs": 150},
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
