"""Series in the forms that people hold them in, as one padded array of steps, and back into the same form.

| X | series | stamps |
|---|---|---|
| DataFrame, a pandas Series | one | its index, if it holds times; else the ``time`` column, or the only one of times |
| DataFrame with ``id`` | one for each id, as long as it is | likewise |
| array (T,), (T, F) | one | none: each row is a step |
| array (N, T, F), list of arrays (T_i, F) | N | none |

Each series begins at its first stamp and has blank steps where stamps are missing; rows may come in any order.  What goes back
has the rows, order, index and dtypes that came, and the cells that were there to the bit.  Classes are the positions of their
levels meanwhile (:mod:`abduce.sequences.kinds`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from abduce.data.seen import Seen
from abduce.sequences.kinds import NUMBER, Kind, kind_of, kinds_of_array
from abduce.sequences.times import Grid, Labels, check_stamps, find_grid, read_stamps

FRAMES = ("frame", "long", "column")
ROWS = Grid()


@dataclass(frozen=True)
class Form:
    """What training data were: ``kind`` "frame", "long", "column", "array1", "array2", "array3" or "list"; ``columns``
    that are modelled, in order, and their ``kinds``; columns of ``id`` and ``time``, where there are; how stamps are written,
    and their grid.
    """

    kind: str
    columns: tuple[Any, ...]
    id: Any = None
    time: Any = None
    labels: Labels | None = None
    grid: Grid = ROWS
    order: tuple[Any, ...] = ()
    kinds: tuple[Kind, ...] = ()

    @property
    def classes(self) -> list[int]:
        """Places of the columns of classes."""
        return [j for j, kind in enumerate(self.kinds) if kind.classes]

    @property
    def many(self) -> bool:
        """Whether there is an axis of series."""
        return self.kind in ("long", "array3", "list")


@dataclass
class SeriesPanel:
    """Series as ``values`` (N, T, F) with their ``mask``; ``start`` (N,) the first step of each on the grid, ``size`` (N,)
    steps up to its last row; of each row of X its ``series`` and ``place``; ``ids`` and first and last ``stamps`` of each.
    """

    form: Form
    values: np.ndarray
    mask: np.ndarray
    start: np.ndarray
    size: np.ndarray
    series: np.ndarray
    place: np.ndarray
    ids: list[Any]
    stamps: list[tuple[Any, Any]]

    @property
    def time(self) -> np.ndarray:
        """The step of each cell on the grid, (N, T)."""
        return self.start[:, None] + np.arange(self.values.shape[1])[None].astype(float)

    def seen(self, scaled: torch.Tensor) -> Seen:
        """What was seen, in model values (N, T, F)."""
        return Seen(scaled, torch.from_numpy(self.mask), time=torch.from_numpy(self.time))

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Of an array over steps (N, T, ...) what belongs to each row of X, (rows, ...)."""
        return values[self.series, self.place]

    def extended(self, before: int, after: int) -> SeriesPanel:
        """The same with blank steps before the first and after the last row of each series."""
        n, length, f = self.values.shape
        values = np.full((n, before + length + after, f), np.nan)
        mask = np.zeros(values.shape, bool)
        values[:, before : before + length], mask[:, before : before + length] = self.values, self.mask
        return replace(
            self,
            values=values,
            mask=mask,
            start=self.start - before,
            size=self.size + before + after,
            place=self.place + before,
        )


