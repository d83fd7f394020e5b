"""Environments of Gymnasium's make: what they take and give, and copies of them.

An environment has ``reset(seed=...) -> (observation, info)``, ``step(action) -> (observation, reward, terminated, truncated,
info)``, and its spaces.  Gymnasium itself is only needed where an environment is named by its id, or copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from abduce.world.actions import Box, Categories


@dataclass(frozen=True)
class Interface:
    """``observation_size`` numbers come, actions of ``space`` go, in the ``shape`` and ``dtype`` that the environment takes.

    >>> Interface(3, Box.of(-2.0, 2.0), (1,), np.dtype("float32")).action(np.array([0.5]))
    array([0.5], dtype=float32)
    """

    observation_size: int
    space: Box | Categories
    shape: tuple[int, ...]
    dtype: np.dtype

    def action(self, values: Any) -> Any:
        """An action, numbers (A,) or a whole number that chooses, as the environment takes it."""
        if self.space.choices:
            return int(np.asarray(values))
        return np.asarray(values, dtype=self.dtype).reshape(self.shape)


def interface_of(env: Any) -> Interface:
    """Read an environment's spaces.

    Raises ValueError where observations are no numbers of one shape, or actions neither numbers nor one of several.
    """
    seen, done = env.observation_space, env.action_space
    kinds = type(seen).__name__, type(done).__name__
    if kinds[0] != "Box":
        raise ValueError(
            f"env must have observations that are numbers (Box), got {kinds[0]}; flatten them with "
            "gymnasium.wrappers.FlattenObservation"
        )
    size = int(np.prod(seen.shape))
    if kinds[1] == "Discrete":
        if int(done.start):
            raise ValueError(f"env must number its actions from 0, got {done}")
        return Interface(size, Categories(int(done.n)), (), np.dtype(int))
    if kinds[1] != "Box":
        raise ValueError(
            f"env must have actions that are numbers (Box) or one of several (Discrete), got {done}; "
            "gymnasium.wrappers.TransformAction makes it one of these"
        )
    low, high = (np.asarray(v, dtype=np.float64).ravel() for v in (done.low, done.high))
    return Interface(size, Box.of(low, high), done.shape, done.dtype)


def make(env: Any) -> Any:
    """An environment from its id, from a function that makes one, or as it is."""
    if type(env) is str:
        return _gymnasium().make(env)
    return env() if _makes(env) else env


def makers(env: Any, count: int) -> list[Callable[[], Any]] | None:
    """Functions that make ``count`` environments alike; None where one cannot be copied."""
    if type(env) is str or _makes(env):
        return [lambda: make(env)] * count
    spec = env.spec if "spec" in dir(env) else None
    return None if spec is None else [lambda: _gymnasium().make(spec)] * count


def _makes(env: Any) -> bool:
    """Whether it is a function or a class that makes environments, not one itself."""
    return isinstance(env, type) or "reset" not in dir(env)


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError:
        raise ImportError("environments need Gymnasium: pip install 'abduce[world]'") from None
    return gymnasium
