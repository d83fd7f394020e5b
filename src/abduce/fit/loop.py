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
from torch import Generator, Tensor

from abduce.fit.checkpoint import TrainingState, data_digest
from abduce.fit.optimizer import Average, clip, load_moments, make_optimizer, moments, rate
from abduce.fit.settings import Settings
from abduce.fit.steps import Step
from abduce.inference.energy import Diverged

Callback = Callable[[dict[str, float]], Any]
Redraw = Callable[[int], Tensor]


@dataclass
class Run:
    """What a training run leaves: its history, and whether it was interrupted."""

    history: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    best: float = -math.inf  # value of the held-out rows at the best weights
    weights: dict[str, Tensor] = field(default_factory=dict)  # which these are
    best_epoch: int = -1
    bad: int = 0  # checks since then


def train(
    step: Step,
    x: Tensor,
    observed: Tensor | None,
    settings: Settings,
    callback: Callback | None = None,
    checkpoint: Path | None = None,
    redraw: Redraw | None = None,
) -> Run:
    """Minimise a step's loss over the rows of ``x`` (``observed`` None: complete) and leave the best weights in its model.

    ``redraw(epoch)`` gives the values of an epoch afresh, in the shape of ``x`` (dynamic binarisation, augmentation); the
    held-out rows stay as they are in ``x``.  KeyboardInterrupt ends the run early with the best weights so far.
    """
    observed = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    identity = {"settings": {**asdict(settings), "device": None}}
    state = TrainingState(checkpoint, identity | {"data": data_digest(x, observed)}) if checkpoint else None
    fabric = _fabric(settings.device)
    generator = Generator(device=fabric.device).manual_seed(settings.seed)
    mask = None if bool(observed.all()) else fabric.to_device(observed)
    x = fabric.to_device(x)
    rows, held = (part.to(x.device) for part in settings.split(len(x)))
    held_x, held_mask = x[held], None if mask is None else mask[held]

    stepper, optimizer = fabric.setup(step, make_optimizer(step, settings))
    parameters = list(step.parameters())
    batch = min(settings.batch_size, len(rows))
    n_steps, epochs = max(1, len(rows) // batch), settings.n_epochs(len(rows))
    total, every = epochs * n_steps, max(1, epochs // 100)
    average = Average(step, settings.average * total)
    parts = step, optimizer, generator, average
    run, first = Run(), 0
    judged = step.comparable and len(held) > 0
    if judged:  # where training starts is a candidate too: a linear path may be all that the data ask for
        step.eval()
        run.weights = copy.deepcopy(step.state_dict())
        run.best, run.best_epoch = step.validate(held_x, held_mask, settings.seed)["valid"], 0
    if state and state.exists():
        first = _resume(state, run, parts)

    started = time.perf_counter()
    try:
        for epoch in range(first, epochs):
            step.train()
            values = x if redraw is None else fabric.to_device(redraw(epoch))
            shuffled = rows[torch.randperm(len(rows), generator=generator, device=x.device)]
            total_value = x.new_zeros(())
            for i in range(n_steps):
                index = shuffled[i * batch : (i + 1) * batch]
                xb = values.index_select(0, index)
                seen = None if mask is None else mask.index_select(0, index)
                done = epoch * n_steps + i
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * rate(done / total, settings.schedule)
                loss, value = stepper(xb, seen, done / total, generator)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                if settings.clip:
                    clip(parameters, settings.clip * math.sqrt(x.shape[1]))
                optimizer.step()
                step.constrain()
                average.add(total - done)
                total_value += value

            mean, seconds = float(total_value) / n_steps, time.perf_counter() - started
            record = {"epoch": epoch + 1, "epochs": epochs, "train": mean, "seconds": seconds}
            due = (epoch + 1) % every == 0 or epoch + 1 == epochs
            if judged and due:
                step.eval()
                record |= step.validate(held_x, held_mask, settings.seed)
                run.bad += 1
                if record["valid"] > run.best:
                    run.best, run.best_epoch, run.bad = record["valid"], epoch + 1, 0
                    run.weights = copy.deepcopy(step.state_dict())
            run.history.append(record)
            if callback:
                callback(record)
            if state and due:
                _keep(state, run, epoch + 1, parts)
            if settings.patience and run.bad >= settings.patience:
                break
            if not math.isfinite(record["train"]):
                raise Diverged(
                    f"training diverged in epoch {epoch + 1} (loss {-record['train']}); try a smaller learning_rate"
                )
    except KeyboardInterrupt:
        run.interrupted = True
    if run.best > -math.inf:
        step.load_state_dict(run.weights)
    else:
        average.store()
    step.eval()
    step.to("cpu")
    return run


Parts = tuple[Step, Any, Generator, Average]  # what moves from step to step; the second is the optimiser


def _fabric(device: str) -> Fabric:
    """The device that rows and parameters lie on; ValueError for one that is not there."""
    try:
        return Fabric(accelerator=device, devices=1)
    except Exception as error:  # each accelerator has its own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}; expected 'cpu', or 'auto' for what there is"
        ) from error


def _keep(state: TrainingState, run: Run, epoch: int, parts: Parts) -> None:
    """Write all that a run needs to go on after ``epoch`` epochs."""
    step, optimizer, generator, average = parts
    progress = {"epoch": epoch, "bad": run.bad, "history": run.history, "best_epoch": run.best_epoch}
    groups = {"model": step.state_dict(), "moments": moments(optimizer), "average": average.state()}
    if run.best > -math.inf:
        progress["best"], groups["best"] = run.best, run.weights
    progress["averaged"] = average.count
    state.save(progress, generator={"state": generator.get_state()}, **groups)


def _resume(state: TrainingState, run: Run, parts: Parts) -> int:
    """Put back what :func:`_keep` wrote; the epochs done."""
    step, optimizer, generator, average = parts
    progress, tensors = state.load()
    step.load_state_dict(tensors["model"])
    generator.set_state(tensors["generator"]["state"].cpu())
    load_moments(optimizer, tensors.get("moments", {}))
    average.load(tensors.get("average", {}), progress.get("averaged", 0))
    run.history, run.best_epoch, run.bad = progress["history"], progress["best_epoch"], progress["bad"]
    run.best, run.weights = progress.get("best", run.best), tensors.get("best", run.weights)
    return progress["epoch"]