def form_of(X: Any, id: Any = None, time: Any = None) -> Form:
    """What X is, for :func:`read`; ``id`` and ``time`` name columns of a frame."""
    if isinstance(X, pd.DataFrame):
        columns = list(X.columns)
        if len(set(columns)) < len(columns):
            raise ValueError(f"X has two columns named {next(c for c in columns if columns.count(c) > 1)!r}")
        for name, given in (("id", id), ("time", time)):
            if given is not None and given not in columns:
                raise ValueError(f"{name} must be a column of X, got {given!r}; X has {columns}")
        if time is None:
            time = _time_column(X, id)
        modelled = tuple(c for c in columns if c not in (id, time))
        if not modelled:
            raise ValueError("X has no column besides those of id and time, expected at least one")
        kinds = tuple(kind_of(X[c], c) for c in modelled)
        form = Form("frame" if id is None else "long", modelled, id, time, order=tuple(columns), kinds=kinds)
    elif id is not None or time is not None:
        raise ValueError(f"id and time name columns of a DataFrame, got X of type {type(X).__name__}")
    elif isinstance(X, pd.Series):
        label = X.name if X.name is not None else 0
        form = Form("column", (label,), kinds=(kind_of(X, label),))
    elif (
        isinstance(X, list | tuple) and len(X) and all(np.ndim(x) in (1, 2) and not np.isscalar(x) for x in X)
    ):
        widths = {np.asarray(x).reshape(len(x), -1).shape[1] for x in X}
        if len(widths) > 1:
            raise ValueError(f"X has series of {sorted(widths)} features, expected as many in each")
        form = Form("list", tuple(range(widths.pop())))
        flat = np.concatenate([np.asarray(x).reshape(len(x), -1) for x in X])
        form = replace(
            form, kinds=kinds_of_array(flat) if flat.dtype.kind in "biuf" else (NUMBER,) * flat.shape[1]
        )
    else:
        array = np.asarray(X)
        if array.ndim not in (1, 2, 3) or array.dtype.kind not in "biuf":
            raise ValueError(
                "X must be a DataFrame, a pandas Series, an array of numbers (T,), (T, F) or (N, T, F), or a list of arrays "
                f"(T_i, F), got {type(X).__name__} of shape {array.shape} and dtype {array.dtype}"
            )
        if not array.size:
            raise ValueError(
                f"X has no cell, it has shape {array.shape}; expected at least 2 steps of a number"
            )
        width = array.shape[-1] if array.ndim > 1 else 1
        kinds = kinds_of_array(array.reshape(-1, width))
        form = Form(f"array{array.ndim}", tuple(range(width)), kinds=kinds)
    if form.kind not in FRAMES:
        return form
    given = _stamps(X, form)
    if given is None:
        return form
    stamps, labels = given
    series = [stamps[rows].sort_values() for rows, _ in _split(X, form)]
    for s in series:
        check_stamps(s, _time_name(form))
    return replace(form, labels=labels, grid=find_grid(series, labels.zone))


def read(X: Any, form: Form, name: str = "X") -> SeriesPanel:
    """Series of X, which is of the form of the training data; ValueError or TypeError, naming ``name``, if it is not."""
    if form.kind in FRAMES:
        return _read_frame(X, form, name)
    form = _as_asked(X, form)
    parts = _arrays(X, form, name)
    size = np.array([len(p) for p in parts])
    series = np.repeat(np.arange(len(parts)), size)
    place = np.concatenate([np.arange(s) for s in size]) if len(parts) else np.zeros(0, int)
    table = np.concatenate(parts) if parts else np.zeros((0, len(form.columns)))
    none = [(None, None)] * len(parts)
    return _panel(form, table, series, place, np.zeros(len(parts)), list(range(len(parts))), none, name)


def _panel(form: Form, table, series, place, start, ids, stamps, name: str) -> SeriesPanel:
    """Rows (rows, F) put at their places."""
    if np.isinf(table).any():
        row, column = (int(v[0]) for v in np.nonzero(np.isinf(table)))
        raise ValueError(
            f"{name} has an infinite value in row {row}, column {form.columns[column]!r}; expected numbers or NaN"
        )
    check_positions(table, form, name)
    size = np.zeros(len(ids), int)
    np.maximum.at(size, series, place + 1)
    values = np.full((len(ids), int(size.max()) if len(ids) else 0, len(form.columns)), np.nan)
    values[series, place] = table
    return SeriesPanel(
        form, values, np.isfinite(values), np.asarray(start, float), size, series, place, ids, stamps
    )


def check_positions(table: np.ndarray, form: Form, name: str) -> None:
    """Refuse cells (..., F) of classes that are no positions of their levels."""
    for j in form.classes:
        cells, levels = table[..., j], form.kinds[j].levels
        odd = np.isfinite(cells) & ~np.isin(cells, np.arange(len(levels)))
        if odd.any():
            raise ValueError(
                f"column {form.columns[j]!r} of {name} holds {cells[odd][0]:g}, expected positions of its classes "
                f"{list(levels)}, 0 to {len(levels) - 1}, or NaN"
            )


# ---------------------------------------------------------------- frames


def _time_column(X: pd.DataFrame, id: Any) -> Any:
    """The only column of times, where the index holds none."""
    if isinstance(X.index, pd.DatetimeIndex | pd.PeriodIndex):
        return None
    times = [
        c
        for c in X.columns
        if c != id and (X[c].dtype.kind == "M" or isinstance(X[c].dtype, pd.PeriodDtype | pd.DatetimeTZDtype))
    ]
    return times[0] if len(times) == 1 else None


def _time_name(form: Form) -> str:
    return "the index of X" if form.time is None else f"time column {form.time!r}"


