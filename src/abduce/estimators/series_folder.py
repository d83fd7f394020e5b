"""A fitted :class:`~abduce.Series` as a folder of JSON and safetensors: the model, and the series it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from abduce.estimators.folder import estimator_to_json
from abduce.fit import checkpoint
from abduce.sequences import families
from abduce.sequences.panel import Form, SeriesPanel
from abduce.sequences.scale import Scaling
from abduce.sequences.times import Grid, Labels

KIND = "series"


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    panel: SeriesPanel = estimator.panel_
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "model": families.describe(estimator.model_),
        "form": _form_to_json(panel.form),
        "scaling": estimator.scaling_.to_json(),
        "ids": [plain(i) for i in panel.ids],
        "stamps": [[None if s is None else str(s) for s in ends] for ends in panel.stamps],
        "make": estimator.make_,
        "seed": estimator.inference_seed_,
    }
    tensors = {name: t.clone() for name, t in estimator.model_.state_dict().items()}  # members share seasons
    for name in ("values", "mask", "start", "size", "series", "place"):
        tensors[f"panel.{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(panel, name)))
    checkpoint.save(folder, body, tensors)


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds."""
    estimator = cls(**body["arguments"])
    arrays = {
        k.removeprefix("panel."): tensors.pop(k).numpy() for k in list(tensors) if k.startswith("panel.")
    }
    model = families.rebuild_pool(body["model"])
    model.load_state_dict(tensors)
    form = _form_from_json(body["form"])
    stamps: Any = [tuple(None if s is None else pd.Timestamp(s) for s in ends) for ends in body["stamps"]]
    estimator.model_ = model.eval()
    estimator.panel_ = SeriesPanel(form, **arrays, ids=body["ids"], stamps=stamps)
    estimator.form_, estimator.scaling_ = form, Scaling.from_json(body["scaling"])
    estimator.make_, estimator.inference_seed_ = body["make"], body["seed"]
    estimator.n_features_in_ = len(form.columns)
    return estimator


def plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return getattr(value, "item", lambda: value)()


def _form_to_json(form: Form) -> dict[str, Any]:
    labels = None if form.labels is None else [form.labels.kind, form.labels.form, form.labels.zone]
    names = {"columns": form.columns, "order": form.order}
    lists = {k: [plain(c) for c in v] for k, v in names.items()}
    return {
        "kind": form.kind,
        "id": form.id,
        "time": form.time,
        "labels": labels,
        "grid": form.grid.to_json(),
        **lists,
    }


def _form_from_json(body: dict[str, Any]) -> Form:
    labels = None if body["labels"] is None else Labels(*body["labels"])
    names = {k: tuple(body[k]) for k in ("columns", "order")}
    return Form(
        body["kind"],
        id=body["id"],
        time=body["time"],
        labels=labels,
        grid=Grid.from_json(body["grid"]),
        **names,
    )
