"""Strategy 6, limit the volume of low energy by a sparse code: sparse coding and predictive sparse decomposition."""

from __future__ import annotations

from torch import Tensor

from abduce.estimators.arguments import Arguments, TrainingArguments, check_components, preset
from abduce.estimators.autoencoders import ByReconstruction
from abduce.estimators.estimator import RunOptions
from abduce.estimators.fitted import FittedEnergy
from abduce.fit import classical as fitters
from abduce.inference.energy import Energy
from abduce.models.sparse_coding import PSDEnergy, SparseCodingEnergy


@preset
class SparseCoding(Arguments, FittedEnergy):
    """Sparse coding: E(y) = min_z ‖y − Wz‖² + λ‖z‖₁, a dictionary of unit columns; convex and even in y.

    scikit-learn learns the dictionary; the code is found by FISTA.

    Other arguments as in :class:`~abduce.estimators.arguments.Arguments`.

    Parameters
    ----------
    code : int or "auto"
        Columns of the dictionary; "auto" is 20, or the number of rows if there are fewer.
    sparsity : float
        λ, in standard deviations of the data.
    iterations : int
        Of FISTA.

    References
    ----------
    Olshausen & Field 1996; Beck & Teboulle 2009; Mairal et al. 2009 (online dictionary learning).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import SparseCoding
    >>> X = np.random.default_rng(0).laplace(size=(100, 3))
    >>> SparseCoding(code=4, random_state=0).fit(X).transform(X).shape
    (100, 4)
    """

    code: int | str = "auto"
    sparsity: float = 0.5
    iterations: int = 100

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        code = min(20, len(rows)) if self.code == "auto" else check_components("code", self.code, len(rows))
        dictionary = fitters.dictionary(x[rows], code, self.sparsity, seed)
        return SparseCodingEnergy.from_dictionary(dictionary, self.sparsity, self.iterations)


@preset
class PSD(TrainingArguments, ByReconstruction):
    """Predictive sparse decomposition: E(y) = min_z ½‖y − Dz‖² + λ‖z‖₁ + α‖z − f(y)‖², f an encoder that learns to guess z.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code : int
        Columns of D.
    sparsity, prediction : float
        λ and α.
    form : "optimal" or "predicted"
        The energy at the best code, or at f(y), which is quicker and bends with f.

    References
    ----------
    Kavukcuoglu, Ranzato & LeCun 2008 (arXiv:1010.3467).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import PSD
    >>> X = np.random.default_rng(0).laplace(size=(100, 3))
    >>> PSD(code=4, max_epochs=2, random_state=0).fit(X).transform(X).shape
    (100, 4)
    """

    code: int = 20
    sparsity: float = 0.02
    prediction: float = 1.0
    form: str = "predicted"
    learning_rate: float = 1e-2

    def _make(self, x: Tensor, seed: int) -> Energy:
        return PSDEnergy(x.shape[1], self.code, self.sparsity, self.prediction, self.form)
