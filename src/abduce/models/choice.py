"""What is asked of a VAE: its likelihoods, prior, posterior and networks, checked; and which likelihood each column gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np

from abduce.data.fields import Field, listing
from abduce.data.schema import Schema
from abduce.distributions.heads import FITS, NUMBERS
from abduce.models.missingness import FORMS, SIGNS
from abduce.models.parts import LAYERED, POSTERIORS, PRIORS

LIKELIHOODS = ("auto", *FITS)
GREYS = "discretized_logistic_mixture", "stopped_logistic_mixture"  # of few levels and of many
FEW_LEVELS = 64
LARGE = 12  # pixels a side from which convolutions reach more in the same time


@dataclass(frozen=True)
class Choice:
    """What is asked of a VAE, as in :class:`~abduce.VAE`; nothing of the data.

    ValueError where the arguments do not fit together.

    >>> Choice(latent_dim=[20, 10], hidden=[64]).layers
    (20, 10)
    """

    latent_dim: int | Sequence[int] | str = "auto"
    hidden: Sequence[int] | str = "auto"
    network: str = "auto"
    likelihood: str | Mapping[Any, str] = "auto"
    scale: str = "network"
    prior: str = "auto"
    components: int = 50
    posterior: str = "auto"
    transforms: int = 2
    masking: bool = True
    missing: str = "mar"
    mask_model: str | Mapping[Any, str] = "self_masking"
    linear_path: bool | str = "auto"
    activation: str = "silu"
    dropout: float | str = "auto"

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Choice:
        """The choice among an estimator's arguments."""
        return cls(**{f.name: arguments[f.name] for f in fields(cls)})

    def named(self, schema: Schema) -> Choice:
        """The same with likelihoods by the columns' names, as JSON has them; ValueError where they fit no column."""
        choose_likelihoods(schema, self.likelihood)
        if not isinstance(self.likelihood, Mapping):
            return self
        named = {schema.fields[_place(schema, key)].name: name for key, name in self.likelihood.items()}
        return replace(self, likelihood=named)

    def __post_init__(self):
        for name in ("hidden", "latent_dim"):
            value: Any = getattr(self, name)
            if isinstance(value, Integral):
                self._set(name, int(value))
            elif not isinstance(value, str):
                if not all(isinstance(w, Integral) and not isinstance(w, bool) and int(w) > 0 for w in value):
                    raise ValueError(f"{name} must be a sequence of positive ints or 'auto', got {value!r}")
                self._set(name, tuple(int(w) for w in value))
        if self.layers == ():
            raise ValueError("latent_dim must have at least one layer, got an empty sequence")
        if isinstance(self.mask_model, Mapping):
            self._set("mask_model", {str(column): str(form) for column, form in self.mask_model.items()})
        for name, kind in (("components", int), ("transforms", int), ("masking", bool)):
            self._set(name, kind(getattr(self, name)))
        if self.dropout != "auto":
            self._set("dropout", float(self.dropout))
        self._check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        layers = len(self.layers or (0,))
        families = tuple(POSTERIORS if layers == 1 else LAYERED)
        if self.posterior not in ("auto", *families):
            raise ValueError(
                f"posterior of {layers} layer{'s' * (layers > 1)} of latents must be one of {families}, "
                f"got {self.posterior!r}"
            )
        if self.prior not in ("auto", *PRIORS):
            raise ValueError(f"prior must be one of {('auto', *PRIORS)}, got {self.prior!r}")
        if self.prior == "vamp" and (layers > 1 or self.posterior in ("flow", "iaf")):
            raise ValueError(
                "prior='vamp' mixes the posteriors of one layer of latents, diagonal or full; "
                f"got latent_dim={self.latent_dim!r}, posterior={self.posterior!r}"
            )
        if self.missing == "mnar":
            asked = self.mask_model
            allowed, forms = (FORMS, [asked]) if isinstance(asked, str) else (tuple(SIGNS), asked.values())
            if wrong := [form for form in forms if form not in allowed]:
                raise ValueError(f"mask_model must be one of {allowed}, got {wrong[0]!r}")
        if self.linear_path is True and not self._may_have_path:
            raise ValueError(
                "linear_path=True brings its own prior and posterior over one layer of latents; leave prior and posterior "
                f"at 'auto', got {self.prior!r} and {self.posterior!r} with latent_dim={self.latent_dim!r}"
            )

    @property
    def layers(self) -> tuple[int, ...] | None:
        """Latent units of each layer from the top down; None where the data decide."""
        if isinstance(self.latent_dim, str):
            return None
        return (self.latent_dim,) if isinstance(self.latent_dim, int) else tuple(self.latent_dim)

    @property
    def _may_have_path(self) -> bool:
        return len(self.layers or (0,)) == 1 and self.prior == self.posterior == "auto"

    def wants_path(self, schema: Schema) -> bool:
        """Whether a linear path is asked for, or serves the data (numbers or grades) and nothing speaks against it."""
        if self.linear_path == "auto":
            return self._may_have_path and any(f.kind in (*NUMBERS, "ordinal") for f in schema.fields)
        return bool(self.linear_path)

    def wants_convolutions(self, schema: Schema) -> bool:
        """Whether convolutions are asked for, or serve the data: images of some size, nothing being said of networks."""
        if self.network != "auto":
            return self.network == "conv"
        left = isinstance(self.hidden, str) and self.missing == "mar" and len(self.layers or (0,)) == 1
        image = schema.container == "image" and min(schema.shape[:2]) >= LARGE
        return left and image and schema.fields[0].kind in ("pixel", "binary")

    def check_convolutions(self, schema: Schema) -> None:
        """Refuse convolutions of what is no image of numbers."""
        if schema.container != "image":
            raise ValueError(
                f"network='conv' is for images (n, H, W[, C]), X is a {schema.container} of rows"
            )
        kind = schema.fields[0].kind
        if kind in ("categorical", "ordinal"):
            raise ValueError(f"network='conv' is for images of numbers or bits, these pixels are {kind}")
        if not len(self.hidden):
            raise ValueError("network='conv' needs at least one layer, got hidden=[]")


