"""What a latent-variable model answers, by importance weights over its latents."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.answers.observation import Blanks, Flips, Observation
from abduce.answers.restore import Effort, evidence, posterior_draws, posterior_mean
from abduce.checks import check_choice
from abduce.compress import codec as coding
from abduce.estimators.generative import GenerativeModel, check_count
from abduce.fit import checkpoint as folders
from abduce.inference import annealing
from abduce.inference.importance import PRECISIONS, by_chunk, log_prob
from abduce.models.vae import VariationalAutoencoder


def warn_of_heavy_tails(pareto_k: Tensor, few: float = 0.01) -> None:
    """Warn where more than a few rows' importance weights have tails too heavy to average (k̂ > 0.7)."""
    heavy = int((pareto_k > 0.7).sum())
    if heavy > max(1, few * len(pareto_k)):
        worst = float(pareto_k[pareto_k > 0.7].max())
        warnings.warn(
            f"log p of {heavy} of {len(pareto_k)} rows is doubtful: the Pareto k of their importance weights is above "
            f"0.7, the worst {worst:.2f}. Give more samples, or method='ais'.",
            RuntimeWarning,
            stacklevel=3,
        )


class LatentModel(GenerativeModel):
    """The questions, of a model with latents."""

    model_: VariationalAutoencoder
    samples: int

    def _encode(self, X) -> tuple[Tensor, Tensor]:
        x, observed = super()._encode(X)
        beyond = observed & (x > self.model_.heads.limits())
        if bool(beyond.any()):
            row, j = beyond.nonzero()[0].tolist()
            raise ValueError(
                f"X: column {self.schema_.names[j]!r} has {float(x[row, j]):g} in row {row}, beyond the largest count of the "
                "training data, where likelihood 'beta_binomial' ends"
            )
        return x, observed

    # ------------------------------------------------------------------ answers in model space

    def _scores(self, x: Tensor, observed: Tensor, samples: int | None = None) -> np.ndarray:
        model = self.model_.joint()
        value = log_prob(model, x, observed, samples or self.samples, self.inference_seed_).value
        return value.numpy() + self.schema_.log_jacobian(x.numpy(), observed.numpy())

    def _codes(self, x: Tensor, observed: Tensor) -> Tensor:
        return by_chunk(lambda v, o: (self.model_.posterior(v, o).mean.detach(),), x, observed)[0]

    def _new(self, n: int, generator: torch.Generator) -> Tensor:
        return self.model_.sample(n, generator)

    def _best(self, x: Tensor, seen: Tensor) -> Tensor:
        model, effort = self.model_.joint(), Effort(samples=self.samples)
        moments, _ = posterior_mean(model, x, seen, effort=effort, seed=self.inference_seed_)
        return self.model_.heads.point(moments)

    def _posterior_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        # with a mask model blanks are among what is drawn and weighed: more of them fill the gaps between
        more = 1 if self.model_.mask_model is None else 4
        model, effort = self.model_.joint(), Effort(samples=more * self.samples)
        return posterior_draws(model, x, seen, n, generator, effort=effort, seed=self.inference_seed_)

    def _clean(self, y: Tensor, seen: Tensor, observation: Observation) -> np.ndarray:
        moments, _ = posterior_mean(
            self.model_, y, seen, observation, effort=self._noisy_effort(), seed=self.inference_seed_
        )
        if isinstance(observation, Flips):
            return self.model_.heads.point(moments).numpy()
        return moments[0].squeeze(-1).numpy()

    def _clean_draws(
        self, y: Tensor, seen: Tensor, observation: Observation, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        if isinstance(observation, Blanks):
            return self._posterior_draws(y, seen, n, generator)
        effort, seed = self._noisy_effort(), self.inference_seed_
        return posterior_draws(self.model_, y, seen, n, generator, observation, effort=effort, seed=seed)

    def _evidence(self, y: Tensor, seen: Tensor, observation: Observation) -> Tensor:
        return evidence(self.model_, y, seen, observation, self._noisy_effort(), self.inference_seed_)

    def _noisy_effort(self) -> Effort:
        """Work on what the encoder has not seen in training."""
        return Effort(samples=self.samples, rounds=8)

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    # ------------------------------------------------------------------ score

    def score_samples(self, X, samples: int | None = None) -> np.ndarray:
        """Log-probability of the observed cells of each row, nats, float64 ``(n,)``, by importance sampling.

        With ``missing="mnar"`` it is log p(x_obs, s), of the mask s too, which a complete row has as well as any other.
        Densities are in the data's own units.  The same seeded draws serve every row, so a row's score does not depend on
        which rows come with it.
        """
        return self._scores(*self._encode(X), samples)

    def log_prob(
        self,
        X,
        samples: int | None = None,
        method: str = "importance",
        return_diagnostics: bool = False,
        precision: str = "double",
        start: str = "posterior",
        temperatures: int = 100,
    ):
        """Estimate log p of the observed cells of each row, nats, float64 ``(n,)``, and say how far to trust it.

        With ``missing="mnar"`` it is log p(x_obs, s), of the mask s too.
        Every estimate is a stochastic lower bound: in expectation at most log p.  Densities are in the data's own units.  All
        rows share their seeded random numbers, so a row's value does not depend on which rows come with it.

        Parameters
        ----------
        X : as in ``fit``
        samples : int or None
            Importance draws (None: the model's ``samples``), annealed chains (None: 16) or particles (None: 64).
        method : "importance", "ais" or "smc"
            Draws from the encoder's posterior; annealed importance sampling; tempered sequential Monte Carlo.
        return_diagnostics : bool
            Return also a dict of arrays ``(n,)``: standard_error (nats), effective_sample_size, and pareto_k (importance;
            the estimate is doubtful above 0.7) or acceptance (annealing; of the moves).
        precision : "double" or "single"
            Of the networks; "single" is about twice as fast.
        start : "posterior" or "prior"
            Where annealing starts: the encoder's posterior, or the prior, which no fault of the encoder can mislead.
        temperatures : int
            Steps of annealing; tempered SMC chooses its own, at most ten times as many.
        """
        check_is_fitted(self)
        check_choice("method", method, ("importance", "ais", "smc"))
        check_choice("precision", precision, PRECISIONS)
        check_choice("start", start, annealing.STARTS)
        check_count("temperatures", temperatures)
        if samples is not None:
            check_count("samples", samples)
        x, observed = self._encode(X)
        if method == "importance":
            evidence = log_prob(
                self.model_.joint(), x, observed, samples or self.samples, self.inference_seed_, precision
            )
            extra = {"pareto_k": evidence.pareto_k.numpy()}
            warn_of_heavy_tails(evidence.pareto_k)
        else:
            evidence, acceptance = annealing.log_prob(
                self.model_.joint(),
                x,
                observed,
                method,
                samples or (16 if method == "ais" else 64),
                temperatures,
                start,
                seed=self.inference_seed_,
                precision=precision,
            )
            extra = {"acceptance": acceptance.numpy()}
        value = evidence.value.numpy() + self.schema_.log_jacobian(x.numpy(), observed.numpy())
        if not return_diagnostics:
            return value
        return value, {
            "standard_error": evidence.standard_error.numpy(),
            "effective_sample_size": evidence.effective_sample_size.numpy(),
            **extra,
        }

    def certify(
        self,
        n: int = 64,
        samples: int = 16,
        temperatures: int = 100,
        start: str = "posterior",
        random_state=None,
    ) -> dict[str, float]:
        """Bound log p from both sides on ``n`` rows simulated from the model: how far off can :meth:`log_prob` be?

        Annealed importance sampling with ``samples`` chains through ``temperatures`` steps bounds log p from below; run in
        reverse from the z that made each row, an exact posterior draw, it bounds log p from above (Grosse et al. 2015,
        arXiv:1511.02543).  Returns the means over rows ``lower`` and ``upper``, in the data's units, and their ``gap``, nats.
        """
        check_is_fitted(self)
        for name, value in (("n", n), ("samples", samples), ("temperatures", temperatures)):
            check_count(name, value)
        check_choice("start", start, annealing.STARTS)
        seed = self._generator(random_state).initial_seed()
        bounds = annealing.bidirectional(self.model_, n, samples, temperatures, start, seed=seed)
        x = bounds.x.numpy()
        units = float(np.mean(self.schema_.log_jacobian(x, np.ones(x.shape, dtype=bool))))
        lower, upper = float(bounds.lower.mean()), float(bounds.upper.mean())
        return {"lower": lower + units, "upper": upper + units, "gap": upper - lower}

    def effective_sample_size(self, X) -> np.ndarray:
        """Effective number of importance draws behind each row's score, between 1 and ``samples``, ``(n,)``."""
        x, observed = self._encode(X)
        evidence = log_prob(self.model_.joint(), x, observed, self.samples, self.inference_seed_)
        return evidence.effective_sample_size.numpy()

    # ------------------------------------------------------------------ represent

    @torch.no_grad()
    def inverse_transform(self, Z):
        """Decode latents ``(n, latent)`` to the mean of p(x|z), in the data's own form."""
        check_is_fitted(self)
        z = torch.as_tensor(np.asarray(Z, dtype=np.float64))
        if z.ndim != 2 or z.shape[1] != self.model_.latent_dim:
            raise ValueError(f"Z must have shape (n, {self.model_.latent_dim}), got {tuple(z.shape)}")
        return self.schema_.decode(self.model_.heads.point(self.model_.likelihood(z).moments()).numpy())

    # ------------------------------------------------------------------ compress

    def compress(self, X) -> bytes:
        """Compress X losslessly, bit for bit, by bits-back coding: about −log₂ p(x) bits a row.

        Numbers must have the fixed precision of the training data.  A data frame's index and left-out columns are carried
        along.  ValueError names the column of a value that the model has no code for.
        """
        check_is_fitted(self)
        if len(X):
            self._check_columns(X, reset=False)
        return coding.compress(self.model_, self.schema_, X, folders.fingerprint(*self._state()))

    def decompress(self, data: bytes):
        """Turn the bytes of :meth:`compress` back into X.

        Raises CompressedDataError (a ValueError) if they are of another model or format version, truncated or changed.
        """
        check_is_fitted(self)
        return coding.decompress(self.model_, self.schema_, data, folders.fingerprint(*self._state()))
