"""Recorder: keeps every step of a Gymnasium environment, or of a vector of them, as episodes.

It stands before the environment, is stepped as that is, and gives on what that gives.  ``steps`` counts every call of
``step``, of each copy of a vector, so that experience is counted where it is made.  Copies that start again by themselves do
so in Gymnasium's two ways: on the step after the last (which is then no step of the world) or within the last one.  ``box``
are the least and the greatest action, None where an action is one of several ``choices``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from abduce.world.episodes import Episode


class Recorder:
    """An environment whose ``episodes`` are kept; those of one action are left out, as nothing follows from them.

    >>> class Walk:                                     # whatever has reset and step as Gymnasium's environments do
    ...     def reset(self, **kw): self.place = 0.0; return np.array([0.0]), {}
    ...     def step(self, a): self.place += float(a[0]); return np.array([self.place]), 0.0, False, False, {}
    >>> walk = Recorder(Walk())
    >>> _ = walk.reset()
    >>> for _ in range(3):
    ...     _ = walk.step(np.array([0.5]))
    >>> walk.steps, walk.episodes[0].observations.ravel().tolist()
    (3, [0.0, 0.5, 1.0, 1.5])
    """

    def __init__(self, env: Any):
        self.env, self.steps = env, 0
        self.copies = int(vars_of(env, "num_envs", 0))
        space = vars_of(env, "single_action_space", vars_of(env, "action_space", None))
        self.choices = int(vars_of(space, "n", 0))
        low, high = vars_of(space, "low", None), vars_of(space, "high", None)
        self.box = None if self.choices or low is None or high is None else (row(low), row(high))
        mode = str(vars_of(vars_of(env, "metadata", {}).get("autoreset_mode", ""), "value", "NextStep"))
        self._within = mode == "SameStep"
        self._done: list[Episode] = []
        self._rows: list[tuple[list[np.ndarray], list[Any]]] = []
        self._over = np.zeros(max(1, self.copies), bool)

    def __getattr__(self, name: str) -> Any:
        """What the environment has besides: spaces, ``render``, ``close``."""
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def episodes(self) -> list[Episode]:
        """All that was recorded, the unfinished ones included."""
        return [*self._done, *(e for rows in self._rows for e in self._episode(rows))]

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Start again; what was unfinished is kept as it is."""
        observation, info = self.env.reset(**arguments)
        self._done = self.episodes
        firsts = observation if self.copies else [observation]
        self._rows = [([row(o)], []) for o in firsts]
        self._over[:] = False
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Do an action, and keep what follows."""
        found = self.env.step(action)
        observation, _, terminated, truncated, info = found
        if not self.copies:
            self._keep(0, observation, action)
            self.steps += 1
            return found
        ended = np.asarray(terminated) | np.asarray(truncated)
        for i in range(self.copies):
            if self._over[i]:  # this step only started the copy again
                self._renew(i, observation[i])
            elif ended[i] and self._within:
                self._keep(i, info["final_obs"][i], action[i])
                self._renew(i, observation[i])
            else:
                self._keep(i, observation[i], action[i])
        self.steps += int((~self._over).sum())
        self._over = ended & (not self._within)
        return found

    def _keep(self, i: int, observation: Any, action: Any) -> None:
        observations, actions = self._rows[i]
        observations.append(row(observation))
        actions.append(np.array(action, copy=True))

    def _renew(self, i: int, observation: Any) -> None:
        self._done += self._episode(self._rows[i])
        self._rows[i] = ([row(observation)], [])

    def _episode(self, rows: tuple[list[np.ndarray], list[Any]]) -> list[Episode]:
        observations, actions = rows
        if len(actions) < 2:
            return []
        if self.choices:
            done = np.eye(self.choices)[np.asarray(actions, int).ravel()]
        else:
            done = np.stack([row(a) for a in actions])
        return [Episode(np.stack(observations), done, self.choices)]


def row(values: Any) -> np.ndarray:
    """Numbers of any shape as one row."""
    return np.array(values, dtype=np.float64).ravel()


def vars_of(thing: Any, name: str, default: Any) -> Any:
    """An attribute of somebody else's object, which may not have it."""
    return getattr(thing, name, default)
