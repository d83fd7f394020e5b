"""One model of a world that is acted in: what follows, what was odd, which actions lead where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor

from abduce.checks import check_choice, check_count, check_number, check_share
from abduce.estimators import world_folder
from abduce.estimators.pictures import fit_pictures
from abduce.world.actions import Box, Categories
from abduce.world.calibration import Calibration
from abduce.world.costs import Cost
from abduce.world.ensemble_fit import EnsembleTraining
from abduce.world.episodes import Episode, episodes, space_of
from abduce.world.equations import Equations
from abduce.world.history import ObservationHistory
from abduce.world.learning import KINDS, learn
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.pictures import Pictures
from abduce.world.planners.methods import METHODS, planner_of
from abduce.world.planners.planner import Problem, solve
from abduce.world.rollout import drawn, follow
from abduce.world.smoothing import smooth
from abduce.world.transitions import Transition
from abduce.world.visited import Visited

BLOCK = 2**14  # rollouts at once


@dataclass(frozen=True)
class ActionPlan:
    """A plan: ``actions`` (H, A), the ``observations`` (H+1, S) that it expects and their ``cost``.

    ``costs`` (iterations,) is the cost as it fell while the plan was refined, ``diagnostics`` what the planner told of its
    last iteration.  Of several starts everything has a first axis more.  Where actions are choices they are whole numbers.
    """

    actions: np.ndarray
    observations: np.ndarray
    cost: Any
    costs: np.ndarray
    diagnostics: dict[str, Any] = field(default_factory=dict)


class WorldModel(BaseEstimator):
    """How a world goes on under actions, learnt from episodes; a trajectory with blanks is predicted, explained or planned.

        p(s_{t+1} | s_t, a_t)   linear-Gaussian, or beside a linear path a Gaussian process or an ensemble of Gaussian networks

    Leave the states blank and the model predicts; leave the actions blank and it plans.  Intervals are calibrated on rollouts
    of held-out data that lie near.  What is to be achieved is no part of it: a cost is given when it is asked for a plan.

    Parameters
    ----------
    model : {"auto", "linear", "process", "ensemble"}
        "process" is a Gaussian process; "auto" is whichever foresees held-out steps best, networks only where they are clearly
        nearer.
    history : int
        Observations that make a state: 2 where velocities are not seen.
    codes : int or None
        For worlds that are seen in pictures, rows of their pixels: so many numbers a picture, of a variational auto-encoder
        that is fitted first.  The world goes on in these: log p is that of codes, intervals are of what they decode to, and a
        picture with a blank is taken for blank.
    members, hidden, updates, learning_rate, decay
        Networks of the ensemble, their units, and how Adam trains them.
    random_state : int, RandomState or None
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far a ``stage`` of the fit has come.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import WorldModel
    >>> rng = np.random.default_rng(0)
    >>> pushes = rng.normal(size=(20, 30, 1))
    >>> places = np.concatenate([np.zeros((20, 1, 1)), pushes.cumsum(1)], 1)
    >>> world = WorldModel(model="linear", random_state=0).fit({"observations": places, "actions": pushes})
    >>> world.predict([0.0], [[1.0], [1.0]]).round(3).ravel().tolist()
    [1.0, 2.0]
    >>> way = world.fill({"observations": [[0.0], [np.nan], [1.0]], "actions": [[np.nan], [np.nan]]})
    >>> way["actions"].round(2).ravel().tolist()
    [0.5, 0.5]
    """

    transition_: Transition
    linear_: LinearGaussian
    calibration_: Calibration
    space_: Box | Categories
    history_: ObservationHistory
    visited_: Visited
    pictures_: Pictures | None

    def __init__(
        self,
        *,
        model: str = "auto",
        history: int = 1,
        codes: int | None = None,
        members: int = 5,
        hidden: tuple[int, ...] = (64, 64),
        updates: int = 1000,
        learning_rate: float = 1e-2,
        decay: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.model, self.history, self.codes = model, history, codes
        self.members, self.hidden = members, hidden
        self.updates, self.learning_rate, self.decay = updates, learning_rate, decay
        self.random_state, self.callback = random_state, callback

    # ------------------------------------------------------------------ fit

    def fit(self, episodes_, y=None, *, low=None, high=None, judged: bool = True) -> WorldModel:
        """Fit to episodes: dicts of ``observations`` (T+1, S) and ``actions`` (T, A), lists of these, a Minari data set, or a
        :class:`~abduce.Recorder`.  NaN are blanks.

        ``low`` and ``high`` are the least and the greatest action; by default a recorder's, else those of the episodes.
        ``judged=False`` saves the fits that choose the model and calibrate its intervals.
        """
        self._check_arguments()
        found = episodes(episodes_)
        self.inference_seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.space_, self.told_ = space_of(found, episodes_, low, high)
        size, pictures = found[0].observations.shape[1], None
        if self.codes is not None:  # episodes too short are refused before any work
            ObservationHistory(int(self.history), size).episodes(found)
            pictures = fit_pictures(found, int(self.codes), self.inference_seed_, self._show)
            found = pictures.episodes(found)
        self.history_ = ObservationHistory(int(self.history), found[0].observations.shape[1])
        training = EnsembleTraining(
            int(self.members), tuple(self.hidden), int(self.updates), self.learning_rate, self.decay
        )
        states = self.history_.episodes(found)
        learnt = learn(
            states, self.model, training, self.inference_seed_, judged, self._show, self.history_.tied
        )
        self.pictures_ = pictures
        self.transition_, self.linear_ = learnt.transition, learnt.linear
        self.calibration_, self.errors_ = learnt.calibration, learnt.errors
        seen = np.concatenate([e.observations for e in states])
        self.visited_ = Visited.of(torch.from_numpy(seen), self.inference_seed_)
        self.steps_ = sum(map(len, found))
        self.n_features_in_ = size
        return self

    @classmethod
    def of_equations(
        cls, function: Callable[[Tensor, Tensor], Tensor], size: int, low, high, noise: Any = 0.0
    ) -> WorldModel:
        """The model of a world whose equations are known: ``function`` (N, S), (N, A) -> (N, S), in operations of torch.

        It is asked as one that was fitted; ``noise`` is the standard deviation of a step.  Code is not saved.
        """
        box = Box.of(low, high)
        made = cls(random_state=0)
        made.inference_seed_, made.space_, made.history_ = 0, box, ObservationHistory(1, int(size))
        made.told_, made.pictures_ = True, None
        made.transition_ = Equations(function, int(size), box.size, noise)
        made.linear_ = LinearGaussian(int(size), box.size)
        made.calibration_, made.errors_, made.steps_ = Calibration.none(int(size)), {}, 0
        made.visited_, made.n_features_in_ = Visited(torch.zeros(0, int(size))), int(size)
        return made

    def _check_arguments(self) -> None:
        check_choice("model", self.model, ("auto", *KINDS))
        for name in ("history", "members", "updates"):
            check_count(name, self.get_params()[name])
        for units in self.hidden:
            check_count("hidden", units)
        if self.codes is not None:
            check_count("codes", self.codes)
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("decay", self.decay, 0)

    def _show(self, stage: str, share: float) -> None:
        if self.callback is not None:
            self.callback({"epoch": share, "epochs": 1.0, "stage": stage})

    def __sklearn_is_fitted__(self) -> bool:
        return "transition_" in vars(self)

    # ------------------------------------------------------------------ predict

    def predict(self, obs, actions, draws: int | None = None, random_state=None) -> np.ndarray:
        """Observations that follow: (H, S) after ``obs`` (S,) and ``actions`` (H, A); (N, H, S) of several.

        With ``draws`` so many futures, (draws, ..., H, S), with the world's noise and the model's doubt of itself.  With
        ``history`` k above 1, ``obs`` are the last k observations (k, S); of fewer, the first is taken for those before it.
        """
        start, acts, alone = self._asked(obs, actions)
        if draws is None:
            with torch.no_grad():
                states = follow(self.transition_, start, acts)[:, 1:]
            found = self._seen(states)
            return found[0] if alone else found
        check_count("draws", draws)
        found = self._seen(self._futures(start, acts, int(draws), random_state))
        return found[:, 0] if alone else found

    def predict_interval(
        self, obs, actions, level: float = 0.9, draws: int = 200, random_state=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends of intervals that hold each observation that follows with the probability ``level``, shaped as predictions."""
        check_share("level", level)
        found = self.predict(obs, actions, draws, random_state)
        low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        return low, high

    @torch.no_grad()
    def _futures(self, start: Tensor, acts: Tensor, draws: int, random_state: Any) -> Tensor:
        """Drawn states (draws, N, H, S), spread as the calibration has it."""
        generator = self._generator(random_state)
        size = max(1, BLOCK // draws)
        parts = [
            drawn(self.transition_, s, a, draws, generator)[0][:, :, 1:]
            for s, a in zip(start.split(size), acts.split(size), strict=True)
        ]
        return self.calibration_.stretch(start, torch.cat(parts, 1))

    # ------------------------------------------------------------------ surprise

    def score_samples(self, episodes_):
        """Log p of each step's observation given the state and the action before it, nats: (T,), a list for several episodes.

        NaN where a blank is in the way, and for the first steps, which have too little ``history``.
        """
        scores = self._scores(episodes_)
        return scores[0] if len(scores) == 1 else scores

    def _scores(self, episodes_: Any) -> list[np.ndarray]:
        check_is_fitted(self)
        found = self._coded(self._episodes(episodes_))
        out = []
        for e in found:
            scores = np.full(len(e), np.nan)
            if len(e) >= self.history_.steps:
                states = self._tensor(self.history_.states(torch.from_numpy(e.observations)).numpy())
                acts = self._tensor(e.actions[self.history_.steps - 1 :])
                with torch.no_grad():
                    scores[self.history_.steps - 1 :] = self.transition_.log_prob(
                        states[:-1], acts, states[1:]
                    ).double()
            out.append(scores)
        return out

    def anomaly_score(self, episodes_):
        """Surprise: −log p of each step, as ``score_samples`` has it."""
        scores = self._scores(episodes_)
        return -scores[0] if len(scores) == 1 else [-s for s in scores]

    def score(self, episodes_, y=None) -> float:
        """Mean log p of a step, nats."""
        return float(np.nanmean(np.concatenate(self._scores(episodes_))))

    # ------------------------------------------------------------------ plan

    def plan(
        self,
        obs,
        cost,
        horizon: int = 30,
        method: str = "auto",
        *,
        draws: int = 0,
        random_state=None,
        **settings,
    ) -> ActionPlan:
        """The actions of least cost from ``obs`` (S,), or from each of (N, S).

        ``cost(obs, action, next_obs)`` gives (batch,) of tensors, or is a :class:`~abduce.Goal`; with ``draws`` it is averaged
        over that many futures with noise and doubt.  ``settings`` go to the planner of the ``method``.
        """
        start, alone = self.start(obs)
        check_choice("method", method, sorted(METHODS))
        check_number("draws", draws, 0)
        problem = self.problem(start, cost, horizon, int(draws))
        planner = planner_of(method, self.space_, **settings)
        plans, _, told = solve(planner, problem, self._generator(random_state))
        actions, observations = self.actions_out(plans.actions), self._seen(plans.states)
        value = plans.cost.double().numpy()
        costs = np.stack([info["cost"].double().numpy() for info in told]) if told else value[None]
        last = {
            k: v.double().numpy() if type(v) is Tensor else v for k, v in (told[-1] if told else {}).items()
        }
        if alone:
            return ActionPlan(actions[0], observations[0], float(value[0]), costs[:, 0], last)
        return ActionPlan(actions, observations, value, costs, last)

    def problem(self, start: Tensor, cost: Any, horizon: int, draws: int = 0) -> Problem:
        """What a planner is given: from states (N, S), a cost of observations."""
        check_count("horizon", horizon)
        own = Cost.of(cost)
        own = self.history_.cost(own if self.pictures_ is None else self.pictures_.cost(own))
        return Problem.of(
            self.transition_, own, start, int(horizon), self.space_, draws, self.inference_seed_
        )

    def actions_out(self, actions: Tensor) -> np.ndarray:
        """Actions (..., A) as the world takes them: numbers, or whole numbers (...,) that choose."""
        if self.space_.choices:
            return actions.argmax(-1).numpy()
        return self.space_.clip(actions.double()).numpy()

    @torch.no_grad()
    def _seen(self, states: Tensor) -> np.ndarray:
        """What is observed of states."""
        found = self.history_.observed(states)
        return (found if self.pictures_ is None else self.pictures_.decode(found)).double().numpy()

    # ------------------------------------------------------------------ fill

    def fill(self, trajectory, draws: int | None = None, random_state=None, luck: bool = True):
        """A trajectory, a dict of ``observations`` (T+1, S) and ``actions`` (T, A), with its blanks (NaN) at their means.

        Blank observations are predicted, or inferred from both sides; blank actions are inferred from what they led to:
        between a start and a goal they are a plan.  With ``draws`` a list of so many trajectories that could have been.
        With ``luck=False`` noise explains nothing, as it must not in a plan that is to be carried out: what is expected leads
        from what was seen to what was seen, with actions in their box, rather by states like those of the episodes.

        With luck exact in a linear world, whose actions are not kept in their box; else the most probable trajectory, and
        draws of the Gaussian around it.
        """
        check_is_fitted(self)
        if not isinstance(luck, bool):
            raise ValueError(f"luck must be True or False, got {luck!r}")
        [given] = self._episodes(trajectory, "trajectory")
        if self.history_.steps > 1:
            raise ValueError(f"fill takes models with history=1, this one has history={self.history_.steps}")
        [found] = self._coded([given])
        filled = self._filled(found, bool(luck))

        def whole(states: Tensor, actions: Tensor) -> dict[str, np.ndarray]:
            seen = given.observations
            return {
                "observations": np.where(np.isnan(seen), self._seen(states), seen),
                "actions": actions.numpy(),
            }

        if draws is None:
            return whole(filled.states[0], filled.actions[0])
        check_count("draws", draws)
        states, actions = filled.draw(int(draws), self._generator(random_state))
        return [whole(s[0], a[0]) for s, a in zip(states, actions, strict=True)]

    def _filled(self, found: Episode, luck: bool):
        """Exactly where the world is linear, else the most probable trajectory and the Gaussian around it."""
        states, actions = torch.from_numpy(found.observations)[None], torch.from_numpy(found.actions)[None]
        if self.transition_.exact and luck:
            return self.linear_.fill(states, actions)
        match self.space_:
            case Box() as box:
                visited, seed = None if luck else self.visited_, self.inference_seed_
                return smooth(self.transition_, self.linear_, box, states, actions, seed, visited=visited)
        raise ValueError(
            "fill takes actions that are numbers where a world is not linear or luck=False; these are choices"
        )

    # ------------------------------------------------------------------ what comes in

    def _episodes(self, given: Any, name: str = "episodes") -> list[Episode]:
        found = episodes(given, self.space_.choices, name)
        sizes = found[0].observations.shape[1], found[0].actions.shape[1]
        self.check_sizes(*sizes, name)
        return found

    def _coded(self, found: list[Episode]) -> list[Episode]:
        """Episodes in which the world goes on: as they are, or of codes."""
        return found if self.pictures_ is None else self.pictures_.episodes(found)

    def check_sizes(self, observation: int, action: int, name: str) -> None:
        """Refuse what has other observations or actions than the model."""
        check_is_fitted(self)
        own = self.n_features_in_, self.space_.size
        for what, size, expected in zip(("observations", "actions"), (observation, action), own, strict=True):
            if size != expected:
                raise ValueError(f"{name} has {what} of {size} numbers, the model was fitted to {expected}")

    def start(self, obs: Any) -> tuple[Tensor, bool]:
        """States (N, S) of observations, and whether it was one."""
        check_is_fitted(self)
        given = np.asarray(obs, dtype=np.float64)
        inner = 1 if self.history_.steps == 1 else 2
        size = self.n_features_in_
        if given.ndim not in (inner, inner + 1) or given.shape[-1] != size:
            shape = f"({size},)" if inner == 1 else f"({self.history_.steps}, {size})"
            raise ValueError(f"obs must be of shape {shape}, or several of these, got {given.shape}")
        if inner == 2 and given.shape[-2] > self.history_.steps:
            raise ValueError(
                f"obs of shape {given.shape} has {given.shape[-2]} observations of one past, of which this model of "
                f"history={self.history_.steps} takes the last {self.history_.steps}: obs[..., -{self.history_.steps}:, :]; "
                f"several starts are of shape (N, {self.history_.steps}, {size})"
            )
        alone = given.ndim == inner
        rows = given[None] if alone else given
        if np.isnan(rows).any():
            raise ValueError("obs has blanks (NaN): fill a trajectory that ends there first")
        past = rows[:, None] if inner == 1 else self.history_.start(rows)
        if self.pictures_ is not None:
            past = self.pictures_.encode(torch.from_numpy(past)).numpy()
        return self._tensor(self.history_.states(torch.from_numpy(past))[:, -1].numpy()), alone

    def _asked(self, obs: Any, actions: Any) -> tuple[Tensor, Tensor, bool]:
        start, alone = self.start(obs)
        given = np.asarray(actions)
        if self.space_.choices and np.issubdtype(given.dtype, np.integer):
            given = np.eye(self.space_.size)[given]
        given = given.astype(np.float64)
        acts = given[None] if given.ndim == 2 else given
        if acts.ndim != 3 or acts.shape[-1] != self.space_.size or acts.shape[1] < 1:
            raise ValueError(
                f"actions must be (H, {self.space_.size}) or (N, H, {self.space_.size}), got {given.shape}"
            )
        if len(acts) != len(start) and 1 not in (len(acts), len(start)):
            raise ValueError(f"{len(start)} starts and {len(acts)} sequences of actions do not go together")
        if not np.isfinite(acts).all():
            raise ValueError("actions must be finite numbers: fill infers those that are blank")
        taken = self._tensor(acts)
        if self.told_:
            self.space_.check(taken.double())
        n = max(len(start), len(acts))
        alone = alone and given.ndim == 2
        return start.expand(n, -1), taken.expand(n, -1, -1), alone

    def _tensor(self, values: np.ndarray) -> Tensor:
        dtype = next(self.transition_.buffers()).dtype
        return torch.as_tensor(values).to(dtype)

    def _generator(self, random_state: Any) -> Generator:
        if random_state is None:
            return Generator().manual_seed(self.inference_seed_)
        return Generator().manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))

    # ------------------------------------------------------------------ keep

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically; :func:`~abduce.load` reads it."""
        check_is_fitted(self)
        world_folder.keep(self, folder)
