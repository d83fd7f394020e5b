"""A table in many files: a folder, a pattern or an address of CSV, Parquet or Arrow files, read as the one table they are.

    data/                     every table in the folder and below it, in the order of their names
    data/2024-*.parquet       those that match
    s3://bucket/data/         by fsspec, as are gs://, hdfs://, file:// and memory://
    a pyarrow.dataset         its fragments

Rows are those of all files one after the other, whatever the cut: a sample is of the same rows as that of one file that holds
them all.  Before any work the files are looked through, and what would spoil it is named with the file: other columns, a
number in one file and text in another, other units of time, a file that comes twice, that is empty or can't be read.  Names
that begin with ``.`` or ``_`` are no data.  Files that are not on this machine are copied here one at a time while they are
read.
"""

from __future__ import annotations

import os
import warnings
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import union_categoricals

from abduce.data.facts import TableFacts
from abduce.data.fields import listing
from abduce.data.files import Clear, suffix_of
from abduce.data.located import Shard, address_of, is_dataset, is_many, located
from abduce.data.partitioned import is_partitioned, name_of, spilled
from abduce.data.streams import CELLS, ROWS, Chunk, TableFile, is_table

_spilled: dict[int, Shards] = {}  # of data sets of other libraries that live, by their ids
MOST_CELLS = 2_000_000  # that a fit takes where nothing is said
LEAST_ROWS = 50_000  # that it takes however wide they are
SHOWING = 10  # one row in so many at the most shows what the others lack


