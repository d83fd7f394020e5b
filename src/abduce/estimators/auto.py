"""The model that serves tables best: several members of the house, pooled by how well they predict hidden cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_count, check_number
from abduce.data.seen import Seen
from abduce.estimators.arguments import Arguments, preset
from abduce.estimators.bootstrap import Encoded
from abduce.estimators.energies import DensityEstimator
from abduce.estimators.estimator import Estimator, Rows, RunOptions
from abduce.fit.budget import Clock, FitPlan, fit_within
from abduce.fit.oddness import fit_oddness
from abduce.fit.pool import Family, GivenMember, fit_pool, turns_of
from abduce.fit.table_members import COMPONENTS, table_families
from abduce.models.model import Model
from abduce.models.pool import Pool

MOST_SECONDS = 1e9  # of a budget


@preset
class Auto(Arguments, DensityEstimator[Pool]):
    """Fit one Gaussian, mixtures of factor analysers and Parzen windows, of numbers and of their normal scores, and pool them.

        p(x_blank | x_seen) = Σ_m w_m p_m(x_blank | x_seen)

    A tenth of the observed cells is hidden from the members; weights are what predicts these best (squared error of
    numbers, log loss of classes), and each member is then refitted to all cells.  So the pool is hardly ever worse than its
    best member, of which one is a plain Gaussian.  `score_samples` is log Σ_m v_m p_m(x), of one density; fills, draws and
    intervals come from the pool, and trees revise the columns that they fill better.  Rows may mix numbers, dates, classes
    and blanks; a value that repeats, such as a spike at zero, is drawn as often as it occurs.  Odd rows are told by how far
    they lie from training rows (:mod:`abduce.models.oddness`), which serves better than a density.  Blanks are taken to be
    missing at random.  :meth:`members` says who got which weight, :meth:`revised` what share trees have.

    Other arguments as in :class:`~abduce.estimators.arguments.Arguments`.

    Parameters
    ----------
    components : sequence of int
        Sizes of the mixtures of factor analysers, the first of them 1.
    rows : int
        Rows to fit to, at most; of more a random sample is taken.
    extra : sequence of estimators
        Models to pool besides: a :class:`~abduce.VAE`, an :class:`~abduce.RBM`, a :class:`~abduce.KMeans`.  Clones of them are
        fitted to the same rows, as often as the other members are.
    trees : bool
        Whether forests of extremely randomised trees, which read rows as the members complete them, revise those columns that
        they predict better: columns that split and bend sharply.  Log p is that of the members.
    budget : float or None
        Seconds that a fit may take, about; None for as long as it takes.  With a number it is fitted to as many rows as
        there is time for, more than ``rows`` too, and with very few seconds one Gaussian stands alone: ``plan_`` says what
        was done, :meth:`members` what was left out.  What is fitted then hangs on the clock: the same seed gives the same
        numbers only without a budget.  Where ``plan_["skipped"]`` is empty and every member was tried, ``rows=plan_["rows"]``
        and the same seed repeat the fit.
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far the fit has come, ``stage`` what it is at.

    Notes
    -----
    A class is predicted by the normalised conditional means of its indicators; each member's classes follow one another in
    the order of the columns, after the numbers, which makes log p that of a probability.  Denoising goes by the Gaussian
    and the mixtures of the numbers.  Rows are compressed without the model.

    References
    ----------
    Ghahramani & Hinton 1996 (mixtures of factor analysers); Vincent & Bengio 2003 (Parzen windows along the manifold);
    Breiman 1996 (stacked regressions); Geurts, Ernst & Wehenkel 2006 (extremely randomised trees); Liu et al. 2009 (normal
    scores).

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
    trees: bool = True
    extra: Sequence[Any] = ()
    budget: float | None = None
    callback: Callable[[dict[str, Any]], Any] | None = None

    supports = ("mixed",)
    judged = 1000  # training rows, at most, that set `offset_`: log p of many members takes long

    def _check_own(self) -> None:
        check_count("rows", self.rows)
        if self.budget is not None:
            check_number("budget", self.budget, 0, MOST_SECONDS, above=True, unit=" seconds, or None")
        try:
            sizes = tuple(self.components)
        except TypeError:
            raise ValueError(f"components must be a sequence of ints, got {self.components!r}") from None
        if not sizes or sizes[0] != 1:
            raise ValueError(f"components must start with 1, got {self.components!r}")
        for size in sizes:
            check_count("components", size)
        for given in self.extra:
            if not isinstance(given, Estimator):
                raise ValueError(f"extra must be estimators of abduce, got {given!r}")

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[Pool, Seen]:
        if rows.schema.container == "image":
            raise ValueError(
                "Auto is for tables; for images take MixtureEnsemble, which restores them best, or VAE"
            )
        if len(rows.x) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        clock = Clock(self.budget)
        odd = fit_oddness(rows.schema, rows.x.numpy(), rows.mask.numpy(), rows.seed)
        if self.budget is None:
            pool = self._pool(FitPlan(self.rows, True), rows, clock)
        else:
            cells = float(rows.mask.sum()) / len(rows.x)
            pool, plan = fit_within(
                clock,
                len(rows.x),
                lambda n: turns_of(n * cells),
                lambda plan: self._pool(plan, rows, clock),
            )
            self.plan_ = {
                "rows": plan.rows,
                "members": "all" if plan.every else "one Gaussian",
                "skipped": list(clock.skipped),
                "seconds": clock.passed,
            }
            if not plan.every:
                pool.reports.append({"member": "all others", "left_out": f"the budget, {self.budget:g} s"})
        pool.oddness = odd
        return pool, Seen(rows.x, rows.mask)

    def _pool(self, plan: FitPlan, rows: Rows, clock: Clock) -> Pool:
        """A pool of what is planned."""
        values, observed = rows.x.numpy(), rows.mask.numpy()
        if len(values) > plan.rows:
            rng = np.random.default_rng(rows.seed)
            chosen = np.sort(rng.permutation(len(values))[: plan.rows])
            values, observed = values[chosen], observed[chosen]

        def show(text: str, share: float) -> None:
            if self.callback is not None:
                self.callback({"epoch": share, "epochs": 1.0, "stage": text})

        families: list[Family] = list(
            table_families(rows.schema, values, observed, tuple(self.components), rows.seed, plan.every)
        )
        for i, given in enumerate(self.extra if plan.every else ()):
            families.append(GivenMember(f"{type(given).__name__} {i + 1}", values, self._fitter(given, rows)))
        trees = self.trees and plan.every
        return fit_pool(rows.schema, values, observed, families, rows.seed, show, trees, clock, plan.turns)

    def _fitter(self, given: Estimator, rows: Rows) -> Callable[[np.ndarray, np.ndarray], Model]:
        """What fits a clone of an estimator to rows in model space."""

        def fit(values: np.ndarray, observed: np.ndarray) -> Model:
            fresh: Any = clone(given)
            fresh.set_params(random_state=rows.seed)
            fresh.fit(Encoded(rows.schema, values, observed))._know_log_z()  # what whole rows are weighed by
            return fresh.model_

        return fit

    def members(self) -> pd.DataFrame:
        """Members with their weights and how they predicted hidden cells: ``error`` in standard deviations, ``log_loss`` nats.

        ``weight`` is that of numbers, ``class_weight`` of classes, ``row_weight`` of log p.  Members that are no longer there
        come last; ``left_out`` says why.
        """
        check_is_fitted(self)
        table = pd.DataFrame(self.model_.reports).set_index("member")
        table[[c for c in table if str(c).endswith("weight")]] = table.filter(like="weight").fillna(0.0)
        return table.fillna({"left_out": ""}) if "left_out" in table else table

    def revised(self) -> pd.Series:
        """The share that trees have in each column's blanks, beside all members together; 0 where they tell nothing new."""
        check_is_fitted(self)
        fields = self.schema_.cell_fields
        forests = self.model_.forests
        shares = np.zeros(len(fields)) if forests is None else forests.lean.numpy()
        return pd.Series(shares, index=[f.name for f in fields], name="trees")
