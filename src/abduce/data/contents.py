"""What the columns of a table hold, each with the first row that shows it: found in one pass, a part of the rows at a time.

A uniform sample tells what most rows are like.  What a column can hold at all may be told by one row in millions, and a class
that the sample lacks, a zero among its positive numbers or a half among its counts would be taken for odd ever after:

    classes     each of them, of a column of text or truth values of at most LEVELS, or of at most FEW numbers
    numbers     one below 0, or 0 itself where there is none, and one that is no whole number

Of parts the first row counts, so that they can be brought together in any order.

>>> parts = [Contents.of(i, pd.DataFrame({"a": column})) for i, column in ((0, ["x", "x"]), (2, ["x", "y"]))]
>>> parts[0].merge(parts[1]).lacking(parts[0])
[3]
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from abduce.data.columns import Column, read_column
from abduce.data.infer import LEVELS

FEW = 12  # numbers that may be classes or grades
BELOW, ZERO, FRACTION = "below 0", "0", "no whole number"


@dataclass
class Shown:
    """What a column holds: the first row of each of its ``classes``, None where they are too many, and of other ``facts``."""

    classes: dict[Hashable, int] | None = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)
    form: str = ""  # of the column, "" before any cell was seen

    @property
    def whole(self) -> bool:
        """Whether no row can tell more."""
        return self.classes is None and (self.form != "number" or self.facts.keys() == {BELOW, FRACTION})


class Contents:
    """What the columns of a table hold, by their names, and in which row it is first seen."""

    def __init__(self) -> None:
        self.held: dict[str, Shown] = {}

    @classmethod
    def of(cls, start: int, frame: pd.DataFrame) -> Contents:
        """Those of some rows, the first of which is number ``start``."""
        contents = cls()
        contents.add(np.arange(start, start + len(frame)), frame)
        return contents

    def add(self, at: np.ndarray, frame: pd.DataFrame) -> list[int]:
        """Take in rows whose numbers are ``at`` (n,), in order; the places, in the frame, of those that show something new."""
        fresh: set[int] = set()
        for j, label in enumerate(frame.columns):
            held = self.held.setdefault(str(label), Shown())
            if not held.whole:
                column = read_column(frame.iloc[:, j], str(label))
                if column.observed.any():
                    fresh |= _taken(held, column, at)
        return sorted(fresh)

    def merge(self, other: Contents) -> Contents:
        """Those of two parts."""
        both = Contents()
        for name in {**self.held, **other.held}:
            one, two = self.held.get(name, Shown()), other.held.get(name, Shown())
            classes = None
            if one.classes is not None and two.classes is not None:
                classes = _first(one.classes, two.classes)
            form = one.form or two.form
            both.held[name] = _bounded(Shown(classes, _first(one.facts, two.facts), form))
        return both

    def lacking(self, sample: Contents) -> list[int]:
        """The first rows, in order, of all that some of the rows, a sample, do not show."""
        rows: set[int] = set()
        for name, held in self.held.items():
            known = sample.held.get(name, Shown())
            for all_of, some in ((held.classes, known.classes), (held.facts, known.facts)):
                rows |= {row for what, row in (all_of or {}).items() if what not in (some or {})}
        return sorted(rows)


def _first(one: dict, two: dict) -> dict:
    return {key: min(d[key] for d in (one, two) if key in d) for key in {**one, **two}}


def _most(held: Shown) -> int:
    return FEW if held.form == "number" else LEVELS


def _bounded(held: Shown) -> Shown:
    if held.classes is not None and len(held.classes) > _most(held):
        held.classes = None
    if BELOW in held.facts:
        held.facts.pop(ZERO, None)
    return held


def _taken(held: Shown, column: Column, at: np.ndarray) -> set[int]:
    """Let what is held know of more cells; the places of those that show something new."""
    held.form = column.form
    if column.form in ("time", "objects"):  # they are what their type says
        held.classes = None
        return set()
    seen = np.flatnonzero(column.observed)
    values = (column.values if column.integers is None else column.integers)[seen]
    fresh: set[int] = set()
    if held.classes is not None:
        found, firsts = np.unique(values, return_index=True)
        if len(found) > _most(held):
            held.classes = None
        else:
            levels = [column.levels[int(v)] for v in found] if column.levels else found.tolist()
            firsts = {level: int(seen[i]) for level, i in zip(levels, firsts, strict=True)}
            new = {level: place for level, place in firsts.items() if level not in held.classes}
            held.classes |= {level: int(at[place]) for level, place in new.items()}
            fresh |= set(new.values())
    if column.form == "number":
        for fact, shown in ((BELOW, values < 0), (ZERO, values == 0), (FRACTION, values != np.rint(values))):
            known = fact in held.facts or (fact == ZERO and BELOW in held.facts)
            if not known and shown.any():
                place = int(seen[np.argmax(shown)])
                held.facts[fact] = int(at[place])
                fresh.add(place)
    _bounded(held)
    return fresh
