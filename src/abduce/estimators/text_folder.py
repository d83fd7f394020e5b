"""A fitted :class:`~abduce.Text` as a folder of JSON and safetensors: its symbols, counts and discounts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abduce.estimators.folder import estimator_to_json
from abduce.fit import checkpoint
from abduce.sequences.text.counts import NgramCounts
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import Spelling, Vocabulary

KIND = "text"


def _tensors(law: KneserNey, name: str) -> dict[str, Tensor]:
    out = {f"{name}.discounts": torch.from_numpy(law.discounts)}
    for k, level in enumerate(law.counts.levels):
        out[f"{name}.{k}.keys"] = torch.from_numpy(level.keys)
        out[f"{name}.{k}.counts"] = torch.from_numpy(level.counts)
    return out


def _law(tensors: dict[str, Tensor], name: str, order: int, size: int, edges: bool) -> KneserNey:
    keys = [tensors[f"{name}.{k}.keys"].numpy() for k in range(order + 1)]
    counts = [tensors[f"{name}.{k}.counts"].numpy() for k in range(order + 1)]
    return KneserNey(NgramCounts.of(keys, counts, size), tensors[f"{name}.discounts"].numpy(), edges)


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


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
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
    checkpoint.save(folder, body, _all_tensors(estimator))


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The estimator of what a folder holds."""
    estimator = cls(**body["arguments"])
    spelling = None
    if body["characters"] is not None:
        characters = Vocabulary("char", body["characters"], None)
        size = len(characters) + 1
        law = _law(tensors, "spelling", body["spelling_order"], size, edges=True)
        spelling = Spelling(law, characters)
    estimator.vocabulary_ = Vocabulary(body["fitted_unit"], body["symbols"], spelling)
    size = len(estimator.vocabulary_)
    estimator.law_ = _law(tensors, "law", body["fitted_order"], size, body["edges"])
    estimator.inference_seed_ = body["seed"]
    return estimator


def read(cls: Any, folder: str | Path) -> Any:
    """Read a folder; ModelFolderError if it holds something else."""
    body, tensors = checkpoint.load(folder)
    if body.get("kind") != KIND:
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected a text model"
        )
    return rebuild(cls, body, tensors)
