"""Answers about series in the form that the series came in."""

from __future__ import annotations

from typing import Any, cast

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from abduce.sequences.panel import FRAMES, SeriesPanel, check_positions, read


def put(X: Any, panel: SeriesPanel, values: np.ndarray) -> Any:
    """X with the blanks of its rows filled by ``values`` (N, T, F); what was there stays to the bit."""
    form, rows, blank = panel.form, panel.rows(values), ~panel.rows(panel.mask)
    if form.kind in FRAMES:
        out = X.to_frame(form.columns[0]) if form.kind == "column" else X.copy()
        for j, label in enumerate(form.columns):
            if blank[:, j].any():
                out[label] = form.kinds[j].put(out[label], rows[:, j], blank[:, j])
        return out[form.columns[0]].rename(X.name) if form.kind == "column" else out
    parts = _apart(panel, rows)
    holes = _apart(panel, blank)
    given = [np.asarray(x) for x in X] if form.kind in ("list", "array3") else [np.asarray(X)]
    filled = [
        np.where(h.reshape(g.shape), p.reshape(g.shape), g) if h.any() else g.copy()
        for g, p, h in zip(given, parts, holes, strict=True)
    ]
    if form.kind == "list":
        return filled
    return np.stack(filled) if form.kind == "array3" else filled[0]


def whole(X: Any, panel: SeriesPanel, values: np.ndarray, named: bool = False) -> Any:
    """All cells of the rows of X as ``values`` (N, T, F) say, in floats; with ``named`` classes by their names."""
    form, rows = panel.form, panel.rows(values)
    if form.kind in FRAMES:
        out = X.to_frame(form.columns[0]) if form.kind == "column" else X.copy()
        for j, (label, kind) in enumerate(zip(form.columns, form.kinds, strict=True)):
            out[label] = kind.column(rows[:, j]) if named and kind.classes else rows[:, j]
        return out[form.columns[0]].rename(X.name) if form.kind == "column" else out
    parts = _apart(panel, rows)
    if form.kind == "list":
        return [p.reshape(np.shape(x)) for p, x in zip(parts, X, strict=True)]
    return rows.reshape(np.shape(X))


def by_step(X: Any, panel: SeriesPanel, values: np.ndarray) -> Any:
    """One number for each row of X, of ``values`` (N, T): an array (rows,), (N, T) or a list."""
    rows = panel.rows(values)
    if panel.form.kind == "list":
        return _apart(panel, rows)
    return rows.reshape(np.shape(X)[:2]) if panel.form.kind == "array3" else rows


def new(panel: SeriesPanel, values: np.ndarray, count: int) -> Any:
    """New rows of values (N, |count|, F): after each series' last, or before its first if ``count`` is negative."""
    form = panel.form
    if form.kind not in FRAMES:
        if all(kind.dtype == "bool" or np.dtype(kind.dtype).kind in "iu" for kind in form.kinds):
            values = np.rint(values).astype(form.kinds[0].dtype)
        if form.kind == "list":
            return list(values)
        if form.kind == "array3":
            return values
        return values[0] if form.kind == "array2" else values[0, :, 0]
    frames = []
    for i in range(len(values)):
        columns = {j: kind.column(values[i][:, j]) for j, kind in enumerate(form.kinds)}
        frame = pd.DataFrame(columns).set_axis(list(form.columns), axis=1)
        labels = labels_of(panel, i, count)
        if form.id is not None:
            frame[form.id] = pd.Series([panel.ids[i]] * len(frame))
        if form.time is not None:
            frame[form.time] = labels
        else:
            frame.index = labels
        frames.append(frame)
    out = pd.concat(frames, ignore_index=form.time is not None) if len(frames) > 1 else frames[0]
    if form.kind == "column":
        return out[form.columns[0]]
    return out[[c for c in form.order if c in out.columns]]


def labels_of(panel: SeriesPanel, i: int, count: int) -> pd.Index:
    """Labels of new rows of a series."""
    form = panel.form
    if form.labels is None:
        rows = int((panel.series == i).sum())
        return pd.RangeIndex(rows, rows + count) if count > 0 else pd.RangeIndex(count, 0)
    return form.labels.write(stamps_of(panel, i, count))


def stamps_of(panel: SeriesPanel, i: int, count: int) -> pd.DatetimeIndex:
    """Stamps of new rows of a series, without a zone."""
    first, last = panel.stamps[i]
    return panel.form.grid.beyond(last if count > 0 else first, count)


def places_of(panel: SeriesPanel, count: int) -> np.ndarray:
    """Where new rows lie, in steps from each series' first, (N, |count|)."""
    out = np.empty((len(panel.ids), abs(count)), np.int64)
    for i in range(len(out)):
        if panel.form.labels is None:
            out[i] = panel.size[i] + np.arange(count) if count > 0 else np.arange(count, 0)
        else:
            out[i] = panel.form.grid.steps(stamps_of(panel, i, count)) - int(panel.start[i])
    return out


