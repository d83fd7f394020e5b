"""Strategies 5 to 7, auto-encoders: dynamics that go to the data, or a penalty that limits where reconstruction is good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from abduce.checks import check_count
from abduce.estimators.arguments import TrainingArguments, preset
from abduce.estimators.fitted import TrainedEnergy
from abduce.fit.loss import MeanEnergy
from abduce.inference.energy import Energy
from abduce.models.autoencoder import AutoencoderEnergy


class ByReconstruction(TrainedEnergy):
    """An energy that is trained by its own mean, and its penalty."""

    def _loop(self) -> dict[str, Any]:
        return {"steps": 4000, "weight_decay": 0.0}

    def _objective(self, model: Energy) -> MeanEnergy:
        return MeanEnergy()

    def _kernel(self, model: Energy) -> None:
        return None


class _Autoencoder(ByReconstruction):
    supports: ClassVar[tuple[str, ...]] = ("real", "binary")

    def _network(self, x: Tensor, **arguments: Any) -> Energy:
        return AutoencoderEnergy(x.shape[1], support=self.support_, **arguments)


@preset
class Autoencoder(TrainingArguments, _Autoencoder):
    """An auto-encoder with a narrow code: E(y) = ‖y − g(f(y))‖²; the code is what limits the volume of low energy.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code : int
        Units of the code, fewer than columns.
    hidden : sequence of int
        Layers before the code, mirrored after it.
    activation : "sigmoid", "tanh", "relu", "linear", "ramp" or "shrink"

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Autoencoder
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0]
    >>> model = Autoencoder(code=1, max_epochs=5, random_state=0).fit(X)
    >>> model.transform(X).shape, model.inverse_transform(model.transform(X)).shape
    ((200, 1), (200, 3))
    """

    code: int = 1
    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    learning_rate: float = 3e-3

    def _make(self, x: Tensor, seed: int) -> Energy:
        check_count("code", self.code)
        if self.code >= x.shape[1]:
            raise ValueError(
                f"code must be below the columns of X, got {self.code} for {x.shape[1]} feature(s)"
            )
        return self._network(x, code=self.code, hidden=tuple(self.hidden), activation=self.activation)


@preset
class DenoisingAutoencoder(TrainingArguments, _Autoencoder):
    """A denoising auto-encoder: trained to undo noise, it learns where the density rises, r(y) − y ≈ σ²∇log p_σ(y).

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code, hidden, activation
        As in :class:`Autoencoder`.
    corruption : float
        σ of the noise, in standard deviations of the data; on binary data the share of cells turned over.
    form : "reconstruction" or "potential"
        E = ‖y − r(y)‖², or for one tied sigmoid layer the potential whose slope r is, in nats,
        E = (½‖y−c‖² − Σ softplus(w_jᵀy+b_j))/σ²; it has no false valleys between the data, but bends less.

    References
    ----------
    Vincent et al. 2008; Vincent 2011; Alain & Bengio 2014 (arXiv:1211.4246).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import DenoisingAutoencoder
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0]
    >>> DenoisingAutoencoder(max_epochs=2, random_state=0).fit(X).energy(X).shape
    (200,)
    """

    code: int = 64
    hidden: Sequence[int] = (64,)
    activation: str = "tanh"
    corruption: float = 0.15
    form: str = "reconstruction"
    learning_rate: float = 3e-3

    def _make(self, x: Tensor, seed: int) -> Energy:
        potential = self.form == "potential"
        return self._network(
            x,
            code=self.code,
            hidden=() if potential else tuple(self.hidden),
            activation="sigmoid" if potential else self.activation,
            corruption=self.corruption,
            energy=self.form,
        )


@preset
class SparseAutoencoder(TrainingArguments, _Autoencoder):
    """An auto-encoder whose code is mostly off: reconstruction plus ``strength`` times an ℓ1 or KL penalty on the code.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code, hidden, activation
        As in :class:`Autoencoder`.
    strength : float
    target : float or None
        Mean activation that sigmoid codes are drawn to, by the KL divergence; None is ℓ1.

    References
    ----------
    Ranzato et al. 2006; Ng 2011 (lecture notes, Sparse autoencoder).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import SparseAutoencoder
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0]
    >>> SparseAutoencoder(max_epochs=2, random_state=0).fit(X).transform(X).shape
    (200, 50)
    """

    code: int = 50
    hidden: Sequence[int] = ()
    activation: str = "sigmoid"
    strength: float = 0.1
    target: float | None = 0.05
    learning_rate: float = 1e-2

    def _make(self, x: Tensor, seed: int) -> Energy:
        return self._network(
            x,
            code=self.code,
            hidden=tuple(self.hidden),
            activation=self.activation,
            penalty="sparse",
            strength=self.strength,
            target=self.target,
        )


@preset
class ContractiveAutoencoder(TrainingArguments, _Autoencoder):
    """An auto-encoder whose code barely moves: reconstruction plus ``strength`` ‖∂f/∂y‖²_F, weights tied.

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code, hidden, activation, strength
        As in :class:`SparseAutoencoder`.

    References
    ----------
    Rifai et al. 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import ContractiveAutoencoder
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0]
    >>> ContractiveAutoencoder(max_epochs=2, random_state=0).fit(X).transform(X).shape
    (200, 32)
    """

    code: int = 32
    hidden: Sequence[int] = (32,)
    activation: str = "tanh"
    strength: float = 0.03
    learning_rate: float = 1e-2

    def _make(self, x: Tensor, seed: int) -> Energy:
        return self._network(
            x,
            code=self.code,
            hidden=tuple(self.hidden),
            activation=self.activation,
            penalty="contractive",
            strength=self.strength,
        )


@preset
class SaturatingAutoencoder(TrainingArguments, _Autoencoder):
    """An auto-encoder whose units rest where they are flat: reconstruction plus ``strength`` Σ_j s_c(u_j).

    Other arguments as in :class:`~abduce.estimators.arguments.TrainingArguments`.

    Parameters
    ----------
    code, strength
        As in :class:`SparseAutoencoder`.
    activation : "ramp", "relu" or "shrink"

    References
    ----------
    Goroshin & LeCun 2013 (arXiv:1301.3577).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import SaturatingAutoencoder
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0]
    >>> SaturatingAutoencoder(max_epochs=2, random_state=0).fit(X).transform(X).shape
    (200, 50)
    """

    code: int = 50
    activation: str = "ramp"
    strength: float = 0.03
    learning_rate: float = 1e-2

    def _make(self, x: Tensor, seed: int) -> Energy:
        return self._network(
            x, code=self.code, activation=self.activation, penalty="saturating", strength=self.strength
        )
