"""Models and families of energies by name: what a saved model is built from again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from abduce.data.schema import Schema
from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.inference.energy import Energy, LogZ
from abduce.models.autoencoder import AutoencoderEnergy
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy
from abduce.models.energy_model import EnergyModel
from abduce.models.gaussian import IndependentComponentsEnergy, PrincipalComponentsEnergy
from abduce.models.latent_classes import LatentClassesEnergy
from abduce.models.mixture import (
    FactorAnalyzersEnergy,
    GaussianMixtureEnergy,
    GroupedMixtureEnergy,
    KMeansEnergy,
    ParzenEnergy,
)
from abduce.models.model import Model
from abduce.models.network import NetworkEnergy
from abduce.models.oddness import Oddness
from abduce.models.pool import Pool
from abduce.models.sparse_coding import PSDEnergy, SparseCodingEnergy
from abduce.models.transformed import Transformed
from abduce.models.vae import VariationalAutoencoder

ENERGIES: dict[str, type[Energy]] = {
    family.__name__: family
    for family in (
        AutoencoderEnergy,
        NetworkEnergy,
        GaussianMixtureEnergy,
        GaussianRBMEnergy,
        GroupedMixtureEnergy,
        IndependentComponentsEnergy,
        IsingEnergy,
        KMeansEnergy,
        LatentClassesEnergy,
        FactorAnalyzersEnergy,
        PSDEnergy,
        ParzenEnergy,
        PrincipalComponentsEnergy,
        RBMEnergy,
        SparseCodingEnergy,
    )
}


def rebuild(body: dict[str, Any]) -> Model:
    """A model of ``{"family", "config"}``, :attr:`Model.config`, ready for its ``state_dict``; KeyError if unknown."""
    return BUILDERS[body["family"]](**body["config"])


def _energy_model(
    energy: dict[str, Any], beta: float, partition: dict[str, Any] | None, levels: list[int], **bases: Any
) -> EnergyModel:
    rebuilt = ENERGIES[energy["family"]](**energy["config"])
    measures = {role: _base(name, len(levels)) for role, name in bases.items()}
    log_z = None if partition is None else LogZ(**partition)
    return EnergyModel(rebuilt, beta=beta, partition=log_z, levels=tuple(levels), **measures)


def _base(name: str | None, cells: int) -> nn.Module | None:
    """An empty measure, to be loaded into."""
    if name is None:
        return None
    zeros, ones = torch.zeros(cells), torch.ones(cells)
    return {
        "normal": lambda: NormalBase(zeros, torch.eye(cells)),
        "rates": lambda: RatesBase(zeros),
        "box": lambda: BoxBase(zeros, ones),
    }[name]()


def _transformed(
    model: dict[str, Any], schema: dict[str, Any], scores: bool, arrays: dict[str, list[Any]]
) -> Transformed:
    kinds = (np.float64, np.int64)
    empty = {name: np.zeros(shape, kinds[whole]) for name, (shape, whole) in arrays.items()}
    return Transformed(rebuild(model), Schema.from_json(schema), scores, empty)


def _pool(
    schema: dict[str, Any], members: list[dict[str, Any]], odd: dict[str, Any] | None = None, **config: Any
) -> Pool:
    parts = [rebuild(member) for member in members]
    return Pool(Schema.from_json(schema), parts, odd=None if odd is None else _oddness(**odd), **config)


def _oddness(gaussian: dict[str, Any], **shape: int) -> Oddness:
    return Oddness(_transformed(**gaussian["config"]), **shape)


BUILDERS = {
    "EnergyModel": _energy_model,
    "Pool": _pool,
    "Transformed": _transformed,
    "VariationalAutoencoder": VariationalAutoencoder,
}
