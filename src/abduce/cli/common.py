"""What every command shares: its arguments, reading and writing, and how a person is told.

Packages that take time to import are imported where they are used, so that ``abduce --help`` is there at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from abduce.cli.reading import MEMBER, NA, given, read, reads
from abduce.verbs import REQUIRED, VERBS, Argument

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Fit one generative model to unlabelled data, then ask it anything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
options = {"debug": False}


# ---------------------------------------------------------------- commands and their arguments


class Option(NamedTuple):
    """What the command line takes a value for, and its default, if any."""

    annotation: Any
    default: Any = Parameter.empty


Json = Annotated[
    bool, typer.Option("--json", help="Print what a program would read, as JSON on standard output.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", metavar="COLUMN=KIND", help="Say what a column holds (repeat for several columns)."
    ),
]
Na = Annotated[list[str] | None, NA]
Member = Annotated[str | None, MEMBER]
DATA = typer.Argument(
    metavar="DATA",
    help="CSV, Parquet, Arrow, .npy, .npz or text; a folder, a pattern or an address of tables; a folder of images; - is "
    "standard input.",
)
MODEL = typer.Option("-m", "--model", help="Folder that `abduce fit` wrote.")
ANSWER = typer.Option("-o", "--output", help="File or folder to write; - is CSV on standard output.")
SHARED = {
    "data": Option(Annotated[Path, DATA]),
    "model": Option(Annotated[Path, MODEL]),
    "output": Option(Annotated[str, ANSWER], "-"),
    "kind": Option(Kinds, None),
    "na": Option(Na, None),
    "member": Option(Member, None),
    "as_json": Option(Json, False),
    "quiet": Option(Quiet, False),
}


def as_option(argument: Argument) -> Option:
    """An argument of a question as an option of its command."""
    names = (argument.option,) if argument.option else ()
    option = typer.Option(*names, min=argument.least, max=argument.most, help=argument.help)
    default = argument.default if argument.option_default is None else argument.option_default
    kind: Any = argument.type if default is not None else argument.type | None
    return Option(Annotated[kind, option], Parameter.empty if default is REQUIRED else default)


def command(
    arguments: Iterable[Argument], own: dict[str, Option], help: str | None = None
) -> Callable[[Any], Any]:
    """Make a function a command: what it takes are arguments of a question, options of its own, or shared ones, by name.

    ``**given`` in its signature stands for all the arguments, which are listed before ``--json``.
    """
    named = {argument.name: as_option(argument) for argument in arguments}
    known = SHARED | named | own

    def register(function: Any) -> Any:
        names = [name for name in signature(function).parameters if name != "given"]
        if len(names) < len(signature(function).parameters):
            place = names.index("as_json")
            names[place:place] = named
        run = reads(function, remark)
        names += [n for n in ("na", "member") if {"data", "paths"} & set(names)]
        names += [] if "quiet" in names else ["quiet"]
        options = ((name, *known[name]) for name in names)
        made = [
            Parameter(n, Parameter.KEYWORD_ONLY, annotation=kind, default=usual) for n, kind, usual in options
        ]
        run.__signature__ = Signature(made)  # pyright: ignore[reportAttributeAccessIssue]
        return app.command(function.__name__, help=help)(run)

    return register


def question(own: dict[str, Option]) -> Callable[[Any], Any]:
    """Make functions the commands of the questions that they are named after, with options of their ``own``."""

    def register(answer: Any) -> Any:
        verb = VERBS[answer.__name__]
        return command((*verb.arguments, *verb.options), own, verb.help)(answer)

    return register


# ---------------------------------------------------------------- in


def parse_kinds(pairs: list[str] | None) -> dict[str | int, str] | None:
    """Turn ``["age=count", "0=binary"]`` into a mapping; a column given by number is a position.

    >>> parse_kinds(["age=count", "0=binary"])
    {'age': 'count', 0: 'binary'}
    """
    kinds: dict[str | int, str] = {}
    for pair in pairs or []:
        column, equals, kind = pair.rpartition("=")
        if not (column and equals and kind):
            raise typer.BadParameter(f"expected COLUMN=KIND, got {pair!r}", param_hint="--kind")
        kinds[int(column) if column.isdigit() else column] = kind
    return kinds or None


def check_settings(method: Any, settings: dict[str, Any]) -> None:
    """Refuse, by ValueError, arguments that a method does not take; it names those that it does."""
    known = sorted(p for p in signature(method).parameters if p not in ("callback", "random_state"))
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{method.__name__} takes no {', '.join(unknown)}; it takes {', '.join(known)}")


def is_first() -> bool:
    """Whether this process speaks and writes: one alone does, and of those that ``torchrun`` starts the first."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def load_model(path: Path) -> Any:
    """Load a model folder."""
    import abduce

    return abduce.load(path)


def read_with_model(data: Path, model: Path) -> tuple[Any, Any]:
    """Read the data first: a wrong path should not cost the time to load a model."""
    return read(data), load_model(model)


def missing_cells(X: Any) -> int:
    """Count the blanks."""
    import numpy as np
    import pandas as pd

    return int(np.asarray(pd.isna(X)).sum())


# ---------------------------------------------------------------- out


def write_answer(answer: Any, output: str, like: Path | None = None) -> None:
    """Write a frame or an array to a file by its ending, or as CSV to standard output for ``-``.

    Images keep the names they have in the folder ``like``, cells that are as they were in the file ``like`` their text; the
    columns of an array on standard output are x0, x1, ...
    """
    import pandas as pd

    from abduce.data import readers

    if output == "-":
        if answer.ndim > 2:
            wrong = "images cannot go to standard output: give a file or a folder"
            raise typer.BadParameter(wrong, param_hint="-o")
        named = isinstance(answer, pd.DataFrame)
        frame = answer if named else pd.DataFrame(answer).rename(columns="x{}".format)
        readers.write_csv(sys.stdout, frame, like=like, na=given["na"])
        return
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    images = not target.suffix or target.is_dir()
    readers.write(target, answer, like if like and like.is_dir() == images else None, given["na"])


def print_json(record: Any) -> None:
    """Print one JSON value on standard output; a number that is not finite becomes null."""
    print(json.dumps(_finite(record), default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- to a person, on standard error


def console(**settings: Any) -> Console:
    """A console on standard output, or on standard error with ``stderr=True``."""
    from rich.console import Console

    return Console(highlight=False, **settings)


def print_table(head: Iterable[str], rows: Iterable[Iterable[str]], width: int, *above: str) -> None:
    """Print lines and a table below them, ``width`` characters wide where standard output is not a terminal."""
    from rich.table import Table

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out = console(width=None if sys.stdout.isatty() else width)
    for line in above:
        out.print(line, markup=False)
    out.print(table)


def remark(text: str, quiet: bool = False) -> None:
    """Tell a person something."""
    if not quiet:
        console(stderr=True).print(text, markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool, unit: str = "") -> Iterator[Callable[..., None]]:
    """Yield ``show(text, done, total=1.0)``, which moves one bar; it counts units, or tells the share done in percent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    amount = (MofNCompleteColumn(), TextColumn(unit)) if unit else (TextColumn("{task.percentage:>3.0f}%"),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None if unit else 1.0)
        yield lambda text, done, total=1.0: bar.update(task, description=text, completed=done, total=total)


def left_out(schema: Any, quiet: bool) -> None:
    """Warn of columns that are no part of the model."""
    if schema.left_out:
        why = ", ".join(f"{field.name} ({field.kind})" for field in schema.left_out)
        remark(f"left out of the model: {why}; --kind COLUMN=KIND keeps one", quiet)
