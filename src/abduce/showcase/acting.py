"""A demonstration of acting: learn an environment in a few hundred steps, act in it, and write a report with pictures.

Objectives of well-known environments are written down here as functions; of any other, the goal is a state given by the user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from abduce.estimators.agent import Agent, Evaluation
from abduce.estimators.world_model import WorldModel
from abduce.showcase import plots, report
from abduce.world.costs import Cost, Goal
from abduce.world.episodes import Episode

SHOWN = 25  # steps of a rollout that are drawn
FRAMES = 8


@dataclass(frozen=True)
class KnownTask:
    """What is to be achieved in an environment, and how the agent plans for it."""

    cost: Cost
    settings: dict[str, Any] = field(default_factory=dict)


def squares(residuals: Callable[[Tensor, Tensor, Tensor], Tensor], last: Any = None) -> Cost:
    """The cost |r|², with that of the last state."""
    end = None if last is None else (lambda o: last(o).square().sum(-1))
    return Cost(lambda o, a, n: residuals(o, a, n).square().sum(-1), end, residuals, last)


def swing_up(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Of Pendulum: angle from the top, speed and torque, as the environment's reward weighs them."""
    angle = torch.atan2(obs[..., 1], obs[..., 0])
    return torch.stack([angle, 0.1**0.5 * obs[..., 2], 0.001**0.5 * action[..., 0]], -1)


