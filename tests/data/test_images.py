"""Folders of images: every depth comes back as it was, or is refused; images are read upright."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from abduce.data.readers import read, write

rng = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    return path


def come_back(pixels: np.ndarray, folder, tmp_path, suffix: str) -> None:
    """Check that images saved in a folder are read, and written again, in their own dtype to the bit."""
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.{suffix}")
    given = read(folder)
    assert given.dtype == pixels.dtype
    np.testing.assert_array_equal(given, pixels)
    np.testing.assert_array_equal(read(write(tmp_path / "out", given, like=folder)), pixels)


def test_floats_stay_floats(folder, tmp_path):
    pixels = (rng.normal(size=(3, 4, 5)) * 1e3).astype(np.float32)
    come_back(pixels, folder, tmp_path, "tiff")
    small = np.abs(pixels) / 1e4  # between 0 and 1: no grey levels either
    np.testing.assert_array_equal(read(write(tmp_path / "small", small, like=folder)), small)
    with pytest.raises(ValueError, match=r"pixels must lie in 0..255 or 0..1"):
        write(tmp_path / "none", pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_stay_16_bits(folder, tmp_path, suffix):
    come_back(rng.integers(0, 2**16, (3, 4, 5)).astype(np.uint16), folder, tmp_path, suffix)


def test_16_bits_in_colour_are_refused(folder):
    rows = b"".join(
        b"\0" + bytes(range(6 * 5)) for _ in range(4)
    )  # no filter, then 5 pixels of 3 channels of 2 bytes
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (folder / "a.png").write_bytes(png)
    with pytest.raises(ValueError, match=r"a.png has 16 bits a channel and several channels"):
        read(folder)


def test_one_depth_a_folder(folder):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "b.png")
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(folder / "c.png")
    with pytest.raises(
        ValueError, match=r"c.png has 5x4 pixels, 1 channel of uint16 but most images there have 5x4"
    ):
        read(folder)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_read_upright(folder, tmp_path, orientation):
    """Orientation 6 says that the stored picture is to be turned by a quarter clockwise to be seen."""
    stored = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(folder / "a.png", exif=exif)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    given = read(folder)
    np.testing.assert_array_equal(given[0], np.rot90(stored, turns))
    out = write(tmp_path / "out", given, like=folder)
    np.testing.assert_array_equal(read(out), given)
    with Image.open(out / "a.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(image), given[0])
