"""What models of differences stand on: units, a linear path by least squares, and a box that means are clamped to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abduce.world.episodes import Transitions


def without_path(module: nn.Module, observation_size: int, action_size: int, dtype: torch.dtype) -> None:
    """Give a module the buffers of :func:`linear_path`, of a world that stands still."""
    s, d = observation_size, observation_size + action_size
    buffers = {"centre": torch.zeros(d), "scale": torch.ones(d), "step": torch.ones(s)}
    buffers |= {"path": torch.zeros(s, d), "offset": torch.zeros(s)}
    buffers |= {"low": torch.full((s,), -torch.inf), "high": torch.full((s,), torch.inf)}
    for name, value in buffers.items():
        module.register_buffer(name, value.to(dtype))


def differences(steps: Transitions) -> tuple[Tensor, Tensor]:
    """Differences (N, S) of states that follow one another, zero where unknown, and which are known."""
    seen = ~steps.after.isnan()
    return torch.where(seen, steps.after - steps.state, 0.0), seen


def linear_path(steps: Transitions, moved: Tensor, seen: Tensor, margin: float) -> dict[str, Tensor]:
    """``centre`` and ``scale`` (S+A,) of states and actions z, ``step`` (S,) the usual difference, its ``path`` (S, S+A) and
    ``offset`` (S,) in z, ``low`` and ``high`` (S,) of states.

    ``moved`` (N, S) are differences, of which those ``seen`` (N, S) count; the box is wider than the data by the share
    ``margin`` of their range at each end.
    """
    joined = torch.cat([steps.state, steps.action], 1)
    centre = joined.mean(0)
    scale = (joined - centre).square().mean(0).sqrt()
    scale = torch.where(scale > 1e-12 * (1 + centre.abs()), scale, 1.0)
    count = seen.sum(0).clamp_min(1)
    step = (moved.square().sum(0) / count).sqrt()
    step = torch.where(step > 0, step, 1.0)
    every = torch.cat([steps.state, torch.where(seen, steps.after, steps.state)])
    low, high = every.amin(0), every.amax(0)
    room = margin * (high - low)
    z = torch.cat([(joined - centre) / scale, torch.ones(len(joined), 1).to(joined)], 1)
    found = []
    for j in range(moved.shape[1]):  # each output has blanks of its own
        x, y = z[seen[:, j]], moved[seen[:, j], j] / step[j]
        found.append(torch.linalg.solve(x.mT @ x + 1e-4 * torch.eye(z.shape[1]).to(x), x.mT @ y))
    path = torch.stack(found)
    parts = {"centre": centre, "scale": scale, "step": step, "low": low - room, "high": high + room}
    return parts | {"path": path[:, :-1], "offset": path[:, -1]}
