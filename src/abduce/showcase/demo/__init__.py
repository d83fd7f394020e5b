"""The demonstration: fit handwritten digits, a fifth of the pixels blank, ask every question; then a table, and a series."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from abduce.estimators.vae import VAE
from abduce.showcase import plots, report
from abduce.showcase.demo.parcels import infer_rows
from abduce.showcase.demo.questions import QUESTIONS, Digits, Finding
from abduce.showcase.demo.times import infer_times

EPOCHS = 30  # enough to see what the model can do in the time a person will wait
_FITTING = 0.5  # share of the time that the fit takes, for the progress bar


def run(
    folder: Path,
    epochs: int | None = None,
    seed: int = 0,
    show: Callable[[str, float], Any] = lambda text, share: None,
) -> dict[str, Any]:
    """Fit, ask, write ``report.html``, ``report.json`` and the model into ``folder``; return what report.json says.

    ``show(text, share)`` is told what is being done and the share of the whole that is done.
    """
    started = time.perf_counter()
    digits = Digits(seed)

    def told(e: dict[str, Any]) -> None:
        show(f"fitting, epoch {e['epoch']}/{e['epochs']}", _FITTING * e["epoch"] / e["epochs"])

    model = VAE(max_epochs=epochs or EPOCHS, random_state=seed, callback=told).fit(digits.train)
    fitted = time.perf_counter() - started

    rng = np.random.default_rng(seed + 1)
    answers: list[Finding] = []
    pictures: list[report.Picture] = []
    for k, question in enumerate(QUESTIONS):
        show(question.__name__.replace("_", " "), _FITTING + (0.9 - _FITTING) * k / len(QUESTIONS))
        answered, drawn = question(model, digits, rng)
        answers += answered
        pictures += drawn
    for name, share, infer in (("rows", 0.9, infer_rows), ("series", 0.95, infer_times)):
        show(name, share)
        answered, drawn = infer(seed)
        answers += answered
        pictures += drawn
    caption = (
        "The bound on log p that training raises: on the digits it trains on, and on a tenth of them held "
        "out, which decides which weights are kept."
    )
    curve = partial(plots.training_curve, model.history_)
    pictures.append(report.Picture("training", "Training", caption, curve))

    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model")
    result = {
        "rows": {"train": len(digits.train), "held out": len(digits.test)},
        "seed": seed,
        "epochs": len(model.history_),
        "seconds": {"fit": fitted, "all": time.perf_counter() - started},
        "answers": [_record(answer) for answer in answers],
    }
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _write_page(folder / "report.html", result, pictures)
    return result


def _record(finding: Finding) -> dict[str, Any]:
    best, won = (finding.best_peer, finding.ours_is_best) if finding.peers else (None, None)
    return asdict(finding) | {"best_peer": best, "ours_is_best": won}


def headline(result: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Lay out the table: task, our figure, the best peer's, its name, unit; a star marks the better one."""
    lines = []
    for answer in result["answers"]:
        name, won = answer["best_peer"], answer["ours_is_best"]
        theirs = "" if name is None else _figure(answer["peers"][name]) + (" *" if won is False else "")
        ours = _figure(answer["ours"]) + (" *" if won else "")
        lines.append((answer["task"], ours, theirs, name or "", answer["unit"]))
    return lines


def _figure(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _write_page(path: Path, result: dict[str, Any], pictures: list[report.Picture]) -> None:
    lines = headline(result)
    starred = frozenset((i, j) for i, line in enumerate(lines) for j in (1, 2) if line[j].endswith("*"))
    others = [
        (answer["task"], ", ".join(f"{name} {_figure(figure)}" for name, figure in answer["peers"].items()))
        for answer in result["answers"]
        if len(answer["peers"]) > 1
    ]
    rows, seconds = result["rows"], result["seconds"]
    lead = (
        f"One variational auto-encoder was fitted, without labels, to {rows['train']} handwritten digits of "
        "8 x 8 pixels with a fifth of the pixels blank. Every question below was put to that one model, on "
        f"{rows['held out']} digits it had never seen; the last lines are of a table with wrong rows, and of a series."
    )
    notes = (
        f"{result['epochs']} epochs in {seconds['fit']:.0f} s; everything in {seconds['all']:.0f} s. Peers "
        "were fitted to the same blanked digits; those that cannot read blanks had them filled by nearest "
        "neighbours first. A star marks the better figure."
    )
    sections: list[report.Picture | report.Table | str] = [
        report.Table(("task", "ours", "best peer", "", "unit"), lines, starred),
        notes,
        *pictures,
        report.Table(("task", "every peer"), others),
    ]
    report.write(path, "abduce on handwritten digits, a table and a series", lead, sections)
