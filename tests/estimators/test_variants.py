"""The page of variants: every call in its tables is accepted, and trains one epoch to a model that scores rows."""

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import abduce

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "variants.md").read_text(encoding="utf-8")
CALLS = sorted(set(re.findall(r"\| `(VAE\(.*?\))` \|", PAGE)))
NAMES = {
    "math": math,
    **{name: getattr(abduce, name) for name in ("CIWAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "Renyi")},
}
SMALL = {"hidden": (8,), "max_epochs": 1, "batch_size": 32, "samples": 4, "random_state": 0, "device": "cpu"}
LATENTS = {"latent_dim": 3}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Tiny grey images: every likelihood of the page fits them."""
    rng = np.random.default_rng(0)
    light = rng.random((64, 1, 1)) + 0.2 * rng.random((64, 3, 3))
    return (light * 255 / 1.2).astype(np.uint8)


def test_the_page_has_the_calls_it_is_about():
    assert len(CALLS) >= 30
    assert PAGE.count("`VAE(") == len(
        re.findall(r"\| `VAE\(.*?\)` \|", PAGE)
    )  # none in a form that is not read


@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_page_trains(call, images):
    own = SMALL if "latent_dim" in call else SMALL | LATENTS
    model = eval(call, {**NAMES, "VAE": partial(abduce.VAE, **own), "X": images})
    if ".fit(" not in call:
        model.fit(images)
    assert len(model.history_) == 1
    assert math.isfinite(model.history_[0]["train"])
    assert np.isfinite(model.score_samples(images[:5])).all()
