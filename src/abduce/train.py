"""The one training loop.

Data stay in memory on the device and are indexed, a batch at a time, from one shuffled order an epoch.  A seeded part is
held out: the bound on it picks the best weights and stops the run when it no longer rises.  Every epoch's figures go to
``history``.  With a ``checkpoint`` folder the whole state is written there now and then, and a run that finds a state of
the same data and settings goes on from it to the same numbers.
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

from abduce.checkpoint import TrainingState, data_digest
from abduce.data.masks import hide
from abduce.inference.diagnostics import diagnose
from abduce.models.latent import LatentVariableModel
from abduce.objectives.bounds import Objective, forward_kl


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
    masking: bool = True  # hide parts of rows and fit the encoder of what is left to the fuller posterior
    trim: float = 0.0  # share of the rows of a batch, the least plausible ones, that do not train the model
    device: str = "auto"
    seed: int = 0
    event_shape: tuple[int, ...] = ()

    steps: int = 12_000  # to choose the epochs by, where they are not given

    def schedule(self, rows: int) -> int:
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


class _Step(nn.Module):
    """One forward pass: the objective on what is observed, plus the partial encoder's fit to a more hidden row."""

    def __init__(self, model: LatentVariableModel, objective: Objective, partial: float, rows: int):
        super().__init__()
        self.model = model
        self.objective = objective
        self.partial = partial
        self.rows = rows  # size of the data

    def forward(self, x, observed, keep, progress, generator, trim):
        bound = self.objective(self.model, x, observed, progress, generator, self.rows)
        loss = bound.loss
        if keep is not None:
            n = max(1, round(self.partial * len(x)))
            part = forward_kl(self.model, x[:n], keep[:n], bound.z[:n])
            loss = torch.cat([loss[:n] + part, loss[n:]])
        if trim:
            loss = loss[bound.value >= torch.quantile(bound.value, trim)]
        return loss.mean(), bound


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
    """Fit ``model`` in place to the observed cells of ``x`` and leave its best weights in it.

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
    epochs = settings.schedule(len(rows))
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings), lr=settings.learning_rate, fused=True)
    stepper, optimizer = fabric.setup(_Step(model, objective, settings.partial, len(rows)), optimizer)

    parameters = list(model.parameters())
    batch = min(settings.batch_size, len(rows))
    n_steps = max(1, len(rows) // batch)
    total = epochs * n_steps
    run = Run()
    best = (-math.inf, copy.deepcopy(model.state_dict()))
    held_x, held_mask = x[held], None if mask is None else mask[held]
    if len(held):  # where training starts is a candidate too: a linear path may be all that the data ask for
        best, run.best_epoch = (_evaluate(model, objective, held_x, held_mask, settings), best[1]), 0
    bad = 0
    state, first = None, 0
    if checkpoint:
        identity = {"settings": {**asdict(settings), "device": None}, "data": data_digest(x, observed)}
        state = TrainingState(checkpoint, identity)
    if state and state.exists():
        progress, tensors = state.load()
        model.load_state_dict(tensors["model"])
        generator.set_state(tensors["generator"]["state"].cpu())
        _load_moments(optimizer, tensors["moments"])
        first, bad = progress["epoch"], progress["bad"]
        run.history, run.best_epoch = progress["history"], progress["best_epoch"]
        if "best" in tensors:
            best = (progress["best"], tensors["best"])

    started = time.perf_counter()
    every = max(1, epochs // 100)
    epoch = first - 1
    try:
        for epoch in range(first, epochs):
            model.train()
            values = x if redraw is None else fabric.to_device(redraw(epoch))
            shuffled = rows[torch.randperm(len(rows), generator=generator, device=x.device)]
            total_value = x.new_zeros(())
            for i in range(n_steps):
                index = shuffled[i * batch : (i + 1) * batch]
                xb = values.index_select(0, index)
                ob = None if mask is None else mask.index_select(0, index)
                progress = (epoch * n_steps + i) / total
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * _rate(progress)
                keep = None
                if settings.masking:
                    seen = torch.ones_like(xb, dtype=torch.bool) if ob is None else ob
                    keep = hide(seen, settings.event_shape, generator)
                loss, bound = stepper(xb, ob, keep, progress, generator, settings.trim)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                if settings.clip:
                    _clip(parameters, settings.clip * math.sqrt(x.shape[1]))
                optimizer.step()
                total_value += bound.value.mean()
            record = {
                "epoch": epoch + 1,
                "epochs": epochs,
                "train": float(total_value) / n_steps,
                "seconds": time.perf_counter() - started,
            }
            last = epoch + 1 == epochs
            if len(held) and ((epoch + 1) % every == 0 or last):
                record["valid"] = _evaluate(model, objective, held_x, held_mask, settings)
                record |= _split(model, held_x, held_mask)
                if record["valid"] > best[0]:
                    best, bad, run.best_epoch = (
                        (record["valid"], copy.deepcopy(model.state_dict())),
                        0,
                        epoch + 1,
                    )
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
                groups = {"model": model.state_dict(), "moments": _moments(optimizer)}
                if best[0] > -math.inf:
                    progress["best"], groups["best"] = best
                state.save(progress, generator={"state": generator.get_state()}, **groups)
            if settings.patience and bad >= settings.patience:
                break
            if not math.isfinite(record["train"]):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch + 1} (bound {record['train']}); try a smaller learning_rate"
                )
    except KeyboardInterrupt:
        run.interrupted = True
    if best[0] > -math.inf:
        model.load_state_dict(best[1])
    model.eval()
    model.to("cpu")
    return run


def _parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Decay only the networks' matrices; a linear path, already fitted, moves at its own rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        linear = name.startswith("decoder.linear.")
        rate = settings.learning_rate * (settings.linear_rate if linear else 1.0)
        decay = settings.weight_decay if parameter.ndim > 1 and not linear else 0.0
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


def _rate(progress: float) -> float:
    """Learning-rate factor: a short linear start, then a cosine down to a twentieth."""
    if progress < 0.02:
        return 0.1 + 0.9 * progress / 0.02
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


@torch.no_grad()
def _evaluate(
    model: LatentVariableModel, objective: Objective, x: Tensor, observed: Tensor | None, settings: Settings
) -> float:
    """The bound on held-out rows, nats a row, with the same noise every time; in slices of at most 1,000 rows."""
    model.eval()
    generator = torch.Generator(device=x.device).manual_seed(settings.seed)
    values = []
    for index in torch.arange(len(x)).chunk(math.ceil(len(x) / 1000)):  # evenly, so that none is of one row
        ob = None if observed is None else observed[index]
        values.append(objective(model, x[index], ob, 1.0, generator, len(x)).value)
    value = torch.cat(values)
    return float(
        value[value >= torch.quantile(value, settings.trim)].mean() if settings.trim else value.mean()
    )


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
