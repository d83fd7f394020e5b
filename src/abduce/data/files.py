"""Files by their names, errors that say which one would not do, and writing that is all or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd

TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TABLES = (*TEXTS, ".parquet")
ARRAYS = (".npy", ".npz")


class Clear(ValueError):
    """An error that already says what is wrong with which file."""


def suffix_of(path: Path) -> str:
    """What a file's name says that it holds, in lower case; ``.gz`` belongs to it.

    >>> suffix_of(Path("A.CSV.gz")), suffix_of(Path("digits")), suffix_of(Path("a.png"))
    ('.csv.gz', '', '.png')
    """
    name = path.name.lower()
    return next((s for s in (*TABLES, *ARRAYS) if name.endswith(s)), path.suffix.lower())


@contextmanager
def naming(path: Path, suffix: str) -> Iterator[None]:
    """Name the path in what the readers raise: a dozen types of their own, all of which mean the same to the caller."""
    try:
        yield
    except Clear:
        raise
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as {suffix}: {reason}") from error


def check_folder(path: Path) -> None:
    """Refuse, by FileNotFoundError, to write where there is no folder."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write into")


def beside(path: Path) -> Path:
    """A name beside ``path`` that nobody uses, for what is not complete yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def atomic(path: Path, fill: Callable[[IO[bytes]], Any]) -> Path:
    """Let `fill` write a file of a temporary name beside `path`, then rename it: nobody sees half a file."""
    part = beside(path)
    try:
        with open(part, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
