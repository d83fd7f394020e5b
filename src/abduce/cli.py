"""The command line: fit a model to a file, then ask it questions; the answer takes the form of the question.

Standard output carries only the answer; progress and remarks go to standard error. Exit status: 0 done, 1 the
data or the model would not do (one line says why; ``--debug`` shows the traceback), 2 wrong usage, 130
interrupted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from abduce.data import readers

if TYPE_CHECKING:  # torch takes seconds to import: `abduce --help` does without
    from abduce.estimators.vae import VAE

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


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fit one generative model to unlabelled data, then ask it anything."""
    options["debug"] = debug


# --- reading, writing, telling ---


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


def load_model(path: Path) -> VAE:
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


def read_with_model(data: Path, model: Path) -> tuple[Any, VAE]:
    """Read the data first: a wrong path should not cost the time to load a model."""
    return readers.read(data), load_model(model)


# --- the questions ---


@app.command()
def fit(
    data: DataPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the model.")],
    kind: Kinds = None,
    latent_dim: Annotated[
        int | None, typer.Option(min=1, help="Latent dimensions; by default from the data.")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the data; by default from its size.")
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.5, help="Share of rows taken to be odd; sets where `flag` cuts."),
    ] = None,
    prior: Annotated[str | None, typer.Option(help="normal, mixture, vamp or flow.")] = None,
    posterior: Annotated[str | None, typer.Option(help="diagonal, full, flow or iaf.")] = None,
    objective: Annotated[str | None, typer.Option(help="elbo or iwae.")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="One for all columns that it fits, such as student_t.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fit.")] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the state of the run beside the model, and go on from it if it was cut short.",
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to DATA, blanks and all."""
    import abduce

    X = readers.read(data)
    given = {
        "latent_dim": latent_dim,
        "max_epochs": max_epochs,
        "contamination": contamination,
        "prior": prior,
        "posterior": posterior,
        "objective": objective,
        "likelihood": likelihood,
        "kinds": parse_kinds(kind),
    }
    model = abduce.VAE(
        random_state=seed, **{name: value for name, value in given.items() if value is not None}
    )
    state = output.with_name(output.name + ".training")
    with progress(quiet) as show:
        model.set_params(callback=lambda epoch: show(epoch_line(epoch), epoch["epoch"] / epoch["epochs"]))
        model.fit(X, checkpoint=state if resume else None)
    model.save(output)
    facts = {"model": str(output), "rows": len(X), **model_facts(model)}
    if model.interrupted_:
        remark(f"interrupted after {facts['epochs']} epochs; the model so far is in {output}", quiet)
    else:
        shutil.rmtree(state, ignore_errors=True)
        remark(f"fitted {len(X)} rows in {facts['epochs']} epochs; the model is in {output}", quiet)
        left_out(model.schema_, quiet)
    if as_json:
        print_json({**facts, "interrupted": model.interrupted_})
    if model.interrupted_:
        raise typer.Exit(130)


def epoch_line(epoch: dict[str, Any]) -> str:
    """Describe an epoch in one line."""
    held = f"  held out {epoch['valid']:.2f}" if "valid" in epoch else ""
    return f"epoch {epoch['epoch']}/{epoch['epochs']}  train {epoch['train']:.2f}{held} nats"


def left_out(schema: Any, quiet: bool) -> None:
    """Warn of columns that are no part of the model."""
    if schema.left_out:
        why = ", ".join(f"{field.name} ({field.kind})" for field in schema.left_out)
        remark(f"left out of the model: {why}; --kind COLUMN=KIND keeps one", quiet)


@app.command()
def fill(
    data: DataPath,
    model: ModelPath,
    output: AnswerPath = "-",
    draws: Annotated[
        int | None,
        typer.Option(min=1, help="Write this many completed copies, drawn from what the model believes."),
    ] = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill the blanks of DATA; every cell that was there stays as it was."""
    X, fitted = read_with_model(data, model)
    blanks = missing_cells(X)
    if draws is None:
        write_answer(fitted.fill(X), output, like=data)
    elif output == "-":
        raise typer.BadParameter("several copies cannot share standard output: give a file", param_hint="-o")
    else:
        target = Path(output)
        for k, copy in enumerate(fitted.fill(X, draws=draws, random_state=seed), start=1):
            write_answer(copy, str(target.with_name(f"{target.stem}-{k}{target.suffix}")), like=data)
    remark(f"filled {blanks} blank cells in {len(X)} rows", quiet)
    if as_json:
        print_json({"rows": len(X), "filled": blanks, "copies": draws or 1, "output": output})


