"""Commands that make a model and look at what there is: fit, info."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from abduce.cli import reading, texts, times
from abduce.cli.common import (
    Option,
    check_settings,
    command,
    is_first,
    left_out,
    load_model,
    missing_cells,
    parse_kinds,
    print_json,
    print_table,
    progress,
    remark,
)
from abduce.cli.many import SHARING
from abduce.cli.reading import read
from abduce.verbs import FIT

# ---------------------------------------------------------------- fit

FOLDER = typer.Option("-o", "--output", help="Folder for the model.")
METHOD = typer.Option(
    "--model",
    help="The method: vae, pca, gaussian-mixture, rbm, energy-network, series, text, ...; auto is what serves best, Auto for "
    "tables, a VAE for images or where one of a VAE's options is given, and Text for a .txt file.",
)
SETTING = typer.Option(
    "--set", metavar="NAME=VALUE", help="An argument of the method, e.g. hidden=200 (repeat for several)."
)
NORMALIZE = typer.Option("--normalize", help="Estimate log Z too, as `abduce normalize` does later.")
RESUME = typer.Option(
    "--resume", help="Keep the state of the run beside the model, and go on from it if it was cut short."
)
ROWS = typer.Option(
    metavar="N|all",
    help="Fit to at most N rows, drawn uniformly; by default all rows of a table that is not large, and of any where the "
    "method passes over them (gaussian-mixture, mixture-of-factor-analyzers, pca, k-means).",
)
BUDGET = typer.Option(
    "--budget",
    metavar="SECONDS",
    help="Seconds that a fit of Auto may take, about; by default what it takes.",
)
OWN = {
    "output": Option(Annotated[Path, FOLDER]),
    "method": Option(Annotated[str, METHOD], "auto"),
    "setting": Option(Annotated[list[str] | None, SETTING], None),
    "seed": Option(Annotated[int, typer.Option(help="Seed of the fit.")], 0),
    "normalized": Option(Annotated[bool, NORMALIZE], False),
    "resume": Option(Annotated[bool, RESUME], False),
    "rows": Option(Annotated[str, ROWS], "auto"),
    "budget": Option(Annotated[float | None, BUDGET], None),
    **SHARING,
}


@command(FIT, OWN)
def fit(
    data,
    output,
    method,
    setting,
    kind,
    seed,
    normalized,
    resume,
    rows,
    budget,
    engine,
    workers,
    as_json,
    quiet,
    **given,
):
    """Fit a model to DATA, blanks and all."""
    if str(output) == "-":
        raise typer.BadParameter("a model is a folder: give its name", param_hint="-o")
    first = is_first()
    own = texts if texts.is_text(method, data) else times if method.lower() == "series" else None
    if own is not None:
        if first:
            own.fit(data, output, parse_settings(setting), seed, as_json, quiet)
        return
    from abduce.data.files import discard
    from abduce.data.shards import in_files

    if not first:  # the first process speaks for all
        quiet = True
        warnings.simplefilter("ignore")
    given |= {"kinds": parse_kinds(kind), "budget": budget}
    by = check_sharing(method, engine, workers)
    X, used, there = rows_to_fit(data, method, rows, seed, quiet, coded(given["kinds"]))
    arguments = {name: value for name, value in given.items() if value is not None}
    if method.lower() == "auto" and (X.ndim > 2 or set(arguments) - {"contamination", "kinds", "budget"}):
        method = "vae"  # of images, or where one of its options is given; Auto else
    model = build(method, arguments | parse_settings(setting), seed)
    if not (first or "device" in model.get_params()):
        return  # without gradients there is nothing to share
    state = output.with_name(output.name + ".training")
    with progress(quiet) as show:
        if "callback" in model.get_params():
            model.set_params(callback=lambda record: show(*told(record, model.progress)))
        model.fit(X, checkpoint=state if resume else None, **(by if in_files(X) else {}))
        if not first:
            return
        unknown = getattr(model, "log_z_", 0) is None
        if normalized and unknown:
            model.normalize(show=lambda share: show("log Z", share))
    model.save(output)
    facts = {"model": str(output), "rows": used, "rows_read": there, "rows_sampled": used}
    facts |= model_facts(model)
    if model.interrupted_:
        remark(f"interrupted{learnt('after', facts)}; the model so far is in {output}", quiet)
    else:
        discard(state)
        remark(f"fitted {used} rows{learnt('in', facts)}; the model is in {output}", quiet)
        left_out(model.schema_, quiet)
        if "members" in facts:
            remark("members and their weights: " + weights_line(facts["members"]), quiet)
        if unknown and not normalized:
            remark(f"its log Z is not known yet: `abduce normalize {output}` estimates and keeps it", quiet)
    if as_json:
        print_json({**facts, "interrupted": model.interrupted_})
    if model.interrupted_:
        raise typer.Exit(130)


def coded(kinds: dict[str | int, str] | None) -> list[str]:
    """Columns that are said to hold classes, which are text whatever a single file holds."""
    return [str(c) for c, kind in (kinds or {}).items() if kind in ("categorical", "ordinal", "binary")]


def passes_over(method: str) -> bool:
    """Tell whether a method passes over all rows of files."""
    from abduce.estimators.methods import find

    return method.lower() != "auto" and find(method).passes


def check_sharing(method: str, engine: str | None, workers: int | None) -> dict[str, Any]:
    """Who passes over files, as arguments of a fit; refused where nobody does."""
    from abduce.engines import Engine

    by = {name: said for name, said in (("engine", engine), ("workers", workers)) if said is not None}
    if by and not passes_over(method):
        raise typer.BadParameter(
            "processes share passes over all rows of files; gaussian-mixture, mixture-of-factor-analyzers, pca and k-means "
            "make them",
            param_hint=f"--{next(iter(by))}",
        )
    Engine.of(engine, workers)
    return by


def rows_to_fit(
    data: Path, method: str, rows: str, seed: int, quiet: bool, texts: Iterable[str] = ()
) -> tuple[Any, int, int]:
    """What DATA gives a fit, how many rows that is, and how many there are: the files where the method passes over all rows
    of more than a fit takes at once, else the rows, or a uniform sample of ``rows`` of them, which is said.

    "auto" takes as many rows as hold two million cells, and 50,000 of wide tables.
    """
    import numpy as np

    from abduce.data import shards, streams

    if rows not in ("auto", "all") and not (rows.isascii() and rows.isdigit() and int(rows) > 0):
        raise typer.BadParameter(f"expected a whole number above 0 or all, got {rows!r}", param_hint="--rows")
    passes = not rows.isdigit() and passes_over(method)
    found = many = reading.many(data, texts)
    one = many is None and streams.is_table(data) and data.is_file() and not reading.given["member"]
    if one and (passes or rows != "all"):
        found = shards.Shards(data, reading.given["na"], texts)
    most = 0 if found is None else shards.most_rows(len(found.columns))
    if passes and found is not None and found.rows > most:
        return found, found.rows, found.rows
    if many is not None and rows == "all":
        X, there = many.read(), many.rows
    elif found is None or rows == "all":
        X = read(data)
        there = len(X)
        if rows.isdigit() and int(rows) < there:
            wanted = np.sort(np.random.default_rng(seed).choice(there, int(rows), replace=False))
            X = X[wanted] if isinstance(X, np.ndarray) else X.iloc[wanted]
    else:
        there, most = found.rows, int(rows) if rows.isdigit() else most
        taken = many is not None or there > most
        X = found.sample(most, seed, telling=rows == "auto") if taken else read(data)
    if len(X) < there:
        hint = "; --rows all takes every row" if rows == "auto" else ""
        remark(f"fitting to {shards.sampled(len(X), most or len(X), there)}{hint}", quiet)
    return X, len(X), there


def weights_line(members: dict[str, float]) -> str:
    """Name the members of a pool that have a say, the weightiest first."""
    ranked = sorted(members.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.2f}" for name, weight in ranked if weight >= 0.005)


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Turn ``["hidden=200", "form=potential"]`` into arguments: JSON where it is that, else text.

    >>> parse_settings(["hidden=[64, 64]", "form=potential"])
    {'hidden': [64, 64], 'form': 'potential'}
    """
    out: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"expected NAME=VALUE, got {pair!r}", param_hint="--set")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def build(name: str, arguments: dict[str, Any], seed: int) -> Any:
    """The method of that name; ValueError naming an argument that it does not take, and those that it does."""
    from abduce.estimators.methods import METHODS, find
    from abduce.fit.registry import ENERGY_OBJECTIVES, named

    method = find(name)
    check_settings(method, arguments)
    objective = arguments.get("objective", "auto")
    if method is not METHODS["VAE"] and objective != "auto":
        arguments = arguments | {"objective": named(objective, ENERGY_OBJECTIVES)}
    return method(random_state=seed, **arguments)


