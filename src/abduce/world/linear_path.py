"""What models of differences stand on: units, a linear path, and a box that means are clamped to.

Where nothing was seen the path is all there is.  It is that of least squares, but where most steps follow a line exactly, but
for those that end at walls, it is that line: the law of the rest.  To find it, a Cauchy likelihood of differences

    Σ_n log(1 + (y_n − w·z_n)² / s²),     s the residuals' median over .6745

is climbed by weighted least squares.  Source: Huber & Ronchetti 2009, "Robust Statistics", chapter 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abduce.world.episodes import Transitions

ROUNDS = 50  # of weighted least squares
RIDGE = 1e-4  # pulls coefficients to zero where steps leave them open
MEDIAN = 0.6745  # of the size of a standard Gaussian
EXACT = 1e-4  # of the usual step: lines that most steps are nearer to are laws


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
        found.append(line(z[seen[:, j]], moved[seen[:, j], j] / step[j]))
    path = torch.stack(found)
    parts = {"centre": centre, "scale": scale, "step": step, "low": low - room, "high": high + room}
    return parts | {"path": path[:, :-1], "offset": path[:, -1]}


def line(x: Tensor, y: Tensor) -> Tensor:
    """Coefficients (D,) of the line y = x w that most of the rows x (N, D), y (N,) are on, else of least squares.

    >>> x = torch.stack([torch.linspace(-1, 1, 21), torch.ones(21)], 1).double()
    >>> y = x @ torch.tensor([2.0, 1.0]).double()
    >>> y[::5] = 0                                       # these ended at a wall
    >>> [round(w, 2) for w in line(x, y).tolist()]
    [2.0, 1.0]
    """
    weight, ridge = torch.ones_like(y), RIDGE * torch.eye(x.shape[1]).to(x)
    least = found = torch.linalg.solve(x.mT @ x + ridge, x.mT @ y)
    for _ in range(ROUNDS if len(y) else 0):
        weight = 2 / (1 + ((y - x @ found) / usual(y - x @ found).clamp_min(EXACT)).square())
        heavy = x * weight.unsqueeze(1)
        found = torch.linalg.solve(heavy.mT @ x + ridge, heavy.mT @ y)
    return found if exact(y - x @ found) else least


def usual(rest: Tensor) -> Tensor:
    """How far residuals (N,) are from zero, as the standard deviation of Gaussian ones, whatever a few of them are."""
    return rest.abs().median() / MEDIAN


def exact(rest: Tensor) -> bool:
    """Whether most steps are on the line that leaves these residuals, in units of the usual step."""
    return len(rest) > 0 and float(usual(rest)) < EXACT
