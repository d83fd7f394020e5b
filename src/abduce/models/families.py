"""The families of energies by name: what a saved model is built from again."""

from __future__ import annotations

from abduce.inference.energy import Energy
from abduce.models.autoencoder import Autoencoder
from abduce.models.boltzmann import RBM, GaussianRBM, Ising
from abduce.models.ensemble import MixtureEnsemble
from abduce.models.factor_analyzers import MixtureOfFactorAnalyzers
from abduce.models.gaussian import IndependentComponents, PrincipalComponents
from abduce.models.mixture import GaussianMixture, KMeans
from abduce.models.network import EnergyNetwork
from abduce.models.sparse_coding import PSD, SparseCoding
from abduce.models.stack import Stack
from abduce.models.vae import VariationalAutoencoder

FAMILIES: dict[str, type[Energy]] = {
    family.__name__: family
    for family in (
        Autoencoder,
        EnergyNetwork,
        GaussianMixture,
        GaussianRBM,
        IndependentComponents,
        Ising,
        KMeans,
        MixtureOfFactorAnalyzers,
        MixtureEnsemble,
        PSD,
        PrincipalComponents,
        RBM,
        SparseCoding,
        Stack,
        VariationalAutoencoder,
    )
}