def told(record: dict[str, Any], what: tuple[str, float, str]) -> tuple[str, float]:
    """Describe an epoch, a stage or a pass in one line, with the share of it that is done; ``what`` names a pass's value."""
    if "pass" in record:
        name, sign, unit = what
        before = "" if record["train"] is None else f"  {name} {sign * record['train']:.4f}{unit} before"
        done = f"{record['rows']:,} of {record['of']:,} rows"
        return f"pass {record['pass']}  {done}{before}", record["rows"] / record["of"]
    share = record["epoch"] / record["epochs"]
    if "stage" in record:  # no epochs, but stages
        return str(record["stage"]), share
    held = f"  held out {record['valid']:.2f}" if "valid" in record else ""
    return f"epoch {record['epoch']}/{record['epochs']}  train {record['train']:.2f}{held} nats", share


def learnt(word: str, facts: dict[str, Any]) -> str:
    """Say how long a fit went on: its epochs, or passes over files."""
    return "".join(f" {word} {facts[what]} {what}" for what in ("epochs", "passes") if what in facts)


ABOUT = typer.Argument(metavar="PATH", help="Data (- is standard input), or a model folder.")


@command(
    (),
    {"data": Option(Annotated[Path, ABOUT])},
    "Show what a model or a data file holds: columns, their kinds, blanks, and what is left out and why.",
)
def info(data, kind, as_json, quiet):
    """A row for each column."""
    path = data
    if texts.is_model(path):
        about = texts.facts(load_model(path))
        print_json(about) if as_json else print(", ".join(f"{name} {value}" for name, value in about.items()))
        return
    if (path / "model.json").exists():
        fitted = load_model(path)
        schema, about = fitted.schema_, model_facts(fitted)
        columns = schema.describe()
    else:
        from abduce.data.notes import describe_data
        from abduce.data.schema import Schema

        X = read(path)
        schema, about = Schema.infer(X, parse_kinds(kind)), {"rows": len(X), "blanks": missing_cells(X)}
        columns = describe_data(schema, X)
    if as_json:
        print_json({**about, "container": schema.container, "columns": columns})
        return
    members: Any = about.pop("members", None)
    lines = [", ".join(f"{name} {_cell(value)}" for name, value in about.items())]
    if members:
        lines.append(f"members and their weights: {weights_line(members)}")
    print_table(columns[0], ([_cell(value) for value in column.values()] for column in columns), 140, *lines)
    left_out(schema, quiet)


