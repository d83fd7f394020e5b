"""Files in, data out; and back into the same kind of file.

| path | data |
|---|---|
| `.csv`, `.tsv` (also `.gz`), separated by comma, semicolon, tab or bar | DataFrame, nullable dtypes |
| `.parquet`, `.feather`, `.arrow` | DataFrame, same |
| `.npy`, `.npz` | array |
| a folder of images | array (n, H, W) or (n, H, W, C), in the order of the file names |

A blank in text is an empty field, or one of spaces.  Writing is all or nothing: a file appears under its name only once it is
complete.  What is written like a file takes its form: images their names, tables the text of every cell that is as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from abduce.data.arrow import arrow_writer, frame_of, read_arrow, table_like
from abduce.data.files import ARRAYS, ARROWS, TABLES, TEXTS, Clear, atomic, check_folder, naming, suffix_of
from abduce.data.images import IMAGES, read_images, write_images
from abduce.data.text import TextFile, restored, write_text


def _unknown(path: Path) -> ValueError:
    given = f"suffix {path.suffix!r}" if path.suffix else "no suffix"
    return ValueError(f"{path}: {given}; expected {', '.join((*TABLES, *ARRAYS))} or a folder of images")


# ---------------------------------------------------------------- read


def read(
    path: str | os.PathLike, member: str | None = None, na: Iterable[str] = ()
) -> pd.DataFrame | np.ndarray:
    """Read a file or a folder of images.

    Parameters
    ----------
    path
        A table (.csv, .tsv, packed or not, .parquet, .feather, .arrow), an array (.npy, .npz) or a folder of images.
    member
        Which array of an `.npz`; default its only array, or the one named X.
    na
        Words that mean a blank in text, such as NA; an empty field always does.

    Raises
    ------
    FileNotFoundError
        Where there is nothing.
    ValueError
        Naming the path, for an unknown suffix, an empty or an unreadable file, and the line of a row that is not as wide as
        the header.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    suffix = suffix_of(path)
    if member is not None and suffix != ".npz":
        raise ValueError(f"{path}: member={member!r} is for .npz files only")
    if path.is_dir():
        return read_images(path)
    if suffix not in (*TABLES, *ARRAYS):
        if suffix in IMAGES:
            raise ValueError(f"{path} is one image; expected a folder of images")
        raise _unknown(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    with naming(path, suffix):
        if suffix == ".npz":
            data = _read_npz(path, member)
        elif suffix == ".npy":
            data = np.load(path, allow_pickle=False)
        elif suffix in ARROWS:
            data = frame_of(read_arrow(path, suffix))
        else:
            data = _read_text(TextFile(path, suffix, na))[1]
    if not data.ndim:
        raise ValueError(
            f"{path} holds one number (shape ()); expected an array of rows, (n, D) or (n, H, W)"
        )
    if not len(data):
        raise ValueError(f"{path} has no rows")
    return data


def _read_text(source: TextFile) -> tuple[pa.Table, pd.DataFrame]:
    """The text of all cells, and what they mean."""
    table = pa.Table.from_batches(list(source.batches()), source.schema)
    source.look(table)
    source.warn()
    return table, source.frame(table)


def _read_npz(path: Path, member: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise Clear(f"{path} is not an .npz archive")
        names = list(file.files)
        name = member or (names[0] if len(names) == 1 else "X")
        if name not in names:
            wanted = f"no array {member!r}" if member else "several arrays and none is named X"
            raise Clear(
                f"{path} has {wanted}; it holds {', '.join(names) or 'nothing'}; choose one with member="
            )
        return file[name]


# ---------------------------------------------------------------- write


def write(
    path: str | os.PathLike, data: Any, like: str | os.PathLike | None = None, na: Iterable[str] = ()
) -> Path:
    """Write a DataFrame or an array in the form the suffix says; returns the path.

    Parameters
    ----------
    path
        A name without a suffix, or a folder that exists, takes images.  Nothing is left there if writing fails.
    data
        DataFrame or array; images are uint8, or floats in 0..1 or 0..255.
    like
        Where the data came from.  A folder of images: the answers get the same names (lossy formats become `.png`).  A table:
        the answer is written in its dialect, and every cell whose value is as it was there, or is blank now, as it stands
        there; a file with other rows or columns says nothing.
    na
        Words that mean a blank in ``like``.

    Raises
    ------
    ValueError
        For an unknown suffix, or data that it cannot hold.
    FileNotFoundError
        If the folder to write into is not there.
    OSError
        If the disk is full.
    """
    path = Path(path)
    check_folder(path)
    suffix = suffix_of(path)
    if path.is_dir() or not suffix:
        return write_images(path, data, like)
    if suffix not in (*TABLES, *ARRAYS):
        raise _unknown(path)
    if suffix in TABLES:
        frame = _as_frame(data, path)
        origin = None if like is None else Path(like)
        if suffix in TEXTS:
            return atomic(path, lambda file: write_csv(file, frame, suffix, origin, na))
        if origin is not None and suffix_of(origin) in ARROWS:
            with naming(origin, suffix_of(origin)):
                old = read_arrow(origin, suffix_of(origin))
            before = frame_of(old)
            if _alike(before, frame):
                return _write_arrow(path, table_like(old, before, frame))
        return _write_arrow(path, pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False))
    array = _as_array(data, path)
    if suffix == ".npy":
        return atomic(path, lambda file: np.save(file, array, allow_pickle=False))
    return atomic(path, lambda file: np.savez_compressed(file, X=array))


def _write_arrow(path: Path, table: pa.Table) -> Path:
    def fill(file: IO[bytes]) -> None:
        with arrow_writer(file, table.schema, suffix_of(path), table) as writer:
            writer.write_table(table)

    return atomic(path, fill)


def write_csv(
    file: Any, frame: pd.DataFrame, suffix: str = ".csv", like: Path | None = None, na: Iterable[str] = ()
) -> None:
    """Write a frame to an open file as text, its cells as they stand in the text file ``like`` where they are as there."""
    if like is not None and suffix_of(like) in TEXTS:
        with naming(like, suffix_of(like)):
            source = TextFile(like, suffix_of(like), na)
            table = pa.Table.from_batches(list(source.batches()), source.schema)
            source.look(table)
        before = source.frame(table)
        if _alike(before, frame):
            answer = restored(source, table, before, frame)
            write_text(file, [answer], suffix, source.dialect_of(suffix))
            return
    write_text(file, [frame], suffix)


def _alike(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    """Whether an answer has the rows and columns of a file."""
    return len(before) == len(after) and list(map(str, before.columns)) == list(map(str, after.columns))


def _as_frame(data: Any, path: Path) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    array = np.asarray(data)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{path}: a table holds 2-D data, got shape {array.shape}; use .npy or .npz")
    return pd.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])])


def _as_array(data: Any, path: Path) -> np.ndarray:
    if not isinstance(data, pd.DataFrame):
        return np.asarray(data)
    if words := [str(c) for c in data.columns if not pd.api.types.is_numeric_dtype(data[c].dtype)]:
        raise ValueError(
            f"{path}: an array holds numbers only, but {', '.join(words)} are not; use .csv or .parquet"
        )
    if any(data[c].isna().any() for c in data.columns):
        return data.to_numpy(dtype=np.float64, na_value=np.nan)
    return data.to_numpy()
