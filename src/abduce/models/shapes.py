"""What a VAE's networks are given by beside the choice: what the data say, and the sizes that follow from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from abduce.data.schema import Schema
from abduce.distributions.priors import GaussianMixturePrior
from abduce.models.choice import Choice, choose_likelihoods
from abduce.models.missingness import describe

FEW = 20_000  # images


@dataclass(frozen=True)
class DataSummary:
    """What the data say of their cells, in model space: how many rows there are, and of each cell the mean and the variance
    of what is observed, and the share of it that is; of cells of grades also the share of each level."""

    rows: int
    means: tuple[float, ...]
    variances: tuple[float, ...]
    shares: tuple[float, ...]
    levels: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: np.ndarray, observed: np.ndarray, schema: Schema | None = None) -> DataSummary:
        """Sum up model values (n, D), 0 where they are blank, and the mask of what is observed; ``schema`` says where grades
        are, of which each level counts half a row more than it has.

        >>> DataSummary.of(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[True, True], [True, False]]))
        DataSummary(rows=2, means=(2.0, 2.0), variances=(1.0, 0.0), shares=(1.0, 0.5), levels={})
        """
        count = np.maximum(observed.sum(0), 1)
        means = values.sum(0) / count
        variances = np.where(observed, (values - means) ** 2, 0.0).sum(0) / count
        shares = observed.sum(0) / len(values)
        levels = {}
        for cell, known in enumerate(schema.cell_fields if schema else ()):
            if known.kind == "ordinal":
                seen = values[observed[:, cell], cell].astype(int)
                counts = np.bincount(seen, minlength=len(known.categories or ())) + 0.5
                levels[cell] = tuple((counts / counts.sum()).tolist())
        return cls(len(values), *(tuple(a.tolist()) for a in (means, variances, shares)), levels=levels)


@dataclass(frozen=True)
class Shapes:
    """Sizes and families of a VAE's parts, which follow from the choice, the columns and the data; JSON-able.

    ``latent`` are the units of each layer from the top down, ``hidden`` the encoder's widths, ``likelihoods`` one name for
    each field, ``components`` those of the prior, ``logistics`` those of a mixture of logistics, ``path`` those of the linear
    path (0: there is none), ``dropout`` the share of hidden units left out in training, ``image`` the shape that convolutions
    read (None: no convolutions), ``blocks`` the residual ones at each of their sizes and ``mask`` the arguments of a
    :class:`~abduce.models.missingness.MaskModel` (None: cells are missing at random).
    """

    latent: tuple[int, ...]
    hidden: tuple[int, ...]
    likelihoods: tuple[str, ...]
    prior: str
    components: int
    posterior: str
    logistics: int = 2
    path: int = 0
    dropout: float = 0.0
    image: tuple[int, ...] | None = None
    blocks: int = 0
    mask: Mapping[str, Any] | None = None

    def __post_init__(self):
        for name in ("latent", "hidden", "likelihoods", "image"):  # JSON has lists
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    @classmethod
    def of(cls, schema: Schema, choice: Choice, data: DataSummary | None = None) -> Shapes:
        """The shapes without a linear path; ``data`` may be None where the choice leaves nothing to them."""
        wants, latent, hidden = choice.wants_path(schema), choice.layers, choice.hidden
        if data is None and (latent is None or isinstance(hidden, str) or choice.missing == "mnar"):
            raise ValueError(
                f"data must be summed up for what the choice leaves to them, got None with {choice}"
            )
        rows = data.rows if data else 0
        if latent is None:
            latent = (default_latent_dim(schema, rows, wants),)
        if conv := choice.wants_convolutions(schema):
            choice.check_convolutions(schema)
        if isinstance(hidden, str):
            dense = [64 if rows < 1000 else 128] * (1 if wants else 2)
            hidden = ([16, 32] if rows < 5000 else [32, 64]) if conv else dense
        likelihoods, mask = choose_likelihoods(schema, choice.likelihood), None
        if data and choice.missing == "mnar":
            mask = describe(schema, likelihoods, choice.mask_model, data.shares)
        # images without a linear path: worth 4 nats each of 90 on 4,000 binary characters, little on tables
        free = conv and not wants and len(latent) == 1
        default = ("full" if free else "diagonal") if len(latent) == 1 else "bottom_up"
        components = choice.components
        if free and data and choice.prior == "auto":  # twenty rows each at least
            components = max(1, min(components, rows // 20))
        dropout: Any = choice.dropout
        if dropout == "auto":  # few images leave much to be learnt by heart
            dropout = 0.2 if wants and schema.container == "image" and rows < FEW else 0.0
        return cls(
            latent=latent,
            hidden=tuple(hidden),
            likelihoods=tuple(likelihoods),
            prior=("mixture" if free else "normal") if choice.prior == "auto" else choice.prior,
            components=components,
            posterior=default if choice.posterior == "auto" else choice.posterior,
            logistics=2 if wants and rows < FEW else 3,
            dropout=dropout,
            image=schema.shape if conv else None,
            blocks=int(conv and rows >= FEW),
            mask=mask,
        )

    def beside(self, components: int, tied: bool = False) -> Shapes:
        """The shapes with a linear path of so many components, which brings its own prior and posterior.

        With ``tied`` the encoder may turn the posterior too, not only shift and stretch it.
        """
        prior, posterior = GaussianMixturePrior.name, "tied path" if tied else "path"
        return replace(self, prior=prior, components=components, posterior=posterior, path=components)


def default_latent_dim(schema: Schema, rows: int, path: bool) -> int:
    """Latents to start with: with a linear path enough to keep all correlations of a table or a small image."""
    if path and schema.container == "image":
        return max(1, min(schema.n_cells - 1, 40, round(3.5 * schema.n_cells**0.5), rows // 3))
    if path:
        # all that the features can move by: fewer bend no curve among a few columns; the shares of a class sum to one
        free = sum(len(f.categories or ()) - 1 if f.kind == "categorical" else 1 for f in schema.cell_fields)
        return max(1, min(free, 40, rows // 3))
    return int(max(1, min(round(schema.n_cells**0.5 + 4), schema.n_cells, rows // 4 + 1, 64)))
