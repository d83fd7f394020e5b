"""Strategies 2 to 4, push the energy down here and up elsewhere: Boltzmann machines and free-form energy networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from abduce.checks import check_count
from abduce.estimators.arguments import TrainingArguments, preset
from abduce.estimators.fitted import TrainedEnergy
from abduce.fit.contrastive import ContrastiveDivergence, PseudoLikelihood
from abduce.fit.loss import EnergyObjective
from abduce.fit.matching import DenoisingScoreMatching
from abduce.inference.energy import Energy
from abduce.inference.gibbs import BlockGibbs, Gibbs, GibbsWithGradients
from abduce.inference.langevin import Langevin
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy
from abduce.models.network import NetworkEnergy

PERSISTENT = ContrastiveDivergence(k=1, persistent=True)


@preset
class RBM(TrainingArguments, TrainedEnergy):
    """A restricted Boltzmann machine: E(v) = −bᵀv − Σ_j softplus(c_j + W_jᵀv) on binary data, with a bowl for −bᵀv on numbers.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    hidden : int
        Hidden units.
    objective : "auto" or an objective
        "auto" is persistent contrastive divergence; on binary data also ``ContrastiveDivergence``, ``MinimumProbabilityFlow``,
        ``PseudoLikelihood``, ``RatioMatching``, ``NCE``, and ``MaximumLikelihood`` where a side has at most 20 units.
    learning_rate : float or "auto"
        "auto": 0.05 of plain gradient steps for contrastive divergence, 0.01 of Adam for the others.

    References
    ----------
    Smolensky 1986; Hinton 2002; Tieleman 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import RBM
    >>> X = (np.random.default_rng(0).random((200, 1)) < 0.5) ^ (np.random.default_rng(1).random((200, 6)) < 0.1)
    >>> model = RBM(hidden=4, max_epochs=5, random_state=0).fit(X.astype(float))
    >>> model.log_z_.kind
    'exact'
    """

    supports: ClassVar[tuple[str, ...]] = ("binary", "real")
    hidden: int = 100
    objective: EnergyObjective | str = "auto"
    learning_rate: float | str = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]

    def _make(self, x: Tensor, seed: int) -> Energy:
        check_count("hidden", self.hidden)
        family = RBMEnergy if self.support_ == "binary" else GaussianRBMEnergy
        return family.start(x, self.hidden, torch.Generator().manual_seed(seed))

    def _objective(self, model: Energy | None) -> Any:
        return PERSISTENT if self.objective == "auto" else self.objective

    def _kernel(self, model: Any) -> Any:
        return BlockGibbs(model)

    def _loop(self) -> dict[str, Any]:
        if isinstance(self._objective(None), ContrastiveDivergence):
            loop = {"optimizer": "sgd", "schedule": "linear", "average": 0.1, "steps": 6000}
            rate = 0.05
        else:  # losses of other scales, which Adam does not mind
            loop, rate = {"steps": 3000, "weight_decay": 0.0}, 0.01
        return loop | ({"learning_rate": rate} if self.learning_rate == "auto" else {})


@preset
class Ising(TrainingArguments, TrainedEnergy):
    """The fully visible Boltzmann machine: E(x) = −½ xᵀJx − bᵀx on binary data, all pairs of cells coupled.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    objective : "auto" or an objective
        "auto" is pseudo-likelihood, which is convex here; also ``MinimumProbabilityFlow``, ``RatioMatching``, ``NCE``,
        ``ContrastiveDivergence``, and ``MaximumLikelihood`` up to 20 cells.

    References
    ----------
    Besag 1975; Ackley, Hinton & Sejnowski 1985.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Ising
    >>> X = np.repeat(np.random.default_rng(0).random((300, 2)) < 0.5, 2, axis=1).astype(float)
    >>> model = Ising(max_epochs=50, learning_rate=0.05, random_state=0).fit(X)
    >>> model.fill([[1.0, np.nan, 0.0, np.nan]])
    array([[1., 1., 0., 0.]])
    """

    supports: ClassVar[tuple[str, ...]] = ("binary",)
    objective: EnergyObjective | str = "auto"
    learning_rate: float = 0.01

    def _make(self, x: Tensor, seed: int) -> Energy:
        return IsingEnergy.start(x)

    def _objective(self, model: Energy) -> Any:
        return PseudoLikelihood() if self.objective == "auto" else self.objective

    def _kernel(self, model: Energy) -> Any:
        return Gibbs(model)

    def _loop(self) -> dict[str, Any]:
        return {"steps": 3000}


@preset
class EnergyNetwork(TrainingArguments, TrainedEnergy):
    """A network as energy: E(x) = f(x) + ‖x‖²/2w² on numbers, f(x) on binary data; any objective shapes it.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the layers, or channels of the convolutions.
    activation : "silu", "tanh", "relu", "gelu" or "elu"
    architecture : "mlp" or "conv"
        "conv" for images.
    width : float
        w, in standard deviations of the data: what p falls back to far away.
    objective : "auto" or an objective
        "auto" is denoising score matching on numbers and persistent contrastive divergence on binary data; also
        ``ScoreMatching``, ``SlicedScoreMatching``, ``NCE``, ``ContrastiveDivergence``, ``MaximumLikelihood`` (up to two
        columns), and the objectives of binary data.
    step_size : float
        Of the sampler in contrastive divergence, in standard deviations of the data.

    References
    ----------
    Hyvärinen 2005; Vincent 2011; Song et al. 2019 (arXiv:1905.07088); Du & Mordatch 2019 (arXiv:1903.08689).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import EnergyNetwork
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> model = EnergyNetwork(hidden=(16,), max_epochs=20, random_state=0).fit(X)
    >>> model.normalize().kind
    'quadrature'
    """

    supports: ClassVar[tuple[str, ...]] = ("real", "binary")
    hidden: Sequence[int] = (128, 128)
    activation: str = "silu"
    architecture: str = "mlp"
    width: float = 2.0
    objective: EnergyObjective | str = "auto"
    step_size: float = 0.1

    def _make(self, x: Tensor, seed: int) -> Energy:
        return NetworkEnergy(
            x.shape[1],
            tuple(self.hidden),
            self.activation,
            self.schema_.shape if self.architecture == "conv" else None,
            self.architecture,
            self.support_,
            self.width,
        )

    def _objective(self, model: Energy) -> Any:
        if self.objective != "auto":
            return self.objective
        return DenoisingScoreMatching(0.1) if model.support == "real" else PERSISTENT

    def _kernel(self, model: Energy) -> Any:
        if model.support == "real":
            return Langevin(model, self.step_size)
        return GibbsWithGradients(model, flips=4)

    def _loop(self) -> dict[str, Any]:
        return {"steps": 5000}
