"""A fitted estimator kept as a folder: its arguments, what the fit found, and the model, of JSON and safetensors alone.

A folder is opened in steps, each of which refuses, by ModelFolderError naming file and key, what the next could not bear:

    model.json is what the kind of folder declares: keys and types          :mod:`abduce.declared`
    sizes are such as the weights can have, so that nothing huge is made
    what is built of it has tensors of the names, types and shapes that are there, all numbers finite
    it describes itself by the model.json that is there, to the last key
    asked about a row of its own it gives numbers
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from abduce.declared import alike, conform, shaped
from abduce.fit import checkpoint, registry

WATCHERS = ("callback",)  # arguments that are not kept
HEADER = ("format", "library", "weights_sha256")  # what every model.json has besides
CONFIG, WEIGHTS = "model.json", "weights.safetensors"
MOST = 10_000  # that any model may have of anything, whatever its weights
SIZED = (
    "model",
    "config",
    "pictures",
    "linear",
    "shape",
    "choices",
    "fitted_order",
    "spelling_order",
)  # keys with sizes below them
UNSIZED = ("schema", "reports", "diagnostics", "seed")

E = TypeVar("E", bound=BaseEstimator)
Contents = tuple[dict[str, Any], dict[str, Tensor]]


class FolderHeader(TypedDict):
    """What every model.json holds."""

    format: int
    library: str
    weights_sha256: str
    kind: str
    estimator: str
    arguments: dict[str, Any]


class NamedFamily(TypedDict):
    """A model: its family and the arguments of that."""

    family: str
    config: dict[str, Any]


class FittedFacts(TypedDict, total=False):
    """What a fit found besides schema and model; each kind of estimator keeps some of it."""

    offset_: float
    edge_: list[list[float | None]]
    usual_: list[float]
    inference_seed_: int
    history_: list[dict[str, float | list[Any]]]
    feature_names: list[str]
    mean_energy_: float
    range_: list[list[float]]
    support_: Literal["real", "binary", "mixed"]


class TableFolder(FolderHeader):
    """A model of rows."""

    model: NamedFamily
    schema: dict[str, Any]
    fitted: FittedFacts


class FolderKind(NamedTuple):
    """A kind of folder: what its model.json is ``declared`` to be, how an estimator is built of it and described by one, and
    a question that shows whether its answers are numbers."""

    declared: Any
    rebuild: Callable[[dict[str, Any], dict[str, Tensor]], Any]
    describe: Callable[[Any], Contents]
    ask: Callable[[Any], Any]


def opened(folder: str | Path, body: dict[str, Any], tensors: dict[str, Tensor], kind: FolderKind) -> Any:
    """The estimator of what was read from a folder, checked; ModelFolderError names the file and what is wrong in it."""
    title = f"model folder {str(folder)!r}"
    try:
        conform(body, kind.declared, CONFIG)
        most = max(MOST, sum(t.numel() for t in tensors.values()))
        for name in SIZED:
            _check_sizes(body.get(name), most, f"{CONFIG}.{name}")
        estimator = kind.rebuild(body, dict(tensors))
        own, _ = kind.describe(estimator)
        alike({k: v for k, v in body.items() if k not in HEADER}, own, CONFIG)
    except checkpoint.ModelFolderError:
        raise
    except _WRONG as error:
        what = str(error) or type(error).__name__
        raise checkpoint.ModelFolderError(f"{title}: what it holds makes no model: {what}") from None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            values = [torch.as_tensor(v) for v in kind.ask(estimator)]
        good = all(bool(v.isfinite().all()) for v in values)
        said = "numbers that are NaN or infinite"
    except _WRONG as error:
        good, said = False, f"an error ({str(error) or type(error).__name__})"
    if not good:
        raise checkpoint.ModelFolderError(
            f"{title}: {CONFIG} and {WEIGHTS} do not go together: asked about a row, the model gives {said}"
        )
    return estimator


def fill(
    module: nn.Module, tensors: dict[str, Tensor], prefix: str = "", stored: torch.dtype | None = None
) -> None:
    """Load a module's tensors, once they have the names, types and shapes that it has itself; numbers are ``stored`` as."""
    expected = module.state_dict(prefix=prefix)
    kinds = {
        n: t.dtype if stored is None or not t.is_floating_point() else stored for n, t in expected.items()
    }
    shaped(tensors, {n: (kinds[n], tuple(t.shape)) for n, t in expected.items()}, WEIGHTS)
    module.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items()})


def constructed(cls: type[E], arguments: dict[str, Any]) -> E:
    """An estimator of the arguments of a folder, whose names must be its own; values are as ``fit`` took them."""
    known = signature(cls).parameters
    if unknown := [name for name in arguments if name not in known or name in WATCHERS]:
        raise ValueError(f"{CONFIG}.arguments holds {unknown[0]!r}, expected some of {sorted(known)}")
    return cls(**arguments)


def parted(tensors: dict[str, Tensor], *parts: str) -> list[dict[str, Tensor]]:
    """Tensors by the first part of their names, ``parts`` and no others, names as they are; ValueError for another."""
    out: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        if part not in out:
            raise ValueError(f"{WEIGHTS} holds {name!r}, which is not known")
        out[part][name] = tensor
    return [out[part] for part in parts]


def _check_sizes(given: Any, most: int, place: str) -> None:
    """Refuse whole numbers beyond what the weights can have, wherever they lie below a key."""
    if isinstance(given, int) and given > most:
        raise ValueError(f"{place} must be a size that the weights can have, at most {most}, got {given}")
    if isinstance(given, dict | list):
        for name, value in given.items() if isinstance(given, dict) else enumerate(given):
            if name not in UNSIZED:
                _check_sizes(
                    value, most, f"{place}[{name}]" if isinstance(given, list) else f"{place}.{name}"
                )


# what building a model of wrong parts may raise
_WRONG = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


# ------------------------------------------------------------------ models of rows


def state(estimator: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What identifies a fitted model: JSON-able configuration and weights."""
    model = estimator.model_
    config = {
        "model": {"family": type(model).__name__, "config": model.config},
        "schema": estimator.schema_.to_json(),
    }
    tensors = {
        name: t.to(model.stored_as) if t.is_floating_point() and model.stored_as is not None else t
        for name, t in model.state_dict().items()
    }
    return config, tensors


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    config, tensors = state(estimator)
    fitted = {name: vars(estimator)[name] for name in estimator.kept}
    fitted["feature_names"] = [str(c) for c in vars(estimator).get("feature_names_in_", [])]
    return {"kind": "model", **estimator_to_json(estimator), "fitted": fitted, **config}, tensors


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    checkpoint.save(folder, *describe(estimator))


# ------------------------------------------------------------------ arguments


def estimator_to_json(estimator: Any) -> dict[str, Any]:
    """An estimator's name and arguments as JSON."""
    arguments = {k: _to_json(v) for k, v in estimator.get_params(deep=False).items() if k not in WATCHERS}
    return {"estimator": type(estimator).__name__, "arguments": arguments}


def _to_json(value: Any) -> Any:
    """A constructor argument as JSON; seeds that are no numbers, and code, are not kept."""
    match value:
        case np.random.RandomState():
            return None
        case np.generic():
            return value.item()
        case BaseEstimator():
            return estimator_to_json(value)
        case Mapping():  # keys may be places as well as names
            return {"mapping": [[_to_json(k), _to_json(v)] for k, v in value.items()]}
        case tuple() | list() | np.ndarray():
            return [_to_json(v) for v in value]
    if registry.is_objective(value):
        return {"objective": registry.to_json(value)}
    return "auto" if callable(value) else value
