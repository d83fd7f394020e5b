"""What was observed of clean rows: values, which of them count, and how they came about.

    Blanks              cells are seen exactly, or not at all
    Linear(noise, A)    y = A x + noise · N(0, I); cells of y may be blank         (:mod:`abduce.answers.views`)
    Flips(rate)         binary cells, each turned over with probability ``rate``   (:mod:`abduce.answers.views`)
    Thinned(rate)       counts, each item counted with probability ``rate``        (:mod:`abduce.answers.views`)

Every question that a model is asked, filling, cleaning, scoring, is one `Seen`; what can be inferred from it is an answer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from abduce.data.fields import KINDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Unanswerable(ValueError):
    """A model was asked about data seen in a way that it has no answer to; the message names both."""


class View(abc.ABC):
    """How what was seen, y, came from clean rows x."""

    name: ClassVar[str]  # by which models declare which views they answer
    kinds: ClassVar[frozenset[str]] = frozenset()  # of data asked of as they are; none: it is in model units

    @abc.abstractmethod
    def guess(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A first idea of the clean row, for an encoder: ``(x, observed)``."""

    @abc.abstractmethod
    def log_prob(self, likelihood: Any, y: Tensor, mask: Tensor) -> Tensor:
        """log p(y | z), nats, (samples, batch), for a likelihood p(x | z)."""

    @abc.abstractmethod
    def clean(self, likelihood: Any, y: Tensor, mask: Tensor) -> Any:
        """p(x | z, y), the law of the clean row: it has ``moments()`` and ``sample(generator)``."""

    @abc.abstractmethod
    def point(self, model: Any, moments: list[Tensor]) -> Tensor:
        """The best clean rows (rows, D) from the averaged moments of :meth:`clean`."""

    @abc.abstractmethod
    def centre(self, clean: Any) -> Tensor:
        """Mean of the clean rows (rows, D) for one z of each, where :meth:`clean` has one."""

    @abc.abstractmethod
    def hold(self, likelihood: Any, mask: Tensor) -> View:
        """The view with what can be worked out once for all draws of z of a chunk."""

    @abc.abstractmethod
    def rows(self, index: Tensor) -> View:
        """The view of some rows of the chunk that it was held for."""

    def affine(self, y: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """A as a function (..., D) -> (..., d), and the noise's standard deviations (d,), of a view that is linear."""
        raise Unanswerable(f"{type(self).__name__} is no linear map with Gaussian noise")


class Blanks(View):
    """Some cells are seen exactly; the others are to be filled in.

    >>> Blanks()
    Blanks()
    """

    name = "blanks"
    kinds = frozenset(KINDS)

    def __repr__(self) -> str:
        return "Blanks()"

    def guess(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return y, mask

    def log_prob(self, likelihood: Any, y: Tensor, mask: Tensor) -> Tensor:
        return likelihood.log_prob(y, mask)

    def clean(self, likelihood: Any, y: Tensor, mask: Tensor) -> Any:
        return likelihood.condition(y, mask)

    def point(self, model: Any, moments: list[Tensor]) -> Tensor:
        return model.point(moments)

    def centre(self, clean: Any) -> Tensor:
        return clean.gaussian().mean[0]

    def hold(self, likelihood: Any, mask: Tensor) -> View:
        return self

    def rows(self, index: Tensor) -> View:
        return self


CELLS = Blanks()


class Seen(NamedTuple):
    """Rows as they were seen: ``y`` (rows, d), ``mask`` bool of the same shape, and the ``view`` they were seen through.

    A row may be a series, ``y`` (rows, steps, features); ``time`` (rows, steps) then says when its steps were, in steps of
    the training data's grid; None where there is no time.

    >>> import torch
    >>> seen = Seen(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    >>> seen.rows(torch.tensor([0, 0])).y.shape
    torch.Size([2, 2])
    """

    y: Tensor
    mask: Tensor
    view: View = CELLS
    time: Tensor | None = None

    @classmethod
    def whole(cls, x: Tensor) -> Seen:
        """Complete rows."""
        import torch

        return cls(x, torch.ones_like(x, dtype=torch.bool))

    @classmethod
    def nothing(cls, rows: int, cells: int) -> Seen:
        """Rows of which nothing was seen."""
        import torch

        return cls(torch.zeros(rows, cells, dtype=torch.float64), torch.zeros(rows, cells, dtype=torch.bool))

    @property
    def exact(self) -> bool:
        """Whether cells are seen as they are."""
        return self.view.name == Blanks.name

    def rows(self, index: Any) -> Seen:
        """Some rows: a slice, indices or a mask."""
        time = None if self.time is None else self.time[index]
        return self._replace(y=self.y[index], mask=self.mask[index], time=time)

    def to(self, dtype: torch.dtype) -> Seen:
        """The same in another type of numbers."""
        return self._replace(y=self.y.to(dtype))
