"""What the columns of a table can hold, each fact with the first row that shows it, found a part of the rows at a time.

A uniform sample tells what most rows are like.  What a column can hold at all may be told by one row in millions, and a class
that the sample lacks, a zero among its positive numbers or a half among its counts would be taken for odd ever after:

    classes     each of them, of a column of text or truth values of at most LEVELS, or of at most FEW numbers
    two values  of any other column, which tell that it is not empty and that it varies
    numbers     one below 0, or 0 itself where there is none, and one that is no whole number

Infinities are left to whoever models the column.

>>> rows = pd.DataFrame({"a": ["x", "x", "x", "y"]})
>>> TableFacts.of(rows).lacking(TableFacts.of(rows.iloc[:2]))
[3]
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from abduce.data.columns import Column, read_column
from abduce.data.infer import LEVELS

FEW = 12  # numbers that may be classes or grades
BELOW, ZERO, FRACTION = "below 0", "0", "no whole number"


@dataclass
class ColumnFacts:
    """Facts of a column, each with its first row: its ``values``, the first two where there are ``many``, and its numbers."""

    values: dict[Hashable, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    many: bool = False
    form: str = ""  # of the column, "" before any cell was seen
    integral: bool = False  # a type that holds no fraction

    @property
    def most(self) -> int:
        """How many values are classes."""
        return {"number": FEW, "time": 1}.get(self.form, LEVELS)

    def tells(self, series: Any) -> bool:
        """Whether more cells can tell more, by what is quickly seen of them."""
        if not self.many:
            return True
        if self.form != "number" or BELOW in self.numbers:
            return self.form == "number" and not self.integral and FRACTION not in self.numbers
        if not self.integral and FRACTION not in self.numbers:
            return True
        low = series.min()
        return bool(pd.notna(low) and (low < 0 or (low == 0 and ZERO not in self.numbers)))

    def learn(self, column: Column, at: np.ndarray) -> set[int]:
        """Take in more cells, whose rows are ``at`` (n,); the places of those that show something new."""
        seen = np.flatnonzero(column.observed)
        if not len(seen):
            return set()
        self.form, self.integral = column.form, column.integers is not None
        values = (column.values if column.integers is None else column.integers)[seen]
        fresh = set() if self.many else self._learn_values(column, values, seen, at)
        for fact in (BELOW, ZERO, FRACTION) if column.form == "number" else ():
            if fact in self.numbers or (fact == ZERO and BELOW in self.numbers):
                continue
            shown = (
                values < 0 if fact == BELOW else values == 0 if fact == ZERO else values != np.rint(values)
            )
            if shown.any():
                place = int(seen[np.argmax(shown)])
                self.numbers[fact] = int(at[place])
                fresh.add(place)
        if BELOW in self.numbers:
            self.numbers.pop(ZERO, None)
        return fresh

    def _learn_values(self, column: Column, values: np.ndarray, seen: np.ndarray, at: np.ndarray) -> set[int]:
        found, firsts = np.unique(values, return_index=True)
        many = len(found) > self.most
        if many:  # the first two of all are among those known and the first two of these
            order = np.argsort(firsts)[:2]
            found, firsts = found[order], firsts[order]
        levels = [column.levels[int(v)] for v in found] if column.levels else found.tolist()
        places = {level: int(seen[i]) for level, i in zip(levels, firsts, strict=True)}
        new = {level: place for level, place in places.items() if level not in self.values}
        self.values |= {level: int(at[place]) for level, place in new.items()}
        self.many = many or len(self.values) > self.most
        if self.many:
            self.values = dict(sorted(self.values.items(), key=lambda item: item[1])[:2])
        return {place for level, place in new.items() if level in self.values}

    def lacking(self, sample: ColumnFacts) -> set[int]:
        """The rows of facts that some of the rows do not show."""
        rows = {row for fact, row in self.numbers.items() if fact not in sample.numbers}
        if not self.many or len(sample.values) < 2:
            rows |= {row for value, row in self.values.items() if value not in sample.values}
        return rows


class TableFacts:
    """The facts of the columns of a table, by their places."""

    def __init__(self) -> None:
        self.columns: list[ColumnFacts] = []

    @classmethod
    def of(cls, frame: pd.DataFrame) -> TableFacts:
        """Those of all rows of a frame."""
        facts = cls()
        facts.learn(np.arange(len(frame)), frame)
        return facts

    def learn(self, at: np.ndarray, frame: pd.DataFrame) -> list[int]:
        """Take in rows whose numbers are ``at`` (n,), in order; the places, in the frame, of those that show something new."""
        self.columns = self.columns or [ColumnFacts() for _ in frame.columns]
        fresh: set[int] = set()
        for j, facts in enumerate(self.columns):
            series: Any = frame.iloc[:, j]
            if len(series) and facts.tells(series):
                column = read_column(_finite(series), str(frame.columns[j]))
                if column.form == "objects":  # which no model reads
                    facts.many = True
                else:
                    fresh |= facts.learn(column, at)
        return sorted(fresh)

    def lacking(self, sample: TableFacts) -> list[int]:
        """The first rows, in order, of all that some of the rows, a sample, do not show."""
        pairs = zip(self.columns, sample.columns, strict=True)
        return sorted(set().union(*(facts.lacking(known) for facts, known in pairs)))


def _finite(series: Any) -> Any:
    """A column with blanks where it holds infinities."""
    if not pd.api.types.is_float_dtype(series.dtype):
        return series
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.isinf(values)
    return pd.Series(np.where(infinite, np.nan, values)) if infinite.any() else series
