"""Acting in real environments after very little experience: Pendulum, cart and pole in MuJoCo, the car in the valley.

Each row: a world model learnt from so many calls of ``env.step``, all of them counted, and plans in it; then episodes from the
same 100 starts for all.  Beside it the same planner on the true equations (no learning), a planner on a linear-Gaussian
model, SAC of stable-baselines3 after the same number of steps, and random actions.  Pendulum's optimum is dynamic programming
on a grid.  Settings were tuned on starts from 1000 on; reported are starts 0-99 and fresh training seeds.

    python benchmarks/planning.py [--quick] [--seeds 5] [--tasks pendulum balance car] [--starts 100] [--threads 1]

Needs gymnasium and mujoco (the extra ``world``); SAC is measured where stable-baselines3 is installed (``pip install
--no-deps stable-baselines3``, whose own pins are older).
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
from common import ROOT, Report, arguments, parse, say, spread, write

from abduce import Agent, Cost, WorldModel
from abduce.world.calibration import coverage

TRAINING = 7000  # + seed: of the environments that are learnt in
SETTINGS = {"candidates": 300, "survivors": 16, "iterations": 20, "fresh": 16, "later": 3}


@dataclass(frozen=True)
class Task:
    """An environment, its objective, how long it is learnt and planned, and its equations where they are known."""

    env: str
    title: str
    cost: Cost
    steps: int
    agent: dict[str, Any]
    equations: Callable[[], WorldModel] | None = None
    episodes: int | None = None
    limit: str = ""
    longest: int = 1000
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- objectives and equations


def swing(obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Pendulum's own reward, as residuals: angle, speed, torque."""
    angle = torch.atan2(obs[..., 1], obs[..., 0])
    return torch.stack([angle, 0.1**0.5 * obs[..., 2], 0.001**0.5 * action[..., 0]], -1)


