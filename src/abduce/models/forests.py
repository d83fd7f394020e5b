"""Forests of trees that say of each cell what all others make likely: a member that bends and splits.

    number j     mean_t leaf_t(x_rest),      class j     mean_t shares of its levels in leaf_t(x_rest)

A forest reads whole rows, so blanks are completed by another model first.  Trees are kept as plain arrays, a node a place in
them, inner nodes with the branch to the left right after them; all blanks go down the trees of their cells at once, a level at
a time.

Source: Geurts, Ernst & Wehenkel 2006 (extremely randomised trees).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from abduce.data.layout import Layout
from abduce.models.model import filled

PAIRS = 4096  # cells of rows that go down at once
MOST = 17  # levels of a class that has an indicator for each; of more its code is read as a number


class Trees(NamedTuple):
    """The trees of one cell: ``feature`` (N,) that a node asks about and ``threshold`` (N,), ``right`` (N,) where a row goes
    that is above it, a leaf's own place; ``value`` (N, outputs); ``roots`` (trees,)."""

    feature: Tensor
    threshold: Tensor
    right: Tensor
    value: Tensor
    roots: Tensor


class Nodes(NamedTuple):
    """The trees of all cells, node after node: ``feature`` (N,) of whole rows, ``threshold``, ``right`` and, of numbers,
    ``value`` (N,); ``roots`` (cells, trees) and ``start`` (cells,), the first node of each cell."""

    feature: np.ndarray
    threshold: np.ndarray
    right: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    start: np.ndarray