def _stamps(X: Any, form: Form) -> tuple[pd.DatetimeIndex, Labels] | None:
    if form.time is not None:
        return read_stamps(X[form.time], _time_name(form))
    index = X.index
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        return read_stamps(index, _time_name(form))
    text = index.dtype == object or isinstance(index.dtype, pd.StringDtype)
    if text and len(index) and form.id is None:
        return read_stamps(index, _time_name(form))
    return None


def _split(X: Any, form: Form) -> list[tuple[np.ndarray, Any]]:
    """Rows of each series, and its id, in the order in which ids appear."""
    if form.id is None:
        return [(np.arange(len(X)), None)]
    codes, ids = pd.factorize(X[form.id])
    if (codes < 0).any():
        raise ValueError(
            f"id column {form.id!r} is blank in row {int(np.flatnonzero(codes < 0)[0])}; expected an id in every row"
        )
    order = np.argsort(codes, kind="stable")
    return list(zip(np.split(order, np.cumsum(np.bincount(codes))[:-1]), ids, strict=True))


def _read_frame(X: Any, form: Form, name: str) -> SeriesPanel:
    if form.kind == "column":
        if not isinstance(X, pd.Series):
            raise TypeError(f"{name} must be a pandas Series as in training, got {type(X).__name__}")
        X = X.to_frame(form.columns[0])
    if not isinstance(X, pd.DataFrame):
        raise TypeError(f"{name} must be a DataFrame with columns {list(form.order)}, got {type(X).__name__}")
    needed = [*form.columns, *(c for c in (form.id, form.time) if c is not None)]
    missing = [c for c in needed if c not in X.columns]
    extra = [c for c in X.columns if c not in needed]
    if missing or extra:
        parts = [f"lacks {missing}"] if missing else []
        parts += [f"has also {extra}"] if extra else []
        raise ValueError(f"{name} must have the columns seen in training: it {' and '.join(parts)}")
    table = (
        np.stack([k.codes(X[c], c, name) for c, k in zip(form.columns, form.kinds, strict=True)], 1)
        if len(X)
        else np.zeros((0, len(form.columns)))
    )
    parts = _split(X, form) if len(X) else []
    given = _stamps(X, form)
    if (given is None) != (form.labels is None):
        raise ValueError(
            f"{name} must have {'stamps' if form.labels else 'no stamps'} as the training data had"
        )
    series, place = np.zeros(len(X), int), np.zeros(len(X), int)
    start, ends = [], []
    for i, (rows, own) in enumerate(parts):
        series[rows] = i
        if given is None:
            place[rows] = np.arange(len(rows))
            start.append(0.0)
            ends.append((None, None))
            continue
        stamps = given[0][rows]
        check_stamps(stamps, _time_name(form), "" if own is None else f" in series {own!r}")
        step = _apart(form.grid.steps(stamps), stamps, form)
        place[rows] = step - step.min()
        start.append(float(step.min()))
        ends.append((stamps.min(), stamps.max()))
    return _panel(form, table, series, place, start, [own for _, own in parts], ends, name)


def _apart(step: np.ndarray, stamps: pd.DatetimeIndex, form: Form) -> np.ndarray:
    """Steps of which no two are one; those of stamps nearer than the grid's move on to the next free one."""
    order = np.argsort(stamps.asi8, kind="stable")
    ranked = step[order]
    if len(ranked) and (np.diff(ranked) < 1).any():
        ranked = np.maximum.accumulate(ranked - np.arange(len(ranked))) + np.arange(len(ranked))
    out = np.empty_like(step)
    out[order] = ranked
    return out


# ---------------------------------------------------------------- arrays


def _as_asked(X: Any, form: Form) -> Form:
    """The form, of one series or of several as X has them: a model of one may be asked about several, and the other way."""
    dims = np.ndim(X) if isinstance(X, np.ndarray) else 0
    if form.kind in ("array2", "array3") and dims in (2, 3):
        return replace(form, kind=f"array{dims}")
    return form


def _arrays(X: Any, form: Form, name: str) -> list[np.ndarray]:
    f = len(form.columns)
    if form.kind == "list":
        if not isinstance(X, list | tuple):
            raise TypeError(f"{name} must be a list of arrays as in training, got {type(X).__name__}")
        parts = [np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in X]
    else:
        array = np.asarray(X)
        if array.ndim != int(form.kind[-1]) or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} must be an array of numbers of {form.kind[-1]} dimensions as in training, got shape {array.shape}, "
                f"dtype {array.dtype}"
            )
        array = array.astype(np.float64)
        parts = list(array) if array.ndim == 3 else [array.reshape(len(array), -1)]
    for part in parts:
        if part.shape[1] != f:
            raise ValueError(f"{name} must have {f} features as in training, got {part.shape[1]}")
    return parts
