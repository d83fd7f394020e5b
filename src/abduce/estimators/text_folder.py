"""A fitted :class:`~abduce.Text` as a folder of JSON and safetensors: its symbols, counts and discounts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from abduce.declared import shaped
from abduce.estimators.folder import (
    CONFIG,
    WEIGHTS,
    Contents,
    FolderHeader,
    FolderKind,
    constructed,
    estimator_to_json,
    opened,
    parted,
)
from abduce.fit import checkpoint
from abduce.sequences.text.counts import NgramCounts
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import Spelling, Vocabulary

KIND = "text"
MOST_COUNT = 2**53  # counts are exact below it


def _tensors(law: KneserNey, name: str) -> dict[str, Tensor]:
    out = {f"{name}.discounts": torch.from_numpy(law.discounts)}
    for k, level in enumerate(law.counts.levels):
        out[f"{name}.{k}.keys"] = torch.from_numpy(level.keys)
        out[f"{name}.{k}.counts"] = torch.from_numpy(level.counts)
    return out


def _law(tensors: dict[str, Tensor], name: str, order: int, size: int, edges: bool) -> KneserNey:
    """The law of what a folder holds, checked: n-grams in order, each of a context that there is, counts from 0."""
    levels = range(order + 1)
    declared: dict[str, Any] = {f"{name}.discounts": (torch.float64, (order + 1, 3, 3))}
    for k in levels:
        declared |= {f"{name}.{k}.{part}": (torch.int64, (f"n{k}",)) for part in ("keys", "counts")}
    shaped(tensors, declared, WEIGHTS)
    keys = [tensors[f"{name}.{k}.keys"].numpy() for k in levels]
    counts = [tensors[f"{name}.{k}.counts"].numpy() for k in levels]
    for k, contexts in zip(levels, [1, *map(len, keys)], strict=False):
        if len(keys[k]) and not (
            keys[k][0] >= 0 and keys[k][-1] < contexts * (size + 2) and (np.diff(keys[k]) > 0).all()
        ):
            raise ValueError(
                f"{WEIGHTS}: '{name}.{k}.keys' must rise from 0 to below {contexts * (size + 2)}"
            )
        if len(counts[k]) and not 0 <= counts[k].min() <= counts[k].max() < MOST_COUNT:
            raise ValueError(f"{WEIGHTS}: '{name}.{k}.counts' must lie between 0 and {MOST_COUNT}")
    discounts = tensors[f"{name}.discounts"].numpy()
    if not ((discounts >= 0) & (discounts <= [1.0, 2.0, 3.0])).all():
        raise ValueError(f"{WEIGHTS}: '{name}.discounts' must lie between 0 and 1, 2, 3")
    return KneserNey(NgramCounts.of(keys, counts, size), discounts, edges)


def _all_tensors(estimator: Any) -> dict[str, Tensor]:
    tensors = _tensors(estimator.law_, "law")
    spelling = estimator.vocabulary_.spelling
    return tensors if spelling is None else tensors | _tensors(spelling.law, "spelling")


def fingerprint(estimator: Any) -> bytes:
    """Bytes that identify a fitted model: its symbols, counts and discounts."""
    digest = hashlib.sha256(repr(estimator.vocabulary_.symbols).encode())
    for name, tensor in sorted(_all_tensors(estimator).items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.digest()[:16]


class TextFolder(FolderHeader):
    """A model of text."""

    symbols: list[str]
    characters: list[str] | None
    spelling_order: int | None
    edges: bool
    fitted_order: int
    fitted_unit: Literal["char", "word"]
    seed: int


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    checkpoint.save(folder, *describe(estimator))


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    spelling = estimator.vocabulary_.spelling
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "symbols": estimator.vocabulary_.symbols,
        "characters": None if spelling is None else spelling.characters.symbols,
        "spelling_order": None if spelling is None else spelling.law.order,
        "edges": estimator.law_.edges,
        "fitted_order": estimator.law_.order,
        "fitted_unit": estimator.vocabulary_.unit,
        "seed": estimator.inference_seed_,
    }
    return body, _all_tensors(estimator)


def rebuilt(cls: Any, body: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The estimator of what a folder holds, checked."""
    estimator = constructed(cls, body["arguments"])
    own, spelt = parted(tensors, "law", "spelling")
    for name in ("symbols", "characters"):
        symbols = body[name] or []
        one = name == "characters" or body["fitted_unit"] == "char"
        if len(set(symbols)) < len(symbols) or (one and any(len(s) != 1 for s in symbols)):
            raise ValueError(
                f"{CONFIG}.{name} must be different symbols{', of one character each' if one else ''}"
            )
    for name in ("fitted_order", "spelling_order"):
        if (body[name] or 0) < 0 or (body["characters"] is None) != (body["spelling_order"] is None):
            raise ValueError(f"{CONFIG}.{name} must be an order from 0 on, got {body[name]}")
    spelling = None
    if body["characters"] is not None:
        characters = Vocabulary("char", body["characters"], None)
        law = _law(spelt, "spelling", body["spelling_order"], len(characters) + 1, edges=True)
        spelling = Spelling(law, characters)
    elif spelt or body["fitted_unit"] == "word":
        raise ValueError(f"{CONFIG}.characters must be there for a model of words, and of words alone")
    estimator.vocabulary_ = Vocabulary(body["fitted_unit"], body["symbols"], spelling)
    size = len(estimator.vocabulary_)
    estimator.law_ = _law(own, "law", body["fitted_order"], size, body["edges"])
    estimator.inference_seed_ = body["seed"]
    return estimator


def folder_kind(cls: Any) -> FolderKind:
    """How folders of a class of estimators are opened."""

    def ask(estimator: Any) -> list[Any]:
        return [np.asarray(estimator.score_samples(["".join(estimator.vocabulary_.symbols[:3]) + "?"]))]

    return FolderKind(TextFolder, lambda body, tensors: rebuilt(cls, body, tensors), describe, ask)


def read(cls: Any, folder: str | Path) -> Any:
    """Read a folder; ModelFolderError if it holds something else."""
    body, tensors = checkpoint.load(folder)
    if body.get("kind") != KIND:
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected a text model"
        )
    return opened(folder, body, tensors, folder_kind(cls))
