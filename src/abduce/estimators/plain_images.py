"""What images cost in a plain code that knows no training data, beside which a model's −log p tells what is odd.

A model finds plain images likely, whatever they show: their pixels are easy to say.  So of images oddness is

    S(x) = −log p(x) − L(x)

how many nats more the model needs for the pixels seen than :func:`~abduce.compress.image_length.image_length` does.  Where the
model has densities, log p is that of the levels: density times their width.

Source: Serrà et al. 2020, arXiv 1909.11480; what it mends Nalisnick et al. 2019, arXiv 1810.09136.
"""

from __future__ import annotations

import math

import numpy as np

from abduce.compress.image_length import image_length
from abduce.data.fields import CODED
from abduce.data.schema import Schema
from abduce.data.seen import Seen

LEVELS = 256  # that pixels are rounded to which have more


def plain_length(schema: Schema, seen: Seen, mass: bool) -> np.ndarray:
    """Nats of the seen pixels of images in model space, as a plain coder has them, (n,).

    With ``mass`` the model gives probabilities of pixels' levels; else its densities are per unit of the data, and the log of
    a level's width is taken off for each pixel.
    """
    field, mask = schema.fields[0], seen.mask.numpy()
    shape = (*schema.shape, 1) if len(schema.shape) == 2 else schema.shape
    if field.kind in CODED:
        k, levels = np.minimum(seen.y.numpy(), LEVELS - 1), len(field.categories or (0, 1))
        return image_length(_images(k, shape), _images(mask, shape), levels)
    reach = field.high - field.low
    whole = field.denominator is not None and reach * field.denominator < LEVELS
    width = 1 / (field.denominator or 1) if whole else reach / (LEVELS - 1)
    place = np.rint((schema.transform.back(seen.y.numpy()) - field.low) / width)
    levels = max(1, round(reach * (field.denominator or 1)) + 1) if whole else LEVELS
    k = np.where(mask, np.clip(np.nan_to_num(place), 0, levels - 1), 0)
    found = image_length(_images(k, shape), _images(mask, shape), levels)
    density = field.kind in ("real", "positive") or (field.kind == "pixel" and not mass)
    return found + (mask.sum(1) * math.log(width) if density else 0.0)


def _images(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return flat.reshape(len(flat), *shape)
