"""A folder of images as an array, and an array as a folder of images.

| file | array |
|---|---|
| 8 bits a channel | uint8 (n, H, W), or (n, H, W, C) if they have colour |
| 16 bits, grey | uint16 |
| floats (TIFF) | float32, written as floats where they came from such files |

Images are turned as their EXIF orientation says when they are read, and are written upright, without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from abduce.data.files import Clear, atomic, part, put_folder, sweep

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_LOSSY = (".jpg", ".jpeg", ".webp", ".gif")
_FLOATS = (".tif", ".tiff")


def image_names(folder: str | os.PathLike) -> list[str]:
    """List the images in a folder in the order `read` takes them; ValueError if there are none."""
    folder = Path(folder)
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    names = sorted(p.name for p in files if not p.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no images; expected files with suffix {', '.join(IMAGES)}")
    return names


def read_images(folder: str | os.PathLike) -> np.ndarray:
    """Read a folder of images of one size into an array (n, H, W), or (n, H, W, C) if they have colour.

    ValueError naming the first image that cannot be read, or is of another size, colour or depth than most.
    """
    from PIL import Image, ImageOps

    folder = Path(folder)
    names = image_names(folder)
    arrays = []
    for name in names:
        try:
            with Image.open(folder / name) as image:
                _check_depth(folder / name, image)
                palette = "RGBA" if "transparency" in image.info else "RGB"
                plain = {"1": "L", "P": palette, "CMYK": "RGB", "YCbCr": "RGB"}
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(
                    upright.convert(plain[upright.mode]) if upright.mode in plain else upright
                )
                grey = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, read as 32
                arrays.append(
                    pixels.astype(np.uint16 if grey else pixels.dtype.newbyteorder("="), copy=False)
                )
        except Clear:
            raise
        # Pillow's are of a dozen types, MemoryError for a length that is damaged among them
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{folder / name} cannot be read as an image: {reason}") from error
    sizes = [_size(array) for array in arrays]
    usual = max(dict.fromkeys(sizes), key=sizes.count)
    for name, size in zip(names, sizes, strict=True):
        if size != usual:
            raise ValueError(
                f"{folder / name} has {size} but most images there have {usual}; expected one size, colour and depth"
            )
    return np.stack(arrays)


def _check_depth(path: Path, image: Any) -> None:
    """Refuse images of which the reader would keep half of the bits."""
    raw = " ".join(str(tile[-1]) for tile in image.tile)
    if ";16" in raw and image.mode not in ("I;16", "I;16B", "I;16L", "I", "F"):
        raise Clear(
            f"{path} has 16 bits a channel and several channels, of which 8 bits could be read; expected 8 bits a channel, or "
            "16 in grey: save it so, or give the pixels as .npy"
        )


def _size(array: np.ndarray) -> str:
    channels = array.shape[2] if array.ndim == 3 else 1
    depth = "" if array.dtype == np.uint8 else f" of {array.dtype}"
    return f"{array.shape[1]}x{array.shape[0]} pixels, {channels} channel{'s' if channels > 1 else ''}{depth}"


# ---------------------------------------------------------------- write


def write_images(path: Path, data: Any, like: str | os.PathLike | None) -> Path:
    """Write an array as a folder of images, all or nothing; ``like`` is the folder that they came from, if any.

    Pixels are uint8, uint16 in grey, floats in 0..1 or 0..255 that become uint8, or any floats where ``like`` holds such.
    """
    from PIL import Image

    array = np.asarray(data)
    names = _answer_names(len(array), like)
    pixels = array.astype(np.float32) if _takes_floats(array, names, like) else _as_bytes(array, path)
    images = [Image.fromarray(pixel) for pixel in pixels]
    if path.is_dir():
        sweep(path)
        for name, image in zip(names, images, strict=True):
            atomic(
                path / name, lambda file, name=name, image=image: _save_image(image, file, name), swept=True
            )
        return path
    sweep(path.absolute().parent, path.name)
    with part(path, Path.mkdir) as new:
        for name, image in zip(names, images, strict=True):
            with open(new / name, "xb") as file:
                _save_image(image, file, name)
        put_folder(new, path)
    return path


def _save_image(image: Any, file: IO[bytes], name: str) -> None:
    from PIL import Image

    kind = Image.registered_extensions()[Path(name).suffix.lower()]
    try:
        image.save(file, format=kind)
    except OSError as error:
        if "cannot write mode" not in str(error):
            raise
        raise ValueError(
            f"{name}: {kind} holds no pixels such as these ({image.mode}); name the images .png"
        ) from error


def _takes_floats(array: np.ndarray, names: list[str], like: str | os.PathLike | None) -> bool:
    """Whether an answer in floats goes into files that held floats."""
    from PIL import Image

    if like is None or array.dtype.kind != "f" or array.ndim != 3:
        return False
    if any(Path(name).suffix.lower() not in _FLOATS for name in names):
        return False
    with Image.open(Path(like) / names[0]) as image:
        return image.mode == "F"


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
