"""A fitted :class:`~abduce.WorldModel` as a folder of JSON and safetensors: transition models, calibration, actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from abduce.declared import made, shaped
from abduce.estimators.folder import (
    CONFIG,
    WEIGHTS,
    Contents,
    FolderHeader,
    FolderKind,
    constructed,
    estimator_to_json,
    fill,
    parted,
)
from abduce.fit import checkpoint
from abduce.models.vae import VariationalAutoencoder
from abduce.world.actions import Box, Categories
from abduce.world.calibration import Calibration
from abduce.world.ensemble import Ensemble
from abduce.world.gaussian_process import GaussianProcess
from abduce.world.history import ObservationHistory, Remembering
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.pictures import Pictures
from abduce.world.visited import Visited

KIND = "world"
ASKED = 10  # steps that follow one another
FAMILIES = {kind.__name__: kind for kind in (Ensemble, GaussianProcess, LinearGaussian)}


class WorldFolder(FolderHeader):
    """A world, its calibration and its actions."""

    family: Literal["Ensemble", "GaussianProcess", "LinearGaussian"]
    config: dict[str, Any]
    linear: dict[str, Any]
    history: tuple[int, int]
    choices: int
    told: bool
    errors: dict[str, Any]
    steps: int
    seed: int
    pictures: dict[str, Any] | None


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    checkpoint.save(folder, *describe(estimator))


def describe(estimator: Any) -> Contents:
    """What a folder holds of a fitted estimator: JSON and tensors."""
    model, linear, calibration = estimator.transition_, estimator.linear_, estimator.calibration_
    model = model.inner if isinstance(model, Remembering) else model
    family = model.family
    if family not in FAMILIES:
        raise ValueError("a world of equations is code, which is not saved: keep the function that made it")
    space = estimator.space_
    box = {"low": space.low, "high": space.high} if space.choices == 0 else {}
    body = {
        "kind": KIND,
        **estimator_to_json(estimator),
        "family": family,
        "config": model.config,
        "linear": linear.config,
        "history": [estimator.history_.steps, estimator.history_.size],
        "choices": space.choices,
        "told": estimator.told_,
        "errors": estimator.errors_,
        "steps": estimator.steps_,
        "seed": estimator.inference_seed_,
        "pictures": None if estimator.pictures_ is None else estimator.pictures_.model.config,
    }
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"linear.{k}": v.clone() for k, v in linear.state_dict().items()}
    tensors |= {f"calibration.{k}": v.clone() for k, v in vars(calibration).items()}
    tensors["visited.points"] = estimator.visited_.points.clone()
    if estimator.pictures_ is not None:
        tensors |= {f"pictures.{k}": v for k, v in estimator.pictures_.state_dict().items()}
    return body, tensors | {f"box.{k}": v for k, v in box.items()}


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds, checked."""
    estimator = constructed(cls, body["arguments"])
    own, linear_own, calibration, box, visited, seen = parted(
        tensors, "model", "linear", "calibration", "box", "visited", "pictures"
    )
    with torch.random.fork_rng(devices=[]):
        model = made(FAMILIES[body["family"]], body["config"], f"{CONFIG}.config")
    fill(model, own, "model.")
    linear = made(LinearGaussian, body["linear"], f"{CONFIG}.linear")
    fill(linear, linear_own, "linear.")
    steps, size = body["history"]
    if min(steps, size) < 1 or body["choices"] < 0 or steps * size != model.observation_size:
        raise ValueError(
            f"{CONFIG}.history must be steps and numbers whose product is {model.observation_size}, got {body['history']}"
        )
    double, states = torch.float64, model.observation_size
    shaped(visited, {"visited.points": (double, ("states", states))}, WEIGHTS)
    parts = {"horizons": (), "places": (2 * states,), "ratios": (states,)}
    shaped(calibration, {f"calibration.{k}": (double, ("rollouts", *v)) for k, v in parts.items()}, WEIGHTS)
    numbers = 0 if body["choices"] else model.action_size
    shaped(box, {f"box.{end}": (double, (numbers,)) for end in ("low", "high") if numbers}, WEIGHTS)
    if body["choices"] not in (0, model.action_size):
        raise ValueError(f"{CONFIG}.choices must be 0 or {model.action_size}, got {body['choices']}")
    if not bool(
        (calibration["calibration.horizons"] > 0).all() & (calibration["calibration.ratios"] >= 0).all()
    ):
        raise ValueError(
            f"{WEIGHTS}: 'calibration.horizons' must be above 0 and 'calibration.ratios' not below it"
        )
    estimator.history_ = ObservationHistory(steps, size)
    estimator.transition_ = estimator.history_.tied(model.requires_grad_(False).eval())
    estimator.linear_ = linear
    estimator.calibration_ = Calibration(*(calibration[f"calibration.{k}"] for k in parts))
    estimator.space_ = (
        Categories(body["choices"]) if body["choices"] else Box.of(box["box.low"], box["box.high"])
    )
    estimator.visited_ = Visited(visited["visited.points"])
    estimator.told_ = body["told"]
    estimator.errors_, estimator.steps_ = body["errors"], body["steps"]
    estimator.pictures_ = _pictures(body["pictures"], seen, size)
    if estimator.codes != (None if estimator.pictures_ is None else size):
        raise ValueError(
            f"{CONFIG}.arguments.codes must be the {size} codes of {CONFIG}.pictures, got {estimator.codes!r}"
        )
    estimator.inference_seed_ = body["seed"]
    estimator.n_features_in_ = size if estimator.pictures_ is None else estimator.pictures_.size
    return estimator


def _pictures(config: dict[str, Any] | None, tensors: dict[str, torch.Tensor], size: int) -> Pictures | None:
    """What turns pictures into codes, ``size`` of them."""
    if config is None:
        shaped(tensors, {}, WEIGHTS)
        return None
    with torch.random.fork_rng(devices=[]):
        model = made(VariationalAutoencoder, config, f"{CONFIG}.pictures").double()
    if model.code_axes.centre.shape != (size,):
        raise ValueError(f"{CONFIG}.pictures must have {size} codes, as the world has")
    pixels = torch.zeros(model.n_cells)
    found = Pictures(model, pixels, pixels)
    fill(found, tensors, "pictures.")
    return found.eval().requires_grad_(False)


def ask(estimator: Any) -> list[Any]:
    """The step after zeros, and how surely, of the world and of the linear one; then some more from ones, one after the other,
    in which numbers of no sensible size overflow."""
    found = []
    for model in (estimator.transition_, estimator.linear_):
        like = next(iter(model.state_dict().values()))
        state, action = (
            torch.zeros(1, model.observation_size).to(like),
            torch.zeros(1, model.action_size).to(like),
        )
        found += [*model.moments(state, action), model.log_prob(state, action, state)]
        state, action = torch.ones_like(state), torch.ones_like(action)
        for _ in range(ASKED):
            state = model.moments(state, action)[0]
        found.append(state)
    if estimator.pictures_ is not None:
        codes = estimator.pictures_.encode(estimator.pictures_.offset[None])
        found += [codes, estimator.pictures_.decode(codes)]
    return found


def folder_kind(cls: Any) -> FolderKind:
    """How folders of a class of estimators are opened."""
    return FolderKind(WorldFolder, lambda body, tensors: rebuild(cls, body, tensors), describe, ask)
