"""An agent: a world model that learns, and a cost that does not, which the agent cannot change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from torch import Generator

from abduce.checks import check_choice, check_count, check_number
from abduce.estimators.world_model import WorldModel
from abduce.world.actions import Box, Categories
from abduce.world.costs import Cost
from abduce.world.environments import Interface, interface_of, make, makers
from abduce.world.episodes import Episode
from abduce.world.planners.methods import METHODS, planner_of
from abduce.world.planners.noise import sequences
from abduce.world.planners.planner import solve
from abduce.world.recorder import Recorder

COLOUR = 64  # steps of one sequence of random actions
SHAKE = 0.5  # of half the box, at most: noise on random actions
HELD = 4  # steps that one of several actions is held


@dataclass(frozen=True)
class Evaluation:
    """What an agent came to from many starts: the environment's ``returns`` and the agent's ``costs`` (n,), ``lengths`` of the
    episodes in steps, ``terminated`` whether the environment ended them, the ``episodes`` themselves, and milliseconds of
    thought an action, ``ms``."""

    seeds: np.ndarray
    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    episodes: list[Episode]
    ms: float


class Agent(BaseEstimator):
    """Acts in a world by planning in its model of it: predict, plan, act, and plan again from what came.

    The objective is immutable: a callable that the agent asks for values and slopes, and neither fits nor edits.  Rewards of
    an environment are reported by :meth:`evaluate` and read nowhere else.

    Parameters
    ----------
    world : WorldModel
        Fitted, or to be fitted by :meth:`learn`.
    cost : callable, Cost or Goal
        ``cost(obs, action, next_obs)`` of tensors gives (batch,).
    horizon : int
        Steps that are planned ahead; they should cover the whole manoeuvre.
    until : int or None
        Where given, the horizon ends at that step of the episode, and is shorter at each step, down to ``least``: for goals
        that are to be reached by a time, which a horizon that recedes puts off for ever.
    method, settings
        The planner, as :meth:`WorldModel.plan` takes them.
    draws : int
        Futures that a cost is averaged over; 0 plans with the mean.
    explore : int
        Steps of random actions, smooth in time, before the first plan.
    refit : int
        Steps between fits while learning.
    shake : float
        In every other episode of learning, planned actions are moved by smooth random ones of this share of their size; of
        several actions this share are random ones.  An action that is always the same in the same place says nothing of what
        another would do there, and plans then go wrong beside their usual way (Ljung 1999, "System Identification", chapter
        13).
    longest : int or None
        An episode of learning is ended after so many steps: where an agent that stays at its goal would see nothing new.
    random_state : int, RandomState or None
    callback : callable or None
        Called at every step of learning with a record: ``epoch`` over ``epochs`` is the step, ``stage`` what is done.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Agent, Goal, WorldModel
    >>> world = WorldModel.of_equations(lambda s, a: s + 0.1 * a, 1, -1.0, 1.0)
    >>> agent = Agent(world, Goal([1.0]), horizon=15, method="ilqr")
    >>> agent.act([[0.0], [2.0]]).round(2).tolist()
    [[1.0], [-1.0]]
    """

    def __init__(
        self,
        world: WorldModel,
        cost: Any,
        *,
        horizon: int = 30,
        until: int | None = None,
        least: int = 10,
        method: str = "auto",
        settings: dict[str, Any] | None = None,
        draws: int = 0,
        explore: int = 100,
        refit: int = 50,
        shake: float = 0.0,
        longest: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.world, self.cost, self.horizon, self.until, self.least = world, cost, horizon, until, least
        self.method, self.settings, self.draws = method, settings, draws
        self.explore, self.refit, self.shake, self.longest = explore, refit, shake, longest
        self.random_state, self.callback = random_state, callback
        self.reset()

    def _check_arguments(self) -> Cost:
        for name in ("horizon", "least", "refit"):
            check_count(name, self.get_params(deep=False)[name])
        for name in ("until", "longest"):
            if self.get_params(deep=False)[name] is not None:
                check_count(name, self.get_params(deep=False)[name])
        for name, most in (("draws", math.inf), ("explore", math.inf), ("shake", 1.0)):
            check_number(name, self.get_params(deep=False)[name], 0, most)
        if self.longest is not None and self.longest <= int(self.world.history):
            raise ValueError(
                f"longest must be above the world's history, {self.world.history}, so that there is a step to learn from, "
                f"got {self.longest}"
            )
        check_choice("method", self.method, sorted(METHODS))
        return Cost.of(self.cost)

    # ------------------------------------------------------------------ act

    def reset(self) -> None:
        """Forget the plan and what was observed: an episode begins."""
        self._memory: Any = None
        self._random = self._generator()
        self._past: list[np.ndarray] = []
        self._step = 0

    def act(self, obs) -> np.ndarray:
        """The next action for an observation (S,), or one for each of several that go side by side (N, S).

        Plans are kept and made better from step to step; :meth:`reset` begins an episode.
        """
        cost = self._check_arguments()
        given = np.array(obs, dtype=np.float64)  # a copy, since environments may write to theirs
        if self._past and self._past[-1].shape != given.shape:
            raise ValueError(
                f"obs has the shape {given.shape}, on the step before {self._past[-1].shape}; reset() begins anew"
            )
        steps = self.world.history
        self._past = [*self._past, given][-steps:]
        asked = given
        if steps > 1:
            past = [self._past[0]] * (steps - len(self._past)) + self._past
            asked = np.stack(past, -2)
        start, alone = self.world.start(asked)
        problem = self.world.problem(start, cost, self._ahead(), int(self.draws))
        planner = planner_of(self.method, self.world.space_, **(self.settings or {}))
        plans, self._memory, _ = solve(planner, problem, self._random, self._memory)
        self._step += 1
        action = self.world.actions_out(plans.actions[:, 0])
        return action[0] if alone else action

    def _ahead(self) -> int:
        if self.until is None:
            return int(self.horizon)
        return max(int(self.least), min(int(self.horizon), int(self.until) - self._step))

    def _generator(self, offset: int = 0) -> Generator:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return Generator().manual_seed((seed + offset) % (2**31 - 1))

    # ------------------------------------------------------------------ learn

    def learn(self, env, steps: int = 400, episodes: int | None = None, seed: int | None = None) -> Agent:
        """Act in an environment for ``steps`` calls of its ``step``, or so many ``episodes``, and learn the world from them.

        The first ``explore`` actions are random, then planned; the model is fitted again every ``refit`` steps, and at the end
        with its intervals.  ``seed`` is that of the environment's first reset.
        """
        self._check_arguments()
        check_count("steps", steps)
        if episodes is not None:
            check_count("episodes", episodes)
        recorder = env if type(env) is Recorder else Recorder(make(env))
        if recorder.copies:
            raise ValueError("learn takes one environment; record a vector of them, and fit the world to it")
        face = self._face(recorder, self.world if self.explore == 0 else None)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        observation, _ = recorder.reset(seed=int(rng.integers(2**31 - 1)) if seed is None else seed)
        self.reset()
        self.returns_, total, length = [], 0.0, 0
        generator = self._generator(1)
        tried = _random_actions(face.space, generator)
        for step in range(int(steps)):
            since = step - int(self.explore)
            if since >= 0 and since % int(self.refit) == 0 and len(recorder.episodes):
                self._fit(recorder, False, step, int(steps))
            self._show("explore" if since < 0 else "act", step, int(steps))
            if since < 0:
                chosen = next(tried)
            else:
                chosen = self.act(np.asarray(observation, dtype=np.float64).ravel())
                if self.shake and len(self.returns_) % 2 == 0:
                    chosen = _shaken(chosen, next(tried), float(self.shake), face.space, generator)
            observation, reward, terminated, truncated, _ = recorder.step(face.action(chosen))
            total, length = total + float(reward), length + 1
            if terminated or truncated or length == self.longest:
                self.returns_.append((step + 1, total))
                if len(self.returns_) == episodes:
                    break
                observation, _ = recorder.reset()
                total, length = 0.0, 0
                tried = _random_actions(face.space, generator)
                self.reset()
        self._fit(recorder, True, int(steps), int(steps))
        self.experience_ = recorder
        self.reset()
        return self

    def _fit(self, recorder: Recorder, judged: bool, step: int, steps: int) -> None:
        """Fit the world again; the plan goes on from where it was, in the new model, but for one of pictures, whose codes are
        others now."""
        self._show("fit", step, steps)
        anew: WorldModel = clone(self.world)  # pyright: ignore[reportAssignmentType]
        self.world = anew.fit(recorder, judged=judged)
        if self.world.pictures_ is not None:
            self._memory = None

    def _show(self, stage: str, step: int, steps: int) -> None:
        if self.callback is not None:
            self.callback({"epoch": step, "epochs": steps, "stage": stage})

    def _face(self, env: Any, world: WorldModel | None) -> Interface:
        """What an environment takes and gives, refused where a fitted world knows another."""
        face = interface_of(env)
        if world is not None:
            world.check_sizes(face.observation_size, face.space.size, "env")
        return face

    # ------------------------------------------------------------------ evaluate

    def evaluate(self, env, seeds: Iterable[int] = range(100), steps: int = 10_000) -> Evaluation:
        """Act from the start that each seed gives, all side by side, in an environment, its id, or a function that makes one.

        Episodes that do not end by themselves are cut after ``steps``.
        """
        cost = self._check_arguments()
        check_count("steps", steps)
        chosen = [int(s) for s in seeds]
        if not chosen:
            raise ValueError("seeds must hold at least one seed, got none")
        alike = makers(env, len(chosen))
        if alike is None:
            parts = [self._run([env], [s], cost, int(steps)) for s in chosen]
        else:
            envs = [one() for one in alike]
            parts = [self._run(envs, chosen, cost, int(steps))]
            for one in envs:
                one.close()
        self.reset()
        columns = [np.concatenate(c) for c in zip(*(p[:4] for p in parts), strict=True)]
        went = [e for p in parts for e in p[4]]
        ms = 1000 * sum(p[5] for p in parts) / max(1, int(columns[2].sum()))
        return Evaluation(np.asarray(chosen), *columns, episodes=went, ms=ms)

    def _run(
        self, envs: list[Any], seeds: list[int], cost: Cost, steps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Episode], float]:
        """Returns, costs, lengths and terminations of one episode in each environment, these, and seconds of thought."""
        n, face = len(envs), self._face(envs[0], self.world)
        now = np.stack(
            [np.ravel(e.reset(seed=s)[0]).astype(np.float64) for e, s in zip(envs, seeds, strict=True)]
        )
        returns, costs, lengths = np.zeros(n), np.zeros(n), np.zeros(n, int)
        going, terminated, thought = np.ones(n, bool), np.zeros(n, bool), 0.0
        seen, done = [now.copy()], []
        self.reset()
        for _ in range(steps):
            begun = time.perf_counter()
            actions = self.act(now)
            thought += time.perf_counter() - begun
            before, taken = now.copy(), going.copy()
            for i in np.flatnonzero(going):
                observation, reward, over, cut, _ = envs[i].step(face.action(actions[i]))
                now[i] = np.ravel(observation)
                returns[i] += reward
                terminated[i], going[i] = over, not (over or cut)
            seen.append(now.copy())
            done.append(_rows(actions, face))
            lengths += taken
            costs += np.where(taken, _costs(cost, before, actions, now, face), 0.0)
            self._show("evaluate", int(lengths.max()), steps)
            if not going.any():
                break
        o, a = np.stack(seen, 1), np.stack(done, 1)
        went = [Episode(o[i, : m + 1], a[i, :m], face.space.choices) for i, m in enumerate(lengths)]
        return returns, costs, lengths, terminated, went, thought


def _costs(
    cost: Cost, before: np.ndarray, actions: np.ndarray, after: np.ndarray, face: Interface
) -> np.ndarray:
    """The cost of each transition (n,)."""
    rows = torch.from_numpy(_rows(actions, face))
    return cost(torch.from_numpy(before), rows, torch.from_numpy(after)).double().numpy()


def _rows(actions: np.ndarray, face: Interface) -> np.ndarray:
    """Actions as numbers (n, A)."""
    return np.eye(face.space.choices)[actions] if face.space.choices else actions


def _shaken(
    chosen: np.ndarray, tried: np.ndarray, share: float, space: Box | Categories, generator: Generator
) -> np.ndarray:
    """An action moved by a share of a random one, or, of several, that one at this rate."""
    match space:
        case Categories():
            return tried if float(torch.rand((), generator=generator)) < share else chosen
        case Box():
            moved = torch.from_numpy(chosen) + share * (torch.from_numpy(tried) - space.middle)
            return space.clip(moved).numpy()


def _random_actions(space: Box | Categories, generator: Generator) -> Iterator[np.ndarray]:
    """Random actions, one after the other: smooth in time, of any size, with noise besides; of several, each is held for some
    steps."""
    while True:
        match space:
            case Categories(size):
                held = torch.randint(size, (COLOUR // HELD,), generator=generator)
                yield from held.repeat_interleave(HELD).numpy()
            case Box():
                index = torch.randint(4, (), generator=generator)  # one of the colours
                one = sequences(4, COLOUR, space, torch.zeros(1).double(), generator)[index, 0]
                size, shake = torch.rand(2, generator=generator, dtype=torch.float64)
                noise = 2 * torch.rand(one.shape, generator=generator, dtype=torch.float64) - 1
                mixed = space.middle + size * (one - space.middle) + shake * SHAKE * space.half * noise
                yield from space.clip(mixed).numpy()
