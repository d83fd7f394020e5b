"""A fitted estimator as a folder: its arguments, what the fit found, and the model, of JSON and safetensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from abduce.data.schema import Schema
from abduce.fit import checkpoint, registry
from abduce.models.families import rebuild

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
    body = {"kind": "model", **_estimator_to_json(estimator), "fitted": fitted, **config}
    checkpoint.save(folder, body, tensors)


def load(folder: str | Path):
    """Load a model that was saved with ``save``; executes no code from the folder.

    Raises FileNotFoundError if the folder is not there, ModelFolderError (a ValueError) if it is damaged, was changed, or
    is of another format version.
    """
    from abduce.estimators.methods import METHODS  # every method imports this module

    body, tensors = checkpoint.load(folder)
    if body.get("estimator") not in METHODS:
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected one of"
            f" {sorted(METHODS)}"
        )
    estimator: Any = _from_json({"estimator": body["estimator"], "arguments": body["arguments"]})
    estimator.schema_ = Schema.from_json(body["schema"])
    try:
        with torch.random.fork_rng(devices=[]):
            model = rebuild(body["model"]).double()
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise checkpoint.ModelFolderError(
            f"the folder's weights do not fit its model.json: {error}"
        ) from None
    estimator.model_ = model.eval().requires_grad_(False)
    fitted = dict(body["fitted"])
    names = fitted.pop("feature_names")
    for name, value in fitted.items():
        setattr(estimator, name, value)
    estimator.n_iter_, estimator.interrupted_ = max(1, len(estimator.history_)), False
    estimator.n_features_in_ = len(estimator.schema_.order) or estimator.schema_.n_cells
    if names:
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    return estimator


# ------------------------------------------------------------------ arguments


def _estimator_to_json(estimator: Any) -> dict[str, Any]:
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
            return _estimator_to_json(value)
        case Mapping():  # keys may be places as well as names
            return {"mapping": [[_to_json(k), _to_json(v)] for k, v in value.items()]}
        case tuple() | list() | np.ndarray():
            return [_to_json(v) for v in value]
    if registry.is_objective(value):
        return {"objective": registry.to_json(value)}
    return "auto" if callable(value) else value


def _from_json(value: Any) -> Any:
    match value:
        case list():
            return [_from_json(v) for v in value]
        case {"objective": body}:
            return registry.from_json(body)
        case {"mapping": pairs}:
            return {_from_json(k): _from_json(v) for k, v in pairs}
        case {"estimator": name, "arguments": arguments}:
            from abduce.estimators.methods import METHODS  # every method imports this module

            return METHODS[name](**{k: _from_json(v) for k, v in arguments.items()})
    return value
