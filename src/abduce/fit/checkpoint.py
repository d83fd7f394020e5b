"""Model folders: safetensors for numbers, JSON for the rest, never pickle; loading executes no code.

A folder holds ``model.json`` (format version, what the model is, a checksum of the weights and one of itself) and
``weights.safetensors``.  It is written beside its place under a temporary name and moved there whole, by one exchange of names
where there is an older one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from abduce.data.files import part, put_folder, set_aside, sweep

FORMAT = 1


class ModelFolderError(ValueError):
    """A model folder that can't be read: missing, damaged, or of another format version."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(config: dict[str, Any]) -> bytes:
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def save(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a model folder atomically: the whole new folder is there, or what was there before, whatever fails.

    Raises FileExistsError if ``folder`` exists and is not a model folder.
    """
    folder = Path(folder)
    if folder.exists() and not (
        folder.is_dir() and ((folder / "model.json").exists() or not any(folder.iterdir()))
    ):
        raise FileExistsError(
            f"folder {str(folder)!r} exists and is not a model folder; it is not overwritten"
        )
    weights = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    body = {"format": FORMAT, "library": "abduce", "weights_sha256": _digest(weights), **config}
    body["sha256"] = _digest(_canonical(body))
    text = json.dumps(body, indent=1, allow_nan=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.absolute().parent, folder.name)
    with part(folder, Path.mkdir) as new:
        _write(new / "weights.safetensors", weights)
        _write(new / "model.json", text.encode())
        put_folder(new, folder)
    sweep(folder.absolute().parent, folder.name, (".old",))


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a model folder: ``(config, tensors)``; FileNotFoundError if there is none, ModelFolderError if it can't be read."""
    folder, data = Path(folder), {}
    title = f"model folder {str(folder)!r}"
    folder = set_aside(folder) or folder
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {str(folder)!r}: no such model folder")
    for name in ("model.json", "weights.safetensors"):
        try:
            data[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise ModelFolderError(f"{title} lacks the file {name}") from None
    try:
        body = json.loads(data["model.json"], parse_constant=_no_number, parse_float=_number)
        version = body["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelFolderError(f"{title}: model.json is damaged (not the JSON it should be)") from None
    if version != FORMAT:
        age = "a newer" if isinstance(version, int) and version > FORMAT else "an unknown or older"
        raise ModelFolderError(
            f"{title} has format version {version}, this abduce reads version {FORMAT}: it comes from {age} abduce"
        )
    if body.pop("sha256", None) != _digest(_canonical(body)):
        raise ModelFolderError(f"{title}: model.json was changed after it was saved (checksum differs)")
    if body.get("weights_sha256") != _digest(data["weights.safetensors"]):
        changed = "weights.safetensors is truncated or was changed (checksum differs)"
        raise ModelFolderError(f"{title}: {changed}")
    try:
        return body, load_tensors(data["weights.safetensors"])
    except SafetensorError as error:
        raise ModelFolderError(f"{title}: weights.safetensors can't be read ({error})") from None


def _number(text: str) -> float:
    """A number of model.json, which has none that is infinite."""
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def fingerprint(config: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Sixteen bytes that identify a model: its configuration and every weight."""
    digest = hashlib.sha256(_canonical(config))
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().to(torch.float32).numpy().tobytes())
    return digest.digest()[:16]


class TrainingState:
    """The whole state of a training run in a model folder, so that a stopped run goes on to the same numbers.

    ``identity`` names what the run is (settings, data): a state of another run is refused.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))  # as it reads back: tuples are lists

    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return ((set_aside(self.folder) or self.folder) / "model.json").exists()

    def save(self, progress: dict[str, Any], **groups: dict[str, Tensor]) -> None:
        """Write JSON-able ``progress`` and named groups of tensors."""
        tensors = {f"{group}/{name}": t for group, members in groups.items() for name, t in members.items()}
        save(self.folder, {"kind": "training", "identity": self.identity, "progress": progress}, tensors)

    def load(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Read back what :meth:`save` wrote; raises ModelFolderError if it belongs to another run."""
        body, tensors = load(self.folder)
        if body.get("kind") != "training" or body.get("identity") != self.identity:
            raise ModelFolderError(
                f"checkpoint {str(self.folder)!r} belongs to another run (other data or settings); name another folder or"
                " remove it"
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor
        return body["progress"], groups


def data_digest(*tensors: Tensor) -> str:
    """A checksum of the data a run trains on."""
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(t.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
