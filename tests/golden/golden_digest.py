"""A digest of the golden file that other machines can be held to: a handful of numbers an answer, and how far they may move.

Another processor adds in another order.  Closed forms then agree to a millionth of an answer's spread, a short training to
some thousandths, counts of draws to a tenth, and bytes in their number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from golden_cases import CASES

DIGEST = Path(__file__).parent / "golden.json"
COUNTS = ("realism", "fill_interval", "effective_sample_size")  # of draws, or their quantiles
BYTES = 0.02  # of what was compressed: coders go by the last bits of the weights
FEW = 4  # values that are kept as they are

Kept = str | list[float]
Digest = dict[str, dict[str, Kept]]  # question -> part -> numbers or text


def digest(entries: Mapping[str, np.ndarray]) -> dict[str, Digest]:
    """The digest of each case from entries "case|question|part"."""
    out: dict[str, Digest] = {}
    for name, value in entries.items():
        case, question, part = name.split("|")
        if _kept(part):
            out.setdefault(case, {}).setdefault(question, {})[part] = reduced(value)
    return out


def _kept(part: str) -> bool:
    """Leave out forms, what differs in the last bits, and what only says how the fit went."""
    if part.startswith("history."):
        return part.endswith("train.values")
    return not part.endswith(("form", "sha256")) and "diagnostics" not in part


def reduced(value: np.ndarray) -> Kept:
    """Text, or a few values as they are, or how many are finite, mean, spread, extremes, and a sum that tells their order.

    >>> reduced(np.arange(5.0))
    [5.0, 2.0, 1.41421356, 0.0, 4.0, -0.350915301]
    """
    if value.dtype.kind != "f":
        return " ".join(value.ravel().tolist())
    known = value[np.isfinite(value)].ravel()
    if known.size <= FEW:
        numbers = known.tolist()
    else:
        wave = np.cos(1.0 + 2.4 * np.arange(known.size))
        numbers = [known.size, known.mean(), known.std(), known.min(), known.max(), (wave * known).mean()]
    return [float(f"{number:.9g}") for number in numbers]


def differences(case: str, then: Digest, now: Digest) -> list[str]:
    """What differs between two digests of one case by more than another machine explains, a line each."""
    lines = []
    for question in [*then, *(q for q in now if q not in then)]:
        old, new = then.get(question, {}), now.get(question, {})
        for part in [*old, *(p for p in new if p not in old)]:
            a, b = old.get(part, "nothing"), new.get(part, "nothing")
            if part.endswith("length"):
                same = close(a, b, 0.0, BYTES)
            elif question in COUNTS or question in CASES[case].loose:
                same = close(a, b, 0.0, 0.1)
            else:
                same = close(a, b, CASES[case].tolerance)
            if not same:
                lines.append(f"{question}, {part}: was {a}, is {b}")
    return lines


def close(then: Kept, now: Kept, spreads: float, sizes: float = 0.0) -> bool:
    """Whether two reductions agree to so many ``spreads``, or a thousandth as many sizes, and to ``sizes``.

    >>> close([5.0, 2.0, 1.0, 0.0, 4.0, 0.0], [5.0, 2.0, 1.0, 0.0, 4.09, 0.0], 0.1)
    True
    """
    if isinstance(then, str) or isinstance(now, str) or len(then) != len(now):
        return then == now
    whole = len(then) > FEW
    if whole and then[0] != now[0]:
        return False
    a, b = np.array(then[whole:]), np.array(now[whole:])
    size = float(np.abs(a).max(initial=0.0))
    spread = float(a[1] if whole else a.std()) if len(a) else 0.0
    if not spread > 1e-6 * size:  # nothing varies
        spread = size
    allowed = spreads * max(spread, 1e-3 * size) + (sizes + 2e-9) * size  # nine digits are kept
    return bool((np.abs(a - b) <= allowed).all())


def read_digest() -> dict[str, Digest]:
    """The digest that is kept."""
    return json.loads(DIGEST.read_text(encoding="utf-8"))


def write_digest(entries: Mapping[str, np.ndarray]) -> None:
    """Keep the digest of entries, a line a question; cases that are not among them keep theirs."""
    kept = json.loads(DIGEST.read_text(encoding="utf-8")) if DIGEST.exists() else {}
    cases = []
    for case, about in (kept | digest(entries)).items():
        lines = [f"{json.dumps(question)}:{_compact(parts)}" for question, parts in about.items()]
        cases.append(f"{json.dumps(case)}:{{\n" + ",\n".join(lines) + "\n}")
    DIGEST.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
