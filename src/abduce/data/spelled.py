"""Columns of text that hold numbers, but for a few cells: readings among which somebody typed "12,5x" or "unknown".

Such a column is read as numbers where

- at least 95 % of its cells are numbers, so that what is left out is no class of its own that anything could be told from;
- the other texts are few: at most 20 different ones, or 1 % of the cells, each of them a slip of its own;
- its numbers are not names of classes: more than 50 different ones, or some with a decimal point;
- no text is zero-padded digits, which name things, as do digits beyond 64 bits.

Decimal commas are no numbers here: in one column "1,234" may be either.

A cell without a number is observed all the same: it comes back as it is, and tells the model nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from abduce.data.columns import Column
from abduce.data.fields import listing

SHARE = 0.95
FEW, FEW_SHARE = 20, 0.01
CLASSES = 50
_NUMBER = re.compile(r"\s*[+-]?(?:(?:0|[1-9]\d{0,17})(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*")
_PADDED = re.compile(r"\s*[+-]?0\d+\s*")


def numeric(column: Column) -> Column:
    """A column of text as one of numbers: observed where the text is a number of moderate size."""
    known = [float(text) if _NUMBER.fullmatch(text) else np.nan for text in map(str, column.levels)]
    level = np.array([*known, np.nan])
    values = level[np.where(column.observed, column.values.astype(np.int64), len(known))]
    observed = np.isfinite(values)
    return replace(
        column, form="number", values=np.where(observed, values, 0.0), observed=observed, levels=()
    )


def spelled_numbers(column: Column) -> Column | None:
    """The numbers of a column of text, if that is what it holds but for a few cells; None if it is text."""
    if column.form != "text" or column.dtype.startswith("category[") or not column.observed.any():
        return None
    found, texts = numeric(column), [str(text) for text in column.levels]
    odd = sum(1 for text in texts if not _NUMBER.fullmatch(text))
    cells = int(column.observed.sum())
    if found.observed.sum() < SHARE * cells or odd > max(FEW, FEW_SHARE * cells):
        return None
    classes = len(texts) - odd <= CLASSES and not any("." in t and _NUMBER.fullmatch(t) for t in texts)
    return None if classes or any(map(_PADDED.fullmatch, texts)) else found


def slips(column: Column) -> str:
    """What the cells of a column of spelled numbers hold that are none, with an example and its row; "" if there are none."""
    odd = np.flatnonzero(column.observed & ~numeric(column).observed)
    if not len(odd):
        return ""
    text: Any = column.levels[int(column.values[odd[0]])]
    count = f"{len(odd)} cells hold no number" if len(odd) > 1 else "1 cell holds no number"
    return f"{count}, such as {listing([text])} in row {odd[0]}"
