"""A plain image coder's lengths: those of deflate on pixels or on Paeth's filter, read off pixel by pixel."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from abduce.compress.image_length import image_length, paeth
from abduce.data.examples import load_digits_images


def whole(k):
    return np.ones(k.shape, bool)


def smooth(rng, shape, top=255):
    return np.cumsum(rng.integers(-4, 5, shape), 2).clip(0, top)


def filtered(k):
    """Paeth's filter, a byte at a time, of one image (H, W, C)."""
    out = np.zeros_like(k)
    for r, c, j in np.ndindex(k.shape):
        west = int(k[r, c - 1, j]) if c else 0
        north = int(k[r - 1, c, j]) if r else 0
        corner = int(k[r - 1, c - 1, j]) if r and c else 0
        guess = min((west, north, corner), key=lambda v: abs(west + north - corner - v))
        out[r, c, j] = (int(k[r, c, j]) - guess) % 256
    return out


def raw(data):
    return len(zlib.compress(data, 6)) - 6  # without the two bytes before and the checksum


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_shorter_of_two_less_that_of_nothing(channels):
    k = smooth(np.random.default_rng(0), (5, 9, 8, channels)).astype(np.uint8)
    np.testing.assert_array_equal(paeth(k), np.stack([filtered(image) for image in k]))
    expected = [min(raw(a.tobytes()), raw(filtered(a).tobytes())) - raw(bytes(a.size)) for a in k]
    np.testing.assert_allclose(image_length(k, whole(k)), 8 * np.log(2) * np.array(expected))


def test_images_are_about_as_long_as_their_png():
    bumps = np.random.default_rng(0).normal(size=(6, 60, 60, 3))
    k = (127 + 90 * np.tanh(np.cumsum(np.cumsum(bumps, 1), 2) / 20)).astype(np.uint8)
    files = []
    for image in k:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png", optimize=True)
        files.append(8 * np.log(2) * len(file.getvalue()))
    np.testing.assert_allclose(image_length(k, whole(k)), files, rtol=0.1)


def test_plain_images_are_short_and_noise_is_as_long_as_it_must_be():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 28, 28, 1))
    flat, ramp = np.full((1, 28, 28, 1), 90), np.broadcast_to(np.arange(28)[:, None] * 4, (1, 28, 28, 1))
    assert [int(image_length(a, whole(a))[0]) for a in (flat, 0 * flat)] == [0, 0]
    assert image_length(ramp, whole(ramp))[0] < 120
    np.testing.assert_allclose(image_length(noise, whole(noise)), 784 * np.log(256), rtol=0.01)
    bits = noise % 2
    np.testing.assert_allclose(image_length(bits, whole(bits), 2), 784 * np.log(2))
    half = rng.random(bits.shape) < 0.5
    assert (image_length(bits, half, 2) <= half.sum((1, 2, 3)) * np.log(2) + 1e-9).all()


def test_blank_pixels_cost_next_to_nothing_whatever_lies_under_them():
    images = load_digits_images()[0].astype(int)[:60, ..., None]
    seen = whole(images)
    seen[:, 2:7, 2:] = False
    found = image_length(images, seen)
    np.testing.assert_array_equal(found, image_length(np.where(seen, images, 9), seen))
    assert found.mean() < 0.6 * image_length(images, whole(images)).mean()
    np.testing.assert_array_equal(image_length(images, ~whole(images)), np.zeros(60))
    # read as the pixel before: a row that is flat where it is seen
    strip, gap = np.array([[5, 5, 0, 5]])[None, ..., None], np.array([[1, 1, 0, 1]], bool)[None, ..., None]
    full = np.full_like(strip, 5)
    np.testing.assert_array_equal(image_length(strip, gap), image_length(full, whole(full)))


def test_an_image_is_as_long_whichever_come_along():
    rng = np.random.default_rng(0)
    k = rng.integers(0, 9, (30, 6, 5, 2))
    seen = rng.random(k.shape) > 0.2
    np.testing.assert_array_equal(image_length(k, seen)[[3, 17]], image_length(k[[3, 17]], seen[[3, 17]]))
    assert image_length(k[:0], seen[:0]).shape == (0,)
