"""From the columns of a schema to what reads and writes their cells: the encoder's features and the likelihood's heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from abduce.data.schema import Schema
from abduce.distributions.heads import HEADS, NUMBERS
from abduce.distributions.likelihoods import Cells, Head, Likelihood
from abduce.models.shapes import DataSummary, Shapes
from abduce.nets.mlp import Features


def reading(schema: Schema, masking: bool, data: DataSummary | None = None) -> Features:
    """What the encoder reads of a schema's rows; means of the ``data`` centre counts, grades and binary cells."""
    fields, means = schema.cell_fields, data and data.means
    at = range(len(fields))
    numeric = [c for c in at if fields[c].kind in (*NUMBERS, "binary")]
    count = [c for c in at if fields[c].kind == "count"]
    grades = [c for c in at if fields[c].kind == "ordinal"]
    classes = [(c, len(fields[c].categories or ())) for c in at if fields[c].kind == "categorical"]
    logs = [math.log1p(1.0 if means is None else means[c]) for c in count]
    middle = [0.0 if means is None else means[c] for c in grades]
    spread = [1.0 if data is None else max(data.variances[c] ** 0.5, 1e-3) for c in grades]
    loc = [(0.5 if means is None else means[c]) if fields[c].kind == "binary" else 0.0 for c in numeric]
    return Features(
        schema.n_cells,
        numeric,
        count,
        grades,
        classes,
        reads_mask=masking,
        numeric_loc=loc if any(loc) else None,
        count_loc=logs,
        grade_loc=middle,
        grade_scale=spread,
    )


def likelihood_of(schema: Schema, shapes: Shapes, scale: str, data: DataSummary | None = None) -> Likelihood:
    """p(x|z) of a schema's rows by the likelihoods of its fields: one head for all cells of one likelihood, and of one lattice
    where it counts the lattice's steps; ``scale`` says where noise scales come from.
    """
    fields, names = schema.cell_fields, shapes.likelihoods
    observed = (data.means, data.variances) if data else (None, None)
    gathered: dict[tuple, list[int]] = {}
    for group in schema.groups:
        for cell in group.cells.tolist():
            field, name = fields[cell], names[cell % len(names)]
            sort = "number" if field.kind in ("real", "positive") else field.kind
            law = "gaussian" if name == "lognormal" else name
            lattice = (field.levels, Cells([field]).half) if field.kind == "pixel" else ()
            gathered.setdefault((law, sort, lattice), []).append(cell)
    heads: list[tuple[Sequence[int], Head]] = []
    for (name, *_), cells in gathered.items():
        cells = sorted(cells)
        means, variances = (None if v is None else torch.tensor([v[c] for c in cells]) for v in observed)
        levels = [data.levels[c] for c in cells] if data and all(c in data.levels for c in cells) else None
        made_for = Cells([fields[c] for c in cells], means, variances, scale, shapes.logistics, levels)
        heads.append((cells, HEADS[name](name, made_for)))
    return Likelihood(heads, schema.n_cells)
