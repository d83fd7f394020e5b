"""The objectives for energies by name, and what a file says of them: the class and its arguments."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from abduce.fit.contrastive import (
    NCE,
    ContrastiveDivergence,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from abduce.fit.loss import EnergyObjective
from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from abduce.fit.maximum_likelihood import MaximumLikelihood
from abduce.fit.reconstruction import MeanEnergy

ENERGY_OBJECTIVES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        MeanEnergy,
        MaximumLikelihood,
        ContrastiveDivergence,
        NCE,
        MinimumProbabilityFlow,
        PseudoLikelihood,
        RatioMatching,
        ScoreMatching,
        SlicedScoreMatching,
        DenoisingScoreMatching,
    )
}


def energy_objective_to_json(objective: Any) -> dict[str, Any]:
    """What to write of an objective: its class and arguments.

    >>> energy_objective_to_json(NCE(ratio=10))
    {'name': 'NCE', 'noise': 'auto', 'ratio': 10}
    """
    name = type(objective).__name__
    if ENERGY_OBJECTIVES.get(name) is not type(objective):
        raise ValueError(f"objective must be one of {', '.join(ENERGY_OBJECTIVES)}, got {objective!r}")
    return {"name": name, **asdict(objective)}


def energy_objective_from_json(body: dict[str, Any]) -> EnergyObjective:
    """Read back what :func:`energy_objective_to_json` wrote.

    >>> energy_objective_from_json({"name": "DenoisingScoreMatching", "sigma": [0.1, 1.0]})
    DenoisingScoreMatching(sigma=(0.1, 1.0))
    """
    name = body.get("name")
    if name not in ENERGY_OBJECTIVES:
        raise ValueError(f"name must be one of {', '.join(ENERGY_OBJECTIVES)}, got {name!r}")
    return ENERGY_OBJECTIVES[name](**{key: value for key, value in body.items() if key != "name"})


def is_objective(value: Any) -> bool:
    """Whether a value is an objective for energies.

    >>> is_objective(NCE()), is_objective("nce")
    (True, False)
    """
    return ENERGY_OBJECTIVES.get(type(value).__name__) is type(value)


def named(name: str) -> EnergyObjective:
    """An objective with its own defaults by its name, however it is written; ValueError naming all for one there is not.

    >>> named("minimum-probability-flow")
    MinimumProbabilityFlow()
    """
    plain = {key.lower(): objective for key, objective in ENERGY_OBJECTIVES.items()}
    wanted = name.replace("-", "").replace("_", "").lower()
    if wanted not in plain:
        raise ValueError(f"objective must be one of {', '.join(ENERGY_OBJECTIVES)}, got {name!r}")
    return plain[wanted]()
