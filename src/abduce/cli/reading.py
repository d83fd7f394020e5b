"""What every command that reads data shares: where the data come from, what blanks are called, who hears about them.

``-`` stands for standard input: it is kept in a file of its own while the command runs, as some read their data twice, and
what it holds is told by its first bytes.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import typer

KINDS = ((b"PAR1", ".parquet"), (b"\x93NUMPY", ".npy"), (b"PK\x03\x04", ".npz"), (b"\x1f\x8b", ".csv.gz"))
given: dict[str, Any] = {"na": (), "member": None}  # how this command reads
NA = typer.Option(
    "--na", metavar="WORD", help="A word that means a blank in text, such as NA (repeat for several)."
)
MEMBER = typer.Option("--member", metavar="NAME", help="Which array of an .npz file.")


def arrived(path: Path) -> Path:
    """A path to read; what came by standard input, for ``-``, in a file."""
    if str(path) != "-":
        return path
    folder = Path(tempfile.mkdtemp(prefix="abduce-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    head = sys.stdin.buffer.read(8)
    suffix = next((suffix for magic, suffix in KINDS if head.startswith(magic)), ".csv")
    target = folder / f"stdin{suffix}"
    with open(target, "wb") as file:
        file.write(head)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return target


def read(path: Path) -> Any:
    """Read a data file, a table in many files or a folder of images."""
    from abduce.data import readers

    if (source := many(path)) is not None:
        return source.read()
    return readers.read(path, member=given["member"], na=given["na"])


def table(path: Path) -> Any:
    """A table in a file, a chunk of rows at a time; None if it is no table, or an array is asked for by its name."""
    from abduce.data import streams

    return streams.TableFile(path, given["na"]) if streams.is_table(path) and not given["member"] else None


def many(path: Path, texts: Iterable[str] = ()) -> Any:
    """A table in many files; None for anything else.  ``texts`` are columns that are text whatever a single file holds."""
    from abduce.data import shards

    return shards.Shards(path, given["na"], texts) if shards.is_many(path) else None


def reads(function: Callable[..., Any], say: Callable[[str, bool], None]) -> Callable[..., Any]:
    """A command that takes ``--na``, ``--member`` and ``--quiet``, reads ``-``, and is told of what data lack by ``say``."""

    @wraps(function)
    def run(**values: Any) -> Any:
        given["na"], given["member"] = values.pop("na", None) or (), values.pop("member", None)
        quiet = values["quiet"] if keeps_quiet else values.pop("quiet", False)
        for name in ("data", "packed"):
            if name in values:
                values[name] = arrived(values[name])
        if "paths" in values:
            values["paths"] = [*values["paths"][:-1], arrived(values["paths"][-1])]
        with heard(lambda text: say(text, quiet)):
            try:
                return function(**values)
            except KeyboardInterrupt:
                say("interrupted; nothing was written", quiet)
                raise typer.Exit(130) from None

    keeps_quiet = "quiet" in function.__code__.co_varnames[: function.__code__.co_argcount]
    return run


@contextmanager
def heard(say: Callable[[str], None]) -> Iterator[None]:
    """Give what warns the user to ``say``, each text once; other warnings go their way."""
    seen: set[str] = set()

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        if not issubclass(category, UserWarning):
            usual(message, category, *place, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            say(str(message))

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield
