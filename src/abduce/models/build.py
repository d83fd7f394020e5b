"""From a schema and a few arguments to a model: which head reads and writes which cells, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from abduce.data.fields import Field
from abduce.data.schema import Schema
from abduce.distributions.continuous import ContinuousBernoulli
from abduce.distributions.discrete import BetaBinomial
from abduce.distributions.heads import (
    BernoulliHead,
    BetaBinomialHead,
    CategoricalHead,
    ContinuousBernoulliHead,
    GaussianHead,
    LaplaceHead,
    Likelihood,
    NegativeBinomialHead,
    OrdinalHead,
    PixelHead,
    PoissonHead,
    StudentTHead,
)
from abduce.gaussians.linear import LinearPath
from abduce.models.choice import choose_likelihoods
from abduce.models.missingness import MaskModel
from abduce.models.parts import make_layers, make_posterior, make_prior
from abduce.models.vae import VariationalAutoencoder
from abduce.nets.mlp import Features

NUMERIC = ("real", "positive", "pixel")
FLOOR = 0.05  # smallest noise standard deviation of a numeric cell, in model units


def features_of(schema: Schema, means: Sequence[float] | None = None, masking: bool = True) -> Features:
    """What the encoder reads of a schema's rows; ``means`` centre counts and binary cells."""
    numeric, count, stats, classes = [], [], [], []
    binary: set[int] = set()
    for group, cells, fields in _groups(schema):
        if group in (*NUMERIC, "binary"):
            numeric += cells
            binary |= set(cells) if group == "binary" else set()
        elif group == "count":
            count += cells
            stats += [(math.log1p(1.0 if means is None else means[c]), 1.0) for c in cells]
        else:
            classes += [(c, len(f.categories or ())) for c, f in zip(cells, fields, strict=True)]
    loc = [0.5 if means is None else float(means[c]) for c in sorted(numeric)] if binary else None
    if loc and len(binary) < len(loc):
        loc = [m if c in binary else 0.0 for c, m in zip(sorted(numeric), loc, strict=True)]
    return Features(schema.n_cells, sorted(numeric), count, stats, classes, masking, loc)


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
    latent_dim: int | Sequence[int],
    hidden: Sequence[int],
    likelihood: str | Mapping[str, str] = "auto",
    scale: str = "network",
    activation: str = "silu",
    dropout: float = 0.0,
    masking: bool = True,
    mixture: int = 0,
    pixel_components: int = 2,
    means: Sequence[float] | None = None,
    variances: Sequence[float] | None = None,
    path: LinearPath | None = None,
    prior: str = "auto",
    components: int = 50,
    posterior: str = "auto",
    transforms: int = 2,
    pseudo: Tensor | None = None,
    network: str = "mlp",
    mask: Mapping[str, Any] | None = None,
) -> VariationalAutoencoder:
    """Build the model of a schema; weights are random, from torch's global generator.

    ``latent_dim`` may list several layers from the top down.  ``prior`` and ``posterior`` name their families (see
    :mod:`abduce.models.parts`; "auto" is what a linear path gives, or the first), with ``components`` of a mixture and
    ``transforms`` of a flow; ``pseudo`` are what a VampPrior's pseudo-inputs start from, rows of what the encoder reads.
    ``network`` is "mlp" or, of images, "conv".

    ``likelihood`` is one name, or one for each of some columns (see :mod:`abduce.models.choice`); ``scale`` where the noise
    of Gaussian, Laplace and Student-t cells comes from.  ``mixture`` is the number of components of the linear path, 0 for
    none; ``path`` its fitted parameters (an empty one if not given, to be loaded into).  ``means`` and ``variances`` are
    the cells' observed ones in model space: where counts start from.  ``mask`` are the arguments of a
    :class:`~abduce.models.missingness.MaskModel`, None where cells are missing at random.
    """
    heads = _heads(schema, choose_likelihoods(schema, likelihood), scale, pixel_components, means, variances)
    features = features_of(schema, means, masking)
    if mixture and path is None:
        n, k = features.n_features - masking * schema.n_cells, int(latent_dim)  # pyright: ignore[reportArgumentType]
        eye = torch.eye(k).repeat(mixture, 1, 1)
        path = LinearPath(
            torch.zeros(n, k),
            torch.zeros(n),
            torch.ones(n),
            torch.ones(mixture),
            torch.zeros(mixture, k),
            eye,
        )
    layers = [latent_dim] if isinstance(latent_dim, int) else list(latent_dim)
    total = sum(layers)
    head, law = None, None
    if prior not in ("auto", "vamp"):
        law = make_prior(prior, layers[0], components)
    if len(layers) > 1:
        top, between = law or make_prior("normal", layers[0]), [max(layers)] * len(hidden)
        posterior = "bottom_up" if posterior == "auto" else posterior
        law, head = make_layers(posterior, layers, top, between, activation)
    elif path is None:
        head = make_posterior(
            "diagonal" if posterior == "auto" else posterior, total, transforms, hidden[:1] or (64,)
        )
    likelihood_module = Likelihood(heads, schema.n_cells)
    if path is not None:
        path = _as_wide(path, likelihood_module, features)
    model = VariationalAutoencoder(
        features,
        likelihood_module,
        latent_dim,
        hidden,
        activation,
        dropout,
        path,
        law,
        head,
        schema.shape if network == "conv" else None,
    )
    if path is not None:
        _start(model, path)
    elif means is not None:
        _start_at_means(model, means)
    if prior == "vamp":
        pseudo = torch.zeros(components, features.n_features) if pseudo is None else pseudo
        model.set_prior(make_prior("vamp", total, encode=model.encode, pseudo=pseudo))
    if mask is not None:
        model.mask_model = MaskModel(**mask)
    return model


