"""From a VAE's arguments and the data to the network: what `build_vae` takes, and the linear path it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from abduce.data.schema import Schema
from abduce.gaussians.linear import LinearPath, choose
from abduce.models.build import FLOOR, default_latent_dim, features_of, wants_path
from abduce.models.choice import by_name, choose_likelihoods
from abduce.models.missingness import DRAWABLE, FORMS, SIGNS, SUMMABLE
from abduce.models.parts import LAYERED, POSTERIORS


def check_arguments(vae: Any) -> None:
    """Refuse arguments of a VAE that do not fit together, before any work."""
    for name in ("hidden", "latent_dim"):
        value = getattr(vae, name)
        if isinstance(value, str | Integral):
            continue
        if not all(isinstance(w, Integral) and not isinstance(w, bool) and int(w) > 0 for w in value):
            raise ValueError(f"{name} must be a sequence of positive ints or 'auto', got {value!r}")
    layers = 1 if isinstance(vae.latent_dim, str | Integral) else len(vae.latent_dim)
    if layers == 0:
        raise ValueError("latent_dim must have at least one layer, got an empty sequence")
    families = POSTERIORS if layers == 1 else LAYERED
    if vae.posterior not in ("auto", *families):
        raise ValueError(
            f"posterior of {layers} layer{'s' * (layers > 1)} of latents must be one of {families}, "
            f"got {vae.posterior!r}"
        )
    if vae.prior == "vamp" and (layers > 1 or vae.posterior in ("flow", "iaf")):
        raise ValueError(
            "prior='vamp' mixes the posteriors of one layer of latents, diagonal or full; "
            f"got latent_dim={vae.latent_dim!r}, posterior={vae.posterior!r}"
        )
    if vae.missing == "mnar":
        forms = vae.mask_model.values() if isinstance(vae.mask_model, Mapping) else [vae.mask_model]
        allowed = tuple(SIGNS) if isinstance(vae.mask_model, Mapping) else FORMS
        for form in forms:
            if form not in allowed:
                raise ValueError(f"mask_model must be one of {allowed}, got {form!r}")
    if vae.linear_path is True and not _may_have_path(vae):
        raise ValueError(
            "linear_path=True brings its own prior and posterior over one layer of latents; leave prior and posterior "
            f"at 'auto', got {vae.prior!r} and {vae.posterior!r} with latent_dim={vae.latent_dim!r}"
        )


def check_convolutions(vae: Any, schema: Schema) -> None:
    """Refuse convolutions of what is no image of numbers."""
    if schema.container != "image":
        raise ValueError(f"network='conv' is for images (n, H, W[, C]), X is a {schema.container} of rows")
    kind = schema.fields[0].kind
    if kind in ("categorical", "ordinal"):
        raise ValueError(f"network='conv' is for images of numbers or bits, these pixels are {kind}")
    if not isinstance(vae.hidden, str) and not len(vae.hidden):
        raise ValueError("network='conv' needs at least one layer, got hidden=[]")


def _may_have_path(vae: Any) -> bool:
    layers = 1 if isinstance(vae.latent_dim, str | Integral) else len(vae.latent_dim)
    return layers == 1 and vae.prior == vae.posterior == "auto"


def may_use_path(vae: Any, schema: Schema) -> bool:
    """Whether a linear path is asked for, or nothing speaks against it."""
    if vae.linear_path == "auto":
        return _may_have_path(vae) and wants_path(schema)
    return bool(vae.linear_path)


def mask_arguments(vae: Any, schema: Schema, mask: Tensor) -> dict[str, Any] | None:
    """The arguments of the mask model, all JSON-able: of the cells with blanks in the training data; None for "mar"."""
    if vae.missing == "mar":
        return None
    shares = mask.double().mean(0).tolist()
    cells = [c for c, share in enumerate(shares) if share < 1]
    if not cells:
        raise ValueError(
            "missing='mnar' learns from which cells are blank, and X has no blank; take missing='mar'"
        )
    names = choose_likelihoods(schema, vae.likelihood)
    fields = list(schema.fields)
    if len(fields) != schema.n_cells:  # images share one field
        names, fields = names * schema.n_cells, fields * schema.n_cells
    logistic = vae.mask_model == "logistic"
    if not isinstance(vae.mask_model, Mapping):
        chosen = {} if logistic else {f.name: str(vae.mask_model) for f in fields}
    else:
        chosen = {str(column): str(form) for column, form in vae.mask_model.items()}
        unknown = sorted(set(chosen) - {f.name for f in fields})
        if unknown:
            raise ValueError(f"mask_model names columns that are not there or left out: {unknown}")
    levels, signs = [], []
    for c in cells:
        form = chosen.get(fields[c].name, "self_masking")
        fits = DRAWABLE if logistic or SIGNS[form] else (*DRAWABLE, *SUMMABLE)
        if names[c] not in fits:
            raise ValueError(
                f"missing='mnar' with mask_model={vae.mask_model!r} takes blanks of columns with likelihood "
                f"{', '.join(fits)}; column {fields[c].name!r} (kind {fields[c].kind}) has {names[c]!r}"
            )
        classes = 2 if names[c] == "bernoulli" else len(fields[c].categories or ())
        levels.append(classes if names[c] in SUMMABLE else 0)
        signs.append(0 if logistic else SIGNS[form])
    reads = [c for c, name in enumerate(names) if name in DRAWABLE] if logistic else None
    return {
        "cells": cells,
        "shares": [shares[c] for c in cells],
        "levels": levels,
        "signs": signs,
        "reads": reads,
    }


def design(
    vae: Any,
    schema: Schema,
    x: Tensor,
    mask: Tensor,
    rows: Tensor,
    held: Tensor,
    means: list[float],
    seed: int,
) -> tuple[dict[str, Any], LinearPath | None]:
    """The arguments that build the network, all JSON-able, and the linear path it starts from."""
    wants = may_use_path(vae, schema)
    features = features_of(schema, means, vae.masking)
    n_inputs = features.n_features - vae.masking * schema.n_cells
    latent: Any = vae.latent_dim
    if latent == "auto":
        latent = default_latent_dim(schema, len(x), n_inputs, wants)
    elif not isinstance(latent, Integral):
        latent = [int(k) for k in latent]
        latent = latent[0] if len(latent) == 1 else latent
    if vae.network == "conv":
        check_convolutions(vae, schema)
        hidden = [16, 32] if len(x) < 5000 else [32, 64]
    else:
        hidden = [64 if len(x) < 1000 else 128] * (1 if wants else 2)
    hidden = list(vae.hidden) if vae.hidden != "auto" else hidden
    config = {
        "latent_dim": int(latent) if isinstance(latent, Integral) else latent,
        "hidden": [int(w) for w in hidden],
        "likelihood": by_name(schema, vae.likelihood),
        "scale": vae.scale,
        "activation": vae.activation,
        "masking": vae.masking,
        "dropout": vae.dropout,
        "pixel_components": 2 if wants else 3,
        "prior": vae.prior,
        "components": int(vae.components),
        "posterior": vae.posterior,
        "transforms": int(vae.transforms),
    }
    described = mask_arguments(vae, schema, mask)
    if described is not None:
        config["mask"] = described
    if vae.network == "conv":
        config["network"] = "conv"
    path = None
    if wants:
        generator = torch.Generator().manual_seed(seed)
        used = rows[:5000]  # enough to place a linear path; its cost must not grow with the data

        def part(index: Tensor) -> tuple[Tensor, Tensor | None]:
            y, seen = features.cells(x[index], mask[index])
            return (y.double(), None) if seen is None or bool(seen.all()) else (y.double() * seen, seen)

        # clusters of what is observed are no clusters of what is there, if blanks are not at random
        most = 20 if described is None else 1
        path = choose(*part(used), part(held[:1000]), int(latent), generator, FLOOR, vae.trim, most)
        config["mixture"] = len(path.weights)
    return config, path
