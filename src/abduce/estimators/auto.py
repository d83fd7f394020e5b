"""The model that serves tables best: several members of the house, pooled by how well they predict hidden cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abduce.data.fields import listing
from abduce.data.schema import Schema
from abduce.estimators.arguments import Arguments, preset
from abduce.estimators.energy_based import EnergyModel
from abduce.estimators.generative import check_count
from abduce.fit.stack import COMPONENTS, fit_stack
from abduce.inference.energy import Energy
from abduce.models.stack import ROWS, Stack

CELLS = 2**22  # numbers in one chunk of draws


@preset
class Auto(Arguments, EnergyModel):
    """Fit one Gaussian, mixtures of factor analysers and Parzen windows, of numbers and of their normal scores, and pool them.

        p(x_blank | x_seen) = Σ_m w_m p_m(x_blank | x_seen)

    A tenth of the observed cells is hidden from the members; weights are what predicts these best (squared error of numbers,
    log loss of classes), and each member is then refitted to all cells.  So the pool is hardly ever worse than its best
    member, of which one is a plain Gaussian.  Scores are log Σ_m v_m p_m(x), of one density; fills, draws and intervals come
    from the pool.  Rows may mix numbers, dates, classes and blanks; a value that repeats, such as a spike at zero, is drawn as
    often as it occurs.  Blanks are taken to be missing at random.  :meth:`members` says who got which weight.

    Other arguments as in :class:`~abduce.estimators.arguments.Arguments`.

    Parameters
    ----------
    components : sequence of int
        Sizes of the mixtures of factor analysers, the first of them 1.
    rows : int
        Rows to fit to, at most; of more a random sample is taken.
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far the fit has come, ``stage`` what it is at.

    Notes
    -----
    A class is predicted by the normalised conditional means of its indicators; each member's classes follow one another in
    the order of the columns, after the numbers, which makes log p that of a probability.  Denoising goes by the Gaussian
    and the mixtures of the numbers.  Rows can't be compressed.

    References
    ----------
    Ghahramani & Hinton 1996 (mixtures of factor analysers); Vincent & Bengio 2003 (Parzen windows along the manifold);
    Breiman 1996 (stacked regressions); Liu et al. 2009 (normal scores).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Auto
    >>> rng = np.random.default_rng(0)
    >>> t = rng.uniform(-2, 2, size=300)
    >>> X = np.stack([t, np.sin(2 * t)], 1) + 0.05 * rng.normal(size=(300, 2))
    >>> model = Auto(random_state=0).fit(X)
    >>> bool(abs(model.fill([[1.5, np.nan]])[0, 1] - np.sin(3.0)) < 0.15)
    True
    """

    components: tuple[int, ...] = COMPONENTS
    rows: int = 5000
    callback: Callable[[dict[str, Any]], Any] | None = None

    supports = ("mixed",)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_count("rows", self.rows)
        if not isinstance(self.components, Iterable):
            raise ValueError(f"components must be a sequence of ints, got {self.components!r}")
        sizes = tuple(self.components)
        if not sizes or sizes[0] != 1:
            raise ValueError(f"components must start with 1, got {self.components!r}")
        for size in sizes:
            check_count("components", size)

    def _support(self, schema: Schema) -> str:
        if schema.container == "image":
            raise ValueError(
                "Auto is for tables; for images take MixtureEnsemble, which restores them best, or VAE"
            )
        return "mixed"

    def _completed(self, x: Tensor, observed: Tensor, support: str, seed: int) -> Tensor:
        return x

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, **run: Any
    ) -> Energy:
        def show(text: str, share: float) -> None:
            if self.callback is not None:
                self.callback({"epoch": share, "epochs": 1.0, "stage": text})

        return fit_stack(
            self.schema_, x.numpy(), observed.numpy(), seed, self.rows, tuple(self.components), show
        )

    def members(self) -> pd.DataFrame:
        """Members with their weights and how they predicted hidden cells: ``error`` in standard deviations, ``log_loss`` nats.

        ``weight`` is that of numbers, ``class_weight`` of classes, ``row_weight`` of log p.
        """
        assert isinstance(self.model_, Stack)
        return pd.DataFrame(self.model_.reports).set_index("member")

    def class_probabilities(self, X, column: Any) -> pd.DataFrame:
        """Probability of each class of a column given the other cells of each row, (n, classes), whatever the column holds.

        ``column`` is a name, or the position in an array.  With the target of a classification as one more column of the
        training data, this predicts it for rows where it is blank.

        >>> import pandas as pd
        >>> flower = pd.DataFrame({"size": [1.0, 1.1, 0.9, 3.0, 3.1, 2.9] * 10, "kind": ["a", "a", "a", "b", "b", "b"] * 10})
        >>> model = Auto(random_state=0).fit(flower)
        >>> new = pd.DataFrame({"size": [1.0, 3.0], "kind": [None, None]})
        >>> model.class_probabilities(new, "kind").round(1)
             a    b
        0  1.0  0.0
        1  0.0  1.0
        """
        x, seen = self._encode(X)
        names = [f.name for f in self.schema_.fields]
        wanted = f"x{column}" if isinstance(column, Integral) and str(column) not in names else str(column)
        cells = self._stack.coding.classes
        if wanted not in names or names.index(wanted) not in cells:
            classes = listing([names[j] for j in cells]) if cells else "none"
            raise ValueError(f"column must be one of classes, of which there are {classes}; got {column!r}")
        j = names.index(wanted)
        seen[:, j] = False
        x[:, j] = 0.0
        parts = [self._stack.predict(x[part], seen[part], numbers=False)[1][j] for part in self._parts(x, 1)]
        index = X.index if isinstance(X, pd.DataFrame) else None
        levels = pd.Index(self.schema_.fields[j].categories or (0, 1))
        return pd.DataFrame(np.concatenate(parts) if parts else np.zeros((0, len(levels))), index, levels)

    def _posterior_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        for part in self._parts(x, n):
            yield part, self._stack.complete(x[part], seen[part], n, generator)

    def _marginal_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        for part in self._parts(x, n):
            yield part, self._stack.marginals(x[part], seen[part], n, generator)

    @property
    def _stack(self) -> Stack:
        assert isinstance(self.model_, Stack)
        return self.model_

    def _parts(self, x: Tensor, n: int) -> Iterator[slice]:
        size = max(1, min(ROWS, CELLS // (n * self._stack.coding.n_features)))
        for i in range(0, len(x), size):
            yield slice(i, min(len(x), i + size))
