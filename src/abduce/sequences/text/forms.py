"""The forms that texts come in: one str, a file, a list, a pandas Series, an array; answers have the form of the question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Texts(NamedTuple):
    """Texts, and what they came in: None for one text by itself."""

    texts: list[str]
    made: Any = None

    @property
    def alone(self) -> bool:
        return self.made is None

    def like(self, answers: Sequence[Any]) -> Any:
        """Answers, one a text, in the form that the texts had."""
        match self.made:
            case None:
                return answers[0]
            case pd.Series():
                kind = None if isinstance(self.made.dtype, pd.CategoricalDtype) else self.made.dtype
                return pd.Series(list(answers), self.made.index, kind, self.made.name)
            case np.ndarray():
                return np.array(answers, dtype=object).reshape(self.made.shape)
        return list(answers)


def texts_of(X: Any, name: str = "X") -> Texts:
    """Read texts; TypeError naming what is none.

    >>> texts_of(["to be", "or not"]).texts
    ['to be', 'or not']
    """
    match X:
        case str():
            return Texts([X])
        case Path():
            return Texts([read_file(X)])
        case pd.Series() | list() | tuple() | np.ndarray():
            texts = [_one(x, f"{name}[{place}]") for place, x in enumerate(np.ravel(_cells(X)))]
            return Texts(texts, X)
    raise TypeError(
        f"{name} must be a str, a pathlib.Path of a text file, or a list or Series of these, got {type(X).__name__}"
    )


def _cells(X: Any) -> np.ndarray:
    out = np.empty(np.shape(X) if isinstance(X, np.ndarray) else len(X), dtype=object)
    out[...] = X if isinstance(X, np.ndarray) else list(X)
    return out


def _one(x: Any, name: str) -> str:
    match x:
        case str():
            return str(x)
        case Path():
            return read_file(x)
    raise TypeError(f"{name} must be a str or a pathlib.Path, got {type(x).__name__} {x!r}")


def read_file(path: Path) -> str:
    """The text of a file, every character as it is; ValueError if it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not utf-8 text (byte {error.start}); save it as UTF-8, for example with iconv -t utf-8"
        ) from None
