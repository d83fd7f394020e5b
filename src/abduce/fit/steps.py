"""One forward pass of training, and how it is judged on rows held out: of models with latents, and of energies."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from abduce.data.masks import hide
from abduce.fit.bounds import Objective, forward_kl
from abduce.fit.ceiling import independent_log_prob, most_log_prob
from abduce.fit.loss import Loss
from abduce.fit.settings import Settings
from abduce.inference.diagnostics import Diagnosis, diagnose
from abduce.inference.latent import LatentVariableModel
from abduce.together import gathered

ROWS = 1000  # held-out rows that are judged at once
SPLIT = 512  # of which the split of the ELBO is told
WORSE = 0.02  # of the log p of columns of their own: how far below a model is worth a word
USED = 0.01  # nats: a unit with a smaller KL tells nothing about a row


class Step(nn.Module, abc.ABC):
    """One forward pass, and how it is judged: an interface."""

    comparable: bool  # whether the value on held-out rows measures progress; else it only shows where a run went wrong

    @abc.abstractmethod
    def forward(
        self, x: Tensor, observed: Tensor | None, progress: float, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """A batch's loss, and the value to report, both scalars; a larger value is better."""

    @abc.abstractmethod
    def value(self, x: Tensor, observed: Tensor | None, seed: int) -> float:
        """The value of rows, with the same random numbers every time."""

    @abc.abstractmethod
    def validate(self, x: Tensor, observed: Tensor | None, seed: int) -> dict[str, Any]:
        """The :meth:`value` of held-out rows as ``valid``, and what else there is to tell."""

    def doubt(self, x: Tensor, observed: Tensor | None) -> str | None:
        """What is doubtful about a trained model by these rows, and what to try; None where nothing is."""
        return None

    def constrain(self) -> None:
        """Put parameters back where they have to be, after an optimiser's step; most may be anywhere."""
        return


class LatentStep(Step):
    """The objective on what is observed, plus the partial encoder's fit to a more hidden row; of ``n`` rows in all."""

    comparable = True

    def __init__(self, model: LatentVariableModel, objective: Objective, settings: Settings, n: int):
        super().__init__()
        self.model, self.objective, self.settings = model, objective, settings
        self.rows = len(settings.split(n)[0])  # that it is trained on

    def forward(self, x, observed, progress, generator):
        keep = None
        # a share of the steps teaches the partial encoder, by all rows: a share of each step's rows would cost twice as much
        if (
            self.settings.masking
            and float(torch.rand((), generator=generator, device=x.device)) < self.settings.partial
        ):
            seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
            keep = hide(seen, self.settings.event_shape, generator)
        bound = self.objective(self.model, x, observed, progress, generator, self.rows)
        loss, trim = bound.loss, self.settings.trim
        if keep is not None:
            loss = loss + forward_kl(self.model, x, keep, bound.z)
        if trim:
            kept = bound.value >= torch.quantile(gathered(bound.value), trim)
            share = gathered(kept.to(loss)).mean()
            return loss[kept].sum() / (share * len(kept)), bound.value.mean()
        return loss.mean(), bound.value.mean()

    @torch.no_grad()
    def value(self, x, observed, seed):
        generator = Generator(device=x.device).manual_seed(seed)
        values = []
        for index in torch.arange(len(x)).chunk(math.ceil(len(x) / ROWS)):  # evenly: none is of one row
            seen = None if observed is None else observed[index]
            values.append(self.objective(self.model, x[index], seen, 1.0, generator, len(x)).value)
        value, trim = torch.cat(values), self.settings.trim
        kept = value[value >= torch.quantile(value, trim)] if trim else value
        return float(kept.mean())

    def validate(self, x, observed, seed):
        found = self._diagnose(x, observed)
        split = {name: getattr(found, name) for name in ("reconstruction", "kl", "active_units")}
        units = {} if found.kl_per_unit is None else {"kl_per_unit": list(found.kl_per_unit)}
        return {"valid": self.value(x, observed, seed)} | split | units

    def doubt(self, x, observed):
        found, units = self._diagnose(x, observed), self.model.noise_dim
        told = max(found.kl_per_unit or (found.kl / units,))
        if not told < USED:
            return None
        return (
            f"the posterior collapsed: none of {units} latent units tells anything about a row (KL {found.kl:.2g} nats), "
            "so the model is at best that of columns that do not depend on each other. If they do depend, try a longer run "
            "(max_epochs), masking=False, prior='normal', another learning_rate, or ELBO(warmup=0.5, free_bits=0.1)"
        )

    def _diagnose(self, x: Tensor, observed: Tensor | None) -> Diagnosis:
        some = slice(None, SPLIT)
        return diagnose(self.model, x[some], None if observed is None else observed[some], samples=1)


class EnergyStep(Step):
    """The loss of an energy on complete rows.

    Where the loss is not comparable the value is the most that log p of rows can be, and no more than that of columns that do
    not depend on each other: below it a run has gone wrong, there it says nothing.
    """

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss, self.comparable = loss, loss.comparable

    def forward(self, x, observed, progress, generator):
        loss = self.loss(x, generator).mean()
        return loss, -loss.detach()

    def value(self, x, observed, seed):
        generator = Generator(device=x.device).manual_seed(seed)
        if not self.comparable:
            return min(self._most(x, generator), independent_log_prob(self.loss.model, x))
        # losses of the score differentiate by x themselves: no no_grad here
        values = [self.loss(part, generator).detach() for part in x.split(ROWS)]
        return -float(torch.cat(values).mean())

    def validate(self, x, observed, seed):
        return {"valid": self.value(x, observed, seed)}

    def doubt(self, x, observed):
        if self.comparable:
            return None
        most = self._most(x, Generator(device=x.device).manual_seed(0))
        least = independent_log_prob(self.loss.model, x)
        if not most < least - WORSE * (1 + abs(least)):
            return None
        return (
            f"training ended with a model worse than columns that do not depend on each other: log p of a row is on average "
            f"at most {most:.6g} nats, theirs is {least:.6g}. Try another learning_rate, a longer run (max_epochs), or "
            "another objective"
        )

    def _most(self, x: Tensor, generator: Generator) -> float:
        return most_log_prob(self.loss.model, x, self.loss.states(x, generator), generator)

    def constrain(self):
        project: Any = getattr(self.loss.model, "project_", None)
        if project is not None:
            project()
