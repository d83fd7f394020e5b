"""The variational auto-encoder of a world that is seen in pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from abduce.estimators.vae import VAE
from abduce.world.episodes import Episode
from abduce.world.pictures import Pictures

UNITS = 128, 128  # of the networks between pictures and codes


def fit_pictures(found: list[Episode], codes: int, seed: int, show: Callable[[str, float], None]) -> Pictures:
    """Fit to all that was observed; ``codes`` numbers a picture.

    Noise has one scale for all pixels and weights do not decay: pictures of a world differ in a few numbers and little else,
    and codes are to hold these as exactly as can be.
    """
    rows = np.concatenate([e.observations for e in found])
    rows = rows[~np.isnan(rows).any(1)]
    if len(rows) < 2:
        raise ValueError(
            f"episodes have {len(rows)} pictures without blanks, at least 2 are needed to learn codes from"
        )
    if codes > rows.shape[1]:
        raise ValueError(f"codes must be at most the {rows.shape[1]} numbers of a picture, got {codes}")
    model = VAE(
        latent_dim=codes, network="mlp", hidden=UNITS, likelihood="gaussian", scale="shared", linear_path=False,
        masking=False, weight_decay=0.0, learning_rate=2e-3, kinds="real", random_state=seed,
        callback=lambda told: show("see", told.get("epoch", 0) / max(1, told.get("epochs", 1))),
    ).fit(rows[:, None])  # fmt: skip
    offset, one = (model.schema_.decode(np.full((1, rows.shape[1]), v)).ravel() for v in (0.0, 1.0))
    seen = Pictures(model.model_, torch.from_numpy(offset), torch.from_numpy(one - offset))
    return seen.eval().requires_grad_(False)
