"""What the command line does with WAV files: fill their gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from abduce.cli.common import load_model, print_json, progress, remark


def parse_gaps(given: list[str] | None) -> list[tuple[float, float]] | None:
    """Turn ``["1.20:1.26"]`` into pairs of seconds.

    >>> parse_gaps(["1.20:1.26"])
    [(1.2, 1.26)]
    """
    found = []
    for text in given or []:
        try:
            start, stop = map(float, text.split(":"))
        except ValueError:
            wrong = f"expected START:STOP in seconds, as 1.20:1.26, got {text!r}"
            raise typer.BadParameter(wrong, param_hint="--gap") from None
        found.append((start, stop))
    return found or None


def fill_sound(
    data: Path,
    model: Path | None,
    output: str,
    gap: list[str] | None,
    draws: int | None,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fill a WAV file in its own format, by a saved model or one that is fitted to it on the spot.

    Several copies become files with a number each.
    """
    gaps = parse_gaps(gap)
    if output == "-":
        raise typer.BadParameter("sound cannot go to standard output: give a WAV file", param_hint="-o")
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    sound = _model(data, model, gaps, seed, quiet)
    if draws is None:
        filled = sound.fill_file(data, target, gaps)
    else:
        names = [target.with_name(f"{target.stem}-{k}{target.suffix}") for k in range(1, draws + 1)]
        filled = sound.fill_file(data, names, gaps, random_state=seed)
    remark(f"filled {filled} samples of {data}", quiet)
    if as_json:
        print_json({"filled": filled, "copies": draws or 1, "output": output})


def _model(data: Path, folder: Path | None, gaps: Any, seed: int | None, quiet: bool) -> Any:
    """The model that was saved, or one fitted to what was seen of the file."""
    import abduce

    if folder is not None:
        sound = load_model(folder)
        if not isinstance(sound, abduce.Sound):
            raise ValueError(f"{folder} holds a {type(sound).__name__}, which fills no sound: a Sound does")
        return sound
    sound = abduce.Sound(random_state=0 if seed is None else seed)
    with progress(quiet) as show:
        sound.set_params(callback=lambda record: show(record["stage"], record["epoch"]))
        return sound.fit(data, gaps=gaps)
