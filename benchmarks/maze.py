"""From a start to a goal behind a door, by filling in what lies between.

Two rooms and a door (``worlds.Maze``): 5,000 random steps are seen, all of them counted, in which the door was passed some
dozens of times.  Then from each of 100 starts, to a goal of its own in the other room, blanks between start and goal are
filled in (``fill(..., luck=False)``), ten of the actions are carried out in the environment, and what is left is filled in
anew from where that led, until the goal is within .1 or 60 steps are over.  Beside it planners of the same learnt world, with
the distance to the goal as their cost, made anew as often: cross-entropy, gradients from one start, and the default planner.
Settings were tuned on starts from 1000 on and on training seed 7000; reported are starts 0-99 and seeds 0, 1, ...

    python benchmarks/maze.py [--quick] [--seeds 3] [--starts 100] [--threads 1]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Report, arguments, parse, say, spread
from worlds import Maze

from abduce import Agent, Goal, WorldModel

STEPS, AHEAD, LEAST, EVERY, LIMIT, NEAR = 5000, 40, 10, 10, 60, 0.1
Plan = Callable[[WorldModel, np.ndarray, np.ndarray, int], np.ndarray]


def experience(steps: int, seed: int) -> Any:
    """What is seen under random actions, smooth in time."""
    asked = Agent(WorldModel(model="linear"), Goal([0.0, 0.0]), explore=steps, random_state=seed)
    return asked.learn(Maze(), steps=steps, seed=seed).experience_


def filled(world: WorldModel, at: np.ndarray, goal: np.ndarray, ahead: int) -> np.ndarray:
    places = np.full((ahead + 1, 2), np.nan)
    places[0], places[-1] = at, goal
    blank = {"observations": places, "actions": np.full((ahead, 2), np.nan)}
    return world.fill(blank, luck=False)["actions"]


def planned(method: str, **settings: Any) -> Plan:
    def plan(world: WorldModel, at: np.ndarray, goal: np.ndarray, ahead: int) -> np.ndarray:
        return world.plan(at, Goal(goal, NEAR), ahead, method, **settings).actions

    return plan


METHODS: dict[str, Plan] = {
    "**fill, luck=False**": filled,
    "plan, cross-entropy": planned("cem"),
    "plan, gradients, one start": planned("gradient", starts=1, candidates=1),
    "plan, the default": planned("auto"),
    "fill, luck=True": lambda world, at, goal, ahead: world.fill(
        {
            "observations": np.vstack([at, np.full((ahead - 1, 2), np.nan), goal]),
            "actions": np.full((ahead, 2), np.nan),
        }
    )["actions"],
}


def walk(world: WorldModel, plan: Plan, seed: int) -> tuple[int, float]:
    """Steps until the goal was reached, LIMIT + 1 where it was not, and the distance that was left."""
    env = Maze()
    at, _ = env.reset(seed=seed)
    for step in range(LIMIT):
        if step % EVERY == 0:
            actions = plan(world, at, env.goal, max(LEAST, AHEAD - step))
        at, *_ = env.step(actions[step % EVERY])
        away = float(np.linalg.norm(at - env.goal))
        if away < NEAR:
            return step + 1, away
    return LIMIT + 1, away


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument(
        "--kept", action="store_true", help="the table of what a run that was cut has kept, measuring nothing"
    )
    args = parse(parser)
    steps, starts = (1000, 2) if args.quick else (STEPS, args.starts)
    report = Report("maze", "Through a door by filling blanks", args)
    found: dict[str, list[dict[str, Any]]] = {}
    passed: list[int] = []
    if args.kept:
        results = json.loads((report.folder() / f"{report.name}.json").read_text())["results"]
        found, passed = results["walks"], results["passed"]
        report.keep("walks", found)
    report.keep("passed", passed)
    for seed in range(0 if args.kept else args.seeds):
        seen = experience(steps, seed)
        passed.append(sum(int((np.diff(np.sign(e.observations[:, 0])) != 0).sum()) for e in seen.episodes))
        begun = time.process_time()
        world = WorldModel(model="ensemble", updates=100 if args.quick else 3000, random_state=seed)
        world.fit(seen, judged=False)
        say(
            "seed",
            seed,
            "the door was passed",
            passed[-1],
            "times, fit",
            round(time.process_time() - begun, 1),
            "s",
        )
        for name, plan in METHODS.items():
            begun = time.process_time()
            walks = [walk(world, plan, start) for start in range(starts)]
            lengths, away = (np.array(v) for v in zip(*walks, strict=True))
            reached = lengths <= LIMIT
            result = {
                "reached": 100 * float(reached.mean()),
                "steps": float(np.median(lengths[reached])) if reached.any() else float("nan"),
                "away": away.tolist(),
                "seconds": (time.process_time() - begun) / starts,
            }
            found.setdefault(name, []).append(result)
            say(seed, name, {k: v for k, v in result.items() if k != "away"})
            report.keep("walks", found)
            report.save_figures()
    header = ["", "reached, %", "steps where reached, median", "seconds of a core a walk"]
    lines = [
        [
            name,
            spread([r["reached"] for r in runs], 1),
            spread([r["steps"] for r in runs], 0),
            spread([r["seconds"] for r in runs], 1),
        ]
        for name, runs in found.items()
    ]
    report.table(f"{starts} starts after {steps:,} random steps", header, lines)
    report.remark(
        f"The door was passed {', '.join(map(str, passed))} times in what was seen. Reached is within {NEAR} of the goal "
        f"in at most {LIMIT} steps, carried out in the environment; plans are made anew every {EVERY}. ± is over training "
        "seeds."
    )
    report.save()


if __name__ == "__main__":
    main()
