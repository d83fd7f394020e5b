"""Python values as JSON and back: what a column of objects may hold.  Reading builds plain values and runs no code."""

from __future__ import annotations

import decimal
import json
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import CompressedDataError

_PLAIN = (str, int, float, bool)


def to_json(value: Any) -> str:
    """One value as JSON, whose type can be told from it; a blank is null.  TypeError for a type that has no form here.

    >>> to_json(1), to_json(1.0), to_json("1"), to_json(float("nan")), to_json((1, [b"x"]))
    ('1', '1.0', '"1"', 'null', '["tuple",[1,["list",[["bytes","78"]]]]]')
    """
    return json.dumps(_tagged(value), separators=(",", ":"))


def from_json(text: str | bytes) -> Any:
    """Read what :func:`to_json` wrote."""
    try:
        return _untagged(json.loads(text))
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise CompressedDataError(f"data does not decode: {error}") from None


def _tagged(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return None if kind is float and value != value else value
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind in (list, tuple):
        return [kind.__name__, [_tagged(v) for v in value]]
    if kind is dict:
        return ["dict", [[_tagged(k), _tagged(v)] for k, v in value.items()]]
    if kind is decimal.Decimal:
        return ["decimal", str(value)]
    if isinstance(value, np.generic) and value.dtype.kind in "biufmM" and value.dtype.itemsize <= 16:
        return None if value != value else [value.dtype.str, value.tobytes().hex()]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    raise TypeError(f"{kind.__name__} {value!r:.60}")


def _untagged(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    tag, content = value
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag in ("list", "tuple"):
        found = [_untagged(v) for v in content]
        return found if tag == "list" else tuple(found)
    if tag == "dict":
        return {_untagged(k): _untagged(v) for k, v in content}
    if tag == "decimal":
        return decimal.Decimal(content)
    dtype = np.dtype(tag)
    if dtype.kind not in "biufmM":
        raise ValueError(f"no value of dtype {dtype}")
    return np.frombuffer(bytes.fromhex(content), dtype)[0]
