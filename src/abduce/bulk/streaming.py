"""Filling a table of any length: a chunk of rows in, a chunk of rows out.

The file is looked through first: every cell must be one that the model takes, so that an error comes before any output,
and the types that the answer needs are known.  Then one reader hands rows with blanks to the model, in groups that do not
depend on the chunks, and a second one puts its answers where the blanks are.  The answer is that of the whole table at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from abduce.bulk.halving import by_halves
from abduce.data import streams
from abduce.data.arrow import column_like
from abduce.data.columns import build_column, put
from abduce.data.fields import Field
from abduce.data.files import ARROWS
from abduce.data.shards import Shard, Shards
from abduce.data.text import rewritten

GROUP = 8192  # rows with blanks that the model fills at once: a multiple of the chunks that inference runs in


Filled = Iterator[tuple[streams.Chunk, dict[Any, Any]]]


class Inspection(NamedTuple):
    """What looking through some rows found: ``blank`` cells, and of them the ``modelled`` in columns of the model by their
    labels, rows with any of these (``gaps``), and the labels of columns of ``whole`` numbers."""

    blank: int
    modelled: dict[Any, int]
    gaps: int
    whole: frozenset[Any]

    @classmethod
    def joined(cls, looks: Sequence[Inspection]) -> Inspection:
        """What was found in all."""
        modelled: dict[Any, int] = {}
        for look in looks:
            for label, count in look.modelled.items():
                modelled[label] = modelled.get(label, 0) + count
        whole = frozenset[Any]().union(*(look.whole for look in looks))
        return cls(sum(look.blank for look in looks), modelled, sum(look.gaps for look in looks), whole)


class Filling:
    """A table in files and the model that fills it.

    A single file is looked through when this is made; of many files each can be, by whoever (:meth:`look`), and what was found
    in all is then told to each (:meth:`learn`).
    ``show`` is told what is being done, how many rows are done and how many there are; ``rows`` are read at once (None: what
    suits the file).  ValueError names a column and a value that the model does not take.
    """

    def __init__(
        self,
        source: streams.TableFile | Shards,
        fitted: Any,
        show: Callable[[str, int, int], Any],
        rows: int | None = None,
    ) -> None:
        self.source, self.fitted, self.show, self.rows = source, fitted, show, rows
        self.fields: list[tuple[Any, Field]] = []  # label in the file, field of the model
        self.blank = 0  # cells of the table
        self.filled = 0  # of them, once it is written
        self.modelled: dict[Any, int] = {}  # blank cells of each column of the model
        self.widened: set[Any] = set()  # columns of whole numbers that get fractions
        self.untyped: set[Any] = set()  # columns without a value, whose type says nothing
        if not isinstance(source, Shards):
            self.learn(self.look(source.chunks(rows)))

    def look(self, chunks: Iterator[streams.Chunk]) -> Inspection:
        """Check every row of chunks against the model, and count the blanks; ValueError names the column and the value."""
        blank, gaps = 0, 0
        modelled: dict[Any, int] = {}
        whole: frozenset[Any] = frozenset()
        for chunk in chunks:
            check_rows(self.fitted, self.source, chunk)
            labels = [label for label, _ in self._fields(chunk.frame)]
            missing: Any = chunk.frame.isna()
            blank += int(missing.to_numpy().sum())
            for label in labels:
                modelled[label] = modelled.get(label, 0) + int(missing[label].sum())
            gaps += int(missing[labels].any(axis=1).sum())
            whole = frozenset(c for c in labels if pd.api.types.is_integer_dtype(chunk.frame[c]))
            self.show("checking", chunk.start + len(chunk.frame), self.source.rows)
        return Inspection(blank, modelled, gaps, whole)

    def _fields(self, frame: pd.DataFrame) -> list[tuple[Any, Field]]:
        if not self.fields:
            labels = {str(c): c for c in frame.columns}
            schema = self.fitted.schema_
            constant = [f for f in schema.left_out if f.kind == "constant"]  # filled with their one value
            self.fields = [(labels[f.name], f) for f in (*schema.fields, *constant)]
        return self.fields

    def learn(self, found: Inspection) -> None:
        """Take what was found in all rows."""
        if not self.fields:
            self._fields(next(iter(self.source.chunks(self.rows))).frame)
        self.blank = found.blank
        self.modelled = {label: found.modelled.get(label, 0) for label, _ in self.fields}
        for label, known in self.fields:
            if not self.modelled[label]:
                continue
            numbers = known.dtype.lower().startswith(("int", "uint", "float", "object[int", "object[float"))
            if self.source.schema is None:
                typed = numbers or self.modelled[label] < self.source.rows
            else:
                typed = not pa.types.is_null(self.source.schema.field(str(label)).type)
            if not typed:
                self.untyped.add(label)
            elif label in found.whole and _fractional(known):
                self.widened.add(label)

    def write(self, output: str) -> None:
        """Write the table with its blanks filled to a file, or as CSV to standard output for ``-``."""
        text = self.source.text
        if output == "-":
            streams.write_text(sys.stdout, self._frames(), dialect=text and text.dialect)
            return
        target = Path(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = streams.suffix_of(target)
        if self.source.schema is None or suffix not in ARROWS:
            dialect = text.dialect_of(suffix) if text and suffix not in ARROWS else None
            streams.write(target, self._frames(suffix not in ARROWS), dialect=dialect)
            return
        schema = self.schema
        streams.write(target, self._tables(schema), schema)

    def write_shard(self, target: Path, shard: Shard, answers: Iterator[pd.DataFrame]) -> None:
        """Write one of many files with its blanks filled; ``answers`` are its rows with blanks, filled."""
        source: Any = self.source
        filled = self._filled(source.chunks_of(shard, self.rows), answers)
        if source.schema is None:
            dialect = shard.table.text.dialect  # pyright: ignore[reportOptionalMemberAccess]
            streams.write(target, self._frames(True, filled), dialect=dialect, swept=True)
        else:
            streams.write(target, self._tables(self.schema, filled), self.schema, swept=True)

    def with_gaps(self, frame: Any) -> Any:
        """The rows that have a blank which the model fills."""
        return frame[frame[[label for label, _ in self.fields]].isna().to_numpy().any(axis=1)]

    def fill(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns of the model of rows with blanks, filled."""
        return self.fitted.fill(rows)[[label for label, _ in self.fields]]

    @cached_property
    def schema(self) -> pa.Schema:
        """Types of the answer to a file that has types."""
        schema: Any = self.source.schema
        return streams.retyped(schema, self._types(schema))

    def _filled(
        self, chunks: Iterator[streams.Chunk] | None = None, answers: Iterator[pd.DataFrame] | None = None
    ) -> Iterator[tuple[streams.Chunk, dict[Any, Any]]]:
        """Chunks, and the columns of each that had blanks, now without."""
        chunks = self.source.chunks(self.rows) if chunks is None else chunks
        answers = self._answers() if answers is None else answers
        waiting: pd.DataFrame | None = None
        for chunk in chunks:
            frame: Any = chunk.frame
            missing = {label: frame[label].isna().to_numpy(dtype=bool) for label, _ in self.fields}
            gaps = np.logical_or.reduce(list(missing.values()))
            while (0 if waiting is None else len(waiting)) < gaps.sum():
                new = next(answers)
                waiting = new if waiting is None else pd.concat([waiting, new], ignore_index=True)
            columns: dict[Any, Any] = {}
            for label, known in self.fields:
                series: Any = frame[label]
                if label in self.widened:
                    series = series.astype("float64")
                if label in self.untyped:
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
            for label, array in columns.items():
                self.filled += int((missing[label] & ~np.asarray(pd.isna(array), dtype=bool)).sum())
            yield chunk, columns
            self.show("filling", chunk.start + len(frame), self.source.rows)

    def _answers(self) -> Iterator[pd.DataFrame]:
        """The rows with blanks, filled, :data:`GROUP` or a multiple of it at a time."""
        held: list[pd.DataFrame] = []
        count = 0
        for chunk in self.source.chunks(self.rows):
            some: Any = self.with_gaps(chunk.frame)
            held.append(some)
            count += len(some)
            if count >= GROUP:
                some = pd.concat(held, ignore_index=True)
                whole = count // GROUP * GROUP
                held, count = [some.iloc[whole:]], count - whole
                yield by_halves(self.fill, some.iloc[:whole].reset_index(drop=True))
        if count:
            yield by_halves(self.fill, pd.concat(held, ignore_index=True))

    def _frames(self, written: bool = True, filled: Filled | None = None) -> Iterator[pd.DataFrame]:
        """Frames to write; of text, for text, what was there is as it was written."""
        text = self.source.text if written else None
        for chunk, columns in self._filled() if filled is None else filled:
            frame = chunk.frame.copy(deep=False)
            if text is not None:
                frame = chunk.table.to_pandas(types_mapper=lambda _: pd.StringDtype())
            for label, array in columns.items():
                if text is not None:
                    cells, before = chunk.table.column(str(label)), chunk.frame[label]
                    array = rewritten(cells, before, pd.Series(array), text.form(str(label)))
                frame[label] = array
            yield frame

    def _tables(self, schema: pa.Schema, filled: Filled | None = None) -> Iterator[pa.Table]:
        """Arrow tables: columns without blanks pass as they are."""
        for chunk, columns in self._filled() if filled is None else filled:
            table = chunk.table
            for label, array in columns.items():
                place = schema.get_field_index(str(label))
                kind = schema.field(place).type
                try:
                    new = column_like(table.column(place), kind, chunk.frame[label], pd.Series(array))
                except pa.ArrowException as error:
                    raise ValueError(
                        f"column {label!r}: what the model fills in does not fit the type {kind} of {self.source.path}:"
                        f" {error}"
                    ) from error
                table = table.set_column(place, schema.field(place), new)
            yield table.cast(schema) if table.schema != schema else table

    def _types(self, schema: pa.Schema) -> dict[str, pa.DataType]:
        """Columns of the answer that need another type than the file has."""
        types = {str(label): pa.float64() for label in self.widened}
        for label, known in self.fields:
            if label in self.untyped:
                types[str(label)] = pa.array(build_column(known, np.zeros(1, np.int64))).type
        return {name: kind for name, kind in types.items() if kind != schema.field(name).type}


def check_rows(fitted: Any, source: Any, chunk: streams.Chunk) -> None:
    """Refuse rows that the model does not take, by ValueError naming the file and, but for the first, the row."""
    try:
        fitted._encode(chunk.frame)
    except ValueError as error:
        path, row = source.where(chunk.start)
        many = isinstance(source, Shards)
        place = f" (rows counted from row {row} of {path})" if row or many else ""
        raise ValueError(f"{error}{place}") from error


def _fractional(known: Field) -> bool:
    return known.kind in ("real", "positive", "pixel") and not known.integral and not known.whole
