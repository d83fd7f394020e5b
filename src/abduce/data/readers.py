"""Files in, data out; and back into the same kind of file.

| path | data |
|---|---|
| `.csv`, `.tsv` (also `.gz`) | DataFrame, nullable dtypes: whole numbers with blanks stay whole |
| `.parquet` | DataFrame, same |
| `.npy`, `.npz` | array |
| a folder of images | array (n, H, W) or (n, H, W, C), in the order of the file names |

Writing is all or nothing: a file appears under its name only once it is complete.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
ARRAYS = (".npy", ".npz")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_LOSSY = (".jpg", ".jpeg", ".webp", ".gif")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((s for s in (*TABLES, *ARRAYS) if name.endswith(s)), path.suffix.lower())


def _unknown(path: Path) -> ValueError:
    given = f"suffix {path.suffix!r}" if path.suffix else "no suffix"
    return ValueError(f"{path}: {given}; expected {', '.join((*TABLES, *ARRAYS))} or a folder of images")


# ---------------------------------------------------------------- read


def read(path: str | os.PathLike, member: str | None = None) -> pd.DataFrame | np.ndarray:
    """Read a file or a folder of images.

    Parameters
    ----------
    path
        A table (.csv, .tsv, packed or not, .parquet), an array (.npy, .npz) or a folder of images.
    member
        Which array of an `.npz`; default its only array, or the one named X.

    Raises
    ------
    FileNotFoundError
        Where there is nothing.
    ValueError
        Naming the path, for an unknown suffix, an empty or an unreadable file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    suffix = _suffix(path)
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
        elif suffix == ".parquet":
            data = pd.read_parquet(path, dtype_backend="numpy_nullable")
        else:
            data = pd.read_csv(path, **text_options(suffix))
    if not len(data):
        raise ValueError(f"{path} has no rows")
    return data


class _Clear(ValueError):
    """An error that already says what is wrong with which file."""


@contextmanager
def naming(path: Path, suffix: str) -> Iterator[None]:
    """Name the path in what the readers raise: a dozen types of their own, all of which mean the same to the caller."""
    try:
        yield
    except _Clear:
        raise
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as {suffix}: {reason}") from error


def text_options(suffix: str) -> dict[str, Any]:
    """Arguments of `pandas.read_csv`, the same for a whole file and for its chunks."""
    # Before pandas 3 the default parser was off in the last bit of some numbers.
    exact = {"float_precision": "round_trip"} if int(pd.__version__.split(".")[0]) < 3 else {}
    return {"sep": _separator(suffix), "dtype_backend": "numpy_nullable", "low_memory": False, **exact}


def _separator(suffix: str) -> str:
    return "\t" if ".tsv" in suffix else ","