# ---------------------------------------------------------------- likelihoods by column


def choose_likelihoods(schema: Schema, likelihood: str | Mapping[Any, str] = "auto") -> list[str]:
    """Name the likelihood of each field.

    One name is for all columns that it fits, the others keep the default of their kind (the first that fits it); a mapping
    goes from columns (by name; of arrays by position too) to names.  ValueError where a name is unknown or fits nothing, or a
    column is not there.

    >>> import numpy as np
    >>> schema = Schema.infer(np.array([[0.5, 0], [1.5, 1], [0.3, 1]]))
    >>> choose_likelihoods(schema, {"x0": "student_t"})
    ['student_t', 'bernoulli']
    """
    out = [fitting(f)[0] for f in schema.fields]
    if not isinstance(likelihood, Mapping):
        _check_name(likelihood)
        if likelihood == "auto":
            return out
        fits = [f.kind in FITS[likelihood] for f in schema.fields]
        if not any(fits):
            kinds = sorted({f.kind for f in schema.fields})
            raise ValueError(
                f"likelihood: {likelihood!r} fits no column; it is for the kinds {', '.join(FITS[likelihood])}, "
                f"the columns are {', '.join(kinds)}"
            )
        return [likelihood if fit else name for fit, name in zip(fits, out, strict=True)]
    for key, name in likelihood.items():
        place = _place(schema, key)
        field = schema.fields[place]
        _check_name(name, key)
        if name == "auto":
            continue
        if field.kind not in FITS[name]:
            raise ValueError(
                f"likelihood: {name!r} does not fit the column {field.name!r} of kind {field.kind}, "
                f"which takes {', '.join(fitting(field))}"
            )
        out[place] = name
    return out


def fitting(field: Field) -> list[str]:
    """The names that fit a column, its default first.

    Grey levels stop at black and white, where values heap: of few levels the outermost bins hold the heap, of many it needs
    masses of its own (.07 bits a pixel on MNIST, while 17 levels do a nat an image better without).
    """
    names = [name for name, kinds in FITS.items() if field.kind in kinds]
    if field.kind == "pixel" and (field.levels or 0) > 2:
        names.sort(key=lambda name: name != GREYS[(field.levels or 0) > FEW_LEVELS])
    return names


def _check_name(name: Any, key: Any = None) -> None:
    if name not in LIKELIHOODS:
        where = "" if key is None else f" for the column {key!r}"
        raise ValueError(
            f"likelihood: unknown name {name!r}{where}; expected one of {', '.join(LIKELIHOODS)}"
        )


def _place(schema: Schema, key: Any) -> int:
    names = [f.name for f in schema.fields]
    if str(key) in names:
        return names.index(str(key))
    whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if whole and schema.container != "frame" and 0 <= key < len(names):
        return int(key)
    for field in schema.left_out:
        if field.name == str(key):
            raise ValueError(
                f"likelihood names the column {key!r}, which the model leaves out (kind {field.kind})"
            )
    raise ValueError(
        f"likelihood names the column {key!r}, which is not there; columns are {listing(names, 10)}"
    )