def _heads(
    schema: Schema,
    names: list[str],
    scale: str,
    pixel_components: int,
    means: Sequence[float] | None,
    variances: Sequence[float] | None,
) -> list[tuple[Sequence[int] | None, nn.Module]]:
    """One head for all cells of one likelihood, and of one lattice where it counts the lattice's steps."""
    gathered: dict[tuple, list[tuple[int, Field]]] = {}
    name_of = names if len(names) == schema.n_cells else names * schema.n_cells  # images share one field
    for kind, cells, fields in _groups(schema):
        for cell, field in zip(cells, fields, strict=True):
            name = name_of[cell]
            if name == "lognormal":
                name = "gaussian"  # the model sees the logarithm
            lattice = (field.levels,) if kind == "pixel" else ()
            key = (name, "number" if kind in ("real", "positive") else kind, lattice, field.half)
            gathered.setdefault(key, []).append((cell, field))
    heads: list[tuple[Sequence[int] | None, nn.Module]] = []
    for (name, kind, _, half), members in gathered.items():
        members = sorted(members, key=lambda member: member[0])
        cells, n = [cell for cell, _ in members], len(members)
        mean = [1.0 if means is None else float(means[c]) for c in cells]
        spread = None if variances is None else [float(variances[c]) for c in cells]
        levels = members[0][1].levels or 2
        head: nn.Module
        if name == "gaussian":
            head = GaussianHead(n, scale, FLOOR, half)
        elif name == "laplace":
            head = LaplaceHead(n, scale, FLOOR / math.sqrt(2), half)
        elif name == "student_t":
            head = StudentTHead(n, scale, FLOOR, half)
        elif name == "continuous_bernoulli":
            head = ContinuousBernoulliHead(n, half)
        elif name.startswith("discretized_logistic"):
            head = PixelHead(n, levels, pixel_components if name.endswith("mixture") else 1)
        elif name == "beta_binomial" and kind == "pixel":
            head = BetaBinomialHead([levels - 1] * n, pixels=True)
        elif name == "beta_binomial":
            # the largest seen; NaN where none was
            most = [1 if math.isnan(f.high) else max(1, round(f.high)) for _, f in members]
            head = BetaBinomialHead(most, mean, spread)
        elif name == "negative_binomial":
            head = NegativeBinomialHead(mean, spread)
        elif name == "poisson":
            head = PoissonHead(mean)
        elif name == "bernoulli":
            head = BernoulliHead(n)
        else:
            sizes = [len(f.categories or ()) for _, f in members]
            head = (OrdinalHead if name == "ordinal" else CategoricalHead)(sizes)
        heads.append((cells, head))
    return heads


