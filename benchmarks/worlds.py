"""Worlds that plans are measured in: their equations where these are known, the objectives that `abduce act` has not, limits,
and environments that Gymnasium does not have.

Objectives are an environment's own rewards, with the sign of costs, as functions of what is observed and done; where a cost
is a sum of squares its residuals are given too.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from abduce.showcase.acting import OBJECTIVES

# ---------------------------------------------------------------- Pendulum


def turned(obs: Tensor, action: Tensor) -> Tensor:
    """Pendulum-v1's equations: (cos θ, sin θ, θ'), θ upward from 0; torque in [-2, 2]."""
    cos, sin, speed = obs.unbind(-1)
    speed = (speed + 0.05 * (15.0 * sin + 3.0 * action[..., 0])).clamp(-8.0, 8.0)
    c, s = (0.05 * speed).cos(), (0.05 * speed).sin()
    return torch.stack([cos * c - sin * s, sin * c + cos * s, speed], -1)


def unseen_swing_residuals(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Residuals of Pendulum's cost where speeds are not observed: θ' is (θ_{t+1} − θ_t) / .05, of the step itself."""
    (c, s), (c2, s2) = obs.unbind(-1), after.unbind(-1)
    speed = torch.atan2(s2 * c - c2 * s, c2 * c + s2 * s) / 0.05
    return torch.stack([torch.atan2(s, c), 0.1**0.5 * speed, 0.001**0.5 * action[..., 0]], -1)


def without_speed() -> Any:
    """Pendulum-v1 that shows cos θ and sin θ alone."""
    env = gymnasium.make("Pendulum-v1")
    space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return gymnasium.wrappers.TransformObservation(env, lambda o: o[:2], space)


class Seen(gymnasium.Wrapper):
    """Pendulum-v1 seen in pictures of ``size`` x ``size`` grey levels, the rod bright.  The arrow by which its own pictures
    tell the torque is not drawn."""

    def __init__(self, size: int = 16):
        super().__init__(gymnasium.make("Pendulum-v1", render_mode="rgb_array"))
        self.size = size
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (size * size,), np.float32)

    def _picture(self) -> np.ndarray:
        self.env.unwrapped.last_u = None
        levels = np.asarray(self.env.render())[..., 1].astype(np.float32) / 255
        k = len(levels) // self.size
        edge = (len(levels) - k * self.size) // 2
        inner = levels[edge : edge + k * self.size, edge : edge + k * self.size]
        return 1 - inner.reshape(self.size, k, self.size, k).mean((1, 3)).ravel()

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        _, told = self.env.reset(**arguments)
        return self._picture(), told

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, told = self.env.step(action)
        return self._picture(), reward, terminated, truncated, told


