"""Filling a table of any length: a chunk of rows in, a chunk of rows out.

The file is looked through first: every cell must be one that the model takes, so that an error comes before any output,
and the types that the answer needs are known.  Then one reader hands rows with blanks to the model, in groups that do not
depend on the chunks, and a second one puts its answers where the blanks are.  The answer is that of the whole table at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from abduce.data import streams
from abduce.data.columns import build_column, put
from abduce.data.fields import Field

GROUP = 4096  # rows with blanks that the model fills at once: a multiple of the chunks that inference runs in
Show = Callable[[str, int, int], None]


@dataclass
class Plan:
    """What a look through the whole file found out."""

    fields: list[tuple[Any, Field]]  # label in the file, field of the model
    blank: int = 0  # cells of the table
    modelled: dict[Any, int] = field(default_factory=dict)  # blank cells of each column of the model
    widened: set = field(default_factory=set)  # columns of whole numbers that get fractions
    untyped: set = field(default_factory=set)  # columns without a value, whose type says nothing


def look_through(source: streams.TableFile, fitted: Any, show: Show, rows: int | None = None) -> Plan:
    """Check every row against the model, and count the blanks; ValueError names the column and the value."""
    plan = Plan([])
    for chunk in source.chunks(rows):
        try:
            fitted._encode(chunk.frame)
        except ValueError as error:
            place = f" (rows counted from row {chunk.start} of {source.path})" if chunk.start else ""
            raise ValueError(f"{error}{place}") from error
        if not plan.fields:
            labels = {str(c): c for c in chunk.frame.columns}
            plan.fields = [(labels[f.name], f) for f in fitted.schema_.fields]
            plan.modelled = dict.fromkeys((label for label, _ in plan.fields), 0)
        missing: Any = chunk.frame.isna()
        plan.blank += int(missing.to_numpy().sum())
        for label, _ in plan.fields:
            plan.modelled[label] += int(missing[label].sum())
        show("checking", chunk.start + len(chunk.frame), source.rows)
        types = chunk.frame.dtypes
    for label, known in plan.fields:
        if not plan.modelled[label]:
            continue
        numbers = known.dtype.lower().startswith(("int", "uint", "float", "object[int", "object[float"))
        if source.schema is None:
            typed = numbers or plan.modelled[label] < source.rows
        else:
            typed = not pa.types.is_null(source.schema.field(str(label)).type)
        if not typed:
            plan.untyped.add(label)
        elif pd.api.types.is_integer_dtype(types[label]) and _fractional(known):
            plan.widened.add(label)
    return plan


def _fractional(known: Field) -> bool:
    return known.kind in ("real", "positive", "pixel") and not known.integral


def fill(
    source: streams.TableFile, fitted: Any, plan: Plan, output: str, show: Show, rows: int | None = None
) -> None:
    """Write the table with its blanks filled to a file, or as CSV to standard output for ``-``."""
    if output == "-":
        streams.write_text(sys.stdout, _frames(source, fitted, plan, show, rows))
        return
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.schema is None or not target.name.lower().endswith(".parquet"):
        streams.write(target, _frames(source, fitted, plan, show, rows))
        return
    schema = streams.retyped(source.schema, _types(source.schema, plan))
    streams.write(target, _tables(source, fitted, plan, schema, show, rows), schema)


def _filled(
    source: streams.TableFile, fitted: Any, plan: Plan, show: Show, rows: int | None
) -> Iterator[tuple[streams.Chunk, dict[Any, Any]]]:
    """Chunks, and the columns of each that had blanks, now without."""
    answers = _answers(source, fitted, plan, rows)
    waiting: pd.DataFrame | None = None
    for chunk in source.chunks(rows):
        frame: Any = chunk.frame
        missing = {label: frame[label].isna().to_numpy(dtype=bool) for label, _ in plan.fields}
        gaps = np.logical_or.reduce(list(missing.values()))
        while (0 if waiting is None else len(waiting)) < gaps.sum():
            new = next(answers)
            waiting = new if waiting is None else pd.concat([waiting, new], ignore_index=True)
        columns: dict[Any, Any] = {}
        for label, known in plan.fields:
            series: Any = frame[label]
            if label in plan.widened:
                series = series.astype("float64")
            if label in plan.untyped:
                nothing = np.zeros(len(series), dtype=bool)
                series = pd.Series(build_column(known, nothing.astype(np.int64), nothing))
            if missing[label].any():
                assert waiting is not None
                new = waiting[label].iloc[: gaps.sum()][missing[label][gaps]].array
                columns[label] = put(series, missing[label], new)
            elif series is not frame[label]:
                columns[label] = series.array
        if waiting is not None:
            waiting = waiting.iloc[gaps.sum() :].reset_index(drop=True)
        yield chunk, columns
        show("filling", chunk.start + len(frame), source.rows)


def _answers(source: streams.TableFile, fitted: Any, plan: Plan, rows: int | None) -> Iterator[pd.DataFrame]:
    """The rows with blanks, filled, :data:`GROUP` or a multiple of it at a time."""
    labels = [label for label, _ in plan.fields]
    held: list[pd.DataFrame] = []
    count = 0
    for chunk in source.chunks(rows):
        gaps = chunk.frame[labels].isna().to_numpy().any(axis=1)
        some: Any = chunk.frame[gaps]
        held.append(some)
        count += int(gaps.sum())
        if count >= GROUP:
            some = pd.concat(held, ignore_index=True)
            whole = count // GROUP * GROUP
            held, count = [some.iloc[whole:]], count - whole
            yield fitted.fill(some.iloc[:whole].reset_index(drop=True))[labels]
    if count:
        yield fitted.fill(pd.concat(held, ignore_index=True))[labels]


def _frames(
    source: streams.TableFile, fitted: Any, plan: Plan, show: Show, rows: int | None
) -> Iterator[pd.DataFrame]:
    for chunk, columns in _filled(source, fitted, plan, show, rows):
        frame = chunk.frame.copy(deep=False)
        for label, array in columns.items():
            frame[label] = array
        yield frame


def _tables(
    source: streams.TableFile, fitted: Any, plan: Plan, schema: pa.Schema, show: Show, rows: int | None
) -> Iterator[pa.Table]:
    """Arrow tables: columns without blanks pass as they are."""
    for chunk, columns in _filled(source, fitted, plan, show, rows):
        table = chunk.table
        assert table is not None
        for label, array in columns.items():
            place = schema.get_field_index(str(label))
            kind = schema.field(place).type
            try:
                new = pa.array(array, type=kind, from_pandas=True)
            except pa.ArrowException as error:
                raise ValueError(
                    f"column {label!r}: what the model fills in does not fit the type {kind} of {source.path}: {error}"
                ) from error
            table = table.set_column(place, schema.field(place), new)
        yield table.cast(schema) if table.schema != schema else table


def _types(schema: pa.Schema, plan: Plan) -> dict[str, pa.DataType]:
    """Columns of the answer that need another type than the file has."""
    types = {str(label): pa.float64() for label in plan.widened}
    for label, known in plan.fields:
        if label in plan.untyped:
            types[str(label)] = pa.array(build_column(known, np.zeros(1, np.int64))).type
    return {name: kind for name, kind in types.items() if kind != schema.field(name).type}
