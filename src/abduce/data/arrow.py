"""Arrow tables, as Parquet files and other libraries' frames hold them, as data frames; and new values in their types.

| Arrow | data frame |
|---|---|
| whole numbers, floats, bool, text | pandas' nullable dtypes |
| dictionaries | categories |
| dates, timestamps, durations | datetime64, timedelta64 |
| decimals | Float64 |
| times of day | timedelta64 since midnight |
| lists, structures, bytes | objects, which no model reads |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pyarrow import ipc

from abduce.data.text import unchanged

_c: Any = pyarrow.compute
_BATCH = 2**16  # rows
_LOOKED_AT = 4096  # rows of a column by which it is told whether its values repeat
_DAY = {"s": 86400, "ms": 86400 * 10**3, "us": 86400 * 10**6, "ns": 86400 * 10**9}
_NULLABLE: dict[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
    pa.large_string(): pd.StringDtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
}


@contextmanager
def opened_arrow(path: Path, suffix: str, buffer: int = 0) -> Iterator[ArrowRows]:
    """A Parquet or Arrow file, open to be read a batch at a time."""
    if suffix == ".parquet":
        file = pq.ParquetFile(path, buffer_size=buffer, pre_buffer=False)
        try:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]

            def batches(rows: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
                first, over = _place(sizes, skip)
                groups = list(range(first, len(sizes)))
                found = file.iter_batches(batch_size=rows, row_groups=groups, use_threads=False)
                return map(_checked, after(found, over))

            yield ArrowRows(file.schema_arrow, file.metadata.num_rows, batches)
        finally:
            file.close()
        return
    with pa.memory_map(str(path)) as source, ipc.open_file(source) as reader:
        sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]

        def stored(rows: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
            first, over = _place(sizes, skip)
            return map(_checked, after(map(reader.get_batch, range(first, len(sizes))), over))

        yield ArrowRows(reader.schema, sum(sizes), stored)


def _place(sizes: list[int], skip: int) -> tuple[int, int]:
    """The part of a file that row ``skip`` is in, and its place there."""
    first = 0
    while first < len(sizes) and skip >= sizes[first]:
        skip -= sizes[first]
        first += 1
    return first, skip


def after(batches: Iterable[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    """Batches without their first ``skip`` rows."""
    for batch in batches:
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(0, skip - len(batch))


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows whose places in the file lie in it: reading is by address, so that others would end the process."""
    batch.validate(full=True)
    return batch


def read_arrow(path: Path, suffix: str) -> pa.Table:
    """A whole Parquet or Arrow file."""
    with opened_arrow(path, suffix) as file:
        return pa.Table.from_batches(list(file.batches(_BATCH)), file.schema)


@contextmanager
def arrow_writer(file: IO[bytes], schema: pa.Schema, suffix: str, first: pa.Table) -> Iterator[Any]:
    """Something whose ``write_table`` writes tables to an open file, of which ``first`` is one, in the form that the suffix
    says."""
    if suffix == ".parquet":
        repeating: Any = _repeating(first)
        writer: Any = pq.ParquetWriter(file, schema, use_dictionary=repeating)
    else:
        writer = ipc.new_file(file, schema)
    try:
        yield writer
    finally:
        writer.close()


def _repeating(table: pa.Table) -> list[str] | bool:
    """Columns whose values a dictionary pays for: not numbers that are nearly all different, which take ten times as long to
    write with one, and more room.  All of them where some are lists or structures, parts of which have names of their own."""
    if any(pa.types.is_nested(field.type) for field in table.schema):
        return True
    some = table.slice(0, _LOOKED_AT)
    number = [pa.types.is_floating(field.type) for field in table.schema]
    return [
        name
        for name, column, floats in zip(some.column_names, some.columns, number, strict=True)
        if not floats or 2 * _c.count_distinct(column).as_py() < len(column)
    ]


class ArrowRows(NamedTuple):
    """An open file: its schema, how many rows it has, and ``batches(rows, skip)`` of about so many, from a row on."""

    schema: pa.Schema
    rows: int
    batches: Callable[..., Iterator[pa.RecordBatch]]


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The values of a table; ordinary columns as `pandas.read_parquet` with nullable dtypes gives them."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if (plain := inward(column)) is not column:
            table = table.set_column(place, pa.field(field.name, plain.type), plain)
    return table.to_pandas(types_mapper=_NULLABLE.get)


def inward(column: Any) -> Any:
    """A column in a type that has a pandas dtype; itself where it has one, or where none would do."""
    kind = column.type
    if pa.types.is_date(kind):
        return (
            column.cast(pa.timestamp("s"), safe=False)
            if kind == pa.date32()
            else column.cast(pa.timestamp("ms"))
        )
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_time(kind):
        return column.cast(_ticks(kind)).cast(pa.int64()).cast(pa.duration(kind.unit))
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if kind == pa.string_view():
        return column.cast(pa.large_string())
    return column


def outward(values: Any, kind: pa.DataType) -> Any:
    """New values in an Arrow type, rounded to what it can hold; ArrowException where it holds nothing like them."""
    if pa.types.is_time(kind):
        most = _DAY[kind.unit] - 1
        ticks = _c.min_element_wise(
            _c.max_element_wise(values.cast(pa.duration(kind.unit), safe=False).cast(pa.int64()), 0), most
        )
        return ticks.cast(_ticks(kind)).cast(kind)
    if pa.types.is_decimal(kind):
        return _c.round(values.cast(pa.float64()), kind.scale).cast(kind, safe=False)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return values.cast(kind, safe=False)
    return values.cast(kind)


def _ticks(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def column_like(old: Any, kind: pa.DataType, before: Any, after: Any) -> Any:
    """A column of type ``kind``: cells of ``old`` where the value is as before or there is none now, else the new ones."""
    fresh = ~unchanged(before, after) & after.notna().to_numpy(dtype=bool)
    kept = old.cast(kind) if old.type != kind else old
    if not fresh.any():
        return kept
    if pa.types.is_dictionary(kind):
        return pa.array(after.array, type=kind, from_pandas=True)
    new = outward(pa.array(after[fresh].array, from_pandas=True), kind)
    places = np.arange(len(kept))
    places[fresh] = len(kept) + np.arange(int(fresh.sum()))
    return pa.chunked_array([*_chunks(kept), *_chunks(new)], kind).take(pa.array(places))


def _read(kind: pa.DataType) -> bool:
    """Whether a model may read a column of this type."""
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _chunks(values: Any) -> list:
    return values.chunks if isinstance(values, pa.ChunkedArray) else [values]


def table_like(table: pa.Table, before: pd.DataFrame, after: pd.DataFrame) -> pa.Table:
    """The values ``after`` as a table of the same columns and types; whole numbers that got fractions become float64."""
    before = before.reset_index(drop=True)
    names = {str(label): label for label in after.columns}
    for place, field in enumerate(table.schema):
        label = names.get(field.name)
        if label is None or field.name not in before.columns or not _read(field.type):
            continue
        new: Any = after[label].reset_index(drop=True)
        kind = field.type
        if pa.types.is_null(kind):
            kind = pa.array(new.array, from_pandas=True).type
        elif pa.types.is_integer(kind) and pd.api.types.is_float_dtype(new.dtype):
            kind = pa.float64()
        column = column_like(table.column(place), kind, before[field.name], new)
        table = table.set_column(place, field.with_type(kind), column)
    return table
