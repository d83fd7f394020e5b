"""From a schema and a few arguments to a model: which head reads and writes which cells, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
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
from abduce.models.linear import LinearPath
from abduce.models.vae import VariationalAutoencoder
from abduce.nets import Features

LIKELIHOODS = ("auto", "gaussian", "discretized_logistic")
NUMERIC = ("real", "positive", "pixel")
FLOOR = 0.05  # smallest noise standard deviation of a Gaussian cell, in model units


def features_of(schema: Schema, means: Sequence[float] | None = None, masking: bool = True) -> Features:
    """What the encoder reads of a schema's rows; ``means`` centre the counts."""
    numeric, count, stats, classes = [], [], [], []
    for group, cells, fields in _groups(schema):
        if group in (*NUMERIC, "binary"):
            numeric += cells
        elif group == "count":
            count += cells
            stats += [(math.log1p(1.0 if means is None else means[c]), 1.0) for c in cells]
        else:
            classes += [(c, len(f.categories or ())) for c, f in zip(cells, fields, strict=True)]
    return Features(schema.n_cells, sorted(numeric), count, stats, classes, masking)


def _groups(schema: Schema) -> list[tuple[str, list[int], tuple]]:
    """(kind, cells, one field a cell) of every group; images share one field."""
    out = []
    for group in schema.groups:
        cells = [int(c) for c in group.cells]
        out.append(
            (
                group.kind,
                cells,
                group.fields if len(group.fields) == len(cells) else group.fields * len(cells),
            )
        )
    return out


def wants_path(schema: Schema) -> bool:
    """Whether a linear path serves the data: some cells are numbers."""
    return bool({group.kind for group in schema.groups} & set(NUMERIC))


def build_vae(
    schema: Schema,
    latent_dim: int,
    hidden: Sequence[int],
    likelihood: str = "auto",
    scale: str = "network",
    activation: str = "silu",
    dropout: float = 0.0,
    masking: bool = True,
    mixture: int = 0,
    pixel_components: int = 2,
    means: Sequence[float] | None = None,
    variances: Sequence[float] | None = None,
    path: LinearPath | None = None,
) -> VariationalAutoencoder:
    """Build the model of a schema; weights are random, from torch's global generator.

    ``mixture`` is the number of components of the linear path, 0 for none; ``path`` its fitted parameters (an empty one if
    not given, to be loaded into).  ``means`` and ``variances`` are the cells' observed ones in model space: where counts
    start from.
    """
    heads: list[tuple[Sequence[int] | None, nn.Module]] = []
    gaussian: list[int] = []
    for kind, cells, fields in _groups(schema):
        if kind == "pixel" and likelihood == "discretized_logistic":
            for n in sorted({f.levels for f in fields}):
                own = [c for c, f in zip(cells, fields, strict=True) if f.levels == n]
                heads.append((own, PixelHead(len(own), n, pixel_components)))
        elif kind == "pixel":
            for half in sorted({1 / (2 * f.denominator * f.scale) for f in fields}):
                own = [
                    c for c, f in zip(cells, fields, strict=True) if 1 / (2 * f.denominator * f.scale) == half
                ]
                heads.append((own, GaussianHead(len(own), scale, FLOOR, half)))
        elif kind in NUMERIC:
            gaussian += cells
        elif kind == "binary":
            heads.append((cells, BernoulliHead(len(cells))))
        elif kind == "count":
            heads.append(
                (cells, NegativeBinomialHead([1.0 if means is None else float(means[c]) for c in cells]))
            )
        else:
            sizes = [len(f.categories or ()) for f in fields]
            heads.append((cells, (OrdinalHead if kind == "ordinal" else CategoricalHead)(sizes)))
    if gaussian:
        heads.insert(0, (sorted(gaussian), GaussianHead(len(gaussian), scale, FLOOR)))
    features = features_of(schema, means, masking)
    if mixture and path is None:
        n, k = features.n_features - masking * schema.n_cells, latent_dim
        eye = torch.eye(k).repeat(mixture, 1, 1)
        path = LinearPath(
            torch.zeros(n, k),
            torch.zeros(n),
            torch.ones(n),
            torch.ones(mixture),
            torch.zeros(mixture, k),
            eye,
        )
    likelihood_module = Likelihood(heads, schema.n_cells)
    model = VariationalAutoencoder(features, likelihood_module, latent_dim, hidden, activation, dropout, path)
    if path is not None:
        _start(model, path)
    return model


