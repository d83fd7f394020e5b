"""A fitted :class:`~abduce.WorldModel` as a folder of JSON and safetensors: transition models, calibration, actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from abduce.estimators.folder import estimator_to_json
from abduce.fit import checkpoint
from abduce.world.actions import Box, Categories
from abduce.world.calibration import Calibration
from abduce.world.ensemble import Ensemble
from abduce.world.history import ObservationHistory
from abduce.world.linear_gaussian import LinearGaussian

KIND = "world"
FAMILIES = {"Ensemble": Ensemble, "LinearGaussian": LinearGaussian}


def keep(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator to a folder, atomically."""
    model, linear, calibration = estimator.transition_, estimator.linear_, estimator.calibration_
    family = type(model).__name__
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
    }
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"linear.{k}": v.clone() for k, v in linear.state_dict().items()}
    tensors |= {"calibration.horizons": calibration.horizons, "calibration.factors": calibration.factors}
    checkpoint.save(folder, body, tensors | {f"box.{k}": v for k, v in box.items()})


def rebuild(cls: Any, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The estimator of what a folder holds."""
    estimator = cls(**body["arguments"])
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        part, key = name.split(".", 1)
        parts.setdefault(part, {})[key] = value
    with torch.random.fork_rng(devices=[]):
        model = FAMILIES[body["family"]](**body["config"])
    model.load_state_dict(parts["model"])
    linear = LinearGaussian(**body["linear"])
    linear.load_state_dict(parts["linear"])
    estimator.transition_, estimator.linear_ = model.requires_grad_(False).eval(), linear
    estimator.calibration_ = Calibration(**parts["calibration"])
    estimator.space_ = Categories(body["choices"]) if body["choices"] else Box(**parts["box"])
    estimator.history_, estimator.told_ = ObservationHistory(*body["history"]), body["told"]
    estimator.errors_, estimator.steps_ = body["errors"], body["steps"]
    estimator.inference_seed_, estimator.n_features_in_ = body["seed"], estimator.history_.size
    return estimator
