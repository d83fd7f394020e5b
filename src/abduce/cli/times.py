"""Commands that ask series: what comes next, what came before, how well that would have been known, what lasts.

A `Series` is fitted to the data on the spot, or read from the folder that ``abduce fit --model series`` wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from abduce.cli.common import (
    Option,
    check_settings,
    missing_cells,
    print_json,
    progress,
    question,
    remark,
    write_answer,
)
from abduce.cli.reading import read

FITTED = typer.Option(
    "-m", "--model", help="Folder of a Series that was fitted before; else one is fitted to DATA."
)
KNOWN = typer.Option(
    "--known", help="File of what is known of the new rows: as many rows, blanks among them."
)
PICTURE = typer.Option("--picture", metavar="FILE", help="Draw history, answer and interval: a PNG file.")
OWN = {
    "filler": Option(Annotated[Path | None, FITTED], None),
    "known": Option(Annotated[Path | None, KNOWN], None),
    "picture": Option(Annotated[Path | None, PICTURE], None),
}
ask = question(OWN)
LEVEL = 0.9  # of the interval in a picture, where none was asked for


@ask
def forecast(data, filler, output, n, known, time, id, level, random_state, picture, quiet):
    """Intervals become columns of their own, named after those of the numbers."""
    X, model = fitted_to(data, filler, time, id, n, random_state, quiet)
    given = None if known is None else read(known)
    # a model read from a folder goes on from DATA, one fitted to DATA has it
    about = {"known": given, "X": X if filler else None}
    answer, ends, share = model.forecast(n, **about), None, LEVEL if level is None else level
    if level is not None or picture is not None:
        ends = model.forecast_interval(n, level=share, **about)
    write_answer(answer if level is None else with_ends(model, answer, ends), output)
    remark(f"{n} rows after the last of {len(X)}: {', '.join(map(str, model.form_.columns))}", quiet)
    if picture is not None:
        draw(picture, model, X, answer, ends, share, quiet)


@ask
def backcast(data, filler, output, n, time, id, random_state, quiet):
    """The first of the new rows is the earliest."""
    X, model = fitted_to(data, filler, time, id, n, random_state, quiet)
    write_answer(model.backcast(n, X=X if filler else None), output)
    remark(f"{n} rows before the first of {len(X)}: {', '.join(map(str, model.form_.columns))}", quiet)


@ask
def backtest(data, horizon, windows, level, time, id, random_state, as_json, quiet):
    """The model is fitted to what lies before the first origin."""
    import sys

    import abduce

    X = read(data)
    found = abduce.Series(
        id=id, time=time_column(X, time, id), horizon=horizon, random_state=random_state or 0
    )
    early = before(found, X, horizon * windows)
    fitted(found, early, quiet)
    table = found.backtest(X, horizon=horizon, windows=windows, level=level)
    remark(
        f"{windows} origins {horizon} steps apart, the model fitted to the {len(early)} of {len(X)} rows before them",
        quiet,
    )
    if as_json:
        print_json({"horizon": horizon, "windows": windows, "models": table.reset_index().to_dict("records")})
    else:
        table.reset_index().to_csv(sys.stdout, index=False)


@ask
def smooth(data, filler, output, time, id, random_state, quiet):
    """Blanks are filled."""
    X, model = fitted_to(data, filler, time, id, None, random_state, quiet)
    write_answer(model.smooth(X), output)
    remark(f"{len(X)} rows without their noise, {missing_cells(X)} blanks filled", quiet)


@ask
def decompose(data, filler, output, time, id, random_state, quiet):
    """Columns NAME_level, NAME_season and NAME_rest for each of the numbers."""
    X, model = fitted_to(data, filler, time, id, None, random_state, quiet)
    parts = model.decompose(X)
    answer = X.drop(columns=list(model.form_.columns)) if hasattr(X, "columns") else table_of(X).iloc[:, :0]
    for column in (c for c in model.form_.columns if c not in model.levels_):
        for name, part in parts.items():
            answer[f"{column}_{name}"] = table_of(part)[column]
    write_answer(answer, output)
    remark(
        f"level, season ({model.season_} steps) and rest of {', '.join(map(str, model.form_.columns))}", quiet
    )


# ---------------------------------------------------------------- what they share


def fit(data: Path, output: Path, settings: dict[str, Any], seed: int, as_json: bool, quiet: bool) -> None:
    """Fit to all rows of a file, whose order counts, and save."""
    import abduce

    check_settings(abduce.Series, settings)
    X = read(data)
    settings = settings | {"time": time_column(X, settings.get("time"), settings.get("id"))}
    model = abduce.Series(**settings, random_state=seed)
    fitted(model, X, quiet).save(output)
    facts = {
        "model": str(output),
        "rows": len(X),
        "columns": list(model.form_.columns),
        "season": model.season_,
    }
    remark(f"fitted {len(X)} rows, season {model.season_}; the model is in {output}", quiet)
    if as_json:
        print_json(facts | {"members": model.members().reset_index().to_dict("records")})


def fitted(model: Any, X: Any, quiet: bool) -> Any:
    """The model, fitted while a bar tells how far it is."""
    with progress(quiet) as show:
        model.set_params(callback=lambda record: show(record["stage"], record["epoch"])).fit(X)
    return model.set_params(callback=None)


def fitted_to(
    data: Path,
    folder: Path | None,
    time: str | None,
    id: str | None,
    horizon: int | None,
    seed: int | None,
    quiet: bool,
) -> tuple[Any, Any]:
    """The data, and the series model read from the folder or fitted to them."""
    import abduce

    X = read(data)
    if folder is not None:
        model = abduce.load(folder)
        if not isinstance(model, abduce.Series):
            raise typer.BadParameter(
                f"{folder} holds a {type(model).__name__}, not a Series", param_hint="-m"
            )
        return X, model
    model = abduce.Series(id=id, time=time_column(X, time, id), horizon=horizon, random_state=seed or 0)
    return X, fitted(model, X, quiet)


def time_column(X: Any, time: str | None, id: str | None) -> str | None:
    """The column of times: the one named, the only one of times, or the only one of text that reads as times."""
    import pandas as pd

    from abduce.sequences.times import read_stamps

    if time is not None or not isinstance(X, pd.DataFrame):
        return time
    if any(pd.api.types.is_datetime64_any_dtype(kind) for kind in X.dtypes):
        return None
    for column in X.columns:
        if column != id and not pd.api.types.is_numeric_dtype(X[column].dtype):
            try:
                read_stamps(X[column].iloc[:100], str(column))
            except ValueError:
                continue
            return column
    return None


def before(model: Any, X: Any, steps: int) -> Any:
    """The rows of X without the last ``steps`` of each series."""
    import numpy as np

    from abduce.sequences.panel import form_of
    from abduce.sequences.panel import read as read_panel

    panel = read_panel(X, form_of(X, model.id, model.time))
    kept = panel.place < panel.size[panel.series] - steps
    if not kept.any():
        raise ValueError(
            f"horizon * windows = {steps} steps are to be forecast, but the longest series has {int(panel.size.max())}"
        )
    return X[kept] if not isinstance(X, np.ndarray) or X.ndim < 3 else X[:, : X.shape[1] - steps]


def with_ends(model: Any, answer: Any, ends: Any) -> Any:
    """The forecast with columns NAME_low and NAME_high."""
    answer = table_of(answer)
    for name, end in zip(("low", "high"), map(table_of, ends), strict=True):
        for column in model.form_.columns:
            answer[f"{column}_{name}"] = end[column]
    return answer


def table_of(answer: Any) -> Any:
    """An answer as a frame; the columns of an array are x0, x1, ..."""
    import numpy as np
    import pandas as pd

    if isinstance(answer, pd.DataFrame):
        return answer.copy()
    if isinstance(answer, pd.Series):
        return answer.to_frame()
    return pd.DataFrame(np.asarray(answer).reshape(len(answer), -1))


def draw(path: Path, model: Any, X: Any, answer: Any, ends: Any, level: float, quiet: bool) -> None:
    """Write the picture of the first series: what was seen of it, its blanks filled, and what comes next; of its numbers."""
    import numpy as np

    from abduce.data.files import atomic
    from abduce.sequences.panel import read as read_panel
    from abduce.showcase import plots

    form = model.form_
    panel = read_panel(X, form)
    numbers = [j for j, column in enumerate(form.columns) if column not in model.levels_]
    if not numbers:
        raise ValueError("a picture shows columns of numbers, and the data have none")
    past = np.where(panel.mask[0], panel.values[0], np.nan)[: panel.size[0], numbers]

    def first(part: Any) -> np.ndarray:
        names = [form.columns[j] for j in numbers]
        cells = part[names].to_numpy(float) if hasattr(part, "columns") else np.asarray(part, float)
        return cells.reshape(len(panel.ids), -1, len(numbers))[0]

    filled = None
    if np.isnan(past).any():
        cells = read_panel(model.fill(X), form).values[0]
        filled = np.asarray(cells)[: len(past), numbers]
    last = f", {panel.stamps[0][1]}" if form.labels is not None else ""
    with plots.theme("light"):
        parts = map(first, (answer, *ends))
        names = [form.columns[j] for j in numbers]
        figure = plots.fan(past, *parts, names=names, level=level, last=last, filled=filled)
        picture = plots.png(figure)
    atomic(path, lambda file: file.write(picture))
    remark(f"picture: {path}", quiet)