@torch.no_grad()
def _start(model: VariationalAutoencoder, path: LinearPath) -> None:
    """Start the decoder's linear path at the fitted one: exactly for Gaussian cells, to first order for the others.

    A class probability that moves by w·z moves its logit by w·z / p (softmax) or w·z / p(1 − p) (logistic).
    """
    linear = model.decoder.linear
    assert linear is not None
    linear.weight.zero_()
    linear.bias.zero_()
    features = model.features
    place = {int(c): i for i, c in enumerate(features.numeric)}
    n_numeric, n_count = len(features.numeric), len(features.count)
    class_cells = features.class_cell.tolist()
    W, b = path.W.float(), path.b.float()
    start = 0
    for head, cells in zip(model.heads.heads, model.heads.cells(), strict=True):
        rows = slice(start, start + len(cells))
        start += int(head.n_parameters)  # pyright: ignore[reportArgumentType]
        if isinstance(head, GaussianHead):
            index = [place[c] for c in cells]
            linear.weight[rows], linear.bias[rows] = W[index], b[index]
            log_floor = math.log(head.floor)
            above = (0.5 * path.noise[index].float().log() - log_floor).clamp_min(0.02)
            head.raw_scale.copy_(log_floor + torch.log(torch.expm1(above)))
        elif isinstance(head, PixelHead):
            index, d = [place[c] for c in cells], len(cells)
            head.spread.zero_()
            log_scale = 0.5 * path.noise[index].float().log() + math.log(math.sqrt(3) / math.pi)
            for i in range(
                head.components
            ):  # every component follows the path; the later ones are rarer and wider
                loc = slice(
                    rows.start + (head.components + i) * d, rows.start + (head.components + i + 1) * d
                )
                width = slice(loc.start + head.components * d, loc.stop + head.components * d)
                linear.weight[loc], linear.bias[loc] = W[index], b[index]
                linear.bias[rows.start + i * d : rows.start + (i + 1) * d] = -2.0 * i
                linear.bias[width] = log_scale + 1.5 + 0.7 * i
        elif isinstance(head, BernoulliHead):
            index = [place[c] for c in cells]
            p = b[index].clamp(0.02, 0.98)
            linear.weight[rows], linear.bias[rows] = W[index] / (p * (1 - p)).unsqueeze(-1), torch.logit(p)
        elif isinstance(head, NegativeBinomialHead):
            index = [n_numeric + features.count.tolist().index(c) for c in cells]
            linear.weight[rows] = W[index]
        else:  # one-hot cells, the classes of one cell in a row
            for i, c in enumerate(cells):
                first = class_cells.index(c)
                size = class_cells.count(c)
                at = slice(n_numeric + n_count + first, n_numeric + n_count + first + size)
                p = b[at].clamp_min(0.01)
                p = p / p.sum()
                if isinstance(head, OrdinalHead):
                    codes = torch.arange(size, dtype=p.dtype)
                    spread = ((p * codes.square()).sum() - (p * codes).sum().square()).clamp_min(1e-3).sqrt()
                    linear.weight[rows.start + i] = 1.7 * (codes @ W[at]) / spread
                    cuts = torch.logit(p.cumsum(0)[:-1].clamp(1e-3, 1 - 1e-3))
                    head.first[i] = cuts[0]
                    head.gaps[i, : size - 2] = torch.log(torch.expm1((cuts[1:] - cuts[:-1]).clamp_min(1e-2)))
                else:
                    own = slice(rows.start + i * head.k, rows.start + i * head.k + size)  # pyright: ignore
                    linear.weight[own], linear.bias[own] = W[at] / p.unsqueeze(-1), p.log()


def default_latent_dim(schema: Schema, rows: int, n_features: int, path: bool) -> int:
    """Latents to start with: with a linear path enough to keep all correlations of a table or a small image."""
    if path:
        return max(1, min(n_features - 1, 40, rows // 3))
    return int(max(1, min(round(schema.n_cells**0.5 + 4), schema.n_cells, rows // 4 + 1, 64)))
