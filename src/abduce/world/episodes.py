"""Episodes: what was observed and done, in the forms in which it comes, as one table of transitions.

An episode of T actions has T + 1 observations: o_0, a_0, o_1, ..., a_{T-1}, o_T.  Taken are

    a dict or a pair                observations (T+1, S) and actions (T, A), or (N, T+1, S) and (N, T, A)
    a list                          of these, or of objects with both as attributes
    a data set of Minari's make     what has ``iterate_episodes()``
    a recorder                      what :class:`~abduce.world.recorder.Recorder` kept of an environment

Numbers that are NaN are blanks: of observations and of actions, anywhere.  Actions that are whole numbers (T,) name one of
several, and become a 1 among 0s.  Rewards and costs are not read: the objective is no part of the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.world.actions import Box, Categories


@dataclass(frozen=True)
class Episode:
    """``observations`` (T+1, S) and ``actions`` (T, A), float64, NaN where blank; ``choices`` is A where an action is one of A
    choices, else 0.

    >>> from abduce.world.episodes import episodes
    >>> [e] = episodes({"observations": [[0.0], [1.0], [1.0]], "actions": np.array([2, 0])})
    >>> e.actions.tolist(), e.choices
    ([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], 3)
    """

    observations: np.ndarray
    actions: np.ndarray
    choices: int = 0

    def __len__(self) -> int:
        """The number of actions."""
        return len(self.actions)


class Transitions(NamedTuple):
    """Steps of many episodes, a row each: ``state`` and ``after`` (N, S), ``action`` (N, A), and which ``episode`` (N,)."""

    state: Tensor
    action: Tensor
    after: Tensor
    episode: Tensor


def episodes(data: Any, choices: int = 0, name: str = "episodes") -> list[Episode]:
    """Read episodes; ``choices`` is the number of actions to choose among, where it is known.

    Raises ValueError where nothing is to be learnt: no episode, episodes of one step, sizes that differ.
    """
    found = _read(data, name)
    if not found:
        raise ValueError(f"{name} holds no episode; at least one of two actions is expected")
    if found[0][2]:
        choices = max(choices, *(c for *_, c in found))
    out = [Episode(o, _one_of(a, choices), choices) if c else Episode(o, a) for o, a, c in found]
    for what in ("observations", "actions"):
        sizes = sorted({getattr(e, what).shape[1] for e in out})
        if len(sizes) > 1:
            raise ValueError(f"{name}: {what} have {sizes} columns in different episodes, expected one size")
    return out


def transitions(found: list[Episode]) -> Transitions:
    """Every step of episodes, blanks as NaN."""
    parts = [
        (e.observations[:-1], e.actions, e.observations[1:], np.full(len(e), i)) for i, e in enumerate(found)
    ]
    return Transitions(*(torch.from_numpy(np.concatenate(p)) for p in zip(*parts, strict=True)))


def complete(steps: Transitions) -> Transitions:
    """Those steps in which nothing is blank."""
    seen = ~torch.cat([steps.state, steps.action, steps.after], 1).isnan().any(1)
    return Transitions(*(v[seen] for v in steps))


def space_of(found: list[Episode], given: Any, low: Any, high: Any) -> tuple[Box | Categories, bool]:
    """The actions there are: those told, a recorder's, or what was seen; and whether others are refused, as all but the last
    say."""
    if found[0].choices:
        return Categories(found[0].choices), True
    seen = np.concatenate([e.actions for e in found])
    box = vars(given).get("box") if low is None and high is None and "__dict__" in dir(given) else None
    told = box is not None or (low is not None and high is not None)
    if box is not None:
        low, high = box
    elif low is None or high is None:
        least, most = np.nanmin(seen, 0), np.nanmax(seen, 0)
        if not (least < most).all():
            raise ValueError("actions never differ in the episodes: give low and high, or vary them")
        low, high = (least if low is None else low), (most if high is None else high)
    ends = Box.of(low, high)
    if ends.size not in (1, seen.shape[1]):
        raise ValueError(f"low and high have {ends.size} numbers, actions have {seen.shape[1]}")
    space = Box.of(ends.low.expand(seen.shape[1]), ends.high.expand(seen.shape[1]))
    space.check(torch.from_numpy(seen[~np.isnan(seen).any(1)]), "episodes: actions")
    return space, told


# ---------------------------------------------------------------- forms


def _read(data: Any, name: str) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Observations, actions and the number of choices (0: none) of each episode."""
    match data:
        case Episode():
            return [(data.observations, data.actions, 0)] if not data.choices else [_numbered(data)]
        case Mapping():
            missing = [key for key in ("observations", "actions") if key not in data]
            if missing:
                raise ValueError(f"{name} is a dict without {missing[0]!r}; it has {sorted(map(str, data))}")
            return _arrays(data["observations"], data["actions"], name)
        case tuple() if len(data) == 2:
            return _arrays(*data, name)
        case list() | tuple():
            return [e for i, part in enumerate(data) for e in _read(part, f"{name}[{i}]")]
    parts = dir(data)
    if "iterate_episodes" in parts:
        return _read(list(data.iterate_episodes()), name)
    if "episodes" in parts:
        return _read(list(data.episodes), name)
    if "observations" in parts and "actions" in parts:
        return _arrays(data.observations, data.actions, name)
    raise ValueError(
        f"{name} must be a dict of observations and actions, a list of these, a Minari data set or a recorder, got "
        f"{type(data).__name__}"
    )


