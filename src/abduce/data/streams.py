"""Tables too large for memory: read and written a chunk of rows at a time.

A :class:`TableFile` looks at the whole file once (of Parquet only at its footer), so that every chunk has the same columns
and dtypes that the whole file read by :func:`abduce.data.readers.read` would have, however the blanks lie.

    Parquet, Arrow    the dtypes are those of the file's own schema
    CSV, TSV          what a column means follows from all of its cells: see :mod:`abduce.data.text`

Writing is all or nothing, as in :mod:`abduce.data.readers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
import pyarrow as pa

from abduce.data.arrow import after, arrow_writer, frame_of, opened_arrow
from abduce.data.dialect import Dialect
from abduce.data.files import ARROWS, TABLES, atomic, check_folder, naming, suffix_of
from abduce.data.text import NoRows, TextFile, write_text

ROWS = 65_536  # most rows of a chunk
CELLS = 2**20  # and its most cells
_BUFFER = 2**18  # bytes read from a Parquet column at a time


class Chunk(NamedTuple):
    """Rows of a table from ``start`` on; ``table`` is what the file holds of them, of CSV the text of every cell."""

    start: int
    frame: pd.DataFrame
    table: pa.Table


def is_table(path: str | os.PathLike) -> bool:
    """Tell by its name whether a file is a table that can be read in chunks.

    >>> is_table("big.parquet"), is_table("digits.npy")
    (True, False)
    """
    path = Path(path)
    return suffix_of(path) in TABLES and not path.is_dir()


class TableFile:
    """A CSV, TSV, Parquet or Arrow file, a chunk of rows at a time.

    ``rows`` counts its rows, ``columns`` names its columns; ``schema`` is that of a Parquet or Arrow file, None for text,
    of which ``text`` says how it is written; ``na`` are words that mean a blank in text.
    Raises FileNotFoundError, or ValueError naming the path for an unknown suffix, an unreadable file, or one without rows,
    unless it may be ``empty``.
    """

    def __init__(self, path: str | os.PathLike, na: Iterable[str] = (), empty: bool = False):
        self.path = Path(path)
        self.suffix = suffix_of(self.path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        if not is_table(self.path):
            raise ValueError(f"{self.path} is no table; expected {', '.join(TABLES)}")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{self.path} is empty")
        self.schema: pa.Schema | None = None
        self.text: TextFile | None = None
        with naming(self.path, self.suffix):
            if self.suffix in ARROWS:
                with opened_arrow(self.path, self.suffix, _BUFFER) as file:
                    self.rows, self.schema = file.rows, file.schema
                    self.columns = [str(c) for c in frame_of(file.schema.empty_table()).columns]
            else:
                self._look_through(TextFile(self.path, self.suffix, na), empty)
        if not self.rows and not empty:
            raise ValueError(f"{self.path} has no rows")

    def chunk_rows(self) -> int:
        """Count the rows that keep a chunk to :data:`CELLS` cells, at most :data:`ROWS` of them."""
        return max(1, min(ROWS, CELLS // max(1, len(self.columns))))

    def where(self, row: int) -> tuple[str, int]:
        """The file that a row is in, and its place there."""
        return str(self.path), row

    def at(self, path: Path) -> TableFile:
        """The same table, read from a copy of the file."""
        other = copy(self)
        other.path, other.text = path, copy(self.text)
        if other.text is not None:
            other.text.path = path
        return other

    def chunks(
        self, rows: int | None = None, schema: pa.Schema | None = None, skip: int = 0
    ) -> Iterator[Chunk]:
        """Read chunks of ``rows`` rows (default: :meth:`chunk_rows`), the last one shorter, from row ``skip`` on; frames are
        of another ``schema`` where one is given."""
        rows = self.chunk_rows() if rows is None else rows
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        start = skip
        for table in self._tables(rows, skip):
            frame = self._frame(table if schema in (None, table.schema) else table.cast(schema))
            if self.text is not None:
                frame.index = pd.RangeIndex(start, start + len(frame))
            yield Chunk(start, frame, table)
            start += len(table)

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        return frame_of(table) if self.text is None else self.text.frame(table)

    def _look_through(self, text: TextFile, empty: bool) -> None:
        """Count rows, and find what each column means in the whole file."""
        self.text, self.columns, self.rows = text, text.names, 0
        try:
            for batch in text.batches():
                self.rows += len(batch)
                text.look(batch)
        except NoRows:
            if not empty:
                raise
        if not empty:  # one of many, which say it together
            text.warn()

    # ------------------------------------------------------------ rows as the file holds them

    def _batches(self, rows: int, skip: int) -> Iterator[pa.RecordBatch]:
        if self.text is not None:
            yield from after(self.text.batches(), skip)
            return
        with opened_arrow(self.path, self.suffix, _BUFFER) as file:
            yield from file.batches(rows, skip)

    def _tables(self, rows: int, skip: int = 0) -> Iterator[pa.Table]:
        """Tables of ``rows`` rows from row ``skip`` on, however the file groups them."""
        schema = self.schema or self.text.schema  # pyright: ignore[reportOptionalMemberAccess]
        with naming(self.path, self.suffix):
            held: list[pa.RecordBatch] = []
            count = 0
            for batch in self._batches(rows, skip):
                held.append(batch)
                count += len(batch)
                if count < rows:
                    continue
                table = pa.Table.from_batches(held).replace_schema_metadata(schema.metadata)
                whole = count // rows * rows
                for start in range(0, whole, rows):
                    yield table.slice(start, rows)
                held = table.slice(whole).to_batches()
                count -= whole
            if count:
                yield pa.Table.from_batches(held).replace_schema_metadata(schema.metadata)


# ---------------------------------------------------------------- write


def write(
    path: str | os.PathLike,
    pieces: Iterable[Any],
    schema: pa.Schema | None = None,
    dialect: Dialect | None = None,
    swept: bool = False,
) -> Path:
    """Write pieces of a table one after the other to a file that appears only once it is complete; returns the path.

    ``pieces`` are frames, or Arrow tables of ``schema`` for Parquet; without a schema that of the first piece.  Text is
    written in a ``dialect``.  Whatever the pieces raise, nothing is left under ``path``.  Raises ValueError for an unknown
    suffix, FileNotFoundError if the folder is not there.
    """
    path = Path(path)
    check_folder(path)
    if not is_table(path):
        raise ValueError(f"{path} is no table; expected {', '.join(TABLES)}")
    suffix = suffix_of(path)
    if suffix in ARROWS:
        return atomic(path, lambda file: _write_arrow(file, pieces, schema, suffix), swept)
    return atomic(path, lambda file: write_text(file, pieces, suffix, dialect), swept)


def _write_arrow(file: IO[bytes], pieces: Iterable[Any], schema: pa.Schema | None, suffix: str) -> None:
    with ExitStack() as stack:
        writer: Any = None
        for piece in pieces:
            if isinstance(piece, pa.Table):
                table = piece
            else:
                table = pa.Table.from_pandas(piece.rename(columns=str), schema=schema, preserve_index=False)
            if writer is None:
                schema = schema or table.schema
                writer = stack.enter_context(arrow_writer(file, schema, suffix, table))
            writer.write_table(table)


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
