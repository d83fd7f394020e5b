"""Which parameters learn at which rate, and which of them decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from abduce.fit.settings import Settings
from abduce.nets.mlp import OwnRate


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Decay only the networks' matrices; modules that declare a rate of their own move at it, undecayed."""
    rates = {"linear": settings.linear_rate, "mask": settings.mask_rate}
    own = {p: rates[m.rate] for m in model.modules() if isinstance(m, OwnRate) for p in m.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = settings.learning_rate * own.get(parameter, 1.0)
        decay = settings.weight_decay if parameter.ndim > 1 and parameter not in own else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "base": r, "weight_decay": w} for (r, w), p in groups.items()]
