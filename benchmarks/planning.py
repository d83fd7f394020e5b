"""Acting in real environments after very little experience.

Each row: a world model learnt from so many calls of ``env.step``, all of them counted, and plans in it; then episodes from the
same 100 starts for all.  Beside it the same planner on the true equations (no learning), a planner on a linear-Gaussian
model, SAC of stable-baselines3 after the same number of steps and after 20,000, and random actions.  Pendulum's optimum is
dynamic programming on a grid.  Settings were tuned on starts from 1000 on and on other training seeds; reported are starts
0-99 and fresh training seeds.

    python benchmarks/planning.py [--quick] [--seeds 5] [--tasks pendulum car ...] [--starts 100] [--threads 1]

Needs gymnasium and mujoco (the extra ``world``); the pole that is swung up needs ``pip install dm_control`` and the MuJoCo
that it asks for, SAC ``pip install --no-deps stable-baselines3``, whose own pins are older.  Results are written a task a
file.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from common import Report, arguments, parse, say, spread
from worlds import (
    DmControl,
    Seen,
    driven,
    optimum,
    pictured_swing_residuals,
    swing_up_cost,
    turned,
    unseen_swing_residuals,
    without_speed,
)

from abduce import Agent, Cost, WorldModel
from abduce.showcase.acting import FEW, OBJECTIVES, squares
from abduce.world.calibration import coverage
from abduce.world.environments import make

TRAINING = 7000  # + seed: of the environments that are learnt in
LONG = 20_000  # steps of SAC's second row
REMARK = (
    "Every call of `env.step` is counted, the random first ones and those of failed episodes too. Returns are the "
    "environment's, which the agent never reads: it has the objective as a function. ± is over training seeds; starts are "
    "0-{} for all. Intervals are checked on 20 of the evaluation's own episodes. Milliseconds are wall-clock, all starts "
    "planned side by side."
)
OPTIMUM, TRUE = "optimum, by dynamic programming", "the same planner, true equations"


@dataclass(frozen=True)
class Task:
    """An environment, its objective, how long it is learnt and planned, and its equations where they are known.  ``held`` is
    how many of its own steps one of ours is."""

    env: Any
    title: str
    cost: Cost
    steps: int
    agent: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    equations: Callable[[], WorldModel] | None = None
    episodes: int | None = None
    longest: int = 1000
    held: int = 1
    needs: str = "gymnasium"


def known_task(env: str, title: str, steps: int, **more: Any) -> Task:
    """A task whose objective and settings `abduce act` has."""
    known = OBJECTIVES[env]
    return Task(env, f"{env}, {title}", known.cost, steps, known.settings, **more)


TASKS = {
    "pendulum": known_task(
        "Pendulum-v1", "400 steps", 400,
        equations=lambda: WorldModel.of_equations(turned, 3, -2.0, 2.0), longest=200,
    ),
    "hidden": Task(
        without_speed, "Pendulum-v1 without its speed, 1,000 steps", squares(unseen_swing_residuals), 1000,
        {"horizon": 55, "explore": 150, "refit": 50, "shake": 0.5, "longest": 75, "settings": FEW},
        {"model": "process", "history": 2},
        longest=200,
    ),
    "pixels": Task(
        Seen, "Pendulum-v1 in pictures of 16x16, 4,000 steps", squares(pictured_swing_residuals), 4000,
        {"horizon": 55, "explore": 400, "refit": 400, "longest": 75, "settings": FEW},
        {"model": "ensemble", "history": 3, "codes": 2, "updates": 3000}, longest=200,
    ),
    "balance": known_task("InvertedPendulum-v5", "200 steps", 200),
    "car": known_task(
        "MountainCarContinuous-v0", "3 episodes", 2997,
        equations=lambda: WorldModel.of_equations(driven, 2, -1.0, 1.0), episodes=3, longest=999,
    ),
    "swingup": Task(
        lambda: DmControl("cartpole", "swingup", 4), "Cart-pole swing-up (dm_control), 5,000 steps", Cost(swing_up_cost), 1250,
        {"horizon": 50, "explore": 250, "refit": 125, "settings": FEW}, {"model": "ensemble", "updates": 3000},
        longest=250, held=4, needs="dm_control",
    ),
    "reacher": known_task("Reacher-v5", "2,500 steps", 2500, longest=50),
}  # fmt: skip


# ---------------------------------------------------------------- limits and peers


def best_returns(starts: range) -> np.ndarray:
    """Returns of dynamic programming on Pendulum."""
    env = gymnasium.make("Pendulum-v1")
    return -optimum(torch.tensor(np.stack([env.reset(seed=seed)[0] for seed in starts])))


def episode_returns(task: Task, act: Callable[[Any], Any], starts: range) -> np.ndarray:
    """What a policy gets from each start."""
    out, env = [], make(task.env)
    for seed in starts:
        o, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            o, reward, terminated, truncated, _ = env.step(act(o))
            total, over = total + float(reward), terminated or truncated
        out.append(total)
    return np.array(out)


def at_random(task: Task, starts: range) -> np.ndarray:
    space = make(task.env).action_space
    space.seed(0)
    return episode_returns(task, lambda o: space.sample(), starts)


def sac(task: Task, steps: int, seed: int, starts: range) -> np.ndarray:
    from stable_baselines3 import SAC

    model = SAC(
        "MlpPolicy",
        make(task.env),
        seed=seed,
        device="cpu",
        learning_starts=min(100, steps // task.held // 4),
    )
    model.learn(steps // task.held)
    return episode_returns(task, lambda o: model.predict(o, deterministic=True)[0], starts)


# ---------------------------------------------------------------- measuring


def ours(task: Task, seed: int, starts: range, **model: Any) -> dict[str, Any]:
    """Learn, evaluate, and how often 90 % intervals hold what came in those episodes."""
    begun = time.process_time()
    learnt = WorldModel(random_state=seed, **(task.model | model))
    agent = Agent(learnt, task.cost, random_state=seed, **task.agent)
    agent.learn(task.env, steps=task.steps, episodes=task.episodes, seed=TRAINING + seed)
    learning, world = time.process_time() - begun, agent.world
    found = agent.evaluate(task.env, starts, steps=task.longest)

    def draws(start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(world.predict(start.numpy(), actions.numpy(), draws=100))

    past = world.history_.steps
    held = {h: coverage(draws, found.episodes[:20], h, past=past).tolist() for h in (1, 10, 25)}
    return {
        "returns": found.returns.tolist(),
        "steps": agent.experience_.steps * task.held,
        "reached": float(found.terminated.mean()),
        "ms": found.ms,
        "seconds": learning,
        "coverage": held,
        "kind": world.transition_.family,
        "errors": world.errors_,
        "training": agent.returns_,
    }


def known(task: Task, starts: range) -> dict[str, Any]:
    assert task.equations is not None
    agent = Agent(task.equations(), task.cost, random_state=0, **task.agent)
    found = agent.evaluate(task.env, starts, steps=task.longest)
    return {"returns": found.returns.tolist(), "ms": found.ms, "steps": 0}


def measure(name: str, args: Any, report: Report) -> list[list[Any]]:
    """The table of a task; what is found is kept as it comes, and what an earlier run kept of the same starts stands."""
    task, starts = TASKS[name], range(4 if args.quick else args.starts)
    kept = report.folder() / f"{report.name}.json"
    found: dict[str, list[dict[str, Any]]] = {}
    if args.kept or (args.resume and kept.exists()):
        found |= json.loads(kept.read_text())["results"]["returns"]
        there = {len(run["returns"]) for runs in found.values() for run in runs}
        if there - {len(starts)}:
            raise SystemExit(f"{kept} holds {there} starts, not {len(starts)}: give --starts as it has them")
    report.keep("returns", found)
    if args.kept:
        return rows(task, found)

    def missing(title: str, seed: int = 0) -> bool:
        return len(found.get(title, [])) <= seed

    def add(title: str, result: Any) -> None:
        result = result if isinstance(result, dict) else {"returns": list(map(float, result))}
        found.setdefault(title, []).append(result)
        say(
            name,
            title,
            round(float(np.mean(result["returns"])), 2),
            {k: v for k, v in result.items() if k != "returns"},
        )
        report.save_figures()

    if missing("random actions"):
        add("random actions", at_random(task, starts))
    if name in ("pendulum", "hidden", "pixels") and missing(OPTIMUM):
        add(OPTIMUM, best_returns(starts))
    if task.equations is not None and missing(TRUE):
        add(TRUE, known(task, starts))
    sac_too = importlib.util.find_spec("stable_baselines3") is not None
    for seed in range(args.seeds):
        if missing("abduce Agent", seed):
            add("abduce Agent", ours(task, seed, starts))
        if seed == 0 and missing("the same, linear-Gaussian model"):
            add("the same, linear-Gaussian model", ours(task, seed, starts, model="linear"))
        if sac_too and missing("SAC, the same number of steps", seed):
            steps = found["abduce Agent"][seed]["steps"]
            add("SAC, the same number of steps", sac(task, steps, seed, starts))
    if sac_too and not args.quick and missing(f"SAC, {LONG:,} steps"):
        add(f"SAC, {LONG:,} steps", sac(task, LONG, 0, starts))
    return rows(task, found)


def rows(task: Task, found: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """A row a method: the mean return of each training seed, the gap to the best known, the worst start."""
    best = found.get(OPTIMUM) or found.get(TRUE)
    limit = np.array(best[0]["returns"]) if best else None
    out = []
    for title, results in found.items():
        means = [float(np.mean(r["returns"])) for r in results]
        gaps = [] if limit is None else [limit - np.array(r["returns"]) for r in results]
        held = [{int(h): c for h, c in r["coverage"].items()} for r in results if "coverage" in r]
        out.append(
            [
                f"**{title}**" if title == "abduce Agent" else title,
                spread([r.get("steps", np.nan) for r in results], 0),
                spread(means, 1),
                "–" if not gaps else spread([float(g.mean()) for g in gaps], 2),
                "–" if not gaps else f"{max(float(g.max()) for g in gaps):.1f}",
                f"{min(min(r['returns']) for r in results):.1f}",
                "–"
                if not held
                else " / ".join(f"{100 * np.mean([c[h] for c in held]):.0f}" for h in (1, 10, 25)),
                spread([r.get("ms", np.nan) for r in results], 1),
            ]
        )
    return out


def main() -> None:
    parser = arguments(__doc__, seeds=5)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="go on from what the results hold")
    parser.add_argument(
        "--kept", action="store_true", help="tables of what the results hold, measuring nothing"
    )
    args = parse(parser)
    header = ["", "steps of experience", "mean return", "gap to the best known", "largest gap", "worst start"]
    header += ["90 % intervals hold, 1 / 10 / 25 steps, %", "ms an action"]
    for name in args.tasks:
        task = TASKS[name]
        if importlib.util.find_spec(task.needs) is None and not args.kept:
            say(f"{task.title}: not measured, it needs {task.needs}")
            continue
        report = Report(f"planning_{name}", "Planning in learnt worlds", args)
        report.table(task.title, header, measure(name, args, report))
        report.remark(REMARK.format(args.starts - 1))
        report.save()


if __name__ == "__main__":
    main()
