"""Commands asked about tables in many files: the options that they share, and how their answers are said.

The work is :func:`abduce.answer_files`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from abduce.cli.common import Option, load_model, print_json, progress, remark
from abduce.cli.reading import given

ENGINE = typer.Option(
    "--engine",
    help="Of DATA in many files, who works: plain, processes, ray, or ray://HOST:PORT.",
    metavar="NAME",
)
WORKERS = typer.Option("--workers", help="Of DATA in many files: processes side by side.", min=1)
RESUME = typer.Option(
    "--resume", help="Of DATA in many files: do only what is missing in the folder of the answers."
)
SHARING = {
    "engine": Option(Annotated[str | None, ENGINE], None),
    "workers": Option(Annotated[int | None, WORKERS], None),
}
MANY = {"resume": Option(Annotated[bool, RESUME], False), **SHARING}
SAID = {  # what was done, of a question
    "fill": "filled {counted} blank cells in {written} of {files} files",
    "compress": "{rows} rows of {files} files in {counted} bytes",
    "flag": "answered {rows} rows in {written} of {files} files; {counted} rows flagged",
    "score": "answered {rows} rows in {written} of {files} files",
    "embed": "answered {rows} rows in {written} of {files} files",
}
COUNTED = {"fill": "filled", "compress": "bytes", "flag": "flagged"}  # what JSON calls what was counted


class RunBy(NamedTuple):
    """How a run over many files goes: whether it goes on with one that was cut, and who works."""

    resume: bool
    engine: str | None
    workers: int | None


def many_with(data: Path, model: Path) -> tuple[Any, Any] | None:
    """A table in many files and the model that is asked about it; None for other data."""
    from abduce.data.shards import is_many

    if not is_many(data):
        return None
    from abduce.bulk.answering import files_for

    fitted = load_model(model)
    return files_for(fitted, data, given["na"]), fitted


def one_file(resume: bool, engine: str | None, workers: int | None) -> None:
    """Refuse what is for many files."""
    if resume:
        raise typer.BadParameter(
            "answers about one file are written whole, or not at all", param_hint="--resume"
        )
    for name, said in (("--engine", engine), ("--workers", workers)):
        if said is not None:
            raise typer.BadParameter("processes share many files, not the rows of one", param_hint=name)


def ask_many(
    question: str,
    shards: tuple[Any, Any],
    output: str,
    how: RunBy,
    as_json: bool,
    quiet: bool,
    **about: Any,
) -> None:
    """Answer a question about a table in many files; Ctrl-C leaves whole files, and --resume does the rest."""
    from abduce.bulk.answering import answer_files

    source, fitted = shards
    with progress(quiet, "rows") as show:
        done = answer_files(fitted, question, source, output, **how._asdict(), **about, show=show)
    remark(SAID[question].format(**done._asdict()), quiet)
    if as_json:
        told: dict[str, Any] = {"rows": done.rows, "files": done.files, "written": done.written}
        if question in COUNTED:
            told[COUNTED[question]] = done.counted
        print_json({**told, "output": output})
