"""The files that a folder, a pattern, an address or a data set of pyarrow means, each on this machine while it is read.

Names that begin with ``.`` or ``_`` are no data.  Files that are elsewhere are copied here one at a time.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abduce.data.files import TABLES, suffix_of
from abduce.data.partitioned import is_partitioned
from abduce.data.streams import TableFile

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_PATTERN = re.compile(r"[*?[]")
_PIECE = 2**20  # bytes hashed at a time


def address_of(source: Any) -> str:
    """What was given as text; a `Path` keeps one of the slashes of an address, which has two.

    >>> address_of(Path("s3://bucket/data")), address_of("data/")
    ('s3://bucket/data', 'data/')
    """
    text = os.fspath(source)
    found = _ADDRESS.match(text)
    if found is None or Path(text).exists():
        return text
    rest = text[found.end() :]
    return f"{found[1]}://{'/' if found[1] in ('file', 'memory') else ''}{rest}"


def is_many(source: Any) -> bool:
    """Tell whether tables in many files are meant: an address, a pattern, a data set, or a folder with a table in it."""
    if is_dataset(source) or is_partitioned(source):
        return True
    if not isinstance(source, str | os.PathLike):
        return False
    text = address_of(source)
    if "://" in text or (_PATTERN.search(text) is not None and not Path(text).exists()):
        return True
    return Path(text).is_dir() and next(_names_in(Path(text)), None) is not None


class Shard:
    """One file of many: ``name`` below the folder, ``start`` the number of rows before it, ``rows``, ``size`` in bytes."""

    def __init__(self, name: str, path: str, files: Any, size: int):
        self.name, self.path, self.size, self._files = name, path, size, files
        self.start = self.rows = 0
        self.table: TableFile | None = None  # of one that is here, once it was looked through

    @contextmanager
    def here(self) -> Iterator[Path]:
        """A file on this machine."""
        if self._files is None:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="abduce-") as folder:
            target = Path(folder) / posixpath.basename(self.name)
            try:
                self._files.get_file(self.path, str(target))
            except OSError as error:
                raise ValueError(f"{self.path} cannot be read: {error}") from error
            yield target

    def digest(self) -> str:
        """A checksum of the bytes."""
        found = hashlib.sha256()
        with self.here() as path, open(path, "rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
        return found.hexdigest()


def is_dataset(source: Any) -> bool:
    """Tell whether a data set of pyarrow is meant."""
    return type(source).__module__.startswith("pyarrow._dataset")


def _is_data(name: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and suffix_of(Path(name)) in TABLES


def _names_in(folder: Path) -> Iterator[str]:
    """Tables in a folder and below it, by their names from there."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        for name in sorted(names):
            below = (Path(place) / name).relative_to(folder).as_posix()
            if _is_data(below):
                yield below


def located(source: Any) -> list[Shard]:
    """The files that are meant, in the order of their names."""
    if is_dataset(source):
        return _of_dataset(source)
    text = address_of(source)
    if "://" in text:
        return _listed_afar(text)
    folder = Path(text)
    if folder.is_dir():
        found = [(name, str(folder / name)) for name in _names_in(folder)]
    elif _PATTERN.search(text) and not folder.exists():
        anchor, paths = _matching(text)
        found = [(p.relative_to(anchor).as_posix(), str(p)) for p in paths if _is_data(p.name)]
    else:
        found = [(folder.name, text)] if folder.exists() else []
    if not found:
        raise FileNotFoundError(f"{text}: no file there is a table; expected {', '.join(TABLES)}")
    return [Shard(name, path, None, os.path.getsize(path)) for name, path in sorted(found)]


def _matching(text: str) -> tuple[Path, list[Path]]:
    """Files that match a pattern, and the folder above its first wildcard."""
    parts = Path(text).parts
    first = next(i for i, part in enumerate(parts) if _PATTERN.search(part))
    anchor = Path(*parts[:first]) if first else Path()
    return anchor, [p for p in anchor.glob(str(Path(*parts[first:]))) if p.is_file()]


def _listed_afar(text: str) -> list[Shard]:
    """Files by fsspec."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(text)
        if _PATTERN.search(root):
            paths = files.glob(root)
            root = root[: _PATTERN.search(root).start()].rpartition("/")[0]  # pyright: ignore[reportOptionalMemberAccess]
        else:
            paths = files.find(root)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{text} cannot be opened: {error}") from error
    found = []
    for path in sorted(paths):
        below = path[len(root) :].lstrip("/") or posixpath.basename(path)
        if _is_data(below):
            found.append((below, path))
    if not found:
        raise FileNotFoundError(f"{text}: no file there is a table; expected {', '.join(TABLES)}")
    return [Shard(name, path, files, files.size(path)) for name, path in found]


def _of_dataset(source: Any) -> list[Shard]:
    """The files of a data set of pyarrow; one that is a filter or holds tables in memory has none."""
    paths = getattr(source, "files", None)
    if not paths:
        raise ValueError("a data set must be of files, got one without; give its table, dataset.to_table()")
    from fsspec.implementations.arrow import ArrowFSWrapper

    files: Any = source.filesystem
    afar: Any = None
    if type(files).__name__ != "LocalFileSystem":
        afar = files.handler.fs if hasattr(files, "handler") else ArrowFSWrapper(files)
    size = os.path.getsize if afar is None else afar.size
    root = os.path.commonpath([posixpath.dirname(p) for p in paths])
    return [Shard(posixpath.relpath(p, root) if root else p, p, afar, size(p)) for p in sorted(paths)]
