"""The objectives by name, and what a file says of one: the class and its arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from typing import Any

from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from abduce.fit.contrastive import (
    NCE,
    ContrastiveDivergence,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from abduce.fit.loss import MeanEnergy
from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from abduce.fit.maximum_likelihood import MaximumLikelihood


def _by_name(*classes: type) -> dict[str, type]:
    return {cls.__name__: cls for cls in classes}


BOUNDS = _by_name(ELBO, IWAE, Renyi, MIWAE, PIWAE, CIWAE)  # of models with latents
ENERGY_OBJECTIVES = _by_name(
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
OBJECTIVES = BOUNDS | ENERGY_OBJECTIVES


def is_objective(value: Any) -> bool:
    """Whether a value is one of these objectives.

    >>> is_objective(NCE()), is_objective(ELBO()), is_objective("nce")
    (True, True, False)
    """
    return OBJECTIVES.get(type(value).__name__) is type(value)


def to_json(objective: Any) -> Any:
    """What to write of an objective: a name, or the class and arguments of one of these; "auto" for any other.

    >>> to_json(NCE(ratio=10))
    {'name': 'NCE', 'noise': 'auto', 'ratio': 10}
    """
    if isinstance(objective, str):
        return objective
    if not is_objective(objective):
        return "auto"
    arguments = {
        k: str(float(v)) if isinstance(v, Real) and math.isinf(v) else v for k, v in asdict(objective).items()
    }
    return {"name": type(objective).__name__, **arguments}


def from_json(body: Any) -> Any:
    """Read back what :func:`to_json` wrote; ValueError for a class that is none of these.

    >>> from_json({"name": "DenoisingScoreMatching", "sigma": [0.1, 1.0]})
    DenoisingScoreMatching(sigma=(0.1, 1.0))
    """
    if isinstance(body, str):
        return body
    name = body.get("name")
    if name not in OBJECTIVES:
        raise ValueError(f"name must be one of {', '.join(OBJECTIVES)}, got {name!r}")
    arguments = {k: float(v) if v in ("inf", "-inf") else v for k, v in body.items() if k != "name"}
    return OBJECTIVES[name](**arguments)


def named(name: str, among: Mapping[str, type] = OBJECTIVES) -> Any:
    """An objective with its own defaults by its name, however it is written; ValueError naming all for one there is not.

    >>> named("minimum-probability-flow")
    MinimumProbabilityFlow()
    """
    plain = {key.lower(): objective for key, objective in among.items()}
    wanted = name.replace("-", "").replace("_", "").lower()
    if wanted not in plain:
        raise ValueError(f"objective must be one of {', '.join(among)}, got {name!r}")
    return plain[wanted]()