def pendulum() -> WorldModel:
    def turn(s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        c, n, speed = s.unbind(-1)
        speed = (speed + (15 * n + 3 * a[..., 0]) * 0.05).clamp(-8, 8)
        angle = torch.atan2(n, c) + 0.05 * speed
        return torch.stack([angle.cos(), angle.sin(), speed], -1)

    return WorldModel.of_equations(turn, 3, -2.0, 2.0)


def upright(obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Place, angle, and their speeds, all near zero."""
    weight = torch.tensor([3.0, 10.0, 0.5, 0.5]).to(after)
    return torch.cat([weight * after, 0.02 * action], -1)


def effort(obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return 0.1**0.5 * action


def short(obs: torch.Tensor) -> torch.Tensor:
    """How far the car is from the flag, at the end."""
    return 1000**0.5 * torch.relu(0.46 - obs[..., :1])


def valley() -> WorldModel:
    def drive(s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        place, speed = s.unbind(-1)
        speed = (speed + 0.0015 * a[..., 0] - 0.0025 * torch.cos(3 * place)).clamp(-0.07, 0.07)
        place = (place + speed).clamp(-1.2, 0.6)
        return torch.stack([place, torch.where((place == -1.2) & (speed < 0), 0 * speed, speed)], -1)

    return WorldModel.of_equations(drive, 2, -1.0, 1.0)


def squared(residuals: Any, **end: Any) -> Cost:
    return Cost(lambda o, a, n: residuals(o, a, n).square().sum(-1), residuals=residuals, **end)


TASKS = {
    "pendulum": Task(
        "Pendulum-v1", "Pendulum-v1, 400 steps", squared(swing), 400,
        {"horizon": 55, "explore": 100, "refit": 50, "settings": SETTINGS}, pendulum, longest=200,
    ),
    "balance": Task(
        "InvertedPendulum-v5", "InvertedPendulum-v5, 200 steps", squared(upright), 200,
        {"horizon": 20, "explore": 120, "refit": 40, "method": "ilqr", "settings": {"later": 1, "iterations": 10}},
        limit="1000",
    ),
    "car": Task(
        "MountainCarContinuous-v0", "MountainCarContinuous-v0, 3 episodes",
        squared(
            effort, terminal=lambda o: short(o).square().sum(-1), terminal_residuals=short
        ), 2997,
        {
            "horizon": 400, "until": 250, "least": 10, "explore": 999, "refit": 250,
            "settings": {"candidates": 200, "survivors": 8, "iterations": 15, "fresh": 0, "kept": 1, "later": 1},
        },
        valley, episodes=3, limit="99.3", longest=999,
    ),
}  # fmt: skip


# ---------------------------------------------------------------- limits and peers


def optimum(starts: range, angles: int = 201, speeds: int = 201, torques: int = 21) -> np.ndarray:
    """Returns of dynamic programming on Pendulum, backward over its 200 steps, values between grid points interpolated; the
    policy is then run on the real environment."""
    theta = torch.linspace(-np.pi, np.pi, angles + 1)[:-1].double()
    omega = torch.linspace(-8, 8, speeds).double()
    u = torch.linspace(-2, 2, torques).double()

    def ahead(t: torch.Tensor, w: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Cost to go of every torque from angles and speeds (n,), (n, torques)."""
        cost = (t**2 + 0.1 * w**2).unsqueeze(1) + 0.001 * u**2
        w2 = (w.unsqueeze(1) + (15 * t.sin().unsqueeze(1) + 3 * u) * 0.05).clamp(-8, 8)
        x = ((t.unsqueeze(1) + 0.05 * w2 + np.pi) / (2 * np.pi) * angles) % angles
        y = (w2 + 8) / 16 * (speeds - 1)
        i, j = x.floor().long() % angles, y.floor().long().clamp(0, speeds - 2)
        a, b = x - x.floor(), y - j
        k = (i + 1) % angles
        low = value[i, j] * (1 - a) + value[k, j] * a
        return cost + low * (1 - b) + (value[i, j + 1] * (1 - a) + value[k, j + 1] * a) * b

    grid = torch.cartesian_prod(theta, omega)
    values = [torch.zeros(angles, speeds).double()]
    for _ in range(199):
        best = [ahead(*part.T, values[-1]).amin(1) for part in grid.split(20000)]
        values.append(torch.cat(best).view(angles, speeds))
    out = []
    for seed in starts:
        env = gymnasium.make("Pendulum-v1")
        o, _ = env.reset(seed=seed)
        total = 0.0
        for value in values[::-1]:
            t, w = torch.tensor([np.arctan2(o[1], o[0])]).double(), torch.tensor([o[2]]).double()
            o, reward, *_ = env.step(u[ahead(t, w, value).argmin(1)].numpy().astype(np.float32))
            total += reward
        out.append(total)
    return np.array(out)


def episode_returns(task: Task, act: Callable[[Any], Any], starts: range) -> np.ndarray:
    """What a policy gets from each start."""
    out, env = [], gymnasium.make(task.env)
    for seed in starts:
        o, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            o, reward, terminated, truncated, _ = env.step(act(o))
            total, over = total + float(reward), terminated or truncated
        out.append(total)
    return np.array(out)


def at_random(task: Task, starts: range) -> np.ndarray:
    space = gymnasium.make(task.env).action_space
    space.seed(0)
    return episode_returns(task, lambda o: space.sample(), starts)


def sac(task: Task, steps: int, seed: int, starts: range) -> np.ndarray:
    from stable_baselines3 import SAC

    model = SAC(
        "MlpPolicy", gymnasium.make(task.env), seed=seed, device="cpu", learning_starts=min(100, steps // 4)
    )
    model.learn(steps)
    return episode_returns(task, lambda o: model.predict(o, deterministic=True)[0], starts)


# ---------------------------------------------------------------- measuring


def ours(task: Task, seed: int, starts: range, **model: Any) -> dict[str, Any]:
    """Learn, evaluate, and how often 90 % intervals hold what came in those episodes."""
    begun = time.process_time()
    agent = Agent(WorldModel(random_state=seed, **model), task.cost, random_state=seed, **task.agent)
    agent.learn(task.env, steps=task.steps, episodes=task.episodes, seed=TRAINING + seed)
    learning, world = time.process_time() - begun, agent.world
    found = agent.evaluate(task.env, starts, steps=task.longest)

    def draws(start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(world.predict(start.numpy(), actions.numpy(), draws=100))

    held = {h: coverage(draws, found.episodes[:20], h).tolist() for h in (1, 10, 25)}
    return {
        "returns": found.returns.tolist(),
        "steps": agent.experience_.steps,
        "reached": float(found.terminated.mean()),
        "ms": found.ms,
        "seconds": learning,
        "coverage": held,
        "kind": type(world.transition_).__name__,
        "errors": world.errors_,
        "training": agent.returns_,
    }


def known(task: Task, starts: range) -> dict[str, Any]:
    assert task.equations is not None
    agent = Agent(task.equations(), task.cost, random_state=0, **task.agent)
    found = agent.evaluate(task.env, starts, steps=task.longest)
    return {"returns": found.returns.tolist(), "ms": found.ms, "steps": 0}


def measure(name: str, args: Any, report: Report) -> list[list[Any]]:
    task, starts = TASKS[name], range(4 if args.quick else args.starts)
    kept = ROOT / "out" / "benchmarks" / f"{args.name}_{name}_{len(starts)}.json"
    found: dict[str, list[dict[str, Any]]] = {}
    if (args.resume or args.kept) and kept.exists():
        found = json.loads(kept.read_text())
    report.keep(name, found)

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
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept, json.dumps(found))

    if missing("random actions"):
        add("random actions", at_random(task, starts))
    if name == "pendulum" and missing("optimum, by dynamic programming"):
        add("optimum, by dynamic programming", optimum(starts, *((61, 61, 9) if args.quick else ())))
    if task.equations is not None and missing("the same planner, true equations"):
        add("the same planner, true equations", known(task, starts))
    for seed in range(args.seeds):
        if missing("abduce Agent", seed):
            add("abduce Agent", ours(task, seed, starts))
        if seed == 0 and name != "car" and missing("the same, linear-Gaussian model"):
            add("the same, linear-Gaussian model", ours(task, seed, starts, model="linear"))
        if importlib.util.find_spec("stable_baselines3") and missing("SAC, the same number of steps", seed):
            steps = found["abduce Agent"][-1]["steps"]
            add("SAC, the same number of steps", sac(task, steps, seed, starts))
    return rows(task, found)


def rows(task: Task, found: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """A row a method: the mean return of each training seed, the gap to the best known, the worst start."""
    best = found.get("optimum, by dynamic programming") or found.get("the same planner, true equations")
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
    parser.add_argument("--resume", action="store_true", help="go on from what out/benchmarks holds")
    parser.add_argument(
        "--kept", action="store_true", help="tables of what out/benchmarks holds, measuring nothing"
    )
    parser.add_argument("--name", default="planning", help="of the files that are written")
    args = parse(parser)
    report = Report(args.name, "Planning in learnt worlds", args)
    header = ["", "steps of experience", "mean return", "gap to the best known", "largest gap", "worst start"]
    header += ["90 % intervals hold, 1 / 10 / 25 steps, %", "ms an action"]
    for name in args.tasks:
        report.table(TASKS[name].title, header, measure(name, args, report))
    report.remark(
        "Every call of `env.step` is counted, the random first ones and those of failed episodes too. Returns are the "
        "environment's, which the agent never reads: it has the objective as a function. ± is over training seeds; starts "
        f"are 0-{args.starts - 1} for all. Intervals are checked on 20 of the evaluation's own episodes. Milliseconds are "
        "wall-clock, all starts planned side by side."
    )
    if args.kept:
        report.remark("Not all has been measured: rows that are not there are still to come.")
    report.save()


if __name__ == "__main__":
    main()