def missing_cells(X: Any) -> int:
    """Count the blanks."""
    return int(pd.isna(X).to_numpy().sum() if isinstance(X, pd.DataFrame) else pd.isna(X).sum())


@app.command()
def denoise(
    data: DataPath,
    model: ModelPath,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Standard deviation of the noise, in the units of the data.")
    ],
    output: AnswerPath = "-",
) -> None:
    """Clean DATA of Gaussian noise."""
    X, fitted = read_with_model(data, model)
    write_answer(fitted.denoise(X, noise), output, like=data)


@app.command()
def score(data: DataPath, model: ModelPath, output: AnswerPath = "-", as_json: Json = False) -> None:
    """Score every row of DATA: log p of its observed cells, in nats."""
    X, fitted = read_with_model(data, model)
    log_p = fitted.score_samples(X)
    if as_json:
        print_json({"unit": "nats", "mean": log_p.mean(), "log_p": log_p})
    else:
        write_answer(pd.DataFrame({"log_p": log_p}), output)


@app.command()
def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="MODEL MODEL... DATA", help="Model folders, then the data.")
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Importance draws, annealed chains or particles; by default from the method."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="importance, ais (annealed importance sampling) or smc (tempered).")
    ] = "importance",
    as_json: Json = False,
) -> None:
    """Compare models by log p of the rows of DATA, in nats a row, the best first."""
    *folders, data = paths
    if len(folders) < 2:
        raise typer.BadParameter("give at least two models, then the data", param_hint="MODEL MODEL... DATA")
    X = readers.read(data)
    import abduce

    table = abduce.compare({str(folder): load_model(folder) for folder in folders}, X, samples, method)
    if as_json:
        print_json({"unit": "nats", "rows": len(X), "models": table.reset_index().to_dict("records")})
    else:
        table.reset_index().to_csv(sys.stdout, index=False)


