"""From a schema and a few arguments to a model: which head reads and writes which cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from abduce.data.schema import Schema
from abduce.distributions.heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    Likelihood,
    NegativeBinomialHead,
    OrdinalHead,
    PixelHead,
)
from abduce.models.vae import VariationalAutoencoder
from abduce.nets import Features

LIKELIHOODS = ("auto", "gaussian", "discretized_logistic")
NUMERIC = ("real", "positive", "pixel")


def build_vae(
    schema: Schema,
    latent_dim: int,
    hidden: Sequence[int],
    likelihood: str = "auto",
    scale: str = "cell",
    rank: int = 0,
    components: int = 3,
    activation: str = "tanh",
    linear_path: bool = True,
    dropout: float = 0.0,
    masking: bool = True,
    floor: float = 0.01,
    local: bool = False,
    means: Sequence[float] | None = None,
) -> VariationalAutoencoder:
    """Build the network for a schema; weights are random, from torch's global generator.

    ``means`` are the cells' observed means in model space, where count cells start from.
    """
    heads: list[tuple[Sequence[int] | None, nn.Module]] = []
    gaussian: list[int] = []
    numeric: list[int] = []
    count: list[int] = []
    count_stats: list[tuple[float, float]] = []
    classes: list[tuple[int, int]] = []
    for group in schema.groups:
        cells = [int(c) for c in group.cells]
        fields = group.fields if len(group.fields) == len(cells) else group.fields * len(cells)
        if group.kind == "pixel" and likelihood != "gaussian":
            levels = {f.levels for f in fields}
            numeric += cells
            for n in sorted(levels):  # pyright: ignore[reportArgumentType]
                own = [c for c, f in zip(cells, fields, strict=True) if f.levels == n]
                heads.append((own, PixelHead(len(own), n, components)))  # pyright: ignore[reportArgumentType]
        elif group.kind in NUMERIC:
            numeric += cells
            gaussian += cells
        elif group.kind == "binary":
            numeric += cells
            heads.append((cells, BernoulliHead(len(cells))))
        elif group.kind == "count":
            count += cells
            own_means = [1.0 if means is None else float(means[c]) for c in cells]
            count_stats += [(float(np.log1p(m)), 1.0) for m in own_means]
            heads.append((cells, NegativeBinomialHead(own_means)))
        else:
            sizes = [len(f.categories or ()) for f in fields]
            classes += list(zip(cells, sizes, strict=True))
            heads.append((cells, (OrdinalHead if group.kind == "ordinal" else CategoricalHead)(sizes)))
    if gaussian:
        gaussian.sort()
        heads.insert(0, (gaussian, GaussianHead(len(gaussian), scale, min(rank, len(gaussian) - 1), floor, local)))
    features = Features(schema.n_cells, sorted(numeric), count, count_stats, classes, masking)
    return VariationalAutoencoder(
        features, Likelihood(heads, schema.n_cells), latent_dim, hidden, activation, linear_path, dropout
    )


def default_latent_dim(schema: Schema, rows: int) -> int:
    """Latents to start with: about √D + 4 for images and tables alike, fewer than rows."""
    return int(max(1, min(round(schema.n_cells**0.5 + 4), schema.n_cells, rows // 4 + 1, 64)))


