"""A fitted :class:`~abduce.Series` as a folder of JSON and safetensors: the model, and the series it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict
from zoneinfo import available_timezones

import numpy as np
import pandas as pd
import torch

from abduce.data.seen import Seen
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
)
from abduce.fit import checkpoint
from abduce.sequences import families
from abduce.sequences.kinds import Kind
from abduce.sequences.mixed import Entries
from abduce.sequences.panel import Form, SeriesPanel
from abduce.sequences.scale import Scaling
from abduce.sequences.times import Grid, Labels

KIND = "series"
ASKED = 50  # steps of a series that a folder is tried with


class KindJson(TypedDict):
    """What a column holds: see :class:`~abduce.sequences.kinds.Kind`."""

    kind: Literal["number", "whole", "classes"]
    levels: list[str | int | float | bool]
    dtype: str


class FormJson(TypedDict):
    """What data were: see :class:`~abduce.sequences.panel.Form`."""

    kind: Literal["frame", "long", "column", "array1", "array2", "array3", "list"]
    id: str | int | None
    time: str | int | None
    labels: tuple[Literal["time", "period", "text"], str, str | None] | None
    grid: dict[str, Any]
    columns: list[str | int | float]
    kinds: list[KindJson]
    order: list[str | int | float]


class ScalingJson(TypedDict):
    """Units of the model: see :class:`~abduce.sequences.scale.Scaling`."""

    own: bool
    loc: list[float]
    scale: list[float]
    positive: list[bool]
    roots: list[bool]
    fixed: list[bool]
    scores: dict[str, list[list[float]]]


class SeriesFolder(FolderHeader):
    """A model of series, and those it goes on from."""

    model: dict[str, Any]
    form: FormJson
    indicators: list[tuple[int, int]]
    scaling: ScalingJson
    ids: list[str | int | float | bool | None]
    stamps: list[tuple[str | None, str | None]]
    make: str | None
    seed: int


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    checkpoint.save(folder, *describe(estimator))


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    panel: SeriesPanel = estimator.panel_
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "model": families.describe(estimator.model_),
        "form": _form_to_json(panel.form),
        "indicators": [list(pair) for pair in estimator.entries_.indicators],
        "scaling": estimator.scaling_.to_json(),
        "ids": [plain(i) for i in panel.ids],
        "stamps": [[None if s is None else str(s) for s in ends] for ends in panel.stamps],
        "make": estimator.make_,
        "seed": estimator.inference_seed_,
    }
    tensors = {name: t.clone() for name, t in estimator.model_.state_dict().items()}  # members share seasons
    for name in ("values", "mask", "start", "size", "series", "place"):
        tensors[f"panel.{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(panel, name)))
    return body, tensors


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds, checked."""
    estimator = constructed(cls, body["arguments"])
    estimator._check_arguments()
    weights = {k: t for k, t in tensors.items() if not k.startswith("panel.")}
    panel = _panel_from(body, {k: t for k, t in tensors.items() if k not in weights})
    model = families.rebuild_pool(body["model"], f"{CONFIG}.model")
    fill(model, weights)
    estimator.model_, estimator.panel_, estimator.form_ = model.eval(), panel, panel.form
    estimator.entries_ = _entries_from_json(body["indicators"], panel.form)
    estimator.scaling_ = _scaling_from_json(body["scaling"], model.n_cells)
    estimator.make_, estimator.inference_seed_ = body["make"], body["seed"]
    estimator.n_features_in_ = len(panel.form.columns)
    return estimator


