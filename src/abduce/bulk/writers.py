"""What writes answers about the files of a table: a task that any process can have.

Rows are handed to the model in groups that depend neither on the files nor on which of them are done: the answers are those
about one table of all rows, to the bit, and those of a run that was resumed are those of one that was not.
"""

from __future__ import annotations

import abc
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from abduce.bulk.halving import by_halves
from abduce.bulk.streaming import GROUP, Filling, Inspection, check_rows
from abduce.data import streams
from abduce.data.files import atomic
from abduce.data.located import Shard
from abduce.data.shards import Shards


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
                rows = self._taken(group * GROUP, (group + 1) * GROUP)
                self._group = group, by_halves(self.ask, rows)
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


class Writer(abc.ABC):
    """What looks through files and then answers them, to ``targets``; ``told`` what it does, and the row that it has come to.
    It can be pickled, and then is silent."""

    def __init__(self, source: Shards, fitted: Any):
        self.source, self.fitted = source, fitted
        self.targets: dict[int, Path] = {}
        self.told: Callable[[str, int], Any] = _silent
        self._knows = False  # what was found in all files

    def __call__(self, files: Sequence[int], step: str, found: Any = None) -> Any:
        """The task of a crew with files by their numbers: "look" through each, or "answer" them, told what was ``found``."""
        if step == "look":
            return [self._looked(k) for k in files]
        if not self._knows:  # a process is told with each block
            self.learn(found)
            self._knows = True
        counted = 0
        for k in files:
            with self._at(k) as shard:
                counted += self.write(self.targets[k], k, shard)
            self.told("", shard.start + shard.rows)
        return counted

    @contextmanager
    def _at(self, k: int) -> Iterator[Shard]:
        """A file by its number; an error in what is done with it names it."""
        shard = self.source.shards[k]
        try:
            yield shard
        except (ValueError, OSError) as error:
            if shard.path in str(error):
                raise
            raise type(error)(f"{shard.path}: {error}") from error

    def _looked(self, k: int) -> Any:
        with self._at(k) as shard:
            return self.look(shard)

    @abc.abstractmethod
    def look(self, shard: Shard) -> Any:
        """Check every row of a file, so that one which the model does not take is found before hours are spent on others."""

    @abc.abstractmethod
    def joined(self, looks: list[Any]) -> Any:
        """What was found in all files, from what was in each."""

    @abc.abstractmethod
    def learn(self, found: Any) -> None:
        """Take what was found in all files."""

    @abc.abstractmethod
    def write(self, target: Path, k: int, shard: Shard) -> int:
        """Write the answers about one file; a number to be summed over files."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "told": _silent}


class FillWriter(Writer):
    """Fill blanks; counts them."""

    def __init__(self, source: Shards, fitted: Any):
        super().__init__(source, fitted)
        self.filling = Filling(source, fitted, self._come)

    def look(self, shard: Shard) -> Inspection:
        return self.filling.look(self.source.chunks_of(shard))

    def joined(self, looks: list[Inspection]) -> tuple[Inspection, list[int]]:
        return Inspection.joined(looks), [look.gaps for look in looks]

    def learn(self, found: tuple[Inspection, list[int]]) -> None:
        whole, gaps = found
        self.filling.learn(whole)
        self.answers = GroupedAnswers(self.source, gaps, self.filling.with_gaps, self.filling.fill)

    def _come(self, title: str, row: int, rows: int) -> None:
        self.told(title, row)

    def write(self, target: Path, k: int, shard: Shard) -> int:
        before = self.filling.filled
        self.filling.write_shard(target, shard, self.answers.of(k))
        return self.filling.filled - before


class CheckingWriter(Writer, abc.ABC):
    """What only checks the rows that it looks through: nothing of other files matters to the answers about one."""

    def look(self, shard: Shard) -> None:
        for chunk in self.source.chunks_of(shard):
            check_rows(self.fitted, self.source, chunk)
            self.told("checking", chunk.start + len(chunk.frame))

    def joined(self, looks: list[None]) -> None:
        pass

    def learn(self, found: None) -> None:
        pass


class AskWriter(CheckingWriter):
    """A row of answers for each row, those that ``ask`` gets of the model; counts rows."""

    def __init__(self, source: Shards, fitted: Any, ask: Callable[[Any, Any], pd.DataFrame]):
        super().__init__(source, fitted)
        self.answers = GroupedAnswers(
            source, [s.rows for s in source.shards], _all_rows, partial(ask, fitted)
        )

    def write(self, target: Path, k: int, shard: Shard) -> int:
        def pieces() -> Iterator[pd.DataFrame]:
            row = shard.start
            for part in self.answers.of(k):
                yield part
                row += len(part)
                self.told("", row)

        streams.write(target, pieces(), swept=True)
        return shard.rows


class CompressWriter(CheckingWriter):
    """Compress each file for itself; counts bytes."""

    def write(self, target: Path, k: int, shard: Shard) -> int:
        rows = pd.concat([chunk.frame for chunk in self.source.chunks_of(shard)], ignore_index=True)
        packed = self.fitted.compress(rows)
        atomic(target, lambda file: file.write(packed), swept=True)
        return len(packed)


def _silent(*told: Any) -> None:
    pass


def _all_rows(frame: Any) -> Any:
    return frame
