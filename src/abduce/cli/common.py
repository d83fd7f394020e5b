"""What every command shares: its arguments, reading and writing, and how a person is told."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from abduce.data import readers

app = typer.Typer(
    help="Fit one generative model to unlabelled data, then ask it anything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
notes = Console(stderr=True, highlight=False)
options = {"debug": False}

DataPath = Annotated[
    Path, typer.Argument(metavar="DATA", help="CSV, Parquet, .npy, .npz or a folder of images.")
]
ModelPath = Annotated[Path, typer.Option("-m", "--model", help="Folder that `abduce fit` wrote.")]
AnswerPath = Annotated[
    str, typer.Option("-o", "--output", help="File or folder to write; - is CSV on standard output.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print what a program would read, as JSON on standard output.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of every random draw; the same seed, the same answer.")
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", metavar="COLUMN=KIND", help="Say what a column holds (repeat for several columns)."
    ),
]


def parse_kinds(pairs: list[str] | None) -> dict[str | int, str] | None:
    """Turn ``["age=count", "0=binary"]`` into a mapping; a column given by number is a position.

    >>> parse_kinds(["age=count", "0=binary"])
    {'age': 'count', 0: 'binary'}
    """
    if not pairs:
        return None
    kinds: dict[str | int, str] = {}
    for pair in pairs:
        column, equals, kind = pair.rpartition("=")
        if not (column and equals and kind):
            raise typer.BadParameter(f"expected COLUMN=KIND, got {pair!r}", param_hint="--kind")
        kinds[int(column) if column.isdigit() else column] = kind
    return kinds


def load_model(path: Path) -> Any:
    """Load a model folder."""
    import abduce

    return abduce.load(path)


def write_answer(answer: Any, output: str, like: Path | None = None) -> None:
    """Write a frame or an array to a file by its ending, or as CSV to standard output for ``-``.

    Images keep the names they have in the folder ``like``.
    """
    if output == "-":
        if isinstance(answer, np.ndarray) and answer.ndim > 2:
            raise typer.BadParameter(
                "images cannot go to standard output: give a file or a folder", param_hint="-o"
            )
        as_frame(answer).to_csv(sys.stdout, index=False)
        return
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    readers.write(target, answer, like=like if like and like.is_dir() and not target.suffix else None)


def as_frame(answer: Any) -> pd.DataFrame:
    """View a 2-D array as a frame with the column names x0, x1, ..."""
    if isinstance(answer, pd.DataFrame):
        return answer
    return pd.DataFrame(answer, columns=pd.Index([f"x{j}" for j in range(answer.shape[1])]))


def print_json(record: Any) -> None:
    """Print one JSON value on standard output; a number that is not finite becomes null."""
    print(json.dumps(_finite(record), default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remark(text: str, quiet: bool) -> None:
    """Tell a person something, on standard error."""
    if not quiet:
        notes.print(text, markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Yield ``show(text, share)``, which moves one bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda text, share: bar.update(task, description=text, completed=share)


@contextmanager
def progress_of_rows(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``show(text, done, total)``, which moves one bar that counts rows, on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=quiet) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)


def read_with_model(data: Path, model: Path) -> tuple[Any, Any]:
    """Read the data first: a wrong path should not cost the time to load a model."""
    return readers.read(data), load_model(model)


def missing_cells(X: Any) -> int:
    """Count the blanks."""
    return int(pd.isna(X).to_numpy().sum() if isinstance(X, pd.DataFrame) else pd.isna(X).sum())


def left_out(schema: Any, quiet: bool) -> None:
    """Warn of columns that are no part of the model."""
    if schema.left_out:
        why = ", ".join(f"{field.name} ({field.kind})" for field in schema.left_out)
        remark(f"left out of the model: {why}; --kind COLUMN=KIND keeps one", quiet)
