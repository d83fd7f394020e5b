"""Commands that ask a fitted model: fill, denoise, score, compare, flag, embed, sample, compress, decompress."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from abduce.cli import streaming
from abduce.cli.common import (
    AnswerPath,
    DataPath,
    Json,
    ModelPath,
    Quiet,
    Seed,
    app,
    load_model,
    missing_cells,
    print_json,
    progress_of_rows,
    read_with_model,
    remark,
    write_answer,
)
from abduce.data import readers, streams


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
    """Fill the blanks of DATA, a chunk of rows at a time; every cell that was there stays as it was."""
    if draws is None and streams.is_table(data):
        source, fitted = streams.TableFile(data), load_model(model)
        if fitted.schema_.container == "frame":
            fill_table(source, fitted, output, as_json, quiet)
            return
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


def fill_table(source: streams.TableFile, fitted: Any, output: str, as_json: bool, quiet: bool) -> None:
    """Fill a table of any length; Ctrl-C leaves nothing and ends with status 130."""
    try:
        with progress_of_rows(quiet) as show:
            plan = streaming.look_through(source, fitted, show)
            streaming.fill(source, fitted, plan, output, show)
    except KeyboardInterrupt:
        remark("interrupted; nothing was written" if output != "-" else "interrupted", quiet)
        raise typer.Exit(130) from None
    remark(f"filled {plan.blank} blank cells in {source.rows} rows", quiet)
    if as_json:
        print_json({"rows": source.rows, "filled": plan.blank, "copies": 1, "output": output})


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
