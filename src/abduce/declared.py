"""JSON and tensors held against what the code declares of them: annotations of a constructor, a dataclass or a TypedDict.

What a file claims to be is told by its own words, so that each is checked before anything is built of it:

    conform(value, kind, place)      refuses a JSON value that the annotation ``kind`` does not allow
    made(build, arguments, place)    calls ``build`` with arguments that its own annotations allow
    shaped(arrays, declared, place)  refuses arrays of other names, kinds or shapes than declared, and numbers that are none

Errors are a ValueError that names the place, such as ``model.config.hidden[2]``, what came and what is expected.  A float may
be written as a whole number, a tuple or sequence as a list; a bool is no number.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

if TYPE_CHECKING:  # tables are read without torch
    import torch
    from torch import Tensor

T = TypeVar("T")
Dims = tuple[int | str, ...]  # sizes; a name stands for one size wherever it comes
_PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    type(None): (type(None),),
}


def conform(value: Any, kind: Any, place: str) -> None:
    """Refuse, by ValueError, a JSON value that is not of the annotated ``kind``.

    >>> conform({"a": [1, 2.5]}, dict[str, list[float]], "scale")
    >>> conform({"a": [1, "2.5"]}, dict[str, list[float]], "scale")
    Traceback (most recent call last):
    ValueError: scale.a[1] must be a float, got '2.5'
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if kind is bool:
        _require(isinstance(value, bool), value, kind, place)
    elif kind in _PLAIN:
        _require(isinstance(value, _PLAIN[kind]) and not isinstance(value, bool), value, kind, place)
    elif origin is Literal:
        _require(any(value == p and type(value) is type(p) for p in parts), value, kind, place)
    elif origin in (Union, types.UnionType):
        _one_of(value, parts, kind, place)
    elif is_typeddict(kind):
        known = get_type_hints(kind)
        _names(value, set(known), kind.__required_keys__, place)
        for name, part in known.items():
            if name in value:
                conform(value[name], part, f"{place}.{name}" if place else name)
    elif (kind if origin is None else origin) in (dict, Mapping):
        _require(isinstance(value, dict), value, dict, place)
        for name, item in value.items():
            conform(item, parts[1] if parts else Any, f"{place}.{name}")
    elif (kind if origin is None else origin) in (list, tuple, Sequence):
        _require(isinstance(value, list), value, list, place)
        each = origin is not tuple or parts[-1:] == (...,)
        _require(each or len(value) == len(parts), value, kind, place)
        kinds = [parts[0] if parts else Any] * len(value) if each else parts
        for i, (item, part) in enumerate(zip(value, kinds, strict=True)):
            conform(item, part, f"{place}[{i}]")
    else:  # a class of the house: no JSON is one
        _require(False, value, kind, place)


def made(build: Callable[..., T], arguments: Any, place: str) -> T:
    """Call a function or class with arguments of a file, once they are what its annotations declare.

    >>> from abduce.models.mixture import KMeansEnergy
    >>> made(KMeansEnergy, {"n_cells": "2", "components": 3}, "config")
    Traceback (most recent call last):
    ValueError: config.n_cells must be an int, got '2'
    """
    known, needed = _arguments(build)
    _names(arguments, set(known), needed, place)
    for name, value in arguments.items():
        conform(value, known[name], f"{place}.{name}")
    return build(**arguments)


def shaped(
    tensors: Mapping[str, Tensor], declared: Mapping[str, tuple[torch.dtype, Dims]], place: str
) -> dict[str, int]:
    """Hold tensors against the kind and shape ``declared`` of each; the sizes of named dimensions.  Numbers must be finite.

    >>> import torch
    >>> found = {"a": torch.zeros(3, 2), "b": torch.zeros(3)}
    >>> shaped(found, {"a": (torch.float32, ("n", 2)), "b": (torch.float32, ("n",))}, "weights")
    {'n': 3}
    """
    _names(tensors, set(declared), frozenset(declared), place)
    sizes: dict[str, int] = {}
    for name, (dtype, dims) in declared.items():
        tensor = tensors[name]
        if len(dims) == tensor.ndim:
            for dim, size in zip(dims, tensor.shape, strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        expected = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in dims)
        if tuple(tensor.shape) != expected or tensor.dtype != dtype:
            raise ValueError(
                f"{place}: {name!r} must be {_spoken(dtype)} of shape {expected}, got {_spoken(tensor.dtype)} of shape "
                f"{tuple(tensor.shape)}"
            )
        finite(tensor, name, place)
    return sizes


def finite(tensor: Tensor, name: str, place: str) -> None:
    """Refuse, by ValueError, NaN and infinity among numbers; logarithms, named ``log_``, may be those of zero, and the ends of
    a range, ``low`` and ``high``, none."""
    if not tensor.is_floating_point():
        return
    last = name.rpartition(".")[2]
    none = -math.inf if last.startswith("log_") or last == "low" else math.inf if last == "high" else 0.0
    if bool((~tensor.isfinite() & (tensor != none)).any()):
        raise ValueError(f"{place}: {name!r} has NaN or infinity among its numbers")


def alike(given: Any, expected: Any, place: str) -> None:
    """Refuse, by ValueError naming the first place, JSON that differs from what it should be, in kinds too."""
    if isinstance(given, dict) and isinstance(expected, dict):
        _names(given, set(expected), frozenset(expected), place)
        for name, value in given.items():
            alike(value, expected[name], f"{place}.{name}" if place else name)
    elif isinstance(given, list) and isinstance(expected, list | tuple) and len(given) == len(expected):
        for i, (one, other) in enumerate(zip(given, expected, strict=True)):
            alike(one, other, f"{place}[{i}]")
    elif given != expected or isinstance(given, bool) != isinstance(expected, bool):
        raise ValueError(f"{place} must be {_short(expected)}, as follows from the rest, got {_short(given)}")


@cache
def _arguments(build: Callable[..., Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Annotations of the arguments, and the names of those without a default."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    parameters = inspect.signature(build).parameters
    needed = frozenset(name for name, p in parameters.items() if p.default is inspect.Parameter.empty)
    return {name: hints.get(name, Any) for name in parameters}, needed


def _names(given: Any, known: set[str], needed: frozenset[str], place: str) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{place or 'it'} must be a dict, got {_short(given)}")
    if lacking := sorted(needed - set(given)):
        raise ValueError(f"{place or 'it'} lacks {lacking[0]!r}")
    if unknown := sorted(set(map(str, given)) - known):
        raise ValueError(
            f"{place or 'it'} holds {unknown[0]!r}, which is not known; expected {sorted(known)}"
        )


def _one_of(value: Any, kinds: tuple[Any, ...], kind: Any, place: str) -> None:
    told = []
    for part in kinds:
        try:
            conform(value, part, place)
            return
        except ValueError as error:
            told.append(error)
    deep = [error for error in told if not str(error).startswith(f"{place} must be")]
    if deep:  # it is of this kind, but for something inside
        raise deep[0]
    _require(False, value, kind, place)


def _require(good: bool, value: Any, kind: Any, place: str) -> None:
    if not good:
        raise ValueError(f"{place} must be {_spoken(kind)}, got {_short(value)}")


def _spoken(kind: Any) -> str:
    if isinstance(kind, type) and get_origin(kind) is None:
        return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"
    return str(kind).replace("typing.", "").replace("torch.", "").replace("collections.abc.", "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
