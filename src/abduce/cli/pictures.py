"""Commands that draw: the demonstration and the gallery of energy surfaces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from abduce.cli.common import Json, Quiet, app, print_json, progress, remark


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report.")] = Path("out/demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the digits.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the blanks and the fit.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit handwritten digits, a fifth of the pixels blank; ask every question; write a report."""
    from abduce.showcase import demo as demonstration

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


@app.command()
def gallery(
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")] = Path("gallery.png"),
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Draw this method: pca, nce, ... (repeat for several)."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rows, a tenth of the training: a first look.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the rows and the fits.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the energy surface of every method on one spiral, raw and as -log p; print how good each is."""
    from abduce.showcase import gallery as surfaces

    with progress(quiet) as show:
        result = surfaces.run(output, only, quick, seed, show)
    if as_json:
        print_json(result)
        return
    table = Table("strategy", "method", *surfaces.COLUMNS, box=None, pad_edge=False)
    for line in surfaces.headline(result):
        table.add_row(*line)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    remark(f"picture: {output}", quiet)
