"""Every method by name: what ``abduce fit --model`` and a saved folder mean."""

from __future__ import annotations

from abduce.estimators.auto import Auto
from abduce.estimators.autoencoders import (
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SaturatingAutoencoder,
    SparseAutoencoder,
)
from abduce.estimators.classical import (
    ICA,
    PCA,
    GaussianMixture,
    KMeans,
    MixtureOfFactorAnalyzers,
)
from abduce.estimators.contrastive import RBM, EnergyNetwork, Ising
from abduce.estimators.energies import EnergyEstimator
from abduce.estimators.ensemble import MixtureEnsemble
from abduce.estimators.latent_classes import LatentClasses
from abduce.estimators.sparse import PSD, SparseCoding
from abduce.estimators.vae import VAE

ENERGIES: dict[str, type[EnergyEstimator]] = {
    method.__name__: method
    for method in (
        Auto,
        PCA,
        ICA,
        KMeans,
        GaussianMixture,
        MixtureOfFactorAnalyzers,
        MixtureEnsemble,
        LatentClasses,
        RBM,
        Ising,
        EnergyNetwork,
        Autoencoder,
        DenoisingAutoencoder,
        SparseCoding,
        SparseAutoencoder,
        PSD,
        ContractiveAutoencoder,
        SaturatingAutoencoder,
    )
}
METHODS: dict[str, type] = {"VAE": VAE, **ENERGIES}


def find(name: str) -> type:
    """The method of a name, however it is written; ValueError naming all for one that there is not.

    >>> find("gaussian-mixture").__name__
    'GaussianMixture'
    """
    plain = {key.lower(): method for key, method in METHODS.items()}
    wanted = name.replace("-", "").replace("_", "").lower()
    if wanted not in plain:
        raise ValueError(f"model must be one of {', '.join(METHODS)}, got {name!r}")
    return plain[wanted]
