"""From data and a choice to the VAE that training starts from."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from abduce.data.schema import Schema
from abduce.distributions.heads import FLOOR
from abduce.gaussians.linear import LinearPath, choose
from abduce.models.choice import Choice
from abduce.models.columns import reading
from abduce.models.shapes import DataSummary, Shapes
from abduce.models.vae import VariationalAutoencoder

MOST = 5000  # rows that place a linear path: its cost must not grow with the data


def build_vae(
    schema: Schema,
    choice: Choice,
    data: DataSummary | None = None,
    path: LinearPath | None = None,
    pseudo: Tensor | None = None,
) -> VariationalAutoencoder:
    """Build the model of a schema; weights are random, from torch's global generator.

    ``data`` say where counts and binary cells start, and what the choice leaves to them; ``path`` is a fitted linear path to
    stand beside the networks, ``pseudo`` (components, features) are what a VampPrior's pseudo-inputs start from, rows of what
    the encoder reads.
    """
    shapes = Shapes.of(schema, choice, data)
    if path is not None:
        # worth a nat of 87 on small images, nothing on tables
        shapes = shapes.beside(len(path.weights), tied=schema.container == "image")
    return VariationalAutoencoder(schema, choice, shapes, data, path, pseudo)


def start_vae(
    schema: Schema,
    choice: Choice,
    x: Tensor,
    mask: Tensor,
    rows: Tensor,
    held: Tensor,
    seed: int,
    trim: float,
) -> VariationalAutoencoder:
    """The model that training starts from on model values ``x`` (n, D), of which ``mask`` are observed and the others 0.

    Its linear path, if it has one, is fitted to some of the ``rows`` without the share ``trim`` that is least plausible, and
    chosen by those ``held`` out.
    """
    data = DataSummary.of(x.numpy(), mask.numpy(), schema)
    path = None
    if choice.wants_path(schema):
        features = reading(schema, choice.masking, data)
        grades = torch.tensor([field.kind == "ordinal" for field in schema.cell_fields])
        generator = Generator().manual_seed(seed)

        def part(index: Tensor) -> tuple[Tensor, Tensor | None]:
            values = x[index]
            if bool(
                grades.any()
            ):  # spread over their steps, or clusters would be of what all rows with one grade share
                spread = torch.rand(values.shape, generator=generator, dtype=x.dtype) - 0.5
                values = torch.where(grades, values + spread, values)
            y, seen = features.cells(values, mask[index])
            return (y.double(), None) if seen is None or bool(seen.all()) else (y.double() * seen, seen)

        latent = Shapes.of(schema, choice, data).latent[0]
        # clusters of what is observed are no clusters of what is there, if blanks are not at random
        most = 20 if choice.missing == "mar" else 1
        path = choose(*part(rows[:MOST]), part(held[:1000]), latent, generator, FLOOR, trim, most)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pseudo = None
        if choice.prior == "vamp":
            some = rows[torch.randint(len(rows), (choice.components,))]
            pseudo = reading(schema, choice.masking, data)(x[some].float(), mask[some])
        return build_vae(schema, choice, data, path, pseudo).float()
