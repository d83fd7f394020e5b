"""Files by their names, errors that say which one would not do, and writing that is all or nothing."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pandas as pd

try:
    import fcntl
except ImportError:  # no locks: what was left is not told from what is being written
    fcntl = None

TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
ARROWS = (".parquet", ".feather", ".arrow")
TABLES = (*TEXTS, *ARROWS)
ARRAYS = (".npy", ".npz")
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


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


@contextmanager
def part(path: Path, make: Callable[[Path], Any]) -> Iterator[Path]:
    """A name beside ``path`` for what is not complete yet, where ``make`` puts an empty file or folder; gone afterwards.

    It is locked as long as its writer lives, so that others tell it from what a writer that was killed has left.
    """
    while True:
        name = beside(path)
        make(name)
        try:
            with _open(name) as descriptor:
                if _locked(descriptor) is not False and name.exists():  # nobody swept it before it was locked
                    yield name
                    return
        finally:
            remove(name)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a file or folder that is written again one day, which is there whole or not at all at any moment.

    What killed writers to the same path have left is removed too.
    """
    if path.exists():
        aside = beside(path)
        os.replace(path, aside)
        remove(aside)
    sweep(path.absolute().parent, path.name)


def sweep(folder: Path, name: str | None = None, endings: tuple[str, ...] = (".part",)) -> None:
    """Remove what writers to ``name`` in a folder, or to any name, have left that were killed."""
    if fcntl is None or not folder.is_dir():
        return
    own = r"\.(.+)\.[0-9a-f]{8}(\.[a-z]+)"
    for entry in list(os.scandir(folder)):
        found = re.fullmatch(own, entry.name, re.DOTALL)
        if found is None or found[2] not in endings or name not in (None, found[1]):
            continue
        with suppress(OSError), _open(Path(entry.path)) as descriptor:
            if _locked(descriptor):
                remove(Path(entry.path))


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """A descriptor of a file or folder; none where there are no locks to be had on it."""
    if fcntl is None:
        yield -1
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Lock what is open, until it is closed or its process ends; False if somebody else has, None if nobody can tell."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def atomic(path: Path, fill: Callable[[IO[bytes]], Any], swept: bool = False) -> Path:
    """Let `fill` write a file of a temporary name beside `path`, then rename it: nobody sees half a file.

    What killed writers to the same path have left is removed, unless the caller has ``swept`` the folder itself.
    """
    if not swept:
        sweep(path.absolute().parent, path.name)
    with part(path, lambda name: name.touch(exist_ok=False)) as name:
        with open(name, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    return path


def put_folder(new: Path, path: Path) -> None:
    """Move a folder to ``path``, in the place of the one that may be there: the one or the other is there at any moment.

    Where the system can't exchange two names at once there is a moment without either; the old folder is then found by
    :func:`set_aside`.
    """
    if not path.exists():
        os.replace(new, path)
    elif not _exchange(new, path):
        aside = new.with_suffix(".old")
        os.replace(path, aside)
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(aside, path)
            raise
        remove(aside)


def set_aside(path: Path) -> Path | None:
    """The folder that was about to be replaced when its writer was cut, if ``path`` is not there any more."""
    if path.exists() or not path.absolute().parent.is_dir():
        return None
    own = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.old")
    found = [e for e in os.scandir(path.absolute().parent) if own.fullmatch(e.name)]
    return Path(max(found, key=lambda e: e.stat().st_mtime).path) if found else None


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places at once; False where the system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
