"""The interface of everything that can be asked: a model turns what was seen of rows into an answer about clean ones.

    answer(seen, effort)    the posterior over clean rows, with the evidence log p(seen)
    sample(n, generator)    new rows, as if nothing had been seen

A family of models says which views of rows it can answer; anything else is refused, naming both.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from abduce.answers.answer import EFFORT, Answer, Effort
from abduce.data.layout import Layout
from abduce.data.seen import Seen, Unanswerable
from abduce.inference.energy import LogZ

Module = TypeVar("Module", bound=nn.Module)
NORMALISED = LogZ.exact(0.0)
NORMALISED.diagnostics.update(beta=1.0, base="none")


class Model(nn.Module, abc.ABC):
    """Anything fitted; rows are in model space (n, D), float64.

    ``config`` is JSON-able and, with the ``state_dict``, all that :func:`abduce.models.families.rebuild` needs.  ``views`` are
    names of the views it answers.  ``partition`` is log Z, None where log p is known up to a
    constant only.  ``lattice_mass`` says that pixels get probabilities of their levels, where others give them a density.
    """

    views: frozenset[str]
    layout: Layout
    n_cells: int  # cells D of a row
    config: dict[str, Any]
    partition: LogZ | None = NORMALISED
    beta: float = 1.0
    base: Any = None  # base measure of an energy
    exact: bool = True  # whether evidence has log Z in it without its being subtracted
    lattice_mass: bool = False
    odd: Any = None  # what tells odd rows better than log p does, an `Oddness`; None: log p tells them
    most: Tensor | None = None  # the largest value that each cell can take, (D,); None: no end
    in_units: bool = False  # whether its answers have `numbers`, means in the units of the data, (rows, D')
    stored_as: torch.dtype = torch.float64  # the type that fitted numbers are kept in

    @abc.abstractmethod
    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer:
        """Infer clean rows from what was seen of them."""

    @abc.abstractmethod
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw new rows (n, D)."""

    def decode(self, z: Tensor) -> Tensor:
        """Rows (n, D) of latents or codes, for families with a decoder."""
        raise Unanswerable(f"{type(self).__name__} has no decoder from its features to rows")

    def coder(self) -> Any:
        """What compression codes rows with: the model itself, or its exact law."""
        return self

    def pieces(self, x: Tensor) -> list[Tensor]:
        """Of rows x (n, D) what answers are annealed from, for families that anneal; others have none."""
        return []

    def check(self, seen: Seen) -> None:
        """Refuse a view that is not among those that the family answers."""
        if seen.view.name not in self.views:
            raise Unanswerable(
                f"{type(self).__name__} has no answer to rows seen through {seen.view!r}; it answers "
                f"{', '.join(sorted(self.views))}"
            )


def draw_classes(
    model: Model,
    values: Tensor,
    mask: Tensor,
    cells: Iterable[int],
    generator: Generator,
    effort: Effort = EFFORT,
) -> None:
    """Draw the blanks of class ``cells`` of rows (n, D) in place, each class given what is known and those before it."""
    for j in cells:
        rows = (~mask[:, j]).nonzero().squeeze(1)
        if len(rows):
            p = model.answer(Seen(values[rows], mask[rows]), effort).chances(j)
            values[rows, j] = torch.multinomial(p, 1, generator=generator)[:, 0].double()
            mask[:, j] = True


def versions(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes when a parameter or buffer does."""
    return tuple((t.data_ptr(), t._version) for t in (*module.parameters(), *module.buffers()))


def filled(model: Module, **tensors: Tensor) -> Module:
    """The model with these parameters and buffers."""
    model.load_state_dict(tensors, strict=False)
    return model
