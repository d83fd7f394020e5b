"""The one training loop, for bounds of latent-variable models and for losses of energies alike.

Data stay in memory on the device and are indexed, a batch at a time, from one shuffled order an epoch.  A seeded part is
held out: the bound on it picks the best weights and stops the run when it no longer rises.  Where the loss does not measure
progress (contrastive divergence) the last weights stay, or the average over the last part of the run.  Every epoch's figures
go to ``history``.  With a ``checkpoint`` folder the whole state is written there now and then, and a run that finds a state
of the same data and settings goes on from it to the same numbers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from abduce.data.masks import hide
from abduce.fit.bounds import Objective, forward_kl
from abduce.fit.checkpoint import TrainingState, data_digest
from abduce.fit.loss import Loss
from abduce.inference.diagnostics import diagnose
from abduce.inference.energy import Diverged
from abduce.inference.latent import LatentVariableModel
from abduce.nets.mlp import OwnRate


@dataclass(frozen=True)
class Settings:
    """How to train.  ``epochs`` None: chosen from the data's size so that small tables take seconds."""

    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 5.0  # longest gradient, in units of the root of the number of cells: a loss sums over them
    validation: float = 0.1
    patience: int | None = 30  # checks of the held-out bound without a new best before the run stops
    partial: float = 1.0  # share of a batch whose rows also teach the partial encoder
    linear_rate: float = 1.0  # learning rate of a linear path, relative to the networks'
    mask_rate: float = 1.0  # learning rate of a mask model, likewise
    masking: bool = True  # hide parts of rows and fit the encoder of what is left to the fuller posterior
    trim: float = 0.0  # share of the rows of a batch, the least plausible ones, that do not train the model
    device: str = "auto"
    seed: int = 0
    event_shape: tuple[int, ...] = ()
    optimizer: str = "adamw"  # or "sgd"
    schedule: str = "cosine"  # of the learning rate; or "linear", down to zero
    average: float = 0.0  # share of the run, at its end, whose weights are averaged

    steps: int = 12_000  # to choose the epochs by, where they are not given

    def n_epochs(self, rows: int) -> int:
        """Epochs to run: about ``steps`` steps, between 10 and 600 epochs."""
        if self.epochs is not None:
            return self.epochs
        return int(min(600, max(10, self.steps / max(1, math.ceil(rows / self.batch_size)))))

    def split(self, n: int) -> tuple[Tensor, Tensor]:
        """Rows to train on and rows held out, by the seed; below 20 rows none are held out."""
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        held = int(self.validation * n) if n >= 20 else 0
        return order[held:], order[:held]


@dataclass
class Run:
    """What a training run leaves: its history, and whether it was interrupted."""

    history: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    best_epoch: int = -1