def _panel_from(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> SeriesPanel:
    """The series that the model goes on from."""
    form = _form_from_json(body["form"])
    cells = ("series", "steps", len(form.columns))
    each, rows = (torch.int64, ("series",)), (torch.int64, ("rows",))
    declared = {
        "values": (torch.float64, cells),
        "mask": (torch.bool, cells),
        "start": (torch.float64, each[1]),
        "size": each,
    }
    declared = {f"panel.{k}": v for k, v in (declared | {"series": rows, "place": rows}).items()}
    clean = dict(tensors)
    if {"panel.values", "panel.mask"} <= set(tensors) and tensors["panel.values"].shape == tensors[
        "panel.mask"
    ].shape:
        clean["panel.values"] = tensors["panel.values"].masked_fill(~tensors["panel.mask"].bool(), 0.0)
    sizes = shaped(clean, declared, WEIGHTS)
    n, steps = sizes["series"], sizes["steps"]
    arrays = {k.removeprefix("panel."): t.numpy() for k, t in tensors.items()}
    for name, most in (("series", n - 1), ("place", steps - 1), ("size", steps)):
        if len(arrays[name]) and not 0 <= arrays[name].min() <= arrays[name].max() <= most:
            raise ValueError(f"{WEIGHTS}: 'panel.{name}' must lie between 0 and {most}")
    for name in ("ids", "stamps"):
        if len(body[name]) != n:
            raise ValueError(
                f"{CONFIG}.{name} must hold one entry for each of {n} series, got {len(body[name])}"
            )
    stamps: Any = [tuple(None if s is None else pd.Timestamp(s) for s in ends) for ends in body["stamps"]]
    return SeriesPanel(form, **arrays, ids=body["ids"], stamps=stamps)


def _entries_from_json(pairs: list[Any], form: Form) -> Entries:
    """Which cells enter the models; ValueError where an indicator is of no class of the form."""
    for j, k in pairs:
        if j not in form.classes or not 0 <= k < len(form.kinds[j].levels):
            raise ValueError(
                f"{CONFIG}.indicators has {[j, k]}, expected a column of classes and one of its levels"
            )
    numbers = tuple(j for j in range(len(form.columns)) if j not in form.classes)
    return Entries(numbers, tuple(form.classes), tuple((j, k) for j, k in pairs))


def _scaling_from_json(body: dict[str, Any], features: int) -> Scaling:
    for name in ("loc", "scale", "positive", "roots", "fixed"):
        if len(body[name]) != features:
            raise ValueError(f"{CONFIG}.scaling.{name} must hold {features} entries, got {len(body[name])}")
    if not all(s > 0 for s in body["scale"]):
        raise ValueError(f"{CONFIG}.scaling.scale must be above 0, got {body['scale']}")
    if wrong := [
        j for j, parts in body["scores"].items() if j not in map(str, range(features)) or len(parts) != 5
    ]:
        raise ValueError(
            f"{CONFIG}.scaling.scores has {wrong[0]!r}, expected five lists for one of {features} columns"
        )
    return Scaling.from_json(body)


def ask(estimator: Any) -> list[Any]:
    """The step after the last ones of the first series, in the data's units."""
    panel: SeriesPanel = estimator.entries_.spread(estimator.panel_)
    first, last = slice(0, 1), slice(max(0, panel.values.shape[1] - ASKED), None)
    values, mask = panel.values[first, last], panel.mask[first, last].copy()
    mask[:, -1] = False
    scaler = estimator.scaling_.fitted(panel.values[first], panel.mask[first])
    seen = Seen(
        scaler.to(values, mask), torch.from_numpy(mask), time=torch.from_numpy(panel.time[first, last])
    )
    mean = estimator.model_.answer(seen).mean()
    return [mean, scaler.back(mean.numpy(), first)]


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
        "kinds": [{"kind": k.kind, "levels": list(k.levels), "dtype": k.dtype} for k in form.kinds],
        **lists,
    }


def _form_from_json(body: dict[str, Any]) -> Form:
    labels = None if body["labels"] is None else Labels(*body["labels"])
    names = {k: tuple(body[k]) for k in ("columns", "order")}
    grid = made(Grid, {**body["grid"]}, f"{CONFIG}.form.grid")
    if grid.kind not in ("rows", "clock", "months") or grid.size < 1 or grid.every < 1:
        raise ValueError(
            f"{CONFIG}.form.grid must be of rows, a clock or months, sizes above 0, got {body['grid']}"
        )
    for zone in {grid.zone, None if labels is None else labels.zone} - {None}:
        if zone not in available_timezones():
            raise ValueError(f"{CONFIG}.form must name a time zone that there is, got {zone!r}")
    if wrong := [body[k] for k in ("id", "time") if body[k] is not None and body[k] not in body["order"]]:
        raise ValueError(
            f"{CONFIG}.form: id and time must be among the columns {body['order']}, got {wrong[0]!r}"
        )
    if len(body["kinds"]) != len(body["columns"]):
        raise ValueError(
            f"{CONFIG}.form.kinds must hold one for each of {len(body['columns'])} columns, got {len(body['kinds'])}"
        )
    kinds = tuple(Kind(k["kind"], tuple(k["levels"]), k["dtype"]) for k in body["kinds"])
    if odd := [k for k in kinds if k.classes != bool(k.levels) or len(set(k.levels)) < len(k.levels)]:
        raise ValueError(f"{CONFIG}.form.kinds must have levels, each once, for classes alone, got {odd[0]}")
    return Form(
        body["kind"],
        id=body["id"],
        time=body["time"],
        labels=labels,
        grid=Grid.from_json(body["grid"]),
        kinds=kinds,
        **names,
    )


def folder_kind(cls: Any) -> FolderKind:
    """How folders of a class of estimators are opened."""
    return FolderKind(SeriesFolder, lambda body, tensors: rebuild(cls, body, tensors), describe, ask)