def pictured_swing_residuals(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Residuals of Pendulum's cost of pictures: the rod points from the middle to where the light lies, and its speed is how
    that turns in a step."""

    def lies(picture: Tensor) -> Tensor:
        size = math.isqrt(picture.shape[-1])
        levels = picture.unflatten(-1, (size, size))
        place = torch.arange(size).to(picture) - (size - 1) / 2
        return torch.stack([-(levels.sum(-1) * place).sum(-1), (levels.sum(-2) * place).sum(-1)], -1)

    return unseen_swing_residuals(lies(obs), action, lies(after))


def optimum(start: Tensor, angles: int = 301, speeds: int = 241, torques: int = 31) -> np.ndarray:
    """Costs of Pendulum from starts (N, 3) by dynamic programming over its 200 steps, values between grid points interpolated;
    the policy is that of a finer grid of torques, run on the equations."""
    cost = OBJECTIVES["Pendulum-v1"].cost
    theta = torch.linspace(-math.pi, math.pi, angles + 1)[:-1]
    grid = torch.cartesian_prod(theta, torch.linspace(-8, 8, speeds))
    states = torch.stack([grid[:, 0].cos(), grid[:, 0].sin(), grid[:, 1]], 1)

    def ahead(state: Tensor, torque: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The cost of a torque, and where it leads on the grid."""
        action = torch.full_like(state[:, :1], torque)
        after = turned(state, action)
        x = (torch.atan2(after[:, 1], after[:, 0]) + math.pi) / (2 * math.pi) * angles
        y = (after[:, 2] + 8) / 16 * (speeds - 1)
        i, j = x.floor().long() % angles, y.floor().long().clamp(0, speeds - 2)
        return cost(state, action, after), (i, j, x - x.floor(), y - j)

    def value_at(value: Tensor, place: tuple[Tensor, ...]) -> Tensor:
        i, j, a, b = place
        k = (i + 1) % angles
        low, high = (value[i, c] * (1 - a) + value[k, c] * a for c in (j, j + 1))
        return low * (1 - b) + high * b

    moves = [ahead(states, float(u)) for u in torch.linspace(-2, 2, torques)]
    values = [torch.zeros(angles, speeds)]
    for _ in range(199):
        best = torch.full((len(states),), torch.inf)
        for step, place in moves:
            best = torch.minimum(best, step + value_at(values[-1], place))
        values.append(best.view(angles, speeds))
    fine, out, row = torch.linspace(-2, 2, 161), torch.zeros(len(start)), torch.arange(len(start))
    for value in values[::-1]:
        tried = [ahead(start, float(u)) for u in fine]
        best = torch.stack([c + value_at(value, place) for c, place in tried]).argmin(0)
        out += torch.stack([c for c, _ in tried])[best, row]
        start = turned(start, fine[best].unsqueeze(1))
    return out.numpy()


# ---------------------------------------------------------------- the car in the valley


def driven(obs: Tensor, action: Tensor) -> Tensor:
    """MountainCarContinuous-v0's equations: (place, speed); force in [-1, 1]."""
    place, speed = obs.unbind(-1)
    speed = (speed + 0.0015 * action[..., 0] - 0.0025 * torch.cos(3 * place)).clamp(-0.07, 0.07)
    place = (place + speed).clamp(-1.2, 0.6)
    return torch.stack([place, torch.where((place == -1.2) & (speed < 0), 0 * speed, speed)], -1)


# ---------------------------------------------------------------- poles on carts


def swing_up_cost(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """1 − the reward of dm_control's swing-up, whose observations are (x, cos θ, sin θ, x', θ')."""
    near = math.log(0.1)  # what dm_control's tolerance is at its margin
    centred = 0.5 * (1 + (near * (after[..., 0] / 2).square()).exp())
    slow = 0.5 * (1 + (near * (after[..., 4] / 5).square()).exp())
    idle = (4 + (1 - action[..., 0].square()).clamp_min(0.0)) / 5
    return 1 - 0.5 * (1 + after[..., 1]) * centred * slow * idle


class DmControl(gymnasium.Env):
    """A task of dm_control's suite as Gymnasium has environments; each action is held for ``held`` of its steps, whose rewards
    are added."""

    def __init__(self, domain: str, task: str, held: int):
        from dm_control import suite

        self._load = lambda seed: suite.load(domain, task, task_kwargs={"random": seed})
        self._env, self._held = self._load(0), held
        box, seen = self._env.action_spec(), self._env.observation_spec().values()
        size = sum(int(np.prod(part.shape)) for part in seen)
        self.action_space = gymnasium.spaces.Box(box.minimum, box.maximum, box.shape, np.float64)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._env = self._load(seed)
        return self._seen(self._env.reset()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._held):
            came = self._env.step(action)
            total += came.reward
            if came.last():
                break
        return self._seen(came), total, False, came.last(), {}

    @staticmethod
    def _seen(came: Any) -> np.ndarray:
        return np.concatenate([np.ravel(part) for part in came.observation.values()])


# ---------------------------------------------------------------- two rooms and a door


class Maze(gymnasium.Env):
    """Two rooms in [-1, 1]² and a wall between them, |x| < .1, with a door, |y - .5| < .15; steps of at most .1 an axis end at
    walls.  Episodes of 200 steps begin in the left room; the goal in the right one is drawn with the start."""

    WALL, DOOR, HALF, STEP, LONGEST = 0.1, 0.5, 0.15, 0.1, 200

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.np_random.uniform([-1.0, -1.0], [-self.WALL, 1.0])
        self.goal = self.np_random.uniform([self.WALL, -1.0], [1.0, 1.0])
        self.steps = 0
        return self.at.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        part = self.STEP * np.clip(np.asarray(action, np.float64), -1.0, 1.0) / 10
        for _ in range(10):
            for axis in (0, 1):
                tried = self.at.copy()
                tried[axis] = np.clip(tried[axis] + part[axis], -1.0, 1.0)
                if not (abs(tried[0]) < self.WALL and abs(tried[1] - self.DOOR) > self.HALF):
                    self.at = tried
        self.steps += 1
        return self.at.copy(), 0.0, False, self.steps >= self.LONGEST, {}