class Forests(nn.Module):
    """Forests of the ``cells`` of rows with ``levels`` (D,), 0 for a number; ``nodes`` are how many each has.

    Numbers are read and told in standard deviations from their mean, ``loc`` and ``scale`` (D,) in data units, 0 and 1 of
    classes; so units and transforms do not matter.  ``lean`` (D,) is the
    weight of each cell's forest beside the model that completed the rows.
    """

    feature: Tensor
    threshold: Tensor
    right: Tensor
    loc: Tensor
    scale: Tensor
    lean: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        cells: Sequence[int],
        nodes: Sequence[int],
        trees: int,
    ):
        super().__init__()
        if not cells or not all(0 <= c < len(levels) for c in cells) or len(set(cells)) < len(cells):
            raise ValueError(f"cells must be different ones of {len(levels)}, got {list(cells)}")
        if len(cells) != len(nodes) or min([*nodes, trees]) < 1:
            raise ValueError(
                f"nodes must be a number each of {len(cells)} cells, and trees 1 or more, got {nodes} and {trees}"
            )
        self.levels, self.cells, self.trees = [int(v) for v in levels], [int(c) for c in cells], int(trees)
        self.nodes = [int(n) for n in nodes]
        total = sum(self.nodes)
        self.register_buffer("feature", torch.zeros(total, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(total, dtype=torch.float64))
        self.register_buffer("right", torch.zeros(total, dtype=torch.int32))
        self.register_buffer("roots", torch.zeros(len(self.cells), self.trees, dtype=torch.int64))
        for name in ("loc", "scale", "lean"):
            self.register_buffer(name, torch.zeros(len(self.levels), dtype=torch.float64))
        self.scale += 1
        for i, j in enumerate(self.cells):
            shape = (self.nodes[i], max(1, self.levels[j]))
            self.register_buffer(f"value_{i}", torch.zeros(shape, dtype=torch.float64))
        self._nodes: Nodes | None = None
        self.register_load_state_dict_post_hook(_checked)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds it, with its buffers."""
        names = ("levels", "cells", "nodes", "trees")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, levels: Sequence[int], forests: dict[int, Trees], loc: Tensor, scale: Tensor) -> Forests:
        """Put the trees of some cells together; none leans on them yet."""
        parts = list(forests.values())
        out = cls(
            levels,
            list(forests),
            [len(p.feature) for p in parts],
            len(parts[0].roots),
        )
        return filled(
            out,
            feature=torch.cat([p.feature for p in parts]),
            threshold=torch.cat([p.threshold for p in parts]),
            right=torch.cat([p.right for p in parts]),
            roots=torch.stack([p.roots for p in parts]),
            loc=loc,
            scale=scale,
            **{f"value_{i}": p.value for i, p in enumerate(parts)},
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_nodes": None}  # copies and pickles make them again

    @property
    def together(self) -> Nodes:
        """The trees of all cells, that read whole rows; made once."""
        if self._nodes is None:
            start = np.cumsum([0, *self.nodes])
            own = np.repeat(start[:-1], self.nodes)
            layout = Layout((len(self.levels),), tuple(self.levels))
            of = np.concatenate([[j] * _width(self.levels[j]) for j in (*layout.numbers, *layout.classes)])
            feature, value = np.zeros(start[-1], int), np.zeros(start[-1])
            for i, j in enumerate(self.cells):
                part = slice(start[i], start[i + 1])
                feature[part] = np.flatnonzero(of != j)[self.feature[part].numpy()]
                if not self.levels[j]:
                    value[part] = self.get_buffer(f"value_{i}")[:, 0].numpy()
            roots = self.get_buffer("roots").numpy() + start[:-1, None]
            self._nodes = Nodes(
                feature, self.threshold.numpy(), self.right.numpy() + own, value, roots, start
            )
        return self._nodes

    def trees_of(self, cell: int) -> Trees:
        """The trees of one cell."""
        i = self.cells.index(cell)
        start = sum(self.nodes[:i])
        part = slice(start, start + self.nodes[i])
        return Trees(
            self.feature[part],
            self.threshold[part],
            self.right[part],
            self.get_buffer(f"value_{i}"),
            self.get_buffer("roots")[i],
        )

    def revised(self, cell: int, said: Tensor, seen: Tensor, complete: Tensor) -> Tensor:
        """What a model ``said`` (n, outputs) of a cell, drawn toward the forest where it was not ``seen`` (n,); that model
        made the rows (n, D) ``complete``."""
        share = float(self.lean[cell])
        rows = (~seen).nonzero().squeeze(1)
        if not share or not len(rows):
            return said
        out = said.clone()
        out[rows] += share * (self.says(cell, complete[rows]) - said[rows])
        return out

    def says(self, cell: int, rows: Tensor) -> Tensor:
        """What a cell should be in complete ``rows`` (n, D), numbers in data units: a number (n, 1), or a class's chances
        (n, levels)."""
        i = self.cells.index(cell)
        leaves = self._leaves(rows, np.arange(len(rows)), np.full(len(rows), i))
        if not self.levels[cell]:
            out = torch.from_numpy(_averaged(self.together.value[leaves])).unsqueeze(1)
            return self.loc[cell] + self.scale[cell] * out
        value = self.get_buffer(f"value_{i}").numpy()
        return torch.from_numpy(_averaged(value[leaves - self.together.start[i]]))

    def numbers(self, cells: Sequence[int], said: Tensor, seen: Tensor, complete: Tensor) -> Tensor:
        """:meth:`revised` of all number ``cells`` (D',) at once: ``said`` (n, D') of rows of which the cells ``seen`` (n, D)
        were."""
        share = self.lean[cells]
        place, row = (~seen[:, cells] & (share > 0)).mT.nonzero().unbind(1)
        if not len(row):
            return said
        own = torch.tensor([self.cells.index(j) if j in self.cells else 0 for j in cells])[place]
        leaves = self._leaves(complete, row.numpy(), own.numpy())
        j = torch.tensor(cells)[place]
        found = self.loc[j] + self.scale[j] * torch.from_numpy(_averaged(self.together.value[leaves]))
        out = said.clone()
        out[row, place] += share[place] * (found - said[row, place])
        return out

    def _leaves(self, rows: Tensor, row: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The leaves (trees, p) that pairs of a ``row`` of complete ``rows`` (n, D) and a forest, the ``own``-th, come to."""
        nodes = self.together
        features = tree_features(self.levels, (rows - self.loc) / self.scale).numpy()
        flat, begin = features.ravel(), row * features.shape[1]
        place = nodes.roots[own].T
        for i in range(0, len(row), PAIRS):
            part = slice(i, i + PAIRS)
            place[:, part] = _descended(nodes, flat, begin[part], place[:, part])
        return place


def _descended(nodes: Nodes, flat: np.ndarray, begin: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Where paths (trees, p) end that start at nodes; the features of each begin at a place of ``flat``, (p,)."""
    while True:
        after = nodes.right[place]
        inner = after != place
        if not inner.any():  # all have come to a leaf
            return place
        above = flat[begin + nodes.feature[place]] > nodes.threshold[place]
        place = np.where(inner & ~above, place + 1, after)


def _averaged(values: np.ndarray) -> np.ndarray:
    """Mean over trees of values (trees, ...)."""
    total = values[0]
    for value in values[
        1:
    ]:  # one after the other, so that a row's sum does not hang on how many rows there are
        total = total + value
    return total / len(values)


def _width(levels: int) -> int:
    """Features of a cell with so many levels."""
    return levels if 2 < levels <= MOST else 1


def tree_features(levels: Sequence[int], rows: Tensor, without: int | None = None) -> Tensor:
    """What trees read of rows (n, D), all but one cell: standardised numbers as they are, an indicator a level of classes.

    >>> tree_features([0, 3, 0], torch.tensor([[0.5, 2.0, 7.0]]), without=2)
    tensor([[0.5000, 0.0000, 0.0000, 1.0000]])
    """
    layout = Layout((len(levels),), tuple(levels))
    parts = [rows[:, [j for j in layout.numbers if j != without]]]
    for j in layout.classes:
        if j != without:
            code = rows[:, j].unsqueeze(1)
            parts.append(code == torch.arange(levels[j]) if _width(levels[j]) > 1 else code)
    # in single precision, as trees were fitted: what is compared with a threshold is the same in both
    return torch.cat([p.to(rows.dtype) for p in parts], 1).float().to(rows.dtype)


def _checked(forests: nn.Module, keys: Any) -> None:
    """Refuse, by ValueError, nodes that lead out of their cell's trees or ask about what is not read."""
    assert isinstance(forests, Forests)
    forests._nodes = None
    for cell in forests.cells:
        trees = forests.trees_of(cell)
        own = torch.arange(len(trees.right))
        width = tree_features(forests.levels, torch.zeros(1, len(forests.levels)), cell).shape[1]
        if bool(
            (trees.right < own).any()
            or (trees.right >= len(own)).any()
            or (trees.feature < 0).any()
            or (trees.feature >= width).any()
            or (trees.roots < 0).any()
            or (trees.roots >= len(own)).any()
        ):
            raise ValueError(f"forests of cell {cell} have nodes that lead nowhere")
    without = torch.ones(len(forests.levels)).bool()
    without[forests.cells] = False
    if bool((forests.lean < 0).any() or (forests.lean > 1).any() or forests.lean[without].any()):
        raise ValueError("lean must be weights between 0 and 1, of cells that have trees")