def _numbered(episode: Episode) -> tuple[np.ndarray, np.ndarray, int]:
    blank = np.isnan(episode.actions).any(1)
    named = np.where(blank, np.nan, np.nan_to_num(episode.actions).argmax(1))
    return episode.observations, named, episode.choices


def _arrays(observations: Any, actions: Any, name: str) -> list[tuple[np.ndarray, np.ndarray, int]]:
    if isinstance(observations, Mapping):
        raise ValueError(
            f"{name}: observations are a dict of {sorted(observations)}; flatten them to (T+1, S)"
        )
    o, a = _numbers(observations, f"{name}: observations"), np.asarray(actions)
    whole = a.ndim == 1 and np.issubdtype(a.dtype, np.integer)
    a = _numbers(actions, f"{name}: actions")
    if o.ndim == 3 and not whole:
        if a.ndim != 3 or len(a) != len(o):
            raise ValueError(
                f"{name}: observations {o.shape} of several episodes need actions (N, T, A), got {a.shape}"
            )
        return [e for i in range(len(o)) for e in _arrays(o[i], a[i], f"{name}[{i}]")]
    if o.ndim == 1:
        o = o[:, None]
    if a.ndim == 1 and not whole:
        a = a[:, None]
    if o.ndim != 2 or a.ndim > 2:
        raise ValueError(
            f"{name}: observations must be (T+1, S) and actions (T, A), got {o.shape} and {a.shape}; flatten "
            "pictures to rows of numbers"
        )
    if len(o) != len(a) + 1:
        raise ValueError(
            f"{name}: {len(a)} actions have {len(a) + 1} observations, the last one after the last action; got "
            f"{len(o)}"
        )
    if len(a) < 2:
        raise ValueError(
            f"{name} has {len(a)} action: an episode has at least two, and two steps to learn from"
        )
    if np.isinf(o).any() or np.isinf(a).any():
        raise ValueError(f"{name} has infinite values; blanks are NaN")
    if whole and (a < 0).any():
        raise ValueError(f"{name}: actions that are chosen are whole numbers from 0 on, got {int(a.min())}")
    return [(o, a, int(a.max()) + 1 if whole else 0)]


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be numbers (NaN where blank), got {type(values).__name__} that is none"
        ) from None


def _one_of(named: np.ndarray, choices: int) -> np.ndarray:
    """Numbers of choices (T,) as a 1 among 0s, (T, choices); blanks stay blank."""
    out = np.zeros((len(named), choices))
    blank = np.isnan(named)
    out[np.arange(len(named)), np.nan_to_num(named).astype(int)] = 1.0
    out[blank] = np.nan
    return out
