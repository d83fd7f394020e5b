"""Questions about a table in many files, whose answers are files too: the same in Python and on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from abduce.bulk.sharded_run import ShardedRun, Show
from abduce.bulk.writers import AskWriter, CompressWriter, FillWriter
from abduce.checks import check_choice, check_number
from abduce.data import streams
from abduce.data.files import remove
from abduce.data.partitioned import check_seen, is_partitioned
from abduce.data.shards import Shards, given, in_files
from abduce.engines import Engine
from abduce.inference.discoveries import discoveries

QUESTIONS = ("fill", "score", "flag", "embed", "compress")
SCORED = ".scored"  # folder in that of the answers, of how odd rows are, until all are


class Answered(NamedTuple):
    """What a run over files did: ``rows`` and ``files`` that there are, files ``written`` now, and what was ``counted``: cells
    filled or rows answered in these, bytes of all compressed files, rows flagged in all."""

    rows: int
    files: int
    written: int
    counted: int


def answer_files(
    model: Any,
    question: str,
    data: Any,
    out: str | os.PathLike,
    *,
    alpha: float = 0.05,
    contamination: float | None = None,
    na: Iterable[str] = (),
    resume: bool = False,
    engine: str | None = None,
    workers: int | None = None,
    show: Show | None = None,
) -> Answered:
    """Ask a fitted model about a table in many files, and write for each file one with the answers about its rows.

    Answers are those about one table of all rows, to the bit, whatever the cut, the engine, and what was killed on the way.

    Parameters
    ----------
    model : fitted estimator
        Of tables.
    question : "fill", "score", "flag", "embed" or "compress"
        ``fill`` writes the files without blanks, ``score`` a column log_p, ``flag`` the columns anomaly_score, realism,
        p_value and flagged, ``embed`` a column for each feature, ``compress`` what `decompress` takes, for each file.
    data : folder, pattern or address of files, or pyarrow dataset
    out : folder
        New or empty, or with ``resume`` that of a run which was cut: what is there stays, what is missing is written.
    alpha, contamination : float
        Of ``flag``: the false discovery rate over the rows of all files together, or the share of all rows to flag.  A few
        numbers a row are held in memory for it, and no row.
    na : words that mean a blank in text
    engine, workers
        Who works: "plain", "processes", "ray" or "ray://HOST:PORT" (:mod:`abduce.engines`), and how many processes.
    show : callable or None
        Told what is done, rows done, and rows there are.

    Raises
    ------
    ValueError
        For arguments, files or rows that will not do, before any file is written.
    RuntimeError
        Where processes died again and again; what is there stays.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> from abduce import GaussianMixture, answer_files
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "data").mkdir()
    >>> for k in range(2):
    ...     rows = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.1, 2.1, 2.9, None]})
    ...     (rows + 0.01 * k).to_parquet(folder / "data" / f"{k}.parquet")
    >>> model = GaussianMixture(components=1, random_state=0).fit(folder / "data")
    >>> answer_files(model, "fill", folder / "data", folder / "filled")
    Answered(rows=8, files=2, written=2, counted=2)
    """
    check_choice("question", question, QUESTIONS)
    check_number("alpha", alpha, 0, 1)
    if contamination is not None:
        check_number("contamination", contamination, 0, 1)
    by = Engine.of(engine, workers)
    check_seen(data, engine)
    source = files_for(model, data, na)
    about = {"alpha": alpha, "contamination": contamination} if question == "flag" else {}
    run = ShardedRun(source, question, model, out, resume, **about)
    show = _silent if show is None else show
    if question == "score":
        model._know_log_z()
    match question:
        case "fill":
            counted = run.write(FillWriter(source, model), by, show, "filling")
        case "compress":
            run.write(CompressWriter(source, model), by, show, "compressing")
            counted = sum(path.stat().st_size for path in run.targets.values())
        case "flag":
            counted = _flag(run, model, by, show, alpha, contamination)
        case _:
            counted = run.write(AskWriter(source, model, ASKED[question]), by, show, "asking")
    run.end()
    return Answered(source.rows, len(source.shards), run.left, counted)


def files_for(model: Any, data: Any, na: Iterable[str] = ()) -> Shards:
    """The files of a table that a model is asked about; its classes of text are text in all of them."""
    if isinstance(data, Shards):
        return data
    if is_partitioned(data) and (found := given(data)) is not None:
        return found
    if not (isinstance(data, str | os.PathLike) or in_files(data)):
        raise ValueError(
            f"data must be a table in files, got {type(data).__name__}; of that the model itself is asked"
        )
    texts = [
        f.name for f in model.schema_.fields if f.coded and f.dtype.startswith(("str", "object", "category"))
    ]
    return Shards(data, na, texts)


def _silent(*told: Any) -> None:
    pass


# ---------------------------------------------------------------- a row of answers for each row


def scored(model: Any, rows: Any) -> pd.DataFrame:
    """log p of rows, as a table."""
    return pd.DataFrame({"log_p": model.score_samples(rows)})


def embedded(model: Any, rows: Any) -> pd.DataFrame:
    """Features of rows, as a table."""
    return pd.DataFrame(model.transform(rows), columns=model.get_feature_names_out())


def oddness(model: Any, rows: Any) -> pd.DataFrame:
    """How odd rows are, as a table: anomaly_score, realism and p_value."""
    found = model._flags(rows)
    del found["predict"]
    return pd.DataFrame(found)


ASKED: dict[str, Callable[[Any, Any], pd.DataFrame]] = {"score": scored, "embed": embedded}


# ---------------------------------------------------------------- which rows to flag, of all


def chosen(odd: np.ndarray, p: np.ndarray | None, alpha: float, contamination: float | None) -> np.ndarray:
    """Which of all rows are flagged, bool (n,): by p-values at a false discovery rate, or the oddest ``contamination``."""
    if contamination is None:
        assert p is not None
        return discoveries(p, alpha)
    flagged = np.zeros(len(odd), dtype=bool)
    flagged[np.argsort(-odd, kind="stable")[: round(contamination * len(odd))]] = True
    return flagged


def _flag(
    run: ShardedRun, model: Any, by: Engine, show: Show, alpha: float, contamination: float | None
) -> int:
    """Write how odd rows are, each file for itself; then choose among all rows, and write the answers."""
    source, place = run.source, run.folder / SCORED
    if run.left:
        scores = {k: place / f"{k:06d}.arrow" for k in run.targets}
        run.write(AskWriter(source, model, oddness), by, show, "asking", scores)
        wanted = "p_value" if contamination is None else "anomaly_score"
        column = np.concatenate([p[wanted].to_numpy() for path in scores.values() for p in _pieces(path)])
        flagged = chosen(column, column, alpha, contamination)
        del column
        for k, target in run.targets.items():
            shard = source.shards[k]
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                own = flagged[shard.start : shard.start + shard.rows]
                streams.write(target, _with_flags(scores[k], own), swept=True)
            show("flagging", shard.start + shard.rows, source.rows)
        count = int(flagged.sum())
    else:
        chunks = (chunk for path in run.targets.values() for chunk in streams.TableFile(path).chunks())
        count = sum(int(chunk.frame["flagged"].to_numpy().sum()) for chunk in chunks)
    remove(place)
    return count


def _pieces(path: Path) -> Iterator[Any]:
    """Tables of a file of answers, some rows at a time."""
    for chunk in streams.TableFile(path).chunks():
        yield chunk.table.to_pandas()


def _with_flags(path: Path, flagged: np.ndarray) -> Iterator[pd.DataFrame]:
    start = 0
    for piece in _pieces(path):
        yield piece.assign(flagged=flagged[start : start + len(piece)].astype(int))
        start += len(piece)
