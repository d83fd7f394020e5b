"""Answers about tables in many files: a file for each, whole or not there, in a folder with a manifest; a cut run goes on.

Rows are handed to the model in groups that depend neither on the files nor on which of them are done: the answers are those
about one table of all rows, to the bit, and those of a run that was resumed are those of one that was not.
"""

from __future__ import annotations

import abc
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from abduce.cli.engines import Block, run_blocks
from abduce.cli.streaming import GROUP, Filling, check_rows
from abduce.data import streams
from abduce.data.files import atomic, sweep
from abduce.data.shards import Shard, Shards

FORMAT = 1
MANIFEST = "manifest.json"
PACKED = ".abduce"
LEAST_GROUPS = 4  # groups of rows that a block has at the least
BLOCKS = 8  # a process
MANY = 64  # processes of a cluster, for all that is known
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

    def each(self, writer: Writer, show: Show, title: str, engine: tuple[str, int] = ("plain", 1)) -> int:
        """Let ``writer`` write the files that are missing; what it counted in all of them."""
        for k, _ in self.missing:
            self.target(k).parent.mkdir(parents=True, exist_ok=True)
        writer.targets = {k: self.target(k) for k, _ in self.missing}
        counted, done = 0, self.source.rows - sum(s.rows for _, s in self.missing)
        blocks = _blocks(self.missing, engine[1])
        if engine[0] == "plain":
            writer.told = lambda row: show(title, row, self.source.rows)
        for block, count in run_blocks(writer, blocks, *engine):
            counted += count
            done += sum(self.source.shards[k].rows for k in block.files)
            show(title, done, self.source.rows)
        self._write(complete=True)
        return counted

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


class Writer(abc.ABC):
    """What answers files and writes them to their ``targets``; ``told`` the row that it has come to.  It can be pickled, and
    then is silent."""

    def __init__(self, source: Shards):
        self.source = source
        self.targets: dict[int, Path] = {}
        self.told: Callable[[int], Any] = _silent

    def __call__(self, files: Sequence[int]) -> int:
        """Write files by their number, one after the other; what was counted."""
        counted = 0
        for k in files:
            shard = self.source.shards[k]
            try:
                counted += self.write(self.targets[k], k, shard)
            except (ValueError, OSError) as error:
                if shard.path in str(error):
                    raise
                raise type(error)(f"{shard.path}: {error}") from error
            self.told(shard.start + shard.rows)
        return counted

    @abc.abstractmethod
    def write(self, target: Path, k: int, shard: Shard) -> int:
        """Write the answers about one file; a number to be summed over files."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "told": _silent}


class FillWriter(Writer):
    """Fill blanks; counts them."""

    def __init__(self, filling: Filling):
        super().__init__(filling.source)  # pyright: ignore[reportArgumentType]
        self.filling = filling
        counts = [
            sum(n for start, n in filling.gaps.items() if s.start <= start < s.start + s.rows)
            for s in self.source.shards
        ]
        filling.show = self._come
        self.answers = GroupedAnswers(self.source, counts, filling.with_gaps, filling.fill)

    def _come(self, title: str, row: int, rows: int) -> None:
        self.told(row)

    def write(self, target: Path, k: int, shard: Shard) -> int:
        before = self.filling.filled
        self.filling.write_shard(target, shard, self.answers.of(k))
        return self.filling.filled - before


class AskWriter(Writer):
    """A row of answers for each row; counts the ones in the column ``counted``."""

    def __init__(self, source: Shards, ask: Callable[[Any], pd.DataFrame], counted: str | None):
        super().__init__(source)
        self.counted = counted
        self.answers = GroupedAnswers(source, [s.rows for s in source.shards], _all_rows, ask)

    def write(self, target: Path, k: int, shard: Shard) -> int:
        count, row = 0, shard.start

        def pieces() -> Iterator[pd.DataFrame]:
            nonlocal count, row
            for part in self.answers.of(k):
                count += int(part[self.counted].to_numpy().sum()) if self.counted else 0
                yield part
                row += len(part)
                self.told(row)

        streams.write(target, pieces(), swept=True)
        return count


class CompressWriter(Writer):
    """Compress each file for itself; counts bytes."""

    def __init__(self, source: Shards, fitted: Any):
        super().__init__(source)
        self.fitted = fitted

    def write(self, target: Path, k: int, shard: Shard) -> int:
        rows = pd.concat([chunk.frame for chunk in self.source.chunks_of(shard)], ignore_index=True)
        packed = self.fitted.compress(rows)
        atomic(target, lambda file: file.write(packed), swept=True)
        return len(packed)


def fill_shards(run: ShardedRun, fitted: Any, show: Show, engine: tuple[str, int] = ("plain", 1)) -> int:
    """Fill the blanks of the files that are missing; the number of cells filled."""
    return run.each(FillWriter(Filling(run.source, fitted, show)), show, "filling", engine)


def ask_shards(
    run: ShardedRun,
    fitted: Any,
    ask: Callable[[Any], pd.DataFrame],
    show: Show,
    counted: str | None = None,
    engine: tuple[str, int] = ("plain", 1),
) -> int:
    """Write a row of answers for each row of the files that are missing; how many have a one in the column ``counted``."""
    _check(run, fitted, show)
    return run.each(AskWriter(run.source, ask, counted), show, "asking", engine)


def compress_shards(run: ShardedRun, fitted: Any, show: Show, engine: tuple[str, int] = ("plain", 1)) -> int:
    """Compress each of the files that are missing for itself; the bytes of all that are there."""
    _check(run, fitted, show)
    run.each(CompressWriter(run.source, fitted), show, "compressing", engine)
    return sum(run.target(k).stat().st_size for k, s in enumerate(run.source.shards) if s.rows)


def _blocks(missing: Sequence[tuple[int, Shard]], workers: int) -> list[Block]:
    """Consecutive files in blocks: of several groups of rows, as those at a block's ends are answered twice, and several a
    process, so that none waits long for the last; one block for one process."""
    rows = sum(s.rows for _, s in missing)
    enough = rows if workers == 1 else max(LEAST_GROUPS * GROUP, rows // (BLOCKS * (workers or MANY)))
    blocks: list[list[tuple[int, Shard]]] = []
    size = 0
    for k, shard in missing:
        if not blocks or size >= enough:
            blocks.append([])
            size = 0
        blocks[-1].append((k, shard))
        size += shard.rows
    return [Block(tuple(k for k, _ in b), tuple(s.path for _, s in b)) for b in blocks]


def _silent(*told: Any) -> None:
    pass


def _all_rows(frame: Any) -> Any:
    return frame


def _check(run: ShardedRun, fitted: Any, show: Show) -> None:
    """Look through all rows for one that the model does not take, before hours are spent on others."""
    for chunk in run.source.chunks():
        check_rows(fitted, run.source, chunk)
        show("checking", chunk.start + len(chunk.frame), run.source.rows)


def _answer_name(shard: Shard, question: str) -> str:
    return shard.name + PACKED if question == "compress" else shard.name
