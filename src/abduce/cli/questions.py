"""Commands that ask a fitted model: each is made of a question of :data:`abduce.verbs.VERBS` and of how its answer is written.

The function says which arguments the command has, in which order; their types, defaults, bounds and help are the table's.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from abduce.cli import texts
from abduce.cli.common import (
    Option,
    load_model,
    missing_cells,
    print_json,
    progress,
    question,
    read_with_model,
    remark,
    write_answer,
)
from abduce.cli.many import (
    MANY,
    RunBy,
    ask_many,
    many_with,
    one_file,
)
from abduce.cli.reading import read, table

OUTPUT = typer.Option("-o", "--output", help="File for the compressed rows; - is standard output.")
PACKED = typer.Argument(metavar="FILE", help="What `abduce compress` wrote; - is standard input.")
MODEL = typer.Argument(metavar="MODEL", help="Folder that `abduce fit` wrote.")
MODELS = typer.Argument(metavar="MODEL MODEL... DATA", help="Model folders, then the data.")
SOUNDS = (".wav", ".wave")
FILLER = typer.Option(
    "-m", "--model", help="Folder that `abduce fit` wrote; of a WAV file one that a Sound saved, if any."
)
OWN = {
    "filler": Option(Annotated[Path | None, FILLER], None),
    "to": Option(Annotated[Path, OUTPUT]),
    "packed": Option(Annotated[Path, PACKED]),
    "path": Option(Annotated[Path, MODEL]),
    "paths": Option(Annotated[list[Path], MODELS]),
    **MANY,
}


ask = question(OWN)


@ask
def fill(
    data,
    filler,
    output,
    draws,
    random_state,
    blank,
    gap,
    length,
    shift,
    resume,
    engine,
    workers,
    as_json,
    quiet,
):
    """Tables of any length go a chunk of rows at a time; several copies become files with a number each."""
    if data.suffix.lower() in SOUNDS:
        from abduce.cli.sounds import fill_sound

        fill_sound(data, filler, output, gap, draws, random_state, as_json, quiet)
        return
    if filler is None:
        raise typer.BadParameter("a folder that `abduce fit` wrote is needed", param_hint="-m")
    model = filler
    if texts.is_model(model):
        if len(gap or ()) > 1:
            raise typer.BadParameter("a missing segment of text has one mark", param_hint="--gap")
        marks = {"blank": blank, "gap": gap[0] if gap else "[...]", "length": length}
        texts.fill(data, model, output, draws, random_state, marks, as_json, quiet)
        return
    if gap:
        raise typer.BadParameter(
            "gaps are those of a WAV file or of text; of a table mark them as blanks", param_hint="--gap"
        )
    if (shards := many_with(data, model)) is not None:
        for name, given in (("--draws", draws), ("--shift", shift)):
            if given:
                raise typer.BadParameter("this is for a table in one file", param_hint=name)
        ask_many("fill", shards, output, RunBy(resume, engine, workers), as_json, quiet)
        return
    one_file(resume, engine, workers)
    if draws is None and not shift and (source := table(data)) is not None:
        fitted = load_model(model)
        if fitted.schema_.container == "frame":
            fill_table(source, fitted, output, as_json, quiet)
            return
    X, fitted = read_with_model(data, model)
    if draws is None:
        answer = moved(fitted, X, fitted.fill(X), shift)
        write_answer(answer, output, like=data)
        left = missing_cells(answer)
    elif output == "-":
        raise typer.BadParameter("several copies cannot share standard output: give a file", param_hint="-o")
    else:
        target = Path(output)
        copies = fitted.fill(X, draws=draws, random_state=random_state)
        left = missing_cells(copies[0])
        for k, copy in enumerate(copies, start=1):
            copy = moved(fitted, X, copy, shift)
            write_answer(copy, str(target.with_name(f"{target.stem}-{k}{target.suffix}")), like=data)
    say_filled(missing_cells(X) - left, len(X), output, as_json, quiet, draws or 1)


def moved(fitted: Any, X: Any, filled: Any, shift: list[str] | None) -> Any:
    """What was filled in, with the numbers of ``--shift`` added."""
    if not shift:
        return filled
    from abduce.estimators.sensitivity import shifted

    by: dict[Any, float] = {}
    for text in shift:
        name, mark, number = text.rpartition("=")
        try:
            size = float(number)
        except ValueError:
            mark = ""
        if not mark:
            raise typer.BadParameter(f"COLUMN=NUMBER is expected, got {text!r}", param_hint="--shift")
        by[name if fitted.schema_.container == "frame" else int(name)] = size
    return shifted(fitted, X, filled, by)


def fill_table(source: Any, fitted: Any, output: str, as_json: bool, quiet: bool) -> None:
    """Fill a table of any length; Ctrl-C leaves nothing and ends with status 130."""
    from abduce.bulk.streaming import Filling

    try:
        with progress(quiet, "rows") as show:
            filling = Filling(source, fitted, show)
            filling.write(output)
    except KeyboardInterrupt:
        remark("interrupted; nothing was written" if output != "-" else "interrupted", quiet)
        raise typer.Exit(130) from None
    say_filled(filling.filled, source.rows, output, as_json, quiet)


def say_filled(blank: int, rows: int, output: str, as_json: bool, quiet: bool, copies: int = 1) -> None:
    """Say how many blanks were filled."""
    remark(f"filled {blank} blank cells in {rows} rows", quiet)
    if as_json:
        print_json({"rows": rows, "filled": blank, "copies": copies, "output": output})


@ask
def denoise(data, model, noise, output):
    """Rows in, rows out."""
    X, fitted = read_with_model(data, model)
    write_answer(fitted.denoise(X, noise), output, like=data)


@ask
def score(data, model, output, resume, engine, workers, as_json, quiet):
    """A column log_p."""
    if texts.is_model(model):
        texts.score(data, model, output, as_json)
        return
    import pandas as pd

    if (shards := many_with(data, model)) is not None:
        know_log_z(shards[1], model, quiet)
        ask_many("score", shards, output, RunBy(resume, engine, workers), as_json, quiet)
        return
    one_file(resume, engine, workers)
    X, fitted = read_with_model(data, model)
    know_log_z(fitted, model, quiet)
    log_p = fitted.score_samples(X)
    if as_json:
        print_json({"unit": "nats", "mean": log_p.mean(), "log_p": log_p})
    else:
        write_answer(pd.DataFrame({"log_p": log_p}), output)


def know_log_z(fitted: Any, folder: str | Path, quiet: bool) -> None:
    """Estimate log Z where it is not known, and say that the folder does not hold it."""
    if getattr(fitted, "log_z_", 0) is not None:
        return
    with progress(quiet) as show:
        fitted.normalize(show=lambda share: show("log Z", share))
    remark(f"log Z was estimated for this call: `abduce normalize {folder}` keeps it", quiet)


@ask
def compare(paths, samples, method, as_json, quiet):
    """A row for each model."""
    *folders, data = paths
    if len(folders) < 2:
        raise typer.BadParameter("give at least two models, then the data", param_hint="MODEL MODEL... DATA")
    X = read(data)
    import abduce

    models = {str(folder): load_model(folder) for folder in folders}
    for folder, fitted in models.items():
        know_log_z(fitted, folder, quiet)
    table = abduce.compare(models, X, samples, method)
    if as_json:
        print_json({"unit": "nats", "rows": len(X), "models": table.reset_index().to_dict("records")})
    else:
        table.reset_index().to_csv(sys.stdout, index=False)


@ask
def flag(data, model, output, alpha, contamination, resume, engine, workers, as_json, quiet):
    """Columns anomaly_score, realism, p_value and flagged, of series the first and the last; the oddest rows are named.

    Of series those are flagged that their own past would flag.
    """
    import numpy as np
    import pandas as pd

    from abduce.bulk.answering import chosen

    if (shards := many_with(data, model)) is not None:
        how, about = RunBy(resume, engine, workers), {"alpha": alpha, "contamination": contamination}
        ask_many("flag", shards, output, how, as_json, quiet, **about)
        return
    one_file(resume, engine, workers)
    X, fitted = read_with_model(data, model)
    found = fitted._flags(X)
    odd = found["anomaly_score"]
    if "p_value" in found or contamination is not None:
        flagged = chosen(odd, found.get("p_value"), alpha, contamination)
    else:
        flagged = found["predict"] == -1
    order = np.argsort(-odd, kind="stable")
    columns = {name: part for name, part in found.items() if name != "predict"} | {
        "flagged": flagged.astype(int)
    }
    oddest = ", ".join(map(str, order[: min(10, int(flagged.sum()))])) or "none"
    remark(f"{flagged.sum()} of {len(odd)} rows flagged; the oddest, counted from 0: {oddest}", quiet)
    if as_json:
        print_json({"flagged_rows": np.flatnonzero(flagged), **columns})
    else:
        write_answer(pd.DataFrame(columns), output)


@ask
def explain(data, model, output, expected):
    """A column for each column of the model, or the rows as they should have been."""
    X, fitted = read_with_model(data, model)
    nats, should = fitted.explain(X, expected=True)
    write_answer(should if expected else nats, output, like=data)


@ask
def embed(data, model, output, resume, engine, workers):
    """A column for each feature."""
    from abduce.bulk.answering import embedded

    if (shards := many_with(data, model)) is not None:
        ask_many("embed", shards, output, RunBy(resume, engine, workers), False, True)
        return
    one_file(resume, engine, workers)
    X, fitted = read_with_model(data, model)
    write_answer(embedded(fitted, X), output)


@ask
def sample(model, n, output, random_state):
    """Other rows each time, unless a seed is given."""
    fresh = int.from_bytes(os.urandom(4)) if random_state is None else random_state
    if texts.is_model(model):
        texts.sample(model, n, output, fresh)
        return
    write_answer(load_model(model).sample(n, random_state=fresh), output)


@ask
def compress(data, model, to, resume, engine, workers, as_json, quiet):
    """The file appears under its name only once it is complete."""
    from abduce.data.files import atomic

    if texts.is_model(model):
        texts.compress(data, model, to, as_json, quiet)
        return
    if (shards := many_with(data, model)) is not None:
        ask_many("compress", shards, str(to), RunBy(resume, engine, workers), as_json, quiet)
        return
    one_file(resume, engine, workers)
    X, fitted = read_with_model(data, model)
    packed = fitted.compress(X)
    if str(to) == "-":
        sys.stdout.buffer.write(packed)
        sys.stdout.flush()
        return
    atomic(to, lambda file: file.write(packed))
    bits = 8 * len(packed) / (len(X) * fitted.schema_.n_cells)
    remark(f"{len(X)} rows in {len(packed)} bytes: {bits:.3f} bits a cell", quiet)
    if as_json:
        print_json({"rows": len(X), "bytes": len(packed), "bits_per_cell": bits, "output": to})


@ask
def decompress(packed, model, output):
    """The rows, as they were."""
    if texts.is_model(model):
        texts.decompress(packed, model, output)
        return
    content = packed.read_bytes()
    write_answer(load_model(model).decompress(content), output)


@ask
def normalize(path, method, particles, populations, refine, as_json, quiet):
    """Log Z on standard output, how it was found on standard error; the folder is written anew."""
    fitted = load_model(path)
    if not hasattr(fitted, "normalize"):
        raise ValueError(f"a {type(fitted).__name__} is a probability already: its log Z is zero")
    effort = {"particles": particles, "populations": populations, "refine": refine}
    with progress(quiet) as show:
        found = fitted.normalize(method, **effort, show=lambda share: show("log Z", share))
    fitted.save(path)
    if as_json:
        print_json(asdict(found))
        return
    print(f"{found.value:.6g}")
    about = found.diagnostics
    known = "exact" if found.kind == "exact" else f"90 % interval {found.low:.6g} to {found.high:.6g}"
    remark(
        f"log Z in nats, by {about['method']}: {known}; beta {about['beta']:.4g}, base measure {about['base']}",
        quiet,
    )