def upright(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Of a pole on a cart: place, angle, and their speeds, all near zero."""
    return torch.cat([torch.tensor([3.0, 10.0, 0.5, 0.5]).to(after) * after, 0.02 * action], -1)


def effort(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Of the car in the valley: what it costs to push."""
    return 0.1**0.5 * action


def short(obs: Tensor) -> Tensor:
    """Of the car in the valley: how far it is from the flag."""
    return 1000**0.5 * torch.relu(0.46 - obs[..., :1])


def reach(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Of an arm that reaches: the distance from its finger to the target, and what it costs to turn."""
    return (after[..., 8:10].square().sum(-1) + 1e-8).sqrt() + 0.1 * action.square().sum(-1)


FEW = {"candidates": 300, "survivors": 16, "iterations": 20, "fresh": 16, "later": 3}
LONG = {"candidates": 1000, "survivors": 96, "iterations": 30, "fresh": 0, "kept": 1, "later": 1}
SHORT = {"candidates": 100, "survivors": 16, "iterations": 10, "fresh": 16, "later": 3}
OBJECTIVES = {
    "Pendulum-v1": KnownTask(squares(swing_up), {"horizon": 55, "longest": 75, "settings": FEW}),
    "InvertedPendulum-v5": KnownTask(
        squares(upright),
        {
            "horizon": 20,
            "explore": 120,
            "refit": 40,
            "method": "ilqr",
            "settings": {"later": 1, "iterations": 10},
        },
    ),
    "MountainCarContinuous-v0": KnownTask(
        squares(effort, short),
        {"horizon": 400, "until": 400, "explore": 999, "refit": 250, "settings": LONG},
    ),
    "Reacher-v5": KnownTask(Cost(reach), {"horizon": 15, "explore": 500, "refit": 250, "settings": SHORT}),
}


def objective_of(env: str, goal: Sequence[float] | None, tolerance: float, horizon: int | None) -> KnownTask:
    """The objective of a known environment, or to come to a goal."""
    if goal is not None:
        found = KnownTask(Cost.of(Goal(list(goal), tolerance)), {"horizon": 30})
    elif env in OBJECTIVES:
        found = OBJECTIVES[env]
    else:
        raise ValueError(
            f"no objective is known for {env!r}; known are {sorted(OBJECTIVES)}: give the state to come to, --goal 0,0,nan"
        )
    return found if horizon is None else KnownTask(found.cost, found.settings | {"horizon": horizon})


def run(
    output: Path,
    env: str,
    objective: KnownTask,
    steps: int = 400,
    episodes: int | None = None,
    starts: int = 10,
    seed: int = 0,
    show: Callable[[str, float, float], None] = lambda text, done, total: None,
) -> dict[str, Any]:
    """Learn for so many steps, act from so many starts, write ``report.html`` and the model; return the figures."""
    begun = time.perf_counter()

    def tell(record: dict[str, Any]) -> None:
        show(record["stage"], record["epoch"], record["epochs"])

    settings = objective.settings
    if "explore" in settings:  # whatever the steps, half of them are planned
        settings = settings | {"explore": min(settings["explore"], steps // 2)}
    agent = Agent(WorldModel(random_state=seed), objective.cost, random_state=seed, callback=tell, **settings)
    agent.learn(env, steps=steps, episodes=episodes)
    show("evaluate", 0, 1)
    found = agent.evaluate(env, range(starts), steps=1000)
    agent.world.save(output / "model")
    result = {
        "env": env,
        "steps": agent.experience_.steps,
        "model": agent.world.transition_.family,
        "returns": found.returns.tolist(),
        "costs": found.costs.tolist(),
        "lengths": found.lengths.tolist(),
        "training": [list(pair) for pair in agent.returns_],
        "ms": found.ms,
    }
    result["seconds"] = time.perf_counter() - begun
    lead = f"{result['steps']} steps of experience, then {starts} starts: return {found.returns.mean():.1f} on average."
    report.write(output / "report.html", f"Acting in {env}", lead, _sections(agent, found, env, objective))
    return result


def _sections(
    agent: Agent, found: Evaluation, env: str, objective: KnownTask
) -> list[report.Picture | report.Table | str]:
    pictures: list[report.Picture | report.Table | str] = []
    if agent.returns_:
        pictures.append(
            report.Picture(
                "learning", "Learning", "Return of each episode while learning, by steps of experience.",
                lambda: learning_curve(agent.returns_, found.returns),
            )
        )  # fmt: skip
    longest = max(found.episodes, key=len)
    pictures.append(
        report.Picture(
            "prediction", "Foreseen and come", "What was predicted from the first observation and the actions taken, 90 % "
            "intervals, and what came.", lambda: foreseen(agent.world, longest),
        )
    )  # fmt: skip
    horizon = min(int(agent.horizon), 100)
    method, settings = agent.method, agent.settings or {}
    plan = agent.world.plan(longest.observations[0], objective.cost, horizon, method, **settings)
    pictures.append(
        report.Picture(
            "plan", "A plan as it is refined", "Cost of the best plan after each iteration.",
            lambda: refined(plan.costs),
        )
    )  # fmt: skip
    if (frames := film(agent, env)) is not None:
        pictures.append(
            report.Picture("film", "Film strip", "One episode, from left to right.", lambda: strip(frames))
        )
    return pictures


# ---------------------------------------------------------------- pictures


def learning_curve(training: Sequence[tuple[int, float]], after: np.ndarray) -> Figure:
    """Returns while learning, and where they came to."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*training, strict=True), marker="o", ms=3, color=plots.OURS)
    axis.axhline(float(after.mean()), color=plots.PEER, ls="--", label="afterwards")
    axis.set(xlabel="steps of experience", ylabel="return")
    axis.legend(frameon=False)
    return figure


def foreseen(world: WorldModel, episode: Episode, start: int = 0) -> Figure:
    """Predicted observations with their 90 % intervals, and what came."""
    steps = min(SHOWN, len(episode) - start)
    first, acts = episode.observations[start], episode.actions[start : start + steps]
    low, high = world.predict_interval(first, acts)
    figure = Figure(figsize=(7, 1.5 * len(first)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(first), 1, sharex=True))
    t = np.arange(1, steps + 1)
    for j, axis in enumerate(axes):
        axis.fill_between(t, low[:, j], high[:, j], color=plots.OURS, alpha=0.3, lw=0)
        axis.plot(t, episode.observations[start + 1 : start + steps + 1, j], color=plots.BLANK, lw=1)
        axis.set_ylabel(f"observation {j}")
    axes[-1].set_xlabel("steps ahead")
    return figure


def refined(costs: np.ndarray) -> Figure:
    """Cost of the best plan by iteration."""
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(np.arange(1, len(costs) + 1), costs, color=plots.OURS)
    axis.set(xlabel="iteration", ylabel="cost", yscale="log" if costs.min() > 0 else "linear")
    return figure


class Filmed:
    """An environment whose every step is drawn."""

    def __init__(self, env: str):
        import gymnasium

        self.env, self.images = gymnasium.make(env, render_mode="rgb_array"), []
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, **arguments: Any) -> Any:
        """Start, and draw."""
        found = self.env.reset(**arguments)
        self.images.append(np.asarray(self.env.render()))
        return found

    def step(self, action: Any) -> Any:
        """Do an action, and draw."""
        found = self.env.step(action)
        self.images.append(np.asarray(self.env.render()))
        return found


def film(agent: Agent, env: str, seed: int = 0, steps: int = 200) -> list[np.ndarray] | None:
    """Pictures of one episode, evenly spaced; None where the environment cannot be drawn here."""
    try:
        scene = Filmed(env)
        scene.reset(seed=seed)
    except Exception:  # whatever a renderer raises without its libraries or a display
        return None
    scene.images.clear()
    agent.evaluate(scene, [seed], steps=steps)
    some = np.linspace(0, len(scene.images) - 1, FRAMES).round().astype(int)
    return [scene.images[i] for i in some]


def strip(frames: Sequence[np.ndarray]) -> Figure:
    """Pictures side by side."""
    figure = Figure(figsize=(1.3 * len(frames), 1.4), layout="constrained")
    for axis, image in zip(np.atleast_1d(figure.subplots(1, len(frames))), frames, strict=True):
        axis.imshow(image)
        axis.set_axis_off()
    return figure