class Step(nn.Module):
    """One forward pass, and how it is judged: an interface."""

    model: nn.Module
    comparable: bool  # whether the value on held-out rows measures progress

    def forward(
        self, x: Tensor, observed: Tensor | None, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A batch's loss, and the value to report, both scalars; a larger value is better."""
        raise NotImplementedError

    def validate(self, x: Tensor, observed: Tensor | None, seed: int) -> dict[str, Any]:
        """The value of held-out rows as ``valid``, with the same random numbers every time, and what else there is to tell."""
        raise NotImplementedError

    def constrain(self) -> None:
        """Put parameters back where they have to be, after an optimiser's step."""


class LatentStep(Step):
    """The objective on what is observed, plus the partial encoder's fit to a more hidden row."""

    comparable = True

    def __init__(self, model: LatentVariableModel, objective: Objective, settings: Settings, rows: int):
        super().__init__()
        self.model: LatentVariableModel = model
        self.objective, self.settings = objective, settings
        self.rows = rows  # size of the data

    def forward(self, x, observed, progress, generator):
        keep = None
        if self.settings.masking:
            seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
            keep = hide(seen, self.settings.event_shape, generator)
        bound = self.objective(self.model, x, observed, progress, generator, self.rows)
        loss, trim = bound.loss, self.settings.trim
        if keep is not None:
            n = max(1, round(self.settings.partial * len(x)))
            part = forward_kl(self.model, x[:n], keep[:n], bound.z[:n])
            loss = torch.cat([loss[:n] + part, loss[n:]])
        if trim:
            loss = loss[bound.value >= torch.quantile(bound.value, trim)]
        return loss.mean(), bound.value.mean()

    @torch.no_grad()
    def validate(self, x, observed, seed):
        generator = torch.Generator(device=x.device).manual_seed(seed)
        values = []
        for index in torch.arange(len(x)).chunk(
            math.ceil(len(x) / 1000)
        ):  # evenly, so that none is of one row
            ob = None if observed is None else observed[index]
            values.append(self.objective(self.model, x[index], ob, 1.0, generator, len(x)).value)
        value, trim = torch.cat(values), self.settings.trim
        kept = value[value >= torch.quantile(value, trim)] if trim else value
        return {"valid": float(kept.mean())} | _split(self.model, x, observed)


class EnergyStep(Step):
    """The loss of an energy on complete rows."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss
        self.comparable = loss.comparable

    def forward(self, x, observed, progress, generator):
        loss = self.loss(x, generator).mean()
        return loss, -loss.detach()

    def validate(self, x, observed, seed):
        generator = torch.Generator(device=x.device).manual_seed(seed)
        # losses of the score differentiate by x themselves
        return {
            "valid": -float(torch.cat([self.loss(part, generator).detach() for part in x.split(1000)]).mean())
        }

    @property
    def model(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The energy, which is the loss's: one module has one name in a saved state."""
        return self.loss.model

    def constrain(self):
        project: Any = getattr(self.model, "project_", None)
        if project is not None:
            project()


def train(
    model: LatentVariableModel,
    objective: Objective,
    x: Tensor,
    observed: Tensor,
    settings: Settings,
    callback: Callable[[dict[str, float]], Any] | None = None,
    checkpoint: Path | None = None,
    redraw: Callable[[int], Tensor] | None = None,
) -> Run:
    """Fit a latent-variable model in place to the observed cells of ``x`` and leave its best weights in it."""
    rows = len(settings.split(len(x))[0])
    return descend(
        LatentStep(model, objective, settings, rows), x, observed, settings, callback, checkpoint, redraw
    )


def train_energy(
    loss: Loss,
    x: Tensor,
    settings: Settings,
    callback: Callable[[dict[str, float]], Any] | None = None,
    checkpoint: Path | None = None,
    redraw: Callable[[int], Tensor] | None = None,
) -> Run:
    """Fit an energy in place to complete rows ``x`` by what ``objective.start`` gave."""
    observed = torch.ones_like(x, dtype=torch.bool)
    return descend(EnergyStep(loss), x, observed, settings, callback, checkpoint, redraw)


def descend(
    step: Step,
    x: Tensor,
    observed: Tensor,
    settings: Settings,
    callback: Callable[[dict[str, float]], Any] | None = None,
    checkpoint: Path | None = None,
    redraw: Callable[[int], Tensor] | None = None,
) -> Run:
    """Minimise a step's loss over the rows of ``x`` and leave the best weights in its model.

    ``redraw(epoch)`` gives the values of an epoch afresh, in the shape of ``x`` (dynamic binarisation, augmentation); the
    held-out rows stay as they are in ``x``.

    KeyboardInterrupt ends the run early with the best weights so far.
    """
    fabric = Fabric(accelerator=settings.device, devices=1)
    generator = torch.Generator(device=fabric.device).manual_seed(settings.seed)
    complete = bool(observed.all())
    x = fabric.to_device(x)
    mask = None if complete else fabric.to_device(observed)

    rows, held = (part.to(x.device) for part in settings.split(len(x)))
    epochs = settings.n_epochs(len(rows))
    stepper, optimizer = fabric.setup(step, _optimizer(step, settings))

    parameters = list(step.parameters())
    batch = min(settings.batch_size, len(rows))
    n_steps = max(1, len(rows) // batch)
    total = epochs * n_steps
    run = Run()
    best = (-math.inf, copy.deepcopy(step.state_dict()))
    held_x, held_mask = x[held], None if mask is None else mask[held]
    judged = step.comparable and len(held) > 0
    if judged:  # where training starts is a candidate too: a linear path may be all that the data ask for
        step.eval()
        best, run.best_epoch = (step.validate(held_x, held_mask, settings.seed)["valid"], best[1]), 0
    average = _Average(step, settings.average * total) if settings.average else None
    bad = 0
    state, first = None, 0
    if checkpoint:
        identity = {"settings": {**asdict(settings), "device": None}, "data": data_digest(x, observed)}
        state = TrainingState(checkpoint, identity)
    if state and state.exists():
        progress, tensors = state.load()
        step.load_state_dict(tensors["model"])
        generator.set_state(tensors["generator"]["state"].cpu())
        _load_moments(optimizer, tensors.get("moments", {}))  # plain gradient steps have none
        first, bad = progress["epoch"], progress["bad"]
        run.history, run.best_epoch = progress["history"], progress["best_epoch"]
        if "best" in tensors:
            best = (progress["best"], tensors["best"])
        if average is not None and "average" in tensors:
            average.load(tensors["average"], progress["averaged"])

    started = time.perf_counter()
    every = max(1, epochs // 100)
    epoch = first - 1
    try:
        for epoch in range(first, epochs):
            step.train()
            values = x if redraw is None else fabric.to_device(redraw(epoch))
            shuffled = rows[torch.randperm(len(rows), generator=generator, device=x.device)]
            total_value = x.new_zeros(())
            for i in range(n_steps):
                index = shuffled[i * batch : (i + 1) * batch]
                xb = values.index_select(0, index)
                ob = None if mask is None else mask.index_select(0, index)
                progress = (epoch * n_steps + i) / total
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * _rate(progress, settings.schedule)
                loss, value = stepper(xb, ob, progress, generator)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                if settings.clip:
                    _clip(parameters, settings.clip * math.sqrt(x.shape[1]))
                optimizer.step()
                step.constrain()
                if average is not None:
                    average.add(total - epoch * n_steps - i)
                total_value += value
            record = {
                "epoch": epoch + 1,
                "epochs": epochs,
                "train": float(total_value) / n_steps,
                "seconds": time.perf_counter() - started,
            }
            last = epoch + 1 == epochs
            if judged and ((epoch + 1) % every == 0 or last):
                step.eval()
                record |= step.validate(held_x, held_mask, settings.seed)
                if record["valid"] > best[0]:
                    best, bad = (record["valid"], copy.deepcopy(step.state_dict())), 0
                    run.best_epoch = epoch + 1
                else:
                    bad += 1
            run.history.append(record)
            if callback:
                callback(record)
            if state and ((epoch + 1) % every == 0 or last):
                progress = {
                    "epoch": epoch + 1,
                    "bad": bad,
                    "history": run.history,
                    "best_epoch": run.best_epoch,
                }
                groups = {"model": step.state_dict(), "moments": _moments(optimizer)}
                if best[0] > -math.inf:
                    progress["best"], groups["best"] = best
                if average is not None:
                    progress["averaged"], groups["average"] = average.count, average.state()
                state.save(progress, generator={"state": generator.get_state()}, **groups)
            if settings.patience and bad >= settings.patience:
                break
            if not math.isfinite(record["train"]):
                raise Diverged(
                    f"training diverged in epoch {epoch + 1} (loss {-record['train']}); try a smaller learning_rate"
                )
    except KeyboardInterrupt:
        run.interrupted = True
    if best[0] > -math.inf:
        step.load_state_dict(best[1])
    elif average is not None and average.count:
        average.store()
    step.eval()
    step.to("cpu")
    return run


def _optimizer(step: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    groups = _parameter_groups(step, settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, fused=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


class _Average:
    """The running mean of the weights over the last part of a run (Polyak & Juditsky 1992): the noise of steps evens out."""

    def __init__(self, step: Step, last: float):
        self.parameters = list(step.parameters())
        self.last, self.count = last, 0
        self.mean = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def add(self, left: int) -> None:
        """Count in the weights, if no more than the last steps are left."""
        if left <= self.last:
            self.count += 1
            for mean, parameter in zip(self.mean, self.parameters, strict=True):
                mean.lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def store(self) -> None:
        """Put the mean in the weights' place."""
        for parameter, mean in zip(self.parameters, self.mean, strict=True):
            parameter.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        """What a stopped run goes on from."""
        return {str(i): t for i, t in enumerate(self.mean)}

    def load(self, tensors: dict[str, Tensor], count: int) -> None:
        """Go on from :meth:`state`."""
        self.mean, self.count = [tensors[str(i)] for i in range(len(tensors))], count


def _parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Decay only the networks' matrices; modules that declare a rate of their own move at it, undecayed."""
    rates = {"linear": settings.linear_rate, "mask": settings.mask_rate}
    own = {p: rates[m.rate] for m in model.modules() if isinstance(m, OwnRate) for p in m.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = settings.learning_rate * own.get(parameter, 1.0)
        decay = settings.weight_decay if parameter.ndim > 1 and parameter not in own else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "base": r, "weight_decay": w} for (r, w), p in groups.items()]


def _clip(parameters: list[nn.Parameter], most: float) -> None:
    """Scale gradients down to a norm of ``most``, in one pass where they are smaller already."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm > most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)


def _moments(optimizer: Any) -> dict[str, Tensor]:
    """Adam's state as a flat dictionary of tensors."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": t for i, state in states.items() for name, t in state.items()}


def _load_moments(optimizer: Any, moments: dict[str, Tensor]) -> None:
    body = optimizer.state_dict()
    for key, tensor in moments.items():
        i, name = key.split(".", 1)
        body["state"].setdefault(int(i), {})[name] = tensor
    optimizer.load_state_dict(body)


def _rate(progress: float, schedule: str = "cosine") -> float:
    """Learning-rate factor: a short linear start, then a cosine down to a twentieth, or a line down to zero."""
    if schedule == "linear":
        return 1 - progress
    if progress < 0.02:
        return 0.1 + 0.9 * progress / 0.02
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def _split(model: LatentVariableModel, x: Tensor, observed: Tensor | None, rows: int = 512) -> dict[str, Any]:
    """How the ELBO of held-out rows splits, and how many latent units are used."""
    found = diagnose(model, x[:rows], None if observed is None else observed[:rows], samples=1)
    split = {name: getattr(found, name) for name in ("reconstruction", "kl", "active_units")}
    return split if found.kl_per_unit is None else split | {"kl_per_unit": list(found.kl_per_unit)}


def fit_density(
    density: nn.Module, z: Tensor, epochs: int, seed: int, batch: int = 512, rate: float = 2e-3
) -> None:
    """Fit a density in place to rows z (n, dim) by maximum likelihood; the best epoch on a held-out tenth is kept."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(z), generator=generator)
    held, rows = z[order[: len(z) // 10]], z[order[len(z) // 10 :]]
    optimizer = torch.optim.Adam(density.parameters(), rate)
    best, kept = -math.inf, copy.deepcopy(density.state_dict())
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate((epoch + 0.5) / epochs)
        for index in torch.randperm(len(rows), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = -density.log_prob(rows[index]).mean()  # pyright: ignore[reportCallIssue]
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            value = float(density.log_prob(held if len(held) else rows).mean())  # pyright: ignore[reportCallIssue]
        if value > best:
            best, kept = value, copy.deepcopy(density.state_dict())
    density.load_state_dict(kept)
