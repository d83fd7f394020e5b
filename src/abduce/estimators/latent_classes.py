"""Latent classes: the mixture model of tables whose columns are all classes."""

from __future__ import annotations

from abduce.checks import check_number
from abduce.data.fields import CODED, listing
from abduce.data.seen import Seen
from abduce.estimators.arguments import Arguments, check_components, preset
from abduce.estimators.energies import DensityEstimator
from abduce.estimators.estimator import Rows, RunOptions
from abduce.fit.latent_classes import PSEUDO_ROWS, fit_latent_classes
from abduce.gaussians.em import one_thread
from abduce.models.energy_model import EnergyModel
from abduce.models.model import NORMALISED


@preset
class LatentClasses(Arguments, DensityEstimator[EnergyModel]):
    """A mixture of independent columns, p(x) = Σ_k π_k Π_j p_j(x_j | k), for yes or no, ordered and unordered classes.

    Everything is exact, fills, log p of rows with blanks and cleaning of flipped cells included; blanks in the training rows
    are met by EM.  ``transform`` gives the probability of each latent class.

    Other arguments as in :class:`~abduce.estimators.arguments.Arguments`.

    Parameters
    ----------
    components : int or "auto"
        Latent classes; "auto": 1, 2, 4, ..., 128, whichever predicts a tenth of the cells best, hidden from it.
    pseudo_rows : float
        How many rows with the columns' own shares each latent class has seen beforehand: above 0, so that no level has
        probability 0.

    References
    ----------
    Lazarsfeld & Henry 1968, Latent Structure Analysis; Goodman 1974 (maximum likelihood by EM).

    Examples
    --------
    >>> import pandas as pd
    >>> from abduce import LatentClasses
    >>> pets = pd.DataFrame({"says": ["meow", "woof"] * 20, "fetches": [False, True] * 20, "legs": ["four"] * 39 + ["three"]})
    >>> model = LatentClasses(random_state=0).fit(pets)
    >>> model.fill(pd.DataFrame({"says": [None], "fetches": [True], "legs": ["four"]}))
       says  fetches  legs
    0  woof     True  four
    """

    components: int | str = "auto"
    pseudo_rows: float = PSEUDO_ROWS

    supports = ("classes",)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        return tags

    def _check_own(self) -> None:
        if self.components != "auto":
            check_components("components", self.components, 10**9)
        check_number("pseudo_rows", self.pseudo_rows, 0, above=True)

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[EnergyModel, Seen]:
        schema = rows.schema
        wrong = [f for f in schema.fields if f.kind not in CODED]
        if wrong:
            named = f"{listing([f.name for f in wrong])} {'is' if len(wrong) == 1 else 'are'}"
            raise ValueError(
                f"LatentClasses takes classes, but {named} {', '.join(sorted({f.kind for f in wrong}))} "
                "(kinds='categorical' takes each value as a class)"
            )
        k = self.components
        if k != "auto":
            k = check_components("components", k, len(rows.x))
        levels = [f.levels or 2 for f in schema.cell_fields]
        with one_thread():
            energy = fit_latent_classes(rows.x, rows.mask, levels, k, rows.seed, float(self.pseudo_rows))
        return EnergyModel(energy.double(), partition=NORMALISED, levels=tuple(levels)), Seen(
            rows.x, rows.mask
        )
