"""A fitted estimator from its folder: what ``folder`` kept is read, checked and built again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abduce.data.schema import Schema
from abduce.estimators import series_folder, text_folder, world_folder
from abduce.estimators.methods import METHODS
from abduce.estimators.series import Series
from abduce.estimators.sound import KIND as SOUND
from abduce.estimators.sound import Sound
from abduce.estimators.steps import KIND as STEPS
from abduce.estimators.steps import Steps
from abduce.estimators.text import Text
from abduce.estimators.world_model import WorldModel
from abduce.fit import checkpoint, registry
from abduce.models.families import rebuild


def load(folder: str | Path):
    """Load a model that was saved with ``save``; executes no code from the folder.

    Raises FileNotFoundError if the folder is not there, ModelFolderError (a ValueError) if it is damaged, was changed, or
    is of another format version.
    """
    body, tensors = checkpoint.load(folder)
    others = {
        series_folder.KIND: _series,
        text_folder.KIND: _text,
        SOUND: Sound._rebuilt,
        STEPS: Steps._rebuilt,
        world_folder.KIND: _world,
    }
    if (own := others.get(body.get("kind", ""))) is not None:
        with _weights():
            return own(body, tensors)
    if body.get("estimator") not in METHODS:
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected one of"
            f" {sorted(METHODS)}"
        )
    estimator: Any = _from_json({"estimator": body["estimator"], "arguments": body["arguments"]})
    estimator.schema_ = Schema.from_json(body["schema"])
    with _weights(), torch.random.fork_rng(devices=[]):
        model = rebuild(body["model"]).double()
        model.load_state_dict(tensors)
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


@contextmanager
def _weights() -> Iterator[None]:
    """Say which part of a folder does not fit the other."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise checkpoint.ModelFolderError(
            f"the folder's weights do not fit its model.json: {error}"
        ) from None


def _series(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Series:
    return series_folder.rebuild(Series, body, tensors)


def _text(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Text:
    return text_folder.rebuild(Text, body, tensors)


def _world(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> WorldModel:
    return world_folder.rebuild(WorldModel, body, tensors)


def _from_json(value: Any) -> Any:
    match value:
        case list():
            return [_from_json(v) for v in value]
        case {"objective": body}:
            return registry.from_json(body)
        case {"mapping": pairs}:
            return {_from_json(k): _from_json(v) for k, v in pairs}
        case {"estimator": name, "arguments": arguments}:
            return METHODS[name](**{k: _from_json(v) for k, v in arguments.items()})
    return value