class Shards:
    """A table in many files; chunks as of a :class:`~abduce.data.streams.TableFile`, none of which goes over two of them.

    ``rows`` counts all rows, ``columns`` names the columns; ``schema`` is the Arrow schema that all share, None for text.
    ``na`` are words that mean a blank in text; ``texts`` are columns that are text whatever a single file holds.
    Raises FileNotFoundError where there is no file, and ValueError naming the file that does not go with the others.
    """

    def __init__(self, source: Any, na: Iterable[str] = (), texts: Iterable[str] = ()):
        self.na, self._texts = tuple(na), set(texts)
        self.path: Any = source
        if parted := is_partitioned(source):
            self.path, source = name_of(source), spilled(source, self)
        elif not is_dataset(source):
            self.path = address_of(source)
        self.shards = located(source)
        self.suffix = suffix_of(Path(self.shards[0].name))
        for shard in self.shards:
            if suffix_of(Path(shard.name)) != self.suffix:
                raise ValueError(
                    f"{shard.path} is {suffix_of(Path(shard.name))} and {self.shards[0].path} {self.suffix}; all files must be"
                    " of one kind"
                )
            if not shard.size:
                raise ValueError(f"{shard.path} is empty (0 bytes)")
        if not parted:  # partitions may well be alike
            self._refuse_twice()
        self._look_through()

    # ------------------------------------------------------------ what there is

    def _refuse_twice(self) -> None:
        """Name two files of the same bytes; only those of one size are read for it."""
        sizes: dict[int, list[Shard]] = {}
        for shard in self.shards:
            sizes.setdefault(shard.size, []).append(shard)
        for alike in sizes.values():
            known: dict[str, Shard] = {}
            for shard in alike if len(alike) > 1 else ():
                if (first := known.setdefault(shard.digest(), shard)) is not shard:
                    raise ValueError(
                        f"{shard.path} has the same bytes as {first.path}: its rows would count twice"
                    )

    def _look_through(self) -> None:
        """Look through every file, and hold it against the first."""
        first, looked = None, []
        for shard in self.shards:
            with shard.here() as path:
                try:
                    table = TableFile(path, self.na, empty=True)
                except ValueError as error:
                    raise Clear(str(error).replace(str(path), shard.path)) from error
            shard.rows = table.rows
            shard.table = table
            looked.append(table)
            if first is None:
                first = table
            elif table.columns != first.columns:
                raise ValueError(_other_columns(shard, table, self.shards[0], first))
        assert first is not None
        self.columns, self.text, self.schema = first.columns, first.text, None
        self._most = max(1, min(ROWS, CELLS // max(1, len(self.columns))))
        if first.text is not None:
            self._join_texts(looked)
        else:
            self.schema = self._joined_schema(looked)
        for shard, start in zip(
            self.shards, accumulate((s.rows for s in self.shards), initial=0), strict=False
        ):
            shard.start = start
        self.rows = sum(s.rows for s in self.shards)
        if not self.rows:
            many = f"{self.path}: no file of {len(self.shards)} has rows"
            raise ValueError(many if len(self.shards) > 1 else f"{self.shards[0].path} has no rows")
        if without := [s.path for s in self.shards if not s.rows]:
            shown = ", ".join(without[:5]) + f" and {len(without) - 5} more" * (len(without) > 5)
            warnings.warn(f"files without rows: {shown}", UserWarning, stacklevel=4)

    def _join_texts(self, looked: list[TableFile]) -> None:
        """Let what a column means follow from all files; ValueError where it is a number in one and text in another."""
        texts: list[Any] = [table.text for table in looked]
        for shard, text in zip(self.shards, texts, strict=True):
            if text.dialect.separator != texts[0].dialect.separator:
                raise ValueError(
                    f"{shard.path} separates its fields by {text.dialect.separator!r}, {self.shards[0].path} by"
                    f" {texts[0].dialect.separator!r}; save them alike"
                )
        for name in self.columns:
            forms = {}
            for shard, text in zip(self.shards, texts, strict=True):
                if text.meanings[name].seen:
                    form = text.form(name)
                    forms.setdefault(
                        "text" if form == "string" else "flags" if form == "boolean" else "numbers", shard
                    )
            if len(forms) > 1 and name not in self._texts:
                (one, there), (other, here) = list(forms.items())[:2]
                raise ValueError(
                    f"column {name!r} holds {one} in {there.path} and {other} in {here.path}; write it alike in all files"
                    " (a word that stands for a blank is named by na=, --na; of what is text all over, say --kind"
                    f" {name}=categorical)"
                )
            joined = texts[0].meanings[name]
            for text in texts[1:]:
                joined.join(text.meanings[name])
        for text in texts:
            text.meanings = texts[0].meanings
        texts[0].warn()

    def _joined_schema(self, looked: list[TableFile]) -> pa.Schema:
        """The types that hold what every file holds: wider numbers, and any type for a column without a value."""
        first: Any = looked[0].schema
        kinds = list(first.types)
        told = [self.shards[0]] * len(kinds)
        for shard, table in zip(self.shards, looked, strict=True):
            schema: Any = table.schema
            for j, kind in enumerate(schema.types):
                wider = _wider(kinds[j], kind)
                if wider is None:
                    raise ValueError(
                        f"column {first.names[j]!r} is {kinds[j]} in {told[j].path} and {kind} in {shard.path}; write it alike"
                        " in all files"
                    )
                if wider != kinds[j]:
                    kinds[j], told[j] = wider, shard
        fields = [field.with_type(kind) for field, kind in zip(first, kinds, strict=True)]
        return pa.schema(fields, first.metadata if kinds == first.types else None)

    # ------------------------------------------------------------ rows

    def chunk_rows(self) -> int:
        """Count the rows that keep a chunk to :data:`~abduce.data.streams.CELLS` cells."""
        return self._most

    def chunks(self, rows: int | None = None) -> Iterator[Chunk]:
        """Read chunks of at most ``rows`` rows, in the order of the files."""
        for shard in self.shards:
            yield from self.chunks_of(shard, rows)

    def chunks_of(self, shard: Shard, rows: int | None = None, skip: int = 0) -> Iterator[Chunk]:
        """The chunks of one file from its row ``skip`` on; ``start`` counts from the first row of all."""
        if skip >= shard.rows:
            return
        with shard.here() as path:
            table: Any = shard.table
            for start, frame, raw in table.at(path).chunks(
                self.chunk_rows() if rows is None else rows, self.schema, skip
            ):
                frame.index = pd.RangeIndex(shard.start + start, shard.start + start + len(frame))
                yield Chunk(shard.start + start, frame, raw)

    def groups(self, first: int = 0) -> Iterator[tuple[int, pd.DataFrame]]:
        """All rows from group ``first`` on, as many at a time whatever the cut into files, so that sums over them are the same
        to the bit; with each its number.
        """
        most, start = self.chunk_rows(), self.group_start(first)
        held: list[pd.DataFrame] = []
        group = first
        for shard in self.shards:
            for chunk in self.chunks_of(shard, most, max(0, start - shard.start)):
                held.append(chunk.frame)
                while (count := sum(map(len, held))) >= most:
                    rows = self._joined(held)
                    yield group, rows.iloc[:most]
                    held, group = [rows.iloc[most:]] * (count > most), group + 1
        if held:
            yield group, self._joined(held)

    def group_start(self, group: int) -> int:
        """The number of rows before a group."""
        return group * self.chunk_rows()

    def shard_at(self, row: int) -> Shard:
        """The file that a row is in."""
        return self.shards[bisect_right(self.shards, row, key=lambda shard: shard.start) - 1]

    def where(self, row: int) -> tuple[str, int]:
        """The path of the file that a row is in, and its place there."""
        shard = self.shard_at(row)
        return shard.path, row - shard.start

    @contextmanager
    def placed(self, row: int) -> Iterator[None]:
        """Say of a ValueError about rows from ``row`` on where they are."""
        try:
            yield
        except ValueError as error:
            path, place = self.where(row)
            raise ValueError(f"{error} (rows counted from row {place} of {path})") from error

    def read(self) -> pd.DataFrame:
        """All rows."""
        return self._joined([chunk.frame for chunk in self.chunks()])

    def sample(self, n: int, seed: int = 0, telling: bool = False) -> pd.DataFrame:
        """Draw ``n`` different rows uniformly, as of one file with all rows: a seed draws the same, whatever the cut.

        With ``telling`` also the few rows that show what these do not (:mod:`abduce.data.facts`), by which is known what a
        column can hold.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        rng = np.random.default_rng(seed)
        wanted = np.arange(self.rows) if n >= self.rows else np.sort(rng.choice(self.rows, n, replace=False))
        telling = telling and n < self.rows
        facts = TableFacts()
        parts: list[pd.DataFrame] = []
        told: list[pd.DataFrame] = []
        for chunk in self.chunks():
            low, high = np.searchsorted(wanted, [chunk.start, chunk.start + len(chunk.frame)])
            if low < high:
                parts.append(chunk.frame.iloc[wanted[low:high] - chunk.start])
            if telling and (
                fresh := facts.learn(np.arange(chunk.start, chunk.start + len(chunk.frame)), chunk.frame)
            ):
                told.append(chunk.frame.iloc[fresh])
        sample = self._joined(parts)
        if not (telling and (lacking := facts.lacking(TableFacts.of(sample))[: n // SHOWING])):
            return sample
        order = np.argsort(np.concatenate([wanted, lacking]), kind="stable")
        more = pd.concat(told).loc[lacking]
        return self._joined([sample, more]).iloc[order].reset_index(drop=True)

    def _joined(self, parts: list[pd.DataFrame]) -> pd.DataFrame:
        """Rows of several parts, whose categories may not be the same ones."""
        first = parts[0]
        for label in [c for c, kind in first.dtypes.items() if isinstance(kind, pd.CategoricalDtype)]:
            columns: list[Any] = [part[label] for part in parts]
            if any(c.dtype != columns[0].dtype for c in columns) and not any(c.cat.ordered for c in columns):
                every = union_categoricals(columns).categories
                parts = [part.assign(**{label: part[label].cat.set_categories(every)}) for part in parts]
        return pd.concat(parts, ignore_index=True)


def most_rows(columns: int) -> int:
    """How many rows a fit takes where nothing is said: :data:`MOST_CELLS` cells, and :data:`LEAST_ROWS` of wide tables."""
    return max(MOST_CELLS // max(1, columns), LEAST_ROWS)


def given(X: Any) -> Shards | None:
    """The table in files that ``X`` names, one or many, or is a data set of; None for anything else.

    >>> given([[1.0]]) is None, given("no such file.csv") is None
    (True, True)
    """
    if isinstance(X, Shards):
        return X
    if not is_partitioned(X):
        return Shards(X) if in_files(X) else None
    if id(X) not in _spilled:  # it is computed and written once, for all that is asked of it
        _spilled[id(X)] = Shards(X)
        weakref.finalize(X, _spilled.pop, id(X), None)
    return _spilled[id(X)]


def in_files(X: Any) -> bool:
    """Tell whether a table in files is meant, one or many."""
    if isinstance(X, Shards) or is_many(X):
        return True
    return isinstance(X, str | os.PathLike) and is_table(X) and Path(X).is_file()


def to_fit(X: Any, random_state: Any, passes: bool = False) -> tuple[Any, Shards | None]:
    """Of a table in files the rows to fit to, all or a sample of :func:`most_rows` and what it lacks; anything else as it is.

    Where the fit ``passes`` over all rows after it was begun with a sample, the files too if there are more rows than that.
    """
    source = given(X)
    if source is None:
        return X, None
    most = most_rows(len(source.columns))
    seed = random_state if isinstance(random_state, int) else int(np.random.default_rng().integers(2**31))
    rows = source.sample(most, seed, telling=True)
    if source.rows > most and not passes:
        warnings.warn(f"fitted to {sampled(len(rows), most, source.rows)}", UserWarning, stacklevel=4)
    return rows, source if passes and source.rows > most else None


def sampled(taken: int, most: int, rows: int) -> str:
    """What was taken of so many rows, in words: a sample of ``most``, and what that lacks.

    >>> sampled(102, 100, 5000)
    'a uniform sample of 100 of 5000 rows and 2 that show what it lacks'
    """
    more = f" and {taken - most} that show what it lacks" if taken > most else ""
    return f"a uniform sample of {min(taken, most)} of {rows} rows{more}"


# ---------------------------------------------------------------- differences


def _other_columns(shard: Shard, table: TableFile, first: Shard, known: TableFile) -> str:
    lacks = [c for c in known.columns if c not in table.columns]
    more = [c for c in table.columns if c not in known.columns]
    what = [f"lacks {listing(lacks)}"] * bool(lacks) + [f"has also {listing(more)}"] * bool(more)
    return f"{shard.path} {' and '.join(what) or 'has the columns in another order'}, beside {first.path}"


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type that holds the values of both, or None."""
    kinds = pa.types
    if one == other or kinds.is_null(other):
        return one
    if kinds.is_null(one):
        return other
    if all(kinds.is_integer(k) or kinds.is_floating(k) for k in (one, other)):
        if kinds.is_integer(one) and kinds.is_integer(other):
            signed = [kinds.is_signed_integer(k) for k in (one, other)]
            return (max(one, other, key=lambda k: k.bit_width)) if signed[0] == signed[1] else pa.int64()
        return pa.float64()
    texts = [kinds.is_string(k) or kinds.is_large_string(k) for k in (one, other)]
    if all(texts):
        return pa.large_string()
    dictionaries = [k.value_type if kinds.is_dictionary(k) else k for k in (one, other)]
    if dictionaries != [one, other]:
        return _wider(*dictionaries)
    return None
