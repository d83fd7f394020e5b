"""A fitted :class:`~abduce.Sound` as a folder of JSON and safetensors: members and weights, texture, levels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from abduce.checks import check_number
from abduce.declared import shaped
from abduce.estimators.folder import (
    CONFIG,
    WEIGHTS,
    Contents,
    FolderHeader,
    FolderKind,
    constructed,
    estimator_to_json,
)
from abduce.sequences.burg import Autoregression
from abduce.sequences.sound import Around, SoundPool

KIND = "sound"


class SoundFolder(FolderHeader):
    """A model of recordings."""

    members: list[tuple[float, float]]
    stretch: float
    sdr: list[float | None]
    rate: int
    form: tuple[str, int, Literal[1, 2]]  # of samples: numpy's name of their type, their bits, their axes
    variance: float


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "members": [list(m) for m in estimator.pool_.members],
        "stretch": estimator.pool_.stretch,
        "sdr": estimator.sdr_,
        "rate": estimator.rate_,
        "form": list(estimator.kind_),
        "variance": estimator.texture_.variance,
    }
    arrays = {
        "weights": estimator.pool_.weights,
        "texture": estimator.texture_.a,
        "level": estimator.level_,
        "centre": estimator.centre_,
        "first": estimator.ends_[0],
        "last": estimator.ends_[1],
    }
    return body, {k: torch.from_numpy(np.array(v, dtype=np.float64)) for k, v in arrays.items()}


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds, checked."""
    estimator = constructed(cls, body["arguments"])
    kind, n = torch.float64, len(body["members"])
    channels, first, last = ("channels",), ("start", "channels"), ("end", "channels")
    dims = {"weights": (n,), "texture": ("order",), "level": channels, "centre": channels}
    seen = {
        k: t.nan_to_num(0.0, torch.inf, -torch.inf) if k in ("first", "last") else t
        for k, t in tensors.items()
    }
    shaped(seen, {k: (kind, d) for k, d in (dims | {"first": first, "last": last}).items()}, WEIGHTS)
    for name in ("rate", "stretch", "variance"):
        check_number(f"{CONFIG}.{name}", body[name], 0, above=name == "rate")
    if wrong := [m for m in body["members"] if not min(m) > 0]:
        raise ValueError(f"{CONFIG}.members must have lengths and orders above 0, got {wrong[0]}")
    arrays = {k: t.numpy() for k, t in tensors.items()}
    if not n or arrays["weights"].min() < 0 or abs(arrays["weights"].sum() - 1) > 1e-6:
        raise ValueError(
            f"{WEIGHTS}: 'weights' must be shares of {n} members, got {arrays['weights'].tolist()}"
        )
    if np.dtype(body["form"][0]).kind not in "iuf":
        raise ValueError(f"{CONFIG}.form must name a type of numbers, got {body['form'][0]!r}")
    members = tuple(Around(*m) for m in body["members"])
    estimator.pool_ = SoundPool(members, arrays["weights"], body["stretch"])
    estimator.texture_ = Autoregression(arrays["texture"], body["variance"])
    estimator.level_, estimator.centre_ = arrays["level"], arrays["centre"]
    estimator.ends_ = arrays["first"], arrays["last"]
    estimator.rate_, estimator.sdr_, estimator.kind_ = body["rate"], body["sdr"], tuple(body["form"])
    estimator.n_features_in_ = arrays["first"].shape[1]
    return estimator


def folder_kind(cls: Any) -> FolderKind:
    """How folders of a class of estimators are opened; of one all of whose numbers were seen no question is asked."""
    return FolderKind(SoundFolder, lambda body, tensors: rebuild(cls, body, tensors), describe, lambda _: [])
