"""All rows of a table in files, summed over under a law as often as asked, by whom an engine has.

Rows are read and encoded in groups that do not depend on the cut into files (:meth:`Shards.groups`); each group is summed for
itself, and the sums are merged in one form (:class:`~abduce.gaussians.sums.SumTree`).  So they are the same to the bit for any
cut, any number of workers, and whoever is faster.  A worker reads its own groups, of Arrow and Parquet files no more than it
needs; text can't be entered in the middle, so that a file of text is one worker's.  What travels is the law, and of a block of
groups about 2 log₂ n sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from abduce.data.foreign import native
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.data.shards import Shards
from abduce.engines import Block, Crew, Engine
from abduce.gaussians.em import one_thread
from abduce.gaussians.sums import Node, S, SumTree

Tensors = tuple[Tensor, ...]
Build = Callable[..., Any]  # a law of its tensors; a function that can be pickled
Show = Callable[[int], Any]  # told the rows that are done


def itself(tensor: Tensor) -> Tensor:
    """The law of centres is their places."""
    return tensor


class GroupSums:
    """The task: sums over groups of rows.  It goes on reading where it was if groups follow; its copies begin anew."""

    def __init__(self, source: Shards, schema: Schema):
        self.source, self.schema = source, schema
        self._open: Iterator[tuple[int, Any]] = iter(())
        self._next = -1  # the group that is read next

    def __call__(
        self, groups: tuple[int, ...], kind: type[S], build: Build, law: Tensors, some: Tensor
    ) -> list[Node[S]]:
        """Sums over the cells marked in ``some`` (D,) of consecutive groups, merged as far as they go."""
        tree = SumTree[S]()
        built = build(*law)
        with one_thread(), torch.no_grad():
            for group in groups:
                seen = self._read(group)
                if not bool(some.all()):
                    seen = Seen(seen.y[:, some], seen.mask[:, some])
                tree.add(Node(0, group, kind.zero(built).add(built, seen)))
        return tree.nodes

    def _read(self, group: int) -> Seen:
        """A group in model space; ValueError naming the file of a row that does not fit."""
        if group != self._next:
            self._open = self.source.groups(group)
        _, frame = next(self._open)
        self._next = group + 1
        with self.source.placed(self.source.group_start(group)):
            y, mask = self.schema.encode(native(frame))
        return Seen(torch.from_numpy(y), torch.from_numpy(mask))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": iter(()), "_next": -1}


class AllRows:
    """All rows of files, and a ``crew`` that has a :class:`GroupSums` of them."""

    def __init__(self, source: Shards, engine: Engine, crew: Crew):
        self.rows, self.crew = source.rows, crew
        self.blocks = cut(source, engine)

    def summed(self, kind: type[S], build: Build, law: Tensors, some: Tensor, show: Show) -> S:
        """Sums over the cells marked in ``some`` (D,) of all rows, under the law that ``build`` makes of its tensors."""
        tree, done = SumTree[S](), 0
        for nodes in self.crew.in_order(self.blocks, kind, build, law, some):
            for node in nodes:
                tree.add(node)
                done += node.sums.rows
            show(done)
        return tree.whole()


def cut(source: Shards, engine: Engine) -> list[Block]:
    """Consecutive groups of rows in blocks, which end with a file where there are many, and always where files are of text.

    Here a group is a block: one goes on reading where it was.
    """
    groups = -(-source.rows // source.chunk_rows())
    blocks: list[list[int]] = []
    names: list[list[str]] = []
    enough = 1
    for group in range(groups):
        path = source.shard_at(source.group_start(group)).path
        new_file = not names or names[-1][-1] != path
        full = not blocks or len(blocks[-1]) >= enough
        here = engine.name == "plain"
        if full and (new_file or here or (source.schema is not None and len(blocks[-1]) >= 2 * enough)):
            blocks.append([])
            names.append([])
            enough = 1 if here else engine.enough(groups, groups - group)
        blocks[-1].append(group)
        names[-1].append(path)
    return [Block(tuple(b), tuple(dict.fromkeys(n))) for b, n in zip(blocks, names, strict=True)]
