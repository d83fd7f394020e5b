"""Answers about tables in many files: a file for each, whole or not there, in a folder with a manifest; a cut run goes on.

Rows are handed to the model in groups that depend neither on the files nor on which of them are done: the answers are those
about one table of all rows, to the bit, and those of a run that was resumed are those of one that was not.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from abduce.cli.streaming import GROUP, Filling, check_rows
from abduce.data import streams
from abduce.data.files import atomic, sweep
from abduce.data.shards import Shard, Shards

FORMAT = 1
MANIFEST = "manifest.json"
PACKED = ".abduce"
Show = Callable[[str, int, int], Any]


class GroupedAnswers:
    """Answers to the rows that ``pick`` takes of each file, of which there are ``counts``; ``ask`` gets :data:`GROUP` at a
    time, across files, and the last group the rest."""

    def __init__(
        self,
        source: Shards,
        counts: list[int],
        pick: Callable[[Any], Any],
        ask: Callable[[Any], pd.DataFrame],
    ):
        self.source, self.pick, self.ask = source, pick, ask
        self.starts = [*accumulate(counts, initial=0)]
        self._group: tuple[int, pd.DataFrame] | None = None
        self._rows: Iterator[Any] = iter(())
        self._held: list[Any] = []
        self._next = -1  # the first row that is held

    def of(self, k: int) -> Iterator[pd.DataFrame]:
        """Answers to the rows of file ``k``, some at a time."""
        first, last = self.starts[k], self.starts[k + 1]
        for group in range(first // GROUP, -(-last // GROUP)):
            if self._group is None or self._group[0] != group:
                self._group = group, self.ask(self._taken(group * GROUP, (group + 1) * GROUP))
            start = group * GROUP
            yield self._group[1].iloc[max(0, first - start) : last - start].reset_index(drop=True)

    def _taken(self, start: int, stop: int) -> pd.DataFrame:
        """Rows ``start`` to ``stop`` of those picked; files before are not read again."""
        k = max(0, min(bisect_right(self.starts, start) - 1, len(self.source.shards) - 1))
        held = sum(map(len, self._held))
        if self._next < 0 or start < self._next or self.starts[k] > self._next + held:
            self._rows, self._held, self._next, held = self._from(k), [], self.starts[k], 0
        while self._next + held < min(stop, self.starts[-1]):
            self._held.append(next(self._rows))
            held += len(self._held[-1])
        rows = pd.concat(self._held, ignore_index=True)
        self._held, offset = [rows.iloc[stop - self._next :]], start - self._next
        taken = rows.iloc[offset : stop - self._next].reset_index(drop=True)
        self._next = min(stop, self.starts[-1])
        return taken

    def _from(self, k: int) -> Iterator[Any]:
        for shard in self.source.shards[k:]:
            for chunk in self.source.chunks_of(shard):
                yield self.pick(chunk.frame)


class ShardedRun:
    """A run of a ``question`` over many files into a folder; refuses, before any work, a folder that holds something else.

    ``about`` are the arguments that the answers depend on.  With ``resume`` files that are there are left as they are.
    """

    def __init__(self, source: Shards, question: str, fitted: Any, output: str, resume: bool, **about: Any):
        from abduce.estimators.folder import state
        from abduce.fit.checkpoint import fingerprint

        if output == "-":
            raise ValueError("answers about many files are files: name a folder for them with -o")
        if fitted.schema_.container != "frame":
            raise ValueError(
                f"answers about many files need a model of tables, got one of an {fitted.schema_.container}"
            )
        self.source, self.folder = source, Path(output)
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "library": "abduce",
            "question": question,
            "arguments": about,
            "model": fingerprint(*state(fitted)).hex(),
            "rows": source.rows,
            "shards": [
                {"source": s.name, "bytes": s.size, "rows": s.rows, "answer": _answer_name(s, question)}
                for s in source.shards
            ],
        }
        self._check_folder(resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        for place, _, _ in os.walk(self.folder):
            sweep(Path(place))
        self._write(complete=False)
        self.missing = [(k, s) for k, s in enumerate(source.shards) if s.rows and not self.target(k).exists()]

    def target(self, k: int) -> Path:
        """Where the answer about a file goes."""
        return self.folder / self.manifest["shards"][k]["answer"]

    def each(self, write: Callable[[Path, int, Shard], Any]) -> None:
        """Let ``write`` write the files that are missing, one after the other."""
        for k, shard in self.missing:
            self.target(k).parent.mkdir(parents=True, exist_ok=True)
            write(self.target(k), k, shard)
        self._write(complete=True)

    def _check_folder(self, resume: bool) -> None:
        folder, known = self.folder, self.folder / MANIFEST
        source = None if "://" in str(self.source.path) else Path(str(self.source.path)).absolute()
        if source is not None and folder.absolute().is_relative_to(source):
            raise ValueError(
                f"{folder} lies in {self.source.path}, whose files are read; name a folder elsewhere"
            )
        if not folder.exists():
            return
        if not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; answers about many files need a folder")
        if not known.exists():
            if any(not name.startswith(".") for name in os.listdir(folder)):
                raise FileExistsError(f"{folder} holds something else; name a folder that is empty or new")
            return
        if not resume:
            raise FileExistsError(f"{folder} holds the answers of an earlier run; --resume goes on with it")
        try:
            before = json.loads(known.read_bytes())
            before.pop("complete")
        except (ValueError, AttributeError, KeyError):
            raise ValueError(f"{known} is damaged; remove {folder} and start anew") from None
        if before != self.manifest:
            other = next(
                key for key in {**self.manifest, **before} if before.get(key) != self.manifest.get(key)
            )
            raise ValueError(
                f"{folder} holds the answers of another run: its {other} is not this one's; name another folder"
            )

    def _write(self, complete: bool) -> None:
        body = json.dumps({**self.manifest, "complete": complete}, indent=1)
        atomic(self.folder / MANIFEST, lambda file: file.write(body.encode()))


def fill_shards(run: ShardedRun, fitted: Any, show: Show) -> int:
    """Fill the blanks of the files that are missing; the number of cells filled."""
    filling = Filling(run.source, fitted, show)
    counts = [
        sum(n for start, n in filling.gaps.items() if s.start <= start < s.start + s.rows)
        for s in run.source.shards
    ]
    answers = GroupedAnswers(run.source, counts, filling.with_gaps, filling.fill)
    run.each(lambda target, k, shard: filling.write_shard(target, shard, answers.of(k)))
    return filling.filled


def ask_shards(
    run: ShardedRun,
    fitted: Any,
    ask: Callable[[Any], pd.DataFrame],
    show: Show,
    seen: Callable[[Any], Any] = len,
) -> None:
    """Write a row of answers for each row of the files that are missing; ``seen`` is told of each part of them."""
    _check(run, fitted, show)
    done = 0
    answers = GroupedAnswers(run.source, [s.rows for s in run.source.shards], lambda frame: frame, ask)

    def write(target: Path, k: int, shard: Shard) -> None:
        def pieces() -> Iterator[pd.DataFrame]:
            nonlocal done
            for part in answers.of(k):
                seen(part)
                yield part
                done += len(part)
                show("asking", done, run.source.rows)

        streams.write(target, pieces(), swept=True)

    run.each(write)


def compress_shards(run: ShardedRun, fitted: Any, show: Show) -> int:
    """Compress each of the files that are missing for itself; the bytes of all that are there."""
    _check(run, fitted, show)

    def write(target: Path, k: int, shard: Shard) -> None:
        packed = fitted.compress(pd.concat([c.frame for c in run.source.chunks_of(shard)], ignore_index=True))
        atomic(target, lambda file: file.write(packed), swept=True)
        show("compressing", shard.start + shard.rows, run.source.rows)

    run.each(write)
    return sum(run.target(k).stat().st_size for k, s in enumerate(run.source.shards) if s.rows)


def _check(run: ShardedRun, fitted: Any, show: Show) -> None:
    """Look through all rows for one that the model does not take, before hours are spent on others."""
    for chunk in run.source.chunks():
        check_rows(fitted, run.source, chunk)
        show("checking", chunk.start + len(chunk.frame), run.source.rows)


def _answer_name(shard: Shard, question: str) -> str:
    return shard.name + PACKED if question == "compress" else shard.name