def _apart(panel: SeriesPanel, rows: np.ndarray) -> list[np.ndarray]:
    """Rows of each series, in order: arrays have them one after the other."""
    return np.split(rows, np.cumsum(np.bincount(panel.series, minlength=len(panel.ids)))[:-1])


def known_of(panel: SeriesPanel, n: int, known: Any) -> np.ndarray:
    """What is known of the next n rows of each series, (N, n, F), NaN where nothing is.

    ValueError, naming ``known``, where its rows are not these: one too few, or stamps that are not the next ones.
    """
    form = panel.form
    count, f = len(panel.ids), len(form.columns)
    out = np.full((count, n, f), np.nan)
    if known is None:
        return out
    if not isinstance(known, pd.DataFrame):
        array = np.asarray(known, dtype=np.float64)
        if array.size != out.size:
            raise ValueError(
                f"known must have the n = {n} rows that are asked for, shape {out.shape}, got {array.shape}"
            )
        check_positions(array.reshape(out.shape), form, "known")
        return array.reshape(out.shape)
    odd = [c for c in known.columns if c not in (*form.columns, form.id, form.time)]
    if odd:
        raise ValueError(f"known has columns {odd} that the training data had not")
    if len(known) != n * count:
        each = f" for each of {count} series" if count > 1 else ""
        raise ValueError(f"known must have the n = {n} rows that are asked for{each}, got {len(known)}")
    full = _stamped(panel, n, known).reindex(columns=list(form.order))
    some = read(full.reset_index(drop=True) if form.labels is None else full, form, "known")
    for i, own in enumerate(panel.ids):
        if own is not None and form.id is not None and own not in some.ids:
            raise ValueError(f"known has no row of series {own!r}")
        j = some.ids.index(own) if form.id is not None else i
        rows = some.rows(some.values)[some.series == j]
        if form.labels is not None:
            expected = stamps_of(panel, i, n)
            got = some.stamps[j]
            if len(rows) != n or got[0] != expected[0] or got[1] != expected[-1]:
                past = " It overlaps the past." if got[0] <= panel.stamps[i][1] else ""
                raise ValueError(
                    f"known must hold the n = {n} rows from {expected[0]} to {expected[-1]}, got {len(rows)} from {got[0]} to "
                    f"{got[1]}.{past}"
                )
            rows = rows[np.argsort(some.place[some.series == j])]
        out[i] = rows
    return out


def _stamped(panel: SeriesPanel, n: int, known: pd.DataFrame) -> pd.DataFrame:
    """``known`` with stamps of the next n rows of each series, if their column was left out."""
    form = panel.form
    if form.time is None or form.time in known.columns:
        return known
    labels = {own: labels_of(panel, i, n) for i, own in enumerate(panel.ids)}
    if form.id is None:
        return known.assign(**{form.time: labels[panel.ids[0]]})
    if form.id not in known.columns:
        raise ValueError(
            f"known has no column {form.id!r} that tells the series apart, got {list(known.columns)}"
        )
    place = known.groupby(form.id, sort=False).cumcount()
    odd = [own for own in known[form.id].unique() if own not in labels]
    if odd or place.max() >= n:
        raise ValueError(
            f"known must have {n} rows of each series of the data, got series {odd} or more rows of one"
        )
    stamps = [labels[own][k] for own, k in zip(known[form.id], place, strict=True)]
    return known.assign(**{form.time: stamps})


def make_of(X: Any) -> str | None:
    """Which library of frames X is of: "polars", "pyarrow" ...; None for arrays and pandas."""
    if isinstance(X, pd.DataFrame | pd.Series | np.ndarray | list | tuple):
        return None
    frame = nw.from_native(X, pass_through=True)
    return str(frame.implementation.name).lower() if isinstance(frame, nw.DataFrame) else None


def made(answer: Any, make: str | None) -> Any:
    """A new frame as one of that library."""
    if make is None or not isinstance(answer, pd.DataFrame):
        return answer
    table = pa.Table.from_pandas(answer, preserve_index=False)
    return table if make == "pyarrow" else nw.from_arrow(table, backend=cast(Any, make)).to_native()


def check_size(panel: SeriesPanel) -> None:
    """Refuse training data that hold nothing to learn from."""
    if not panel.mask.any():
        raise ValueError("X has no observed cell at all: every value is missing")
    if not len(panel.size) or panel.size.max() < 2:
        raise ValueError(
            f"X must have at least 2 steps, got {int(panel.size.max()) if len(panel.size) else 0}"
        )
