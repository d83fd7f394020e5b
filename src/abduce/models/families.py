"""Models and families of energies by name: what a saved model is built from again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from abduce.checks import check_choice, check_count, check_number
from abduce.data.schema import Schema
from abduce.declared import conform, made
from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.inference.energy import Energy, LogZ
from abduce.models.autoencoder import AutoencoderEnergy
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy
from abduce.models.energy_model import EnergyModel
from abduce.models.forests import Forests
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


class _Family(TypedDict):
    """A model of the house: its family and what that is built of."""

    family: str
    config: dict[str, Any]


def rebuild(body: Any, place: str = "model") -> Model:
    """A model of ``{"family", "config"}``, :attr:`Model.config`, ready for its ``state_dict``.

    ValueError naming the ``place`` for a family that is not known, and for what its builder does not declare.
    """
    return _named(BUILDERS, body, place)


def _named(among: Mapping[str, Any], body: Any, place: str) -> Any:
    conform(body, _Family, place)
    if body["family"] not in among:
        raise ValueError(f"{place}.family must be one of {sorted(among)}, got {body['family']!r}")
    return made(among[body["family"]], body["config"], f"{place}.config")


def _energy_model(
    energy: _Family,
    beta: float,
    partition: dict[str, Any] | None,
    levels: list[int],
    start: str | None,
    base: str | None,
) -> EnergyModel:
    check_number("beta", beta, 0, above=True)
    rebuilt = _named(ENERGIES, energy, "energy")
    measures = {"start": _base(start, len(levels)), "base": _base(base, len(levels))}
    log_z = None if partition is None else made(LogZ, partition, "partition")
    return EnergyModel(rebuilt, beta=beta, partition=log_z, levels=tuple(levels), **measures)


def _base(name: str | None, cells: int) -> nn.Module | None:
    """An empty measure, to be loaded into."""
    if name is None:
        return None
    zeros, ones = torch.zeros(cells), torch.ones(cells)
    known = {
        "normal": lambda: NormalBase(zeros, torch.eye(cells)),
        "rates": lambda: RatesBase(zeros),
        "box": lambda: BoxBase(zeros, ones),
    }
    check_choice("base", name, list(known))
    return known[name]()


def _transformed(
    model: _Family, schema: dict[str, Any], scores: bool, arrays: dict[str, tuple[list[int], bool]]
) -> Transformed:
    kinds = (np.float64, np.int64)
    empty = {name: np.zeros(shape, kinds[whole]) for name, (shape, whole) in arrays.items()}
    return Transformed(rebuild(model), Schema.from_json(schema), scores, empty)


def _pool(
    schema: dict[str, Any],
    members: list[_Family],
    spread: list[float] | None,
    repeats: list[bool],
    atoms: list[bool],
    codes: list[int],
    reports: list[dict[str, str | float | None]],
    forests: dict[str, Any] | None,
    odd: dict[str, Any] | None,
) -> Pool:
    parts = [rebuild(member, f"members[{i}]") for i, member in enumerate(members)]
    rows = Schema.from_json(schema)
    numbers = len(rows.layout.numbers)
    for name, given, many in (
        ("spread", spread, numbers),
        ("repeats", repeats, numbers),
        ("atoms", atoms, len(parts)),
    ):
        if given is not None and len(given) != many:
            raise ValueError(f"{name} must hold {many} entries, got {len(given)}")
    grown = None if forests is None else made(Forests, forests, "forests")
    if grown is not None and tuple(grown.levels) != rows.layout.levels:
        raise ValueError(
            f"forests.levels must be {list(rows.layout.levels)}, as the schema has, got {grown.levels}"
        )
    told = None if odd is None else made(_oddness, odd, "odd")
    return Pool(rows, parts, None, spread, repeats, atoms, codes, reports, grown, told)


def _oddness(
    gaussian: _Family,
    features: int,
    folds: int,
    bags: int,
    size: int,
    rows: int,
    distinct: int,
    seed: int,
) -> Oddness:
    for name, given in (
        ("features", features),
        ("folds", folds),
        ("bags", bags),
        ("size", size),
        ("rows", rows),
    ):
        check_count(f"odd.{name}", given)
    inner = _named({"Transformed": _transformed}, gaussian, "odd.gaussian")
    return Oddness(inner, features, folds, bags, size, rows, distinct, seed)


BUILDERS = {
    "EnergyModel": _energy_model,
    "Pool": _pool,
    "Transformed": _transformed,
    "VariationalAutoencoder": VariationalAutoencoder,
}
