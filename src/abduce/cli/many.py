"""Commands asked about tables in many files: the options that they share, and how their answers are said.

The work is :mod:`abduce.cli.sharding`'s, and who does it :mod:`abduce.cli.engines`'.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from abduce.cli.common import Option, load_model, print_json, progress, remark
from abduce.cli.reading import many

ENGINE = typer.Option(
    "--engine",
    help="Of DATA in many files, who answers: plain, processes, ray, or ray://HOST:PORT.",
    metavar="NAME",
)
WORKERS = typer.Option("--workers", help="Of DATA in many files: processes side by side.", min=1)
RESUME = typer.Option(
    "--resume", help="Of DATA in many files: do only what is missing in the folder of the answers."
)
MANY = {
    "resume": Option(Annotated[bool, RESUME], False),
    "engine": Option(Annotated[str | None, ENGINE], None),
    "workers": Option(Annotated[int | None, WORKERS], None),
}


def many_with(data: Path, model: Path) -> tuple[Any, Any] | None:
    """A table in many files and the model that is asked about it; None for other data.  Its classes of text are text."""
    from abduce.data import shards

    if not shards.is_many(data):
        return None
    fitted = load_model(model)
    texts = [
        f.name for f in fitted.schema_.fields if f.coded and f.dtype.startswith(("str", "object", "category"))
    ]
    return many(data, texts), fitted


class RunBy(NamedTuple):
    """How a run over many files goes: whether it goes on with one that was cut, and who answers."""

    resume: bool
    engine: str | None
    workers: int | None

    @property
    def by(self) -> tuple[str, int]:
        """The engine and its processes."""
        from abduce.cli.engines import check_engine

        return check_engine(self.engine, self.workers)


def one_file(resume: bool, engine: str | None, workers: int | None) -> None:
    """Refuse what is for many files."""
    if resume:
        raise typer.BadParameter(
            "answers about one file are written whole, or not at all", param_hint="--resume"
        )
    for name, given in (("--engine", engine), ("--workers", workers)):
        if given is not None:
            raise typer.BadParameter("processes share many files, not the rows of one", param_hint=name)


def fill_many(source: Any, fitted: Any, output: str, how: RunBy, as_json: bool, quiet: bool) -> None:
    """Fill a table in many files; Ctrl-C leaves whole files, and --resume does the rest."""
    from abduce.cli.sharding import ShardedRun, fill_shards

    by = how.by
    run = ShardedRun(source, "fill", fitted, output, how.resume)
    left = len(run.missing)
    with progress(quiet, "rows") as show:
        filled = fill_shards(run, fitted, show, by)
    remark(f"filled {filled} blank cells in {left} of {len(source.shards)} files", quiet)
    if as_json:
        print_json(
            {
                "rows": source.rows,
                "files": len(source.shards),
                "written": left,
                "filled": filled,
                "output": output,
            }
        )


def ask_many(
    question: str,
    source: Any,
    fitted: Any,
    ask: Any,
    output: str,
    how: RunBy,
    quiet: bool,
    as_json: bool,
    counted: str | None = None,
) -> int:
    """Answer a question about each row of a table in many files; how many have a one in the column ``counted``."""
    from abduce.cli.sharding import ShardedRun, ask_shards

    by = how.by
    run = ShardedRun(source, question, fitted, output, how.resume)
    left = len(run.missing)
    with progress(quiet, "rows") as show:
        count = ask_shards(run, fitted, partial(ask, fitted), show, counted, by)
    remark(f"answered {source.rows} rows in {left} of {len(source.shards)} files", quiet)
    if as_json:
        print_json({"rows": source.rows, "files": len(source.shards), "written": left, "output": output})
    return count


def compress_many(source: Any, fitted: Any, output: str, how: RunBy, as_json: bool, quiet: bool) -> None:
    """Compress each file of a table in many."""
    from abduce.cli.sharding import ShardedRun, compress_shards

    by = how.by
    run = ShardedRun(source, "compress", fitted, output, how.resume)
    with progress(quiet, "rows") as show:
        size = compress_shards(run, fitted, show, by)
    remark(f"{source.rows} rows of {len(source.shards)} files in {size} bytes", quiet)
    if as_json:
        print_json({"rows": source.rows, "files": len(source.shards), "bytes": size, "output": output})


def scored(fitted: Any, rows: Any) -> Any:
    """log p of rows, as a table."""
    import pandas as pd

    return pd.DataFrame({"log_p": fitted.score_samples(rows)})


def flagged_rows(fitted: Any, rows: Any) -> Any:
    """How odd rows are, and which of them lie beyond the model's own share."""
    import pandas as pd

    found = fitted._flags(rows)
    odd = (found.pop("predict") == -1).astype(int)
    return pd.DataFrame(found | {"flagged": odd})


def embedded(fitted: Any, rows: Any) -> Any:
    """Features of rows, as a table."""
    import pandas as pd

    return pd.DataFrame(fitted.transform(rows), columns=fitted.get_feature_names_out())
