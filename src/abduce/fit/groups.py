"""Which parameters learn at which rate, and which of them decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from abduce.fit.settings import Settings


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Decay only the networks' matrices; a linear path, already fitted, moves at its own rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        linear, mask = ".decoder.linear." in name, ".mask_model." in name
        rate = settings.learning_rate * (
            settings.linear_rate if linear else settings.mask_rate if mask else 1.0
        )
        decay = settings.weight_decay if parameter.ndim > 1 and not (linear or mask) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "base": r, "weight_decay": w} for (r, w), p in groups.items()]
