"""What a column of series holds, numbers, whole numbers or classes, and its cells as numbers and back.

    number    any numbers: a cell is itself
    whole     whole numbers: draws and ends of intervals are whole, and in an integer dtype all that is filled
    classes   categories, text, truth values, or 0 and 1 in an integer dtype: a cell is the position of its level

Text is taken for classes if its levels come again and are few; a level that training data had not is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MOST_LEVELS = 50
AGAIN = 2.0  # cells that a level of text has on average, at least


@dataclass(frozen=True)
class Kind:
    """``kind`` "number", "whole" or "classes"; of classes their ``levels`` in order; ``dtype`` of the column, "category" and
    "ordered" being those of pandas' categoricals."""

    kind: str = "number"
    levels: tuple[Any, ...] = ()
    dtype: str = "float64"

    @property
    def classes(self) -> bool:
        """Whether cells hold classes."""
        return self.kind == "classes"

    def codes(self, column: Any, label: Any, name: str) -> np.ndarray:
        """Cells as numbers, NaN where blank; ValueError or TypeError, naming the column, for what is none of this kind."""
        if not self.classes:
            return numbers(column, label, name)
        blank = column.isna().to_numpy()
        out = np.full(len(column), np.nan)
        code = pd.Index(self.levels, dtype=object).get_indexer(column[~blank].astype(object))
        if (code < 0).any():
            odd = column[~blank].iloc[int((code < 0).argmax())]
            raise ValueError(
                f"column {label!r} of {name} holds {odd!r}, which was not seen in training: its classes are "
                f"{list(self.levels)}; leave these cells blank, or fit to data that have the class"
            )
        out[~blank] = code
        return out

    def column(self, values: np.ndarray) -> Any:
        """A whole column of numbers or codes, in the dtype of the training data; floats of other widths are float64."""
        if self.classes:
            code = np.rint(values).astype(np.int64)
            if self.dtype in ("category", "ordered"):
                return pd.Categorical.from_codes(code, list(self.levels), ordered=self.dtype == "ordered")  # pyright: ignore
            return pd.array(np.array(self.levels, object)[code], dtype=self.dtype)  # pyright: ignore
        plain = self.dtype.lower().partition("[")[0]  # of nullable ones and Arrow's too
        if self.kind == "whole" and plain.lstrip("u").startswith("int"):
            ends = np.iinfo(plain)
            return pd.array(np.clip(np.rint(values), ends.min, ends.max).astype(plain), dtype=self.dtype)
        return values

    def put(self, column: Any, values: np.ndarray, blank: np.ndarray) -> pd.Series:
        """A column with its blanks filled by numbers or codes (rows,), in its own dtype."""
        out, at = column.copy(), np.flatnonzero(blank)
        kind: Any = column.dtype
        if self.classes:
            if isinstance(kind, pd.CategoricalDtype):
                out = out.cat.add_categories([v for v in self.levels if v not in kind.categories])
            out.iloc[at] = np.array(self.levels, object)[np.rint(values[at]).astype(np.int64)]
            return out
        if pd.api.types.is_integer_dtype(kind):
            out.iloc[at] = np.rint(values[at]).astype(np.int64)
            return out
        out = out.astype(np.float64) if pd.api.types.is_object_dtype(kind) else out
        out.iloc[at] = values[at]
        return out


NUMBER = Kind()


def kind_of(column: Any, label: Any, name: str = "X") -> Kind:
    """What a column of training data holds.

    >>> kind_of(pd.Series(["on", None, "off", "on", "off"]), "state").levels
    ('off', 'on')
    >>> kind_of(pd.Series([3, 0, 7]), "sold").kind
    'whole'
    """
    dtype: Any = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        levels = tuple(getattr(v, "item", lambda v=v: v)() for v in dtype.categories)
        if not levels:
            return NUMBER
        odd = next((v for v in levels if not isinstance(v, str | int | float)), None)
        if odd is not None:
            raise TypeError(
                f"column {label!r} of {name} has categories such as {odd!r}, expected text, numbers or truth values: rename "
                "them, or leave the column out"
            )
        return _few(levels, "ordered" if dtype.ordered else "category", label, name)
    seen = column.dropna()
    if pd.api.types.is_bool_dtype(dtype) or (
        dtype.kind == "O" and len(seen) and all(isinstance(v, bool | np.bool_) for v in seen)
    ):
        return Kind("classes", (False, True), str(dtype))
    if pd.api.types.is_string_dtype(dtype) and not _reads_as_numbers(column):
        if not all(isinstance(v, str) for v in seen):
            numbers(column, label, name)  # which says what is wrong with it
        levels = tuple(sorted(set(seen)))
        if len(levels) > MOST_LEVELS or len(seen) < AGAIN * len(levels):
            raise TypeError(
                f"column {label!r} of {name} holds text, {len(levels)} different ones in {len(seen)} cells, too many to be "
                f"classes (at most {MOST_LEVELS}, each {AGAIN:.0f} times on average): leave it out, name it as id or time, or "
                "make it a categorical of fewer"
            )
        return Kind("classes", levels, str(dtype))
    values = numbers(column, label, name)
    values = values[np.isfinite(values)]
    if pd.api.types.is_integer_dtype(dtype) and set(np.unique(values)) == {0.0, 1.0}:
        return Kind("classes", (0, 1), str(dtype))
    whole = len(values) > 0 and bool((values == np.rint(values)).all())
    return Kind("whole" if whole else "number", (), str(dtype))


def _few(levels: Sequence[Any], dtype: str, label: Any, name: str) -> Kind:
    if len(levels) > MOST_LEVELS:
        raise TypeError(
            f"column {label!r} of {name} has {len(levels)} categories, expected at most {MOST_LEVELS}: leave it out, or join "
            "some"
        )
    return Kind("classes", tuple(levels), dtype)


def _reads_as_numbers(column: Any) -> bool:
    """Whether a column of objects is one of numbers written as such."""
    if column.dtype != object:
        return False
    try:
        pd.to_numeric(column)
    except (ValueError, TypeError):
        return False
    return True


def numbers(column: Any, label: Any, name: str) -> np.ndarray:
    """Cells of a column of numbers, NaN where blank."""
    kind: Any = column.dtype
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.is_object_dtype(kind):
        try:
            found: Any = pd.to_numeric(column)
            return found.to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError):
            pass
    raise TypeError(
        f"column {label!r} of {name} holds {kind}, which Series has no model of: leave it out, name it as id or time, or code "
        "it as numbers, truth values or categories"
    )


def kinds_of_array(columns: np.ndarray) -> tuple[Kind, ...]:
    """What each feature of an array (rows, F) holds, whose blanks are NaN: truth values are classes."""
    if columns.dtype == bool:
        return (Kind("classes", (False, True), "bool"),) * columns.shape[1]
    finite = np.isfinite(columns)
    odd = finite & (columns != np.rint(np.where(finite, columns, 0.0)))
    whole = (~odd.any(0) & finite.any(0)).tolist()
    return tuple(Kind("whole" if w else "number", (), str(columns.dtype)) for w in whole)
