"""Answers about rows where memory is short: about fewer of them at a time, and said so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd

LEAST = 64  # rows that are not halved: where these are too many, the model is too large


def by_halves(ask: Callable[[Any], pd.DataFrame], rows: pd.DataFrame) -> pd.DataFrame:
    """What ``ask`` says of rows; where memory does not hold that, of each half of them, and so on.

    Warns where rows are halved: answers may then differ from those of one piece in the last bits.  Raises what ``ask`` raised
    where memory is short for :data:`LEAST` rows.
    """
    try:
        return ask(rows)
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error) or len(rows) <= LEAST:
            raise
    # beyond the except, which would hold on to what was reached
    warnings.warn(f"memory is short for {len(rows)} rows at once: they are taken by halves", stacklevel=2)
    middle = len(rows) // 2
    parts = rows.iloc[:middle], rows.iloc[middle:]
    return pd.concat([by_halves(ask, part.reset_index(drop=True)) for part in parts], ignore_index=True)


def is_shortage(error: Exception) -> bool:
    """Whether memory could not be had, by whoever asked for it: Python and NumPy have an error for it, torch a sentence.

    >>> is_shortage(MemoryError()), is_shortage(RuntimeError("shapes do not match"))
    (True, False)
    """
    told = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in told or "out of memory" in told
