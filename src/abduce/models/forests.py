"""Forests of trees that say of each cell what all others make likely: a member that bends and splits.

    number j     mean_t leaf_t(x_rest),      class j     mean_t shares of its levels in leaf_t(x_rest)

A forest reads whole rows, so blanks are completed by another model first.  Trees are kept as plain arrays, a node a place in
them, inner nodes with the branch to the left right after them; rows go down all trees of a cell at once, a level at a time.

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

ROWS = 4096  # rows that go down at once
MOST = 17  # levels of a class that has an indicator for each; of more its code is read as a number


class Trees(NamedTuple):
    """The trees of one cell: ``feature`` (N,) that a node asks about and ``threshold`` (N,), ``right`` (N,) where a row goes
    that is above it, a leaf's own place; ``value`` (N, outputs); ``roots`` (trees,); ``depth``, levels of the deepest."""

    feature: Tensor
    threshold: Tensor
    right: Tensor
    value: Tensor
    roots: Tensor
    depth: int


class Forests(nn.Module):
    """Forests of the ``cells`` of rows with ``levels`` (D,), 0 for a number; ``nodes`` and ``depths`` say how large each is.

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
        depths: Sequence[int],
        trees: int,
    ):
        super().__init__()
        if not cells or not all(0 <= c < len(levels) for c in cells) or len(set(cells)) < len(cells):
            raise ValueError(f"cells must be different ones of {len(levels)}, got {list(cells)}")
        if not len(cells) == len(nodes) == len(depths) or min([*nodes, trees]) < 1 or min(depths) < 0:
            raise ValueError(
                f"nodes and depths must be a number each of {len(cells)} cells, got {nodes} and {depths}"
            )
        self.levels, self.cells, self.trees = [int(v) for v in levels], [int(c) for c in cells], int(trees)
        self.nodes, self.depths = [int(n) for n in nodes], [int(d) for d in depths]
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
        self.register_load_state_dict_post_hook(_checked)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds it, with its buffers."""
        names = ("levels", "cells", "nodes", "depths", "trees")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, levels: Sequence[int], forests: dict[int, Trees], loc: Tensor, scale: Tensor) -> Forests:
        """Put the trees of some cells together; none leans on them yet."""
        parts = list(forests.values())
        out = cls(
            levels,
            list(forests),
            [len(p.feature) for p in parts],
            [p.depth for p in parts],
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
            self.depths[i],
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
        features = tree_features(self.levels, (rows - self.loc) / self.scale, cell)
        trees = self.trees_of(cell)
        out = torch.cat([descend(trees, part) for part in features.split(ROWS)])
        return out if self.levels[cell] else self.loc[cell] + self.scale[cell] * out


def descend(trees: Trees, features: Tensor) -> Tensor:
    """Mean over the trees of the values of the leaves that rows (n, F) come to, (n, outputs)."""
    n, width = features.shape
    flat, begin = features.numpy().ravel(), np.arange(n) * width
    feature, threshold, right = (t.numpy() for t in (trees.feature, trees.threshold, trees.right))
    place = np.repeat(trees.roots.numpy()[:, None], n, 1)
    for _ in range(trees.depth):
        after = right[place]
        inner = after != place
        if not inner.any():  # all rows have come to a leaf
            break
        above = flat[begin + feature[place]] > threshold[place]
        place = np.where(inner & ~above, place + 1, after)
    node = torch.from_numpy(place).long()
    total = trees.value[node[0]]
    for leaf in node[1:]:  # one after the other, so that a row's sum does not hang on how many rows there are
        total = total + trees.value[leaf]
    return total / len(node)


def tree_features(levels: Sequence[int], rows: Tensor, without: int) -> Tensor:
    """What trees read of rows (n, D), all but one cell: standardised numbers as they are, an indicator a level of classes.

    >>> tree_features([0, 3, 0], torch.tensor([[0.5, 2.0, 7.0]]), without=2)
    tensor([[0.5000, 0.0000, 0.0000, 1.0000]])
    """
    layout = Layout((len(levels),), tuple(levels))
    parts = [rows[:, [j for j in layout.numbers if j != without]]]
    for j in layout.classes:
        if j != without:
            code = rows[:, j]
            wide = 2 < levels[j] <= MOST
            parts.append((code.unsqueeze(1) == torch.arange(levels[j])) if wide else code.unsqueeze(1))
    # in single precision, as trees were fitted: what is compared with a threshold is the same in both
    return torch.cat([p.to(rows.dtype) for p in parts], 1).float().to(rows.dtype)


def _checked(forests: nn.Module, keys: Any) -> None:
    """Refuse, by ValueError, nodes that lead out of their cell's trees or ask about what is not read."""
    assert isinstance(forests, Forests)
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