def model_facts(fitted: Any) -> dict[str, Any]:
    """Say what a fitted model is, in a few numbers."""
    facts: dict[str, Any] = {"method": type(fitted).__name__, "cells": fitted.schema_.n_cells}
    if hasattr(fitted.model_, "latent_dim"):
        facts["latent_dim"] = fitted.model_.latent_dim
    if fitted.history_:
        facts["passes" if "pass" in fitted.history_[0] else "epochs"] = len(fitted.history_)
    falls = [fall for epoch in fitted.history_ for fall in epoch.get("fell", ())]
    if falls:
        facts["falls_in_training"] = len(falls)
    held_out = [epoch["valid"] for epoch in fitted.history_ if "valid" in epoch]
    if held_out:
        facts["held_out_bound" if facts["method"] == "VAE" else "held_out_objective"] = max(held_out)
    if hasattr(fitted, "members"):
        table = fitted.members()
        weight = next(name for name in ("weight", "class_weight", "row_weight") if name in table)
        facts["members"] = {str(name): float(w) for name, w in table[weight].items()}
    if hasattr(fitted, "log_z_"):
        facts |= {"beta": fitted.beta_, "base": "none" if fitted.base_ is None else fitted.base_.name}
        facts["log_z"] = None if fitted.log_z_ is None else fitted.log_z_.value
    return facts


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
