"""The golden file: answers as named arrays, written and read, and what has moved between two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Entries = dict[str, np.ndarray]  # "case|question|part" -> numbers as float64, or text
Seconds = dict[str, float]  # "case|question" -> of the processor, which other programs on it do not lengthen


def write(path: Path, entries: Entries, seconds: Seconds) -> None:
    """Write entries and seconds to one compressed file of arrays."""
    names = np.array(list(entries))
    took = {"seconds of": np.array(list(seconds)), "seconds": np.array(list(seconds.values()))}
    arrays = {str(i): value for i, value in enumerate(entries.values())}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, names=names, **took, **arrays)


def read(path: Path) -> tuple[Entries, Seconds]:
    """Read what :func:`write` wrote."""
    with np.load(path, allow_pickle=False) as file:
        entries = {str(name): file[str(i)] for i, name in enumerate(file["names"])}
        return entries, dict(zip(file["seconds of"].tolist(), file["seconds"].tolist(), strict=True))


def report(then: Entries, now: Entries, rtol: float) -> int:
    """Print what moved, is missing or is new; the number of such entries."""
    lines = []
    same = 0
    for name, old in then.items():
        if name not in now:
            lines.append(f"missing  {name}: {_brief(old)}")
        elif (change := moved(old, now[name])) > rtol:
            lines.append(f"moved    {name}: by {change:.2g}, {_brief(old)} -> {_brief(now[name])}")
        else:
            same += change == 0
    lines += [f"new      {name}: {_brief(value)}" for name, value in now.items() if name not in then]
    print("\n".join(lines))
    print(f"{len(then)} entries, {same} the same to the bit, {len(lines)} moved, missing or new")
    return len(lines)


def _brief(value: np.ndarray) -> str:
    if value.dtype.kind != "f":
        return repr(" | ".join(value.ravel().tolist()))[:100]
    text = np.array2string(value.ravel()[:3], precision=6).replace("\n", " ")
    return text if value.size <= 3 else f"{text} of {value.shape}"


def report_seconds(then: Seconds, now: Seconds, least: float = 0.05) -> None:
    """Print seconds then and now, of cases, of questions over all cases, and of each question that took a moment."""

    def total(by: int) -> dict[str, tuple[float, float]]:
        out: dict[str, tuple[float, float]] = {}
        for key in then.keys() & now.keys():
            a, b = out.get(key.split("|")[by], (0.0, 0.0))
            out[key.split("|")[by]] = (a + then[key], b + now[key])
        return out

    each = {key: (then[key], now[key]) for key in then if key in now and max(then[key], now[key]) >= least}
    print(f"\n{'seconds':<60}{'then':>8}{'now':>8}{'ratio':>8}")
    for title, table in (("case", total(0)), ("question", total(1)), ("each", each)):
        print(f"-- {title}")
        for name, (a, b) in sorted(table.items(), key=lambda item: -item[1][0]):
            print(f"{name:<60}{a:8.2f}{b:8.2f}{b / max(a, 1e-9):8.2f}")
    a, b = (sum(t[key] for key in then.keys() & now.keys()) for t in (then, now))
    print(f"{'all':<60}{a:8.2f}{b:8.2f}{b / max(a, 1e-9):8.2f}")


def moved(then: np.ndarray, now: np.ndarray) -> float:
    """Largest change in units of :func:`unit`; of text, the share that differs; infinite where forms differ.

    >>> moved(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.1])).__round__(3)
    0.122
    """
    if then.shape != now.shape or (then.dtype.kind == "f") != (now.dtype.kind == "f"):
        return float("inf")
    if then.dtype.kind != "f":
        return float(np.mean(then != now))
    odd = ~np.isfinite(then)
    if not np.array_equal(then[odd], now[odd], equal_nan=True) or not np.isfinite(now[~odd]).all():
        return float("inf")
    change = np.abs(now[~odd] - then[~odd])
    return float((change / unit(then)[~odd]).max()) if change.size else 0.0


def unit(values: np.ndarray) -> np.ndarray:
    """What a change of each value is measured in: its column's spread, that of all values, or where none varies the size.

    >>> unit(np.array([[0.0, 5.0], [2.0, 5.0]]))
    array([[1.       , 2.1213203],
           [1.       , 2.1213203]])
    """
    known = values[np.isfinite(values)]
    size = float(np.abs(known).max()) if known.size else 0.0
    spread = float(known.std()) if known.size else 0.0
    whole = spread if spread > 1e-6 * size else size or 1.0
    if values.ndim != 2 or len(values) < 2 or known.size < values.size:
        return np.full(values.shape, whole)
    own = values.std(0)
    return np.broadcast_to(np.where(own > 1e-4 * whole, own, whole), values.shape)
