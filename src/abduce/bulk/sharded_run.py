"""A run over the files of a table into a folder: a file for each, whole or not there, and a manifest; a cut run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from abduce.bulk.streaming import GROUP
from abduce.bulk.writers import Writer
from abduce.data.files import atomic, sweep
from abduce.data.located import Shard
from abduce.data.shards import Shards
from abduce.engines import Block, Engine, hired
from abduce.estimators.folder import state
from abduce.fit.checkpoint import fingerprint

FORMAT = 1
MANIFEST = "manifest.json"
PACKED = ".abduce"
LEAST_GROUPS = 4  # groups of rows that a block has at the least
HINT = "; resume (--resume) goes on with what is missing"
Show = Callable[[str, int, int], Any]


class ShardedRun:
    """A run of a ``question`` over many files into a folder; refuses, before any work, a folder that holds something else.

    ``about`` are the arguments that the answers depend on.  With ``resume`` files that are there are left as they are.
    """

    def __init__(
        self,
        source: Shards,
        question: str,
        fitted: Any,
        output: str | os.PathLike,
        resume: bool,
        **about: Any,
    ):
        if str(output) == "-":
            raise ValueError("answers about many files are files: name a folder for them (-o)")
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
        self.targets = {k: self.target(k) for k, s in enumerate(source.shards) if s.rows}
        self.left = sum(not path.exists() for path in self.targets.values())  # files that are to be written

    def target(self, k: int) -> Path:
        """Where the answer about a file goes."""
        return self.folder / self.manifest["shards"][k]["answer"]

    def write(
        self, writer: Writer, engine: Engine, show: Show, title: str, targets: dict[int, Path] | None = None
    ) -> int:
        """Let ``writer`` look through all files, and write those that are missing, under their names or as other ``targets``,
        by their numbers; what it counted in all of them."""
        targets = self.targets if targets is None else targets
        missing = {k: path for k, path in targets.items() if not path.exists()}
        for path in missing.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if not missing:
            return 0
        writer.targets = missing
        shards = self.source.shards
        counted, done = 0, self.source.rows - sum(shards[k].rows for k in missing)
        rows = self.source.rows
        if engine.name == "plain":
            writer.told = lambda what, row: show(what or title, row, rows)
        with hired(writer, engine, HINT) as crew:
            looks: dict[int, Any] = {}
            looked = 0
            for block, found in crew.each(_blocks(list(enumerate(shards)), engine), "look"):
                looks |= zip(block.parts, found, strict=True)
                looked += sum(shards[k].rows for k in block.parts)
                show("checking", looked, rows)
            blocks = _blocks([(k, shards[k]) for k in missing], engine)
            joined = writer.joined([looks[k] for k in range(len(shards))])
            for block, count in crew.each(blocks, "answer", joined):
                counted += count
                done += sum(shards[k].rows for k in block.parts)
                show(title, done, rows)
        return counted

    def end(self) -> None:
        """Say in the manifest that all is there."""
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
            raise FileExistsError(
                f"{folder} holds the answers of an earlier run; resume (--resume) goes on with it"
            )
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


def _blocks(missing: Sequence[tuple[int, Shard]], engine: Engine) -> list[Block]:
    """Consecutive files in blocks: of several groups of rows, as those at a block's ends are answered twice."""
    size = left = sum(s.rows for _, s in missing)
    blocks: list[list[tuple[int, Shard]]] = []
    held = enough = 0
    for k, shard in missing:
        if not blocks or held >= enough:
            blocks.append([])
            held, enough = 0, engine.enough(size, left, LEAST_GROUPS * GROUP)
        blocks[-1].append((k, shard))
        held += shard.rows
        left -= shard.rows
    return [Block(tuple(k for k, _ in b), tuple(s.path for _, s in b)) for b in blocks]


def _answer_name(shard: Shard, question: str) -> str:
    return shard.name + PACKED if question == "compress" else shard.name
