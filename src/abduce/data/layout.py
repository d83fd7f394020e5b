"""How the cells of a row lie, as far as a model needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The ``shape`` of one row, (D,) or (H, W[, C]), and the ``levels`` (D,) of each cell: classes, 0 for a number.

    >>> Layout((3,), (0, 2, 4)).classes
    [1, 2]
    """

    shape: tuple[int, ...]
    levels: tuple[int, ...]

    @property
    def n_cells(self) -> int:
        """How many cells D a row has."""
        return len(self.levels)

    @property
    def classes(self) -> list[int]:
        """Which cells hold classes."""
        return [j for j, levels in enumerate(self.levels) if levels]

    @property
    def numbers(self) -> list[int]:
        """Which cells hold numbers."""
        return [j for j, levels in enumerate(self.levels) if not levels]
