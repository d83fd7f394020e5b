"""Fit one generative model to unlabelled data, then ask it anything."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abduce.answers.observation import Blanks, Flips
    from abduce.estimators.adapters import Imputer, OutlierDetector
    from abduce.estimators.auto import Auto
    from abduce.estimators.autoencoders import (
        Autoencoder,
        ContractiveAutoencoder,
        DenoisingAutoencoder,
        SaturatingAutoencoder,
        SparseAutoencoder,
    )
    from abduce.estimators.classical import ICA, PCA, GaussianMixture, KMeans, MixtureOfFactorAnalyzers
    from abduce.estimators.compare import compare
    from abduce.estimators.contrastive import RBM, EnergyNetwork, Ising
    from abduce.estimators.ensemble import MixtureEnsemble
    from abduce.estimators.folder import load
    from abduce.estimators.latent_classes import LatentClasses
    from abduce.estimators.observations import Blur, Downsample, LinearMap, Noise, Quantise
    from abduce.estimators.rubin import pool
    from abduce.estimators.sparse import PSD, SparseCoding
    from abduce.estimators.vae import VAE
    from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
    from abduce.fit.contrastive import (
        NCE,
        ContrastiveDivergence,
        MinimumProbabilityFlow,
        PseudoLikelihood,
        RatioMatching,
    )
    from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
    from abduce.fit.maximum_likelihood import MaximumLikelihood
    from abduce.fit.reconstruction import MeanEnergy
    from abduce.inference.energy import Diverged, LogZ, NotNormalized

__version__ = "0.1.0"
__all__ = [
    "CIWAE",
    "ELBO",
    "ICA",
    "IWAE",
    "MIWAE",
    "NCE",
    "PCA",
    "PIWAE",
    "PSD",
    "RBM",
    "VAE",
    "Auto",
    "Autoencoder",
    "Blanks",
    "Blur",
    "ContractiveAutoencoder",
    "ContrastiveDivergence",
    "DenoisingAutoencoder",
    "DenoisingScoreMatching",
    "Diverged",
    "Downsample",
    "EnergyNetwork",
    "Flips",
    "GaussianMixture",
    "Imputer",
    "Ising",
    "KMeans",
    "LatentClasses",
    "LinearMap",
    "LogZ",
    "MaximumLikelihood",
    "MeanEnergy",
    "MinimumProbabilityFlow",
    "MixtureEnsemble",
    "MixtureOfFactorAnalyzers",
    "Noise",
    "NotNormalized",
    "OutlierDetector",
    "PseudoLikelihood",
    "Quantise",
    "RatioMatching",
    "Renyi",
    "SaturatingAutoencoder",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SparseAutoencoder",
    "SparseCoding",
    "compare",
    "load",
    "pool",
]

# torch and scikit-learn take seconds to import: a name is fetched when it is first asked for, so that `abduce --help`
# and the reading of files do without them
_NAMES = {
    "estimators.vae": ("VAE",),
    "estimators.auto": ("Auto",),
    "estimators.adapters": ("Imputer", "OutlierDetector"),
    "estimators.compare": ("compare",),
    "estimators.folder": ("load",),
    "estimators.classical": ("PCA", "ICA", "KMeans", "GaussianMixture", "MixtureOfFactorAnalyzers"),
    "estimators.ensemble": ("MixtureEnsemble",),
    "estimators.latent_classes": ("LatentClasses",),
    "estimators.contrastive": ("RBM", "Ising", "EnergyNetwork"),
    "estimators.autoencoders": (
        "Autoencoder",
        "DenoisingAutoencoder",
        "SparseAutoencoder",
        "ContractiveAutoencoder",
        "SaturatingAutoencoder",
    ),
    "estimators.sparse": ("SparseCoding", "PSD"),
    "estimators.observations": ("Blur", "Downsample", "LinearMap", "Noise", "Quantise"),
    "answers.observation": ("Blanks", "Flips"),
    "inference.energy": ("Diverged", "LogZ", "NotNormalized"),
    "fit.bounds": ("CIWAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "Renyi"),
    "fit.contrastive": (
        "NCE",
        "ContrastiveDivergence",
        "MinimumProbabilityFlow",
        "PseudoLikelihood",
        "RatioMatching",
    ),
    "fit.matching": ("DenoisingScoreMatching", "ScoreMatching", "SlicedScoreMatching"),
    "fit.maximum_likelihood": ("MaximumLikelihood",),
    "fit.reconstruction": ("MeanEnergy",),
    "estimators.rubin": ("pool",),
}
_HOME = {name: f"abduce.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
