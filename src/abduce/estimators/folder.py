"""A fitted estimator kept as a folder: its arguments, what the fit found, and the model, of JSON and safetensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from abduce.fit import checkpoint, registry

WATCHERS = ("callback",)  # arguments that are not kept


def state(estimator: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What identifies a fitted model: JSON-able configuration and weights."""
    model = estimator.model_
    config = {
        "model": {"family": type(model).__name__, "config": model.config},
        "schema": estimator.schema_.to_json(),
    }
    tensors = {
        name: t.to(model.stored_as) if t.is_floating_point() and model.stored_as is not None else t
        for name, t in model.state_dict().items()
    }
    return config, tensors


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    config, tensors = state(estimator)
    fitted = {name: vars(estimator)[name] for name in estimator.kept}
    fitted["feature_names"] = [str(c) for c in vars(estimator).get("feature_names_in_", [])]
    body = {"kind": "model", **estimator_to_json(estimator), "fitted": fitted, **config}
    checkpoint.save(folder, body, tensors)


# ------------------------------------------------------------------ arguments


def estimator_to_json(estimator: Any) -> dict[str, Any]:
    """An estimator's name and arguments as JSON."""
    arguments = {k: _to_json(v) for k, v in estimator.get_params(deep=False).items() if k not in WATCHERS}
    return {"estimator": type(estimator).__name__, "arguments": arguments}


def _to_json(value: Any) -> Any:
    """A constructor argument as JSON; seeds that are no numbers, and code, are not kept."""
    match value:
        case np.random.RandomState():
            return None
        case np.generic():
            return value.item()
        case BaseEstimator():
            return estimator_to_json(value)
        case Mapping():  # keys may be places as well as names
            return {"mapping": [[_to_json(k), _to_json(v)] for k, v in value.items()]}
        case tuple() | list() | np.ndarray():
            return [_to_json(v) for v in value]
    if registry.is_objective(value):
        return {"objective": registry.to_json(value)}
    return "auto" if callable(value) else value
