"""A fitted :class:`~abduce.Steps` as a folder of JSON and safetensors: cells, network, the sequence it goes on from."""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
import torch

from abduce.checks import check_number
from abduce.declared import made, shaped
from abduce.estimators.folder import (
    CONFIG,
    WEIGHTS,
    Contents,
    FolderHeader,
    FolderKind,
    constructed,
    estimator_to_json,
    fill,
    parted,
)
from abduce.sequences.steps.forms import MOST_LEVELS, StepCells
from abduce.sequences.steps.network import ChainNet, ChainShape

KIND = "steps"


class CellsJson(TypedDict):
    """Which cells vary: see :class:`~abduce.sequences.steps.forms.StepCells`."""

    shape: list[int]
    rare: float


class StepsFolder(FolderHeader):
    """A model of steps."""

    shape: dict[str, Any]
    cells: CellsJson
    history: list[dict[str, float]]
    seed: int


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    cells = estimator.cells_
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "shape": estimator.net_.shape.to_json(),
        "cells": {"shape": list(cells.shape), "rare": cells.rare},
        "history": estimator.history_,
        "seed": estimator.inference_seed_,
    }
    arrays = {"levels": cells.levels, "active": cells.active, "usual": cells.usual, "last": estimator.last_}
    tensors = {
        f"cells.{k}": torch.from_numpy(np.ascontiguousarray(v, dtype=np.int64)) for k, v in arrays.items()
    }
    return body, tensors | {f"net.{k}": v for k, v in estimator.net_.state_dict().items()}


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds, checked."""
    estimator = constructed(cls, body["arguments"])
    cells, net_own = parted(tensors, "cells", "net")
    shape = tuple(body["cells"]["shape"])
    d, whole = math.prod(shape), torch.int64
    dims = {"levels": (d,), "active": ("active",), "usual": (d,), "last": ("steps", d)}
    shaped(cells, {f"cells.{k}": (whole, dim) for k, dim in dims.items()}, WEIGHTS)
    arrays = {k.removeprefix("cells."): t.numpy() for k, t in cells.items()}
    for name, least, most in (("levels", 1, MOST_LEVELS), ("active", 0, d - 1), ("usual", 0, MOST_LEVELS)):
        if not least <= arrays[name].min(initial=least) <= arrays[name].max(initial=least) <= most:
            raise ValueError(f"{WEIGHTS}: 'cells.{name}' must lie between {least} and {most}")
    last = arrays.pop("last")
    if not (last < arrays["levels"]).all() or last.min(initial=0) < -1:
        raise ValueError(f"{WEIGHTS}: 'cells.last' must lie between -1 and the levels of its cells")
    check_number(f"{CONFIG}.cells.rare", body["cells"]["rare"], 0, 1)
    made(ChainShape, body["shape"], f"{CONFIG}.shape")
    built = ChainShape.from_json(body["shape"])
    if built.cells != len(arrays["active"]) or len(built.levels) != built.cells:
        raise ValueError(f"{CONFIG}.shape must be of {len(arrays['active'])} cells, as 'cells.active' is")
    if not built.lags or min(built.lags) < 1 or min(built.levels) < 2 or not 0 <= built.dropout < 1:
        raise ValueError(
            f"{CONFIG}.shape must have lags from 1, levels from 2 and dropout in [0, 1), got {built}"
        )
    with torch.random.fork_rng(devices=[]):
        net = ChainNet(built)
    fill(net, net_own, "net.")
    estimator.net_ = net.eval().requires_grad_(False)
    estimator.last_ = last.astype(np.int16)
    estimator.cells_ = StepCells(shape, rare=body["cells"]["rare"], **arrays)
    estimator.history_, estimator.inference_seed_ = body["history"], body["seed"]
    estimator.n_features_in_ = len(arrays["usual"])
    return estimator


def ask(estimator: Any) -> list[Any]:
    """log p of the first steps of the sequence that it goes on from."""
    few = np.maximum(estimator.last_[:3], 0).astype(float)
    return [estimator.score_samples([few.reshape(-1, *estimator.cells_.shape)])]


def folder_kind(cls: Any) -> FolderKind:
    """How folders of a class of estimators are opened."""
    return FolderKind(StepsFolder, lambda body, tensors: rebuild(cls, body, tensors), describe, ask)
