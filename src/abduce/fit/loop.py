"""The one training loop, for bounds of latent-variable models and for losses of energies alike.

Data stay in memory on the device and are indexed, a batch at a time, from one shuffled order an epoch.  A seeded part is
held out: the bound on it picks the best weights and stops the run when it no longer rises.  Where no rows are held out, or
the loss does not measure progress (contrastive divergence), the last weights stay, or the average over the last part of the
run; where the loss does not measure progress, a ceiling of log p shows a fall (:mod:`abduce.fit.ceiling`).  Every epoch's
figures go to ``history``.  With a ``checkpoint`` folder the whole state is written there now and then, and a run that finds
a state of the same data and settings goes on from it to the same numbers.

A run that falls far below its best goes back to it and on at a smaller step (:mod:`abduce.fit.fallback`), with a warning.
``history`` stays one record an epoch: those after the best are taken out, and the next record says ``fell`` (the epoch, its
value, None if it was no number, and ``rate``, the share of the learning rate from then on).
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from abduce.fit.checkpoint import TrainingState, data_digest
from abduce.fit.fallback import SLOWER, TRIES, Best, finite, is_fall
from abduce.fit.optimizer import (
    Average,
    clip,
    gradients_of,
    load_moments,
    make_optimizer,
    moments,
    rate,
    separate,
    take,
)
from abduce.fit.settings import Settings
from abduce.fit.steps import Step
from abduce.inference.energy import Diverged
from abduce.nets.dropout import Dropout
from abduce.together import Place, agreed, average, launched, meet, mine, share, unlike, within

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Callback = Callable[[dict[str, float]], Any]
Redraw = Callable[[int], Tensor]
Parts = tuple[Step, Any, Generator, Average]  # what moves from step to step; the second is the optimiser
WATCHED = 256  # training rows whose value is watched where none are held out
FINISHING = 0.3  # share of the learning rate that the last epochs, of all rows, start from
TRAINED = 100  # steps from which on a model that has learnt nothing is worth a word


@dataclass
class Run:
    """What a training run leaves: its history, and whether it was interrupted."""

    history: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    best: Best = field(default_factory=Best)
    bad: int = 0  # checks since the best
    fell: list[dict[str, Any]] = field(default_factory=list)  # falls that no record tells of yet


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

    Raises :class:`~abduce.inference.energy.Diverged` where training runs away at every step tried, and nothing better than the
    start was reached.
    """
    observed = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    place = launched()
    fabric = _fabric(settings.device, place)
    state: TrainingState | None = None
    identity: dict[str, Any] = {"settings": {**asdict(settings), "device": None}}
    if checkpoint or place.count > 1:
        identity["data"] = data_digest(x, observed)
        _check_alike(identity, place)
    if checkpoint:
        state = TrainingState(checkpoint, identity)
    generator = Generator(device=fabric.device).manual_seed(settings.seed)
    mask = None if bool(observed.all()) else fabric.to_device(observed)
    x = fabric.to_device(x)
    rows, held = (part.to(x.device) for part in settings.split(len(x)))
    judged = step.comparable and len(held) > 0
    watched = held if judged else rows[:WATCHED]
    watched_x, watched_mask = x[watched], None if mask is None else mask[watched]

    optimizer = make_optimizer(step.to(fabric.device), settings)
    parameters, gradients = list(step.parameters()), gradients_of(optimizer)
    share(step.state_dict().values(), place)
    part = min(settings.batch_size, len(rows)) // place.count  # of a batch, that this process works on
    if part == 0:
        raise ValueError(
            f"a batch of {min(settings.batch_size, len(rows))} rows (batch_size, or all rows that train) can't be shared by "
            f"{place.count} processes; start fewer"
        )
    batch = part * place.count
    n_steps, epochs = max(1, len(rows) // batch), settings.n_epochs(len(rows))
    total, every = epochs * n_steps, max(1, epochs // 100)
    averaged = Average(step, settings.average * total)
    parts: Parts = step, optimizer, generator, averaged
    drops = any(isinstance(module, Dropout | torch.nn.Dropout) for module in step.modules())
    run, epoch = Run(), 0

    def descend(index: Tensor, values: Tensor, progress: float) -> Tensor:
        """Put the gradients of a batch in their place; its value and loss, (2,)."""
        for gradient in gradients:
            gradient.zero_()
        try:
            with within(place, part):
                own = mine(index)
                seen = None if mask is None else mask.index_select(0, own)
                loss, value = step(values.index_select(0, own), seen, progress, generator)
                loss.backward()
        except Exception as error:
            if place.count == 1 or not is_fall(error, parameters):
                raise
            for gradient in gradients:  # the others wait for it, and shall fall too
                gradient.fill_(math.nan)
            value = loss = x.new_tensor(math.nan)
        average(gradients, place)
        return torch.stack([value.detach(), loss.detach()])

    def learn(epoch: int) -> tuple[float, float]:
        """Take an epoch's steps; the means of the value and of the loss."""
        step.train()
        if drops:  # all processes, and a run that goes on from a checkpoint, leave out the same units
            torch.manual_seed(settings.seed + epoch)
        values = x if redraw is None else fabric.to_device(redraw(epoch))
        shuffled = rows[torch.randperm(len(rows), generator=generator, device=x.device)]
        told = x.new_zeros(2)
        for i in range(n_steps):
            done = epoch * n_steps + i
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate(done / total, settings.schedule) * run.best.rate
            told += descend(shuffled[i * batch : (i + 1) * batch], values, done / total)
            if settings.clip:
                clip(gradients, settings.clip * math.sqrt(x.shape[1]))
            take(optimizer)
            step.constrain()
            averaged.add(total - done)
        average([told], place)
        value, loss = (told / n_steps).tolist()
        return value, loss

    def check() -> tuple[float, dict[str, Any]]:
        """The value of the rows watched, NaN where weights are no numbers, and what else is to be told of them."""
        step.eval()
        if judged:
            found = step.validate(watched_x, watched_mask, settings.seed)
            return agreed((found["valid"], found), place)
        value = step.value(watched_x, watched_mask, settings.seed) if finite(parameters) else math.nan
        return agreed((value, {}), place)

    if state and agreed(state.exists(), place):
        epoch = _resume(agreed(state.load() if place.rank == 0 else None, place), run, parts)
    else:  # where training starts is a candidate too: a linear path may be all that the data ask for
        value, _ = check()
        run.best.start = value if math.isfinite(value) else -math.inf
        run.best.keep(run.best.start, 0, step, optimizer, averaged)

    started = time.perf_counter()
    try:
        while epoch < epochs and run.best.falls <= TRIES:
            epoch += 1
            due = epoch % every == 0 or epoch == epochs
            value, loss, found, failure = math.nan, math.nan, {}, None
            try:
                mean, loss = learn(epoch - 1)
                value, found = check() if due and math.isfinite(mean + loss) else (mean, {})
            except Exception as error:
                if not is_fall(error, parameters):
                    raise
                failure = error
            better = due and (value > run.best.value or (value == run.best.value and not step.comparable))
            run.bad = 0 if better else run.bad + (judged and due)
            ends = epoch == epochs or bool(settings.patience and run.bad >= settings.patience)
            if failure or run.best.fallen(value, loss if step.comparable else None, due, ends):
                epoch = _go_back(run, parts, epoch, value, loss, failure)
                if state and place.rank == 0:
                    _keep(state, run, epoch, parts)
                continue
            seconds = time.perf_counter() - started
            record = {"epoch": epoch, "epochs": epochs, "train": mean, "seconds": seconds, **found}
            if better:
                run.best.keep(value, epoch, step, optimizer, averaged)
            if run.fell:
                record["fell"], run.fell = run.fell, []
            run.history.append(record)
            if callback:
                callback(record)
            if state and due and place.rank == 0:
                _keep(state, run, epoch, parts)
            if ends:
                break
    except KeyboardInterrupt:
        if place.count > 1:  # the others are not asked
            raise
        run.interrupted = True
    if run.fell and run.history:
        run.history[-1]["fell"] = run.history[-1].get("fell", []) + run.fell
    if (judged and run.best.value > -math.inf) or not finite(parameters):
        step.load_state_dict(run.best.weights)
    else:
        averaged.store()
    separate(step)
    step.eval()
    if settings.finish and judged and not run.interrupted:
        _finish(run, step, x, mask, settings, callback, redraw)
    judges = total >= TRAINED or not step.comparable
    if judges and not run.interrupted and (doubt := step.doubt(watched_x, watched_mask)):
        warnings.warn(doubt, UserWarning, stacklevel=2)
    step.to("cpu")
    return run


def _finish(
    run: Run,
    step: Step,
    x: Tensor,
    observed: Tensor | None,
    settings: Settings,
    callback: Callback | None,
    redraw: Redraw | None,
) -> None:
    """Go on from the best weights for a few epochs of all rows: those held out have done their work, and may teach too."""
    done = len(run.history)
    epochs = math.ceil(settings.finish * done)

    def told(record: dict[str, Any]) -> None:
        run.history.append(record | {"epoch": done + record["epoch"], "epochs": done + epochs})
        if callback:
            callback(run.history[-1])

    rate = settings.learning_rate * FINISHING * run.best.rate
    last = replace(
        settings, validation=0.0, finish=0.0, epochs=epochs, learning_rate=rate, seed=settings.seed + 1
    )
    later = None if redraw is None else lambda epoch: redraw(done + epoch)
    run.interrupted = train(step, x, observed, last, told, redraw=later).interrupted


def _go_back(run: Run, parts: Parts, epoch: int, value: float, loss: float, failure: Exception | None) -> int:
    """Take a run that fell in ``epoch`` back to its best and slow it down; the epochs done.

    Raises Diverged where that was tried often enough and there is nothing better than the start.
    """
    step, optimizer, _, average = parts
    best, reached = run.best, max(value, -loss) if step.comparable else value
    told = f"value {value:.6g}, loss {loss:.6g}" if failure is None else str(failure)
    goes_on = best.fall()
    if not goes_on and best.epoch == 0:
        raise Diverged(
            f"training diverged in epoch {epoch} ({told}), the last of {best.falls} times, at down to "
            f"{best.rate / SLOWER:g} of the learning rate, and was never better than at its start; try a smaller "
            "learning_rate, or another objective or model"
        ) from failure
    best.put_back(step, optimizer, average)
    del run.history[best.epoch :]
    fell = {"epoch": epoch, "value": reached if math.isfinite(reached) else None, "back_to": best.epoch}
    run.fell.append(fell | {"rate": best.rate if goes_on else 0.0})
    run.bad = 0
    what = f"goes on from there at {best.rate:g} of the learning rate" if goes_on else "ends there"
    warnings.warn(
        f"training fell in epoch {epoch} ({told}) far below the best, epoch {best.epoch} (value {best.value:.6g}); it went "
        f"back and {what}. Try a smaller learning_rate.",
        UserWarning,
        stacklevel=3,
    )
    return best.epoch


def _fabric(device: str, place: Place) -> Fabric:
    """The device that rows and parameters lie on, and the tie to other processes; ValueError for one that is not there."""
    # Fabric takes seconds to import, and a fitted model answers without it.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    try:
        if place.count == 1:
            return Fabric(accelerator=device, devices=1)
        meet()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", place.count))
        fabric = Fabric(
            accelerator=device,
            strategy="ddp",
            devices=here,
            num_nodes=place.count // here,
            plugins=TorchElasticEnvironment(),
        )
        if "LT_CLI_USED" not in os.environ:  # `fabric run` has done it
            fabric.launch()
        return fabric
    except Exception as error:  # each accelerator has its own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}; expected 'cpu', or 'auto' for what there is"
        ) from error


def _keep(state: TrainingState, run: Run, epoch: int, parts: Parts) -> None:
    """Write all that a run needs to go on after ``epoch`` epochs."""
    step, optimizer, generator, average = parts
    groups = {"model": step.state_dict(), "moments": moments(optimizer), "average": average.state()}
    progress = {"epoch": epoch, "bad": run.bad, "history": run.history, "fell": run.fell}
    progress |= {"best": run.best.progress(), "averaged": average.count}
    state.save(progress, generator={"state": generator.get_state()}, **groups, **run.best.tensors())


def _check_alike(identity: dict[str, Any], place: Place) -> None:
    """Refuse, in all of them, processes that were given different rows or settings: they can't train one model."""
    if others := unlike(identity, place):
        raise ValueError(
            f"process {', '.join(map(str, others))} of {place.count} was given other rows or other settings than the first "
            "one: all that are launched together train one model, and must be given the same X, arguments and random_state "
            "(a number, as None draws another one in each process)"
        )


def _resume(kept: Any, run: Run, parts: Parts) -> int:
    """Put back what :func:`_keep` wrote; the epochs done."""
    step, optimizer, generator, average = parts
    progress, tensors = kept
    step.load_state_dict(tensors["model"])
    generator.set_state(tensors["generator"]["state"].cpu())
    load_moments(optimizer, tensors.get("moments", {}))
    average.load(tensors.get("average", {}), progress["averaged"])
    run.history, run.bad, run.fell = progress["history"], progress["bad"], progress["fell"]
    run.best = Best.load(progress["best"], tensors)
    return progress["epoch"]
