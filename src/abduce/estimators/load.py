"""A fitted estimator from its folder: what ``folder`` kept is read, checked and built again."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abduce.answers.answer import Effort
from abduce.checks import check_count
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.estimators.folder import (
    CONFIG,
    FolderKind,
    TableFolder,
    constructed,
    describe,
    fill,
    opened,
)
from abduce.estimators.methods import METHODS
from abduce.fit import checkpoint, registry
from abduce.models.families import rebuild


def load(folder: str | Path):
    """Load a model that was saved with ``save``; executes no code from the folder.

    Raises FileNotFoundError if the folder is not there, ModelFolderError (a ValueError) if it is damaged, was changed, holds
    what makes no model, or is of another format version.
    """
    body, tensors = checkpoint.load(folder)
    kind = str(body.get("kind"))
    if kind not in (*KINDS, "model") or (kind == "model" and str(body.get("estimator")) not in METHODS):
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected one of {sorted(METHODS)}"
        )
    return opened(folder, body, tensors, _folder_kind(kind))


def _rows(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """A model of rows."""
    estimator: Any = _from_json({"estimator": body["estimator"], "arguments": body["arguments"]})
    estimator._check_arguments()
    check_count(f"{CONFIG}.arguments.samples", estimator.samples)
    estimator.schema_ = Schema.from_json(body["schema"], f"{CONFIG}.schema")
    with torch.random.fork_rng(devices=[]):
        model = rebuild(body["model"], f"{CONFIG}.model").double()
    fill(model, tensors, stored=model.stored_as)
    estimator.model_ = model.eval().requires_grad_(False)
    fitted = dict(body["fitted"])
    names = fitted.pop("feature_names")
    for name, value in fitted.items():
        setattr(estimator, name, value)
    estimator.n_iter_, estimator.interrupted_ = max(1, len(estimator.history_)), False
    estimator.n_features_in_ = len(estimator.schema_.order) or estimator.schema_.n_cells
    if names:
        if names != [str(label) for label in estimator.schema_.order or names]:
            raise ValueError(f"{CONFIG}.fitted.feature_names must be the columns of the schema, got {names}")
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    return estimator


@torch.no_grad()
def _ask_rows(estimator: Any) -> list[Any]:
    """log p and means of rows that the model itself knows, in model values and from the data's own form: the one at the edge
    of oddness, whole and without half of its cells, and one of which nothing is seen; of what is annealed its pieces."""
    model, schema = estimator.model_, estimator.schema_
    cells = [(0.0 if value is None else value, value is not None) for value in estimator.edge_[0]]
    y, mask = (torch.tensor(part) for part in zip(*cells, strict=True))
    y, half = y.double()[None], mask & (torch.arange(len(mask)) % 2 == 0)
    if pieces := model.pieces(y):
        return [*pieces, schema.encode(schema.decode(y.numpy(), snap=True))[0]]
    masks = torch.stack([mask, half, torch.zeros_like(mask)])
    seen = Seen(torch.where(masks, y, 0.0), masks)
    answer = model.answer(seen, Effort(samples=4, seed=0, rounds=0, hmc_steps=0))
    mean = answer.mean()
    rows = schema.decode(mean.numpy(), snap=True)
    odd = []
    if model.odd is not None:
        model.odd.check()
        odd = [model.odd.score(seen)]
    return [answer.log_evidence, mean, schema.encode(rows)[0], estimator._units(seen), *odd]


def _from_json(value: Any) -> Any:
    match value:
        case list():
            return [_from_json(v) for v in value]
        case {"objective": body}:
            return registry.from_json(body)
        case {"mapping": pairs}:
            return {_from_json(k): _from_json(v) for k, v in pairs}
        case {"estimator": name, "arguments": arguments}:
            if name not in METHODS:
                raise ValueError(
                    f"{CONFIG}.arguments: an estimator must be one of {sorted(METHODS)}, got {name!r}"
                )
            return constructed(METHODS[name], {k: _from_json(v) for k, v in arguments.items()})
    return value


ROWS = FolderKind(TableFolder, _rows, describe, _ask_rows)
KINDS = {  # a kind's estimator, and its module; `<kind>_folder` says how folders of it are opened
    "series": ("series", "Series"),
    "text": ("text", "Text"),
    "world": ("world_model", "WorldModel"),
    "sound": ("sound", "Sound"),
    "steps": ("steps", "Steps"),
}


def _folder_kind(kind: str) -> FolderKind:
    """How folders of a kind are opened; what a model of rows does without is not imported for one."""
    if kind == "model":
        return ROWS
    home, name = KINDS[kind]
    estimator = getattr(import_module(f"abduce.estimators.{home}"), name)
    return import_module(f"abduce.estimators.{kind}_folder").folder_kind(estimator)