def _read_npz(path: Path, member: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise _Clear(f"{path} is not an .npz archive")
        names = list(file.files)
        name = member or (names[0] if len(names) == 1 else "X")
        if name not in names:
            wanted = f"no array {member!r}" if member else "several arrays and none is named X"
            raise _Clear(
                f"{path} has {wanted}; it holds {', '.join(names) or 'nothing'}; choose one with member="
            )
        return file[name]


def image_names(folder: str | os.PathLike) -> list[str]:
    """List the images in a folder in the order `read` takes them; ValueError if there are none."""
    folder = Path(folder)
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    names = sorted(p.name for p in files if not p.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no images; expected files with suffix {', '.join(IMAGES)}")
    return names


def read_images(folder: str | os.PathLike) -> np.ndarray:
    """Read a folder of images of one size into uint8 (n, H, W), or (n, H, W, C) if they have colour.

    ValueError naming the first image that cannot be read, or is of another size or colour than most.
    """
    from PIL import Image, UnidentifiedImageError

    folder = Path(folder)
    names = image_names(folder)
    arrays = []
    for name in names:
        try:
            with Image.open(folder / name) as image:
                palette = "RGBA" if "transparency" in image.info else "RGB"
                plain = {"1": "L", "P": palette, "CMYK": "RGB", "YCbCr": "RGB"}
                arrays.append(np.asarray(image.convert(plain[image.mode]) if image.mode in plain else image))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{folder / name} cannot be read as an image: {error}") from error
    shapes = [array.shape for array in arrays]
    usual = max(set(shapes), key=shapes.count)
    for name, shape in zip(names, shapes, strict=True):
        if shape != usual:
            raise ValueError(
                f"{folder / name} has {_size(shape)} but most images there have {_size(usual)}; "
                "expected one size"
            )
    return np.stack(arrays)


def _size(shape: tuple[int, ...]) -> str:
    channels = shape[2] if len(shape) == 3 else 1
    return f"{shape[1]}x{shape[0]} pixels, {channels} channel{'s' if channels > 1 else ''}"


# ---------------------------------------------------------------- write


def write(path: str | os.PathLike, data: Any, like: str | os.PathLike | None = None) -> Path:
    """Write a DataFrame or an array in the form the suffix says; returns the path.

    Parameters
    ----------
    path
        A name without a suffix, or a folder that exists, takes images.  Nothing is left there if writing fails.
    data
        DataFrame or array; images are uint8, or floats in 0..1 or 0..255.
    like
        The folder the images came from: the answers get the same names (lossy formats become `.png`).

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
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write into")
    suffix = _suffix(path)
    if path.is_dir() or not suffix:
        return _write_images(path, data, like)
    if suffix not in (*TABLES, *ARRAYS):
        raise _unknown(path)
    if suffix in TABLES:
        frame = _as_frame(data, path)
        if suffix == ".parquet":
            named = frame.rename(columns=str)
            return _atomic(path, lambda file: named.to_parquet(file, index=False))
        return _atomic(path, lambda file: write_text(file, [frame], suffix))
    array = _as_array(data, path)
    if suffix == ".npy":
        return _atomic(path, lambda file: np.save(file, array, allow_pickle=False))
    return _atomic(path, lambda file: np.savez_compressed(file, X=array))


def _as_frame(data: Any, path: Path) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    array = np.asarray(data)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{path}: a table holds 2-D data, got shape {array.shape}; use .npy or .npz")
    return pd.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])])


def write_text(file: Any, pieces: Iterable[pd.DataFrame], suffix: str = ".csv") -> None:
    """Write frames to an open file as one CSV or TSV, packed or not, the header once; blank names stay blank."""
    binary = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if suffix.endswith(".gz") else file
    text = io.TextIOWrapper(binary, "utf-8", newline="") if isinstance(file, io.BufferedIOBase) else binary
    try:
        first = True
        for frame in pieces:
            names = ["" if re.fullmatch(r"Unnamed: \d+", str(c)) else c for c in frame.columns]
            frame.to_csv(text, index=False, header=names if first else False, sep=_separator(suffix))
            first = False
        text.flush()
    finally:
        if text is not binary:
            text.detach()
        if binary is not file:
            binary.close()


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


def _atomic(path: Path, fill: Callable[[IO[bytes]], Any]) -> Path:
    """Let `fill` write a file of a temporary name beside `path`, then rename it: nobody sees half a file."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _write_images(path: Path, data: Any, like: str | os.PathLike | None) -> Path:
    from PIL import Image

    pixels = _as_bytes(np.asarray(data), path)
    names = _answer_names(len(pixels), like)
    images = [Image.fromarray(pixel) for pixel in pixels]
    if path.is_dir():
        for name, image in zip(names, images, strict=True):
            _atomic(path / name, lambda file, name=name, image=image: _save_image(image, file, name))
        return path
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        for name, image in zip(names, images, strict=True):
            with open(part / name, "xb") as file:
                _save_image(image, file, name)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _save_image(image: Any, file: IO[bytes], name: str) -> None:
    from PIL import Image

    image.save(file, format=Image.registered_extensions()[Path(name).suffix.lower()])


def _answer_names(n: int, like: str | os.PathLike | None) -> list[str]:
    if like is None:
        return [f"{i:0{max(6, len(str(n)))}d}.png" for i in range(n)]
    names = image_names(like)
    if len(names) != n:
        raise ValueError(f"{n} images to write but {like} has {len(names)}")
    # A lossy format would change the very pixels that were to stay as they are.
    safe = [
        str(Path(name).with_suffix(".png")) if Path(name).suffix.lower() in _LOSSY else name for name in names
    ]
    if len(set(safe)) < n:  # a.jpg beside a.png
        safe = [name if name == out else f"{name}.png" for name, out in zip(names, safe, strict=True)]
    return safe


def _as_bytes(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (2, 3, 4)):
        raise ValueError(
            f"{path}: images have shape (n, H, W) or (n, H, W, 1 to 4), got {array.shape}; use .npy or .npz"
        )
    if array.dtype == np.uint8 or array.dtype == np.uint16:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{path}: images hold finite numbers, got dtype {array.dtype} or missing pixels")
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if low < 0 or high > 255:
        raise ValueError(
            f"{path}: pixels must lie in 0..255 or 0..1, got {low:g} to {high:g}; use .npy or .npz"
        )
    unit = array.dtype.kind == "f" and high <= 1
    return np.rint(array * 255 if unit else array).astype(np.uint8)
