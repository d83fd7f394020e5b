"""Tables too large for memory: read a chunk of rows at a time, sampled, and written a chunk at a time.

A :class:`TableFile` looks at the whole file once (of Parquet only at its footer), so that every chunk has the same columns
and dtypes that the whole file read by :func:`abduce.data.readers.read` would have, however the blanks lie.

    Parquet    the dtypes are those of the file's own schema
    CSV, TSV   the dtypes of a column's chunks are joined: Int64 and Float64 make Float64, anything and text make text

Writing is all or nothing, as in :mod:`abduce.data.readers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from abduce.data.readers import TABLES, _atomic, _suffix, naming, text_options, write_text

ROWS = 65_536  # most rows of a chunk
CELLS = 2**20  # and its most cells
_BUFFER = 2**18  # bytes read from a Parquet column at a time

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


class Chunk(NamedTuple):
    """Rows of a table from ``start`` on; ``table`` is what a Parquet file holds of them, None for text."""

    start: int
    frame: pd.DataFrame
    table: pa.Table | None


def is_table(path: str | os.PathLike) -> bool:
    """Tell by its name whether a file is a table that can be read in chunks.

    >>> is_table("big.parquet"), is_table("digits.npy")
    (True, False)
    """
    path = Path(path)
    return _suffix(path) in TABLES and not path.is_dir()


class TableFile:
    """A CSV, TSV or Parquet file, a chunk of rows at a time.

    ``rows`` counts its rows, ``columns`` names its columns; ``schema`` is the Arrow schema of a Parquet file, None for text.
    Raises FileNotFoundError, or ValueError naming the path for an unknown suffix, an empty or an unreadable file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.suffix = _suffix(self.path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        if not is_table(self.path):
            raise ValueError(f"{self.path} is no table; expected {', '.join(TABLES)}")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{self.path} is empty")
        self.schema: pa.Schema | None = None
        self._dtypes: dict[str, str | None] = {}
        with naming(self.path, self.suffix):
            if self.suffix == ".parquet":
                with self._parquet() as file:
                    self.rows = file.metadata.num_rows
                    schema: pa.Schema = file.schema_arrow
                    self.columns = [str(c) for c in _to_frame(schema.empty_table()).columns]
                    self.schema = schema
            else:
                self._scan_text()
        if not self.rows:
            raise ValueError(f"{self.path} has no rows")

    def chunk_rows(self) -> int:
        """Count the rows that keep a chunk to :data:`CELLS` cells, at most :data:`ROWS` of them."""
        return max(1, min(ROWS, CELLS // max(1, len(self.columns))))

    def chunks(self, rows: int | None = None) -> Iterator[Chunk]:
        """Read chunks of ``rows`` rows (default: :meth:`chunk_rows`), the last one shorter."""
        rows = self.chunk_rows() if rows is None else rows
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        start = 0
        for table, frame in self._tables(rows) if self.schema is not None else self._texts(rows):
            yield Chunk(start, frame, table)
            start += len(frame)

    def sample(self, n: int, seed: int = 0, rows: int | None = None) -> pd.DataFrame:
        """Draw ``n`` different rows uniformly, all sets of n alike; they stay in the order of the file.

        Places are drawn first, the number of rows being known, then the file is read once; memory holds a chunk and the
        sample.  The same seed draws the same rows, whatever the chunks.  All rows if there are no more than n.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        rng = np.random.default_rng(seed)
        wanted = np.arange(self.rows) if n >= self.rows else np.sort(rng.choice(self.rows, n, replace=False))
        tables: list[pa.Table] = []
        frames: list[pd.DataFrame] = []
        rows = self.chunk_rows() if rows is None else rows
        start = 0
        for part in self._arrow(rows) if self.schema is not None else self._texts(rows):
            some: Any = part[1] if isinstance(part, tuple) else part
            low, high = np.searchsorted(wanted, [start, start + len(some)])
            start += len(some)
            if low == high:
                continue
            places = wanted[low:high] - (start - len(some))
            if isinstance(some, pa.Table):
                tables.append(some.take(places))
            else:
                frames.append(some.iloc[places])
        if self.schema is not None:
            return _to_frame(pa.concat_tables(tables))
        return pd.concat(frames, ignore_index=True)

    # ------------------------------------------------------------ Parquet

    @contextmanager
    def _parquet(self) -> Iterator[pq.ParquetFile]:
        file = pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
        try:
            yield file
        finally:
            file.close()

    def _arrow(self, rows: int) -> Iterator[pa.Table]:
        """Tables of ``rows`` rows, whatever the file's row groups are."""
        assert self.schema is not None
        with naming(self.path, self.suffix), self._parquet() as file:
            held: list[pa.RecordBatch] = []
            count = 0
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                held.append(batch)
                count += len(batch)
                while count >= rows:
                    table = pa.Table.from_batches(held).replace_schema_metadata(self.schema.metadata)
                    yield table.slice(0, rows)
                    held = table.slice(rows).to_batches()
                    count -= rows
            if count:
                yield pa.Table.from_batches(held).replace_schema_metadata(self.schema.metadata)

    def _tables(self, rows: int) -> Iterator[tuple[pa.Table, pd.DataFrame]]:
        for table in self._arrow(rows):
            yield table, _to_frame(table)

    # ------------------------------------------------------------ text

    def _text(self, rows: int, **options: Any) -> Iterator[pd.DataFrame]:
        reader: Any = pd.read_csv(self.path, chunksize=rows, **text_options(self.suffix), **options)
        with reader:
            yield from reader

    def _scan_text(self) -> None:
        """Count rows, and find the dtype that each column has in the whole file."""
        seen: dict[str, set[str]] = {}
        self.rows = 0
        for frame in self._text(ROWS):
            self.rows += len(frame)
            for name in frame.columns:
                found = seen.setdefault(name, set())
                if bool(frame[name].notna().to_numpy().any()):  # blanks alone have any dtype
                    found.add(str(frame[name].dtype))
        self.columns = [str(c) for c in seen]
        self._dtypes = {name: _join(found) for name, found in seen.items()}
        # what looks like a number in one chunk has to be read as the text that it is in the file
        self._as_text = {
            name: "string"
            for name, found in seen.items()
            if self._dtypes[name] == "string" and found != {"string"}
        }

    def _texts(self, rows: int) -> Iterator[tuple[None, pd.DataFrame]]:
        with naming(self.path, self.suffix):
            for frame in self._text(rows, dtype=self._as_text):
                different = {
                    name: dtype
                    for name, dtype in self._dtypes.items()
                    if dtype is not None and str(frame[name].dtype) != dtype
                }
                yield None, frame.astype(different) if different else frame


def _join(dtypes: set[str]) -> str | None:
    """The dtype that holds what chunks of a text column held; None where all were blank."""
    if len(dtypes) <= 1:
        return next(iter(dtypes), None)
    if dtypes <= {"Int64", "UInt64", "Float64"}:
        return "Float64" if "Float64" in dtypes else "UInt64"
    return "string"


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """The same frame as `pandas.read_parquet` with nullable dtypes gives."""
    return table.to_pandas(types_mapper=_NULLABLE.get)


# ---------------------------------------------------------------- write


def write(path: str | os.PathLike, pieces: Iterable[Any], schema: pa.Schema | None = None) -> Path:
    """Write pieces of a table one after the other to a file that appears only once it is complete; returns the path.

    ``pieces`` are frames, or Arrow tables of ``schema`` for Parquet; without a schema that of the first piece.  Whatever
    the pieces raise, nothing is left under ``path``.  Raises ValueError for an unknown suffix, FileNotFoundError if the
    folder is not there.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write into")
    if not is_table(path):
        raise ValueError(f"{path} is no table; expected {', '.join(TABLES)}")
    suffix = _suffix(path)
    if suffix == ".parquet":
        return _atomic(path, lambda file: _write_parquet(file, pieces, schema))
    return _atomic(path, lambda file: write_text(file, pieces, suffix))


def _write_parquet(file: IO[bytes], pieces: Iterable[Any], schema: pa.Schema | None) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for piece in pieces:
            if isinstance(piece, pa.Table):
                table = piece
            else:
                table = pa.Table.from_pandas(piece.rename(columns=str), schema=schema, preserve_index=False)
            if writer is None:
                schema = schema or table.schema
                writer = pq.ParquetWriter(file, schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def retyped(schema: pa.Schema, types: dict[str, pa.DataType]) -> pa.Schema:
    """The schema with other types for some columns, in pandas' own notes on it too.

    >>> retyped(pa.schema([("a", pa.int64())]), {"a": pa.float64()}).field("a").type
    DataType(double)
    """
    for name, kind in types.items():
        place = schema.get_field_index(name)
        schema = schema.set(place, schema.field(place).with_type(kind))
    metadata = dict(schema.metadata or {})
    if types and b"pandas" in metadata:
        notes = json.loads(metadata[b"pandas"])
        for column in notes.get("columns", []):
            if column.get("field_name", column.get("name")) in types:
                fresh = types[column.get("field_name", column.get("name"))]
                plain = pa.array([], fresh).to_pandas()
                column |= {"pandas_type": str(plain.dtype), "numpy_type": str(plain.dtype), "metadata": None}
        metadata[b"pandas"] = json.dumps(notes).encode()
        schema = schema.with_metadata(metadata)
    return schema
