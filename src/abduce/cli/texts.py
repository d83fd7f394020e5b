"""What the commands do where the model is one of text: a file goes in, every character as it is, and text comes out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from abduce.cli.common import check_settings, load_model, print_json, remark, write_answer

SUFFIXES = (".txt", ".text", ".md")
LINE = 1000  # characters to a line beyond which `sample` stops waiting for its end


def is_text(method: str, data: Path) -> bool:
    """Whether a model of text is asked for, or what serves best and the file's name says that it holds text."""
    return method.lower() == "text" or (method.lower() == "auto" and data.suffix.lower() in SUFFIXES)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model of text."""
    try:
        return json.loads((folder / "model.json").read_bytes()).get("kind") == "text"
    except (OSError, ValueError, AttributeError):
        return False  # loading says why


def fit(data: Path, output: Path, settings: dict[str, Any], seed: int, as_json: bool, quiet: bool) -> None:
    """Fit to a file."""
    from abduce import Text
    from abduce.sequences.text.forms import read_file

    check_settings(Text, settings)
    text = read_file(data)
    model = Text(**settings, random_state=seed).fit(text)
    model.save(output)
    remark(f"fitted {len(text)} characters; the model is in {output}", quiet)
    if as_json:
        print_json({"model": str(output), "characters": len(text), **facts(model)})


def facts(model: Any) -> dict[str, Any]:
    """What a fitted model is, in a few numbers."""
    counts = [len(level.keys) for level in model.law_.counts.levels]
    return {
        "method": "Text",
        "order": model.law_.order,
        "unit": model.vocabulary_.unit,
        "symbols": len(model.vocabulary_),
        "n_grams": sum(counts),
    }


def fill(
    data: Path,
    folder: Path,
    output: str,
    draws: int | None,
    seed: int | None,
    marks: dict[str, Any],
    as_json: bool,
    quiet: bool,
) -> None:
    """Fill the blanks; several copies become files with a number each."""
    text, model = _both(data, folder)
    if draws is not None and output == "-":
        raise typer.BadParameter("several copies cannot share standard output: give a file", param_hint="-o")
    if draws is None:
        _write(output, model.fill(text, **marks))
    else:
        target = Path(output)
        for k, copy in enumerate(model.fill_draws(text, draws, random_state=seed, **marks), start=1):
            _write(str(target.with_name(f"{target.stem}-{k}{target.suffix}")), copy)
    blanks = text.count(marks["blank"]) + text.count(marks["gap"])
    remark(f"filled {blanks} blanks in {len(text)} characters", quiet)
    if as_json:
        print_json({"characters": len(text), "filled": blanks, "copies": draws or 1, "output": output})


def score(data: Path, folder: Path, output: str, as_json: bool) -> None:
    """One row: log p, characters, and bits a character, by the model as it is and by one that learns as it reads."""
    import pandas as pd

    text, model = _both(data, folder)
    found = {
        "log_p": model.score(text),
        "characters": len(text),
        "bits_per_character": model.bits_per_character(text),
        "adaptive_bits_per_character": model.bits_per_character(text, adaptive=True),
    }
    if as_json:
        print_json({"unit": "nats", **found})
    else:
        write_answer(pd.DataFrame([found]), output)


def sample(folder: Path, n: int, output: str, seed: int) -> None:
    """Draw lines."""
    model = load_model(folder)
    drawn, piece = "", 200
    while drawn.count("\n") < n and len(drawn) < n * LINE:
        drawn = model.sample(piece, start=drawn, random_state=(seed + len(drawn)) % 2**32)
    lines = drawn.splitlines(keepends=True)[:n]
    _write(output, "".join(lines).rstrip("\n") + "\n")


def compress(data: Path, folder: Path, to: Path, as_json: bool, quiet: bool) -> None:
    """The file appears under its name only once it is complete."""
    text, model = _both(data, folder)
    if str(to) == "-":
        sys.stdout.buffer.write(model.compress(text))
        sys.stdout.flush()
        return
    packed = model.compress(text, to)
    bits = 8 * len(packed) / max(1, len(text))
    remark(f"{len(text)} characters in {len(packed)} bytes: {bits:.3f} bits a character", quiet)
    if as_json:
        print_json({"characters": len(text), "bytes": len(packed), "bits_per_character": bits, "output": to})


def decompress(packed: Path, folder: Path, output: str) -> None:
    """The text, as it was."""
    _write(output, load_model(folder).decompress(packed))


def _both(data: Path, folder: Path) -> tuple[str, Any]:
    from abduce.sequences.text.forms import read_file

    return read_file(data), load_model(folder)


def _write(output: str, text: str) -> None:
    """Write text to a file, or to standard output for ``-``, every character as it is."""
    from abduce.data.files import atomic

    data = text.encode("utf-8", "surrogatepass")
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic(target, lambda file: file.write(data))