def _centre(b: Tensor) -> Tensor:
    """Logits of the continuous Bernoulli of mean b: coth(η/2) − 2/η inverted, by Cohen's approximation."""
    mean = b.clamp(-0.95, 0.95)
    return 2 * mean * (3 - mean.square()) / (1 - mean.square())


@torch.no_grad()
def _as_wide(path: LinearPath, likelihood: Likelihood, features: Features) -> LinearPath:
    """Widen the path's noise to what pixels have whose likelihood cannot be narrower, or its posterior would be too sure."""
    place = {int(c): i for i, c in enumerate(features.numeric)}
    noise = path.noise.clone()
    for head, cells in zip(likelihood.heads, likelihood.cells(), strict=True):
        if isinstance(head, ContinuousBernoulliHead):
            index = [place[c] for c in cells]
            law = ContinuousBernoulli(_centre(path.b[index]))
        elif isinstance(head, BetaBinomialHead) and head.pixels:
            index = [place[c] for c in cells]
            p = (0.5 * path.b[index] + 0.5).clamp(0.02, 0.98)
            law = BetaBinomial(torch.logit(p), p.new_tensor(1000.0).log(), head.n.to(p.dtype), pixels=True)
        else:
            continue
        noise[index] = noise[index].maximum(law.gaussian().variance())
    return replace(path, noise=noise)


@torch.no_grad()
def _start_at_means(model: VariationalAutoencoder, means: Sequence[float]) -> None:
    """Start binary cells at their frequencies, which a network otherwise spends its first thousand steps to learn."""
    offset = model.decoder.offset
    start = 0
    for head, cells in zip(model.heads.heads, model.heads.cells(), strict=True):
        if isinstance(head, BernoulliHead):
            p = torch.tensor([float(means[c]) for c in cells]).clamp(0.002, 0.998)
            offset[start : start + len(cells)] = torch.logit(p)
        start += int(head.n_parameters)  # pyright: ignore[reportArgumentType]


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
        if isinstance(head, GaussianHead | LaplaceHead | StudentTHead):
            index = [place[c] for c in cells]
            linear.weight[rows], linear.bias[rows] = W[index], b[index]
            log_floor = math.log(head.floor)
            variance = path.noise[index].float()
            if isinstance(head, LaplaceHead):
                variance = variance / 2
            elif isinstance(head, StudentTHead):
                variance = variance * (head.df - 2) / head.df
            above = (0.5 * variance.log() - log_floor).clamp_min(0.02)
            raw = log_floor + torch.log(torch.expm1(above))
            head.raw_scale.copy_(raw if head.scale != "shared" else raw.mean())
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
            p = (b[index] + features.numeric_loc[index]).clamp(0.02, 0.98)
            linear.weight[rows], linear.bias[rows] = W[index] / (p * (1 - p)).unsqueeze(-1), torch.logit(p)
        elif isinstance(head, ContinuousBernoulliHead):
            # the mean's slope in the logit is half the variance
            index = [place[c] for c in cells]
            logits = _centre(b[index])
            slope = 0.5 * ContinuousBernoulli(logits).gaussian().variance()
            linear.weight[rows], linear.bias[rows] = W[index] / slope.unsqueeze(-1), logits
        elif isinstance(head, BetaBinomialHead) and head.pixels:
            index = [place[c] for c in cells]
            p = (0.5 * b[index] + 0.5).clamp(0.02, 0.98)
            spread = p * (1 - p)
            linear.weight[rows], linear.bias[rows] = 0.5 * W[index] / spread.unsqueeze(-1), torch.logit(p)
            ratio = 0.25 * path.noise[index].float() / spread * head.n
            head.log_concentration.copy_(head.concentration_of(ratio, head.n).log())
        elif isinstance(head, NegativeBinomialHead | PoissonHead | BetaBinomialHead):
            # counts are read as log(1 + x), whose move moves the log-mean, and a share's logit by 1 / (1 − share) of it
            index = [n_numeric + features.count.tolist().index(c) for c in cells]
            linear.weight[rows] = W[index]
            if isinstance(head, BetaBinomialHead):
                linear.weight[rows] /= (1 - torch.sigmoid(head.base)).unsqueeze(-1)
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