@app.command()
def flag(
    data: DataPath,
    model: ModelPath,
    output: AnswerPath = "-",
    contamination: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Flag this share of the rows of DATA, instead of cutting where the model does.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Flag the odd rows of DATA: how odd each is, how realistic (0 to 1), and 1 where it is flagged."""
    X, fitted = read_with_model(data, model)
    odd = fitted.anomaly_score(X)
    if contamination is None:
        flagged = fitted.predict(X) == -1
    else:
        flagged = np.zeros(len(odd), dtype=bool)
        flagged[np.argsort(-odd, kind="stable")[: round(contamination * len(odd))]] = True
    answer = pd.DataFrame(
        {"anomaly_score": odd, "realism": fitted.realism(X), "flagged": flagged.astype(int)}
    )
    worst = np.argsort(-odd, kind="stable")[: min(10, int(flagged.sum()))]
    oddest = ", ".join(map(str, worst)) or "none"
    remark(f"{flagged.sum()} of {len(odd)} rows flagged; the oddest, counted from 0: {oddest}", quiet)
    if as_json:
        print_json({"flagged_rows": np.flatnonzero(flagged), **answer.to_dict("list")})
    else:
        write_answer(answer, output)


@app.command()
def embed(data: DataPath, model: ModelPath, output: AnswerPath = "-") -> None:
    """Embed every row of DATA: its posterior mean in latent space."""
    X, fitted = read_with_model(data, model)
    write_answer(pd.DataFrame(fitted.transform(X), columns=fitted.get_feature_names_out()), output)


@app.command()
def sample(
    model: ModelPath,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to draw.")] = 10,
    output: AnswerPath = "-",
    seed: Seed = None,
) -> None:
    """Draw new rows, in the form the training data had; other rows each time, unless a seed is given."""
    fresh = int.from_bytes(os.urandom(4)) if seed is None else seed
    write_answer(load_model(model).sample(n, random_state=fresh), output)


@app.command()
def compress(
    data: DataPath,
    model: ModelPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the compressed rows.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compress DATA without loss; the model is needed to get it back."""
    X, fitted = read_with_model(data, model)
    packed = fitted.compress(X)
    part = output.with_name(f".{output.name}.part")
    try:
        part.write_bytes(packed)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    bits = 8 * len(packed) / (len(X) * fitted.schema_.n_cells)
    remark(f"{len(X)} rows in {len(packed)} bytes: {bits:.3f} bits a cell", quiet)
    if as_json:
        print_json({"rows": len(X), "bytes": len(packed), "bits_per_cell": bits, "output": output})


@app.command()
def decompress(
    packed: Annotated[Path, typer.Argument(metavar="FILE", help="What `abduce compress` wrote.")],
    model: ModelPath,
    output: AnswerPath = "-",
) -> None:
    """Decompress FILE, to the bit."""
    content = packed.read_bytes()
    write_answer(load_model(model).decompress(content), output)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Data, or a model folder.")],
    kind: Kinds = None,
    as_json: Json = False,
) -> None:
    """Show what a model or a data file holds: columns, their kinds, blanks, and what is left out and why."""
    if (path / "model.json").exists():
        fitted = load_model(path)
        schema, about = fitted.schema_, model_facts(fitted)
    else:
        X = readers.read(path)
        from abduce.data.schema import Schema

        schema, about = Schema.infer(X, parse_kinds(kind)), {"rows": len(X), "blanks": missing_cells(X)}
    columns = schema.describe()
    if as_json:
        print_json({**about, "container": schema.container, "columns": columns})
        return
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    out.print(", ".join(f"{name} {_cell(value)}" for name, value in about.items()), markup=False)
    table = Table(*columns[0], box=None, pad_edge=False)
    for column in columns:
        table.add_row(*(_cell(value) for value in column.values()))
    out.print(table)
    left_out(schema, quiet=False)


def model_facts(fitted: VAE) -> dict[str, Any]:
    """Say what a fitted model is, in a few numbers."""
    facts = {
        "cells": fitted.schema_.n_cells,
        "latent_dim": fitted.model_.latent_dim,
        "epochs": len(fitted.history_),
    }
    held_out = [epoch["valid"] for epoch in fitted.history_ if "valid" in epoch]
    return facts | ({"held_out_bound": max(held_out)} if held_out else {})


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report.")] = Path("out/demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the digits.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the blanks and the fit.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit handwritten digits, a fifth of the pixels blank; ask every question; write a report."""
    from abduce import demo as demonstration

    with progress(quiet) as show:
        result = demonstration.run(output, epochs=epochs, seed=seed, show=show)
    if as_json:
        print_json(result)
        return
    table = Table("task", "ours", "best peer", "", "unit", box=None, pad_edge=False)
    for line in demonstration.headline(result):
        table.add_row(*(f"[bold]{cell}[/]" if cell.endswith("*") else cell for cell in line))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    remark(f"report: {output / 'report.html'}  ({result['seconds']['all']:.0f} s)", quiet)


def main() -> None:
    """Run a command; an error becomes one line and status 1."""
    try:
        app()
    except Exception as error:
        if options["debug"]:
            raise
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        print(f"abduce: {kind}{error}", file=sys.stderr)
        sys.exit(1)
