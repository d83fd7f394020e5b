"""Planners beside each other on equations that are known: linear-quadratic control, Pendulum-v1, the car in the valley.

Nothing is learnt here, but linear dynamics from 200 steps: all planners read the same equations (torch copies of Gymnasium's,
at its own starts of seeds 0, 1, ...), clip to the same box, and evaluate about as many transitions for an action; derivatives
of a transition in S + A directions count as S + A transitions, a backward pass as one more rollout.  Limits: Riccati, dynamic
programming on a grid.  Planners see their horizon only, which the tables give; times are of the processor, all starts in one
batch.  Settings were tuned on starts from 1000 on.

    python benchmarks/planners.py [--quick] [--starts 100] [--tasks lqr pendulum car] [--minutes 30] [--threads 1]

Results are written a task a file; planners that have not begun when the minutes are over are left out.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from common import Report, arguments, parse, say
from torch import Generator, Tensor
from worlds import driven, optimum, turned

from abduce import WorldModel
from abduce.showcase.acting import OBJECTIVES, squares
from abduce.world.actions import Box
from abduce.world.costs import Cost
from abduce.world.equations import Equations
from abduce.world.planners.cem import CEM
from abduce.world.planners.collocation import Collocation
from abduce.world.planners.gradient import Gradient
from abduce.world.planners.ilqr import ILQR
from abduce.world.planners.mppi import MPPI
from abduce.world.planners.planner import Planner, Problem, solve
from abduce.world.planners.riccati import regulator
from abduce.world.planners.screened import Screened
from abduce.world.rollout import corrected, total

F64 = {"dtype": torch.float64}
TITLES = {
    "lqr": "Planners on linear dynamics with a quadratic cost",
    "pendulum": "Planners on Pendulum's equations",
    "car": "Planners on the equations of the car in the valley",
}
REMARKS = {
    "lqr": "The planners' budgets are at most 50,000 transitions a plan. Collocation ends with three steps of iLQR on the "
    "true rollout, which here find the optimum by themselves. Learnt worlds have seen 200 steps with noise of .01 a state; "
    "their plans act on the true one, turned by their gains.",
    "pendulum": "Gap: cost of the executed episode less that of dynamic programming from the same start, with its standard "
    "error over starts; a grid's policy is not quite optimal, so a gap may be negative.",
    "car": "The return is 100 at the flag less .1 a² a step. The horizon shrinks, because a goal that is always as far ahead "
    "is put off for ever. Gauss-Newton begins from one plan or from screened ones.",
}


# ---------------------------------------------------------------- equations and costs


def pendulum() -> tuple[Equations, Cost, Box]:
    return Equations(turned, 3, 1), OBJECTIVES["Pendulum-v1"].cost, Box.of(-2.0, 2.0)


def valley() -> tuple[Equations, Cost, Box]:
    return Equations(driven, 2, 1), OBJECTIVES["MountainCarContinuous-v0"].cost, Box.of(-1.0, 1.0)


def starts(n: int, low: list[float], high: list[float]) -> np.ndarray:
    """Uniform numbers that Gymnasium's reset draws with seeds 0, 1, ..., n - 1."""
    return np.stack([np.random.default_rng(seed).uniform(low, high) for seed in range(n)])


# ---------------------------------------------------------------- linear dynamics, quadratic cost


def linear(size: int) -> tuple[Equations, Cost, tuple[Tensor, ...]]:
    """One mass, or two that a spring couples, pushed at random within the box: Q = I, R = .1, P_H = I."""
    k, dt, n = 2.0, 0.1, size // 2
    a = torch.eye(size, **F64)
    a[:n, n:] = dt * torch.eye(n, **F64)
    if n == 2:
        a[n:, :n] = dt * k * torch.tensor([[-1.0, 1.0], [1.0, -1.0]], **F64)
    b = torch.cat([dt * dt / 2 * torch.eye(n, **F64), dt * torch.eye(n, **F64)])
    q, r = torch.eye(size, **F64), 0.1 * torch.eye(n, **F64)
    cost = squares(lambda o, u, s: torch.cat([o, 0.1**0.5 * u], -1), lambda o: o)
    return Equations(lambda s, u: s @ a.mT + u @ b.mT, size, n), cost, (a, b, q, r, q)


def learnt(world: Equations, seed: int) -> WorldModel:
    """A linear world fitted to 200 steps: ten episodes of random pushes, with noise of .01 on every state of every step."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-2, 2, (10, 20, world.action_size))
    states = [0.5 * rng.normal(size=(10, world.observation_size))]
    for t in range(20):
        after = world.mean(torch.from_numpy(states[-1]), torch.from_numpy(actions[:, t])).numpy()
        states.append(after + 0.01 * rng.normal(size=after.shape))
    made = {"observations": np.stack(states, 1), "actions": actions}
    return WorldModel(model="linear", random_state=seed).fit(made, low=-8, high=8, judged=False)


def lqr(report: Report, n: int) -> None:
    """Plans of 50 steps from common starts, against Riccati's; those of learnt worlds act on the true one by their gains."""
    planners: dict[str, Planner] = {
        "CEM, coloured": CEM(iterations=10, draws=100, colour=2.0),
        "MPPI": MPPI(iterations=10, draws=100),
        "gradient (Adam)": Gradient(iterations=50, starts=8, candidates=200),
        "collocation": Collocation(iterations=100, starts=4, candidates=100, penalty=10.0),
        "iLQR": ILQR(iterations=10),
        "auto: screened iLQR": Screened(candidates=120, survivors=4, iterations=4),
    }
    rows = []

    def row(size: int, name: str, cost: Tensor, least: Tensor, more: list[str]) -> None:
        over, whole = 100 * (cost / least - 1), 100 * float(cost.sum() / least.sum() - 1)
        say("lqr", size, name, whole, float(over.max()))
        report.keep(f"lqr {size} {name}", {"over": over.tolist(), "told": more})
        rows.append([f"{size}", name, f"{abs(whole):.4f}", f"{abs(float(over.max())):.4f}", *more])

    for size in (2, 4):
        world, cost, matrices = linear(size)
        box = Box.of([-8.0] * (size // 2), 8.0)
        start = 0.5 * torch.randn(n, size, generator=Generator().manual_seed(size), **F64)
        found = regulator(*matrices, 50)
        least = torch.einsum("ni,ij,nj->n", start, found.value[0], start)
        for name, planner in planners.items():
            problem = Problem.of(world, cost, start, 50, box)
            begun = time.process_time()
            plans, _, told = solve(planner, problem, Generator().manual_seed(0))
            clock = 1000 * (time.process_time() - begun) / n
            count = sum(info["transitions"] for info in told)
            row(size, name, plans.cost, least, [f"{count:,}", f"{clock:.2f}"])
        costs = []
        for seed in range(report.args.learnt):
            problem = Problem.of(learnt(world, seed).transition_, cost, start, 50, box)
            plans = solve(ILQR(iterations=10), problem, Generator().manual_seed(0))[0]
            actions, states = corrected(world, start, plans, box)
            costs.append(total(cost, states, actions))
        name = f"iLQR, learnt from 200 steps, {len(costs)} times"
        row(size, name, torch.cat(costs), least.repeat(len(costs)), ["–", "–"])
    header = [
        "states",
        "planner",
        "over Riccati, % of the sum",
        "worst, %",
        "transitions a plan",
        "ms a plan",
    ]
    report.table(f"Linear dynamics, quadratic cost, 50 steps, {n} starts", header, rows)


# ---------------------------------------------------------------- receding horizons


def drive(
    planner: Planner, task: tuple[Equations, Cost, Box], start: Tensor, horizons: list[int], reached: Any
) -> dict[str, Any]:
    """Plan and act step by step; costs are added until ``reached`` (batch,) of states, transitions are per action."""
    world, cost, box = task
    generator, state, count, begun = Generator().manual_seed(0), None, 0, time.process_time()
    summed, going = torch.zeros(len(start)), torch.ones(len(start), dtype=torch.bool)
    for horizon in horizons:
        problem = Problem.of(world, cost, start, horizon, box)
        plans, state, told = solve(planner, problem, generator, state)
        count += sum(info["transitions"] for info in told)
        action = plans.actions[:, 0]
        after = world.mean(start, action)
        summed += going * cost(start, action, after)
        start = torch.where(going.unsqueeze(1), after, start)
        going = going & ~reached(start)
        if not bool(going.any()):
            break
    seconds = time.process_time() - begun
    return {
        "cost": summed.numpy(),
        "reached": (~going).numpy(),
        "transitions": count // len(horizons),
        "ms": 1000 * seconds / len(horizons) / len(start),
    }


def swing(report: Report, n: int, steps: int, over: float) -> None:
    """Pendulum-v1: gaps to dynamic programming, start by start."""
    planners: dict[str, tuple[Planner, int]] = {
        "auto: screened iLQR": (Screened(), 60),
        "CEM 3x100, white": (CEM(iterations=3, later=3, draws=100, colour=0.0), 25),
        "MPPI 300": (MPPI(iterations=3, later=1, draws=300), 25),
        "gradients alone, 8 starts x 10": (Gradient(later=10, starts=8, fresh=40), 40),
        "collocation, 8 starts x 10": (Collocation(later=10, candidates=40), 40),
        "CEM 3x100, coloured": (CEM(iterations=3, later=3, draws=100, colour=2.0), 25),
        "iLQR, one start": (ILQR(later=20), 40),
        "CEM 5x200, white, three times the budget": (CEM(colour=0.0), 25),
    }
    drawn = torch.as_tensor(starts(n, [-math.pi, -1.0], [math.pi, 1.0]), dtype=torch.float32)
    start = torch.stack([drawn[:, 0].cos(), drawn[:, 0].sin(), drawn[:, 1]], 1)
    least = optimum(start)
    say("pendulum, dynamic programming", least.mean())
    report.keep("pendulum optimum", least.tolist())
    rows = []
    for name, (planner, horizon) in planners.items():
        if time.time() > over:
            break
        found = drive(planner, pendulum(), start, [horizon] * steps, lambda s: torch.zeros(len(s)).bool())
        gap = found["cost"] - least
        say("pendulum", name, gap.mean(), gap.max(), found["transitions"], found["ms"])
        report.keep(f"pendulum {name}", {k: np.asarray(v).tolist() for k, v in found.items()})
        above, error = int((gap > 5).sum()), gap.std() / n**0.5
        rows.append(
            [name, horizon, f"{-found['cost'].mean():.1f}", f"{gap.mean():.2f} ± {error:.2f}", above]
            + [f"{gap.max():.1f}", f"{found['transitions']:,}", f"{found['ms']:.2f}"]
        )
    header = [
        "planner",
        "horizon",
        "return",
        "gap",
        "above 5",
        "worst",
        "transitions an action",
        "ms an action",
    ]
    report.table(f"Pendulum-v1, {n} starts, dynamic programming {-least.mean():.1f}", header, rows)


def climb(report: Report, n: int, limit: int, over: float) -> None:
    """MountainCarContinuous: the flag is to be reached within ``limit`` steps with the least effort, the horizon shrinking."""
    planners: dict[str, Planner] = {
        "auto: screened iLQR": Screened(candidates=400, survivors=32, fresh=8),
        "CEM 40, coloured": CEM(iterations=10, later=1, draws=40, colour=3.0),
        "MPPI 40": MPPI(iterations=10, later=1, draws=40, colour=3.0),
        "iLQR, one start": ILQR(later=5),
    }
    place = np.stack([np.random.default_rng(seed).uniform(-0.6, -0.4) for seed in range(n)])
    start = torch.as_tensor(np.stack([place, np.zeros(n)], 1), dtype=torch.float32)
    rows = []
    for name, planner in planners.items():
        if time.time() > over:
            break
        horizons = [max(10, limit - t) for t in range(limit + 50)]
        found = drive(planner, valley(), start, horizons, lambda s: s[:, 0] >= 0.45)
        returns = 100 * found["reached"] - found["cost"]
        say("car", name, returns.mean(), returns.min(), found["reached"].sum(), found["ms"])
        report.keep(f"car {name}", {k: np.asarray(v).tolist() for k, v in found.items()})
        rows.append(
            [name, f"{returns.mean():.2f}", f"{returns.min():.2f}", f"{found['reached'].sum()}/{n}"]
            + [f"{found['transitions']:,}", f"{found['ms']:.2f}"]
        )
    header = ["planner", "return", "least", "reached", "transitions an action", "ms an action"]
    report.table(f"MountainCarContinuous-v0, {n} starts, {limit} steps, horizon shrinking", header, rows)


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument(
        "--tasks", nargs="+", choices=["lqr", "pendulum", "car"], default=["lqr", "pendulum", "car"]
    )
    parser.add_argument("--learnt", type=int, default=5, help="worlds that are learnt of each linear one")
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parse(parser)
    n, over = 3 if args.quick else args.starts, time.time() + 60 * args.minutes
    for task in args.tasks:
        report = Report(f"planners_{task}", TITLES[task], args)
        if task == "lqr":
            lqr(report, n)
        elif task == "pendulum":
            swing(report, n, 20 if args.quick else 200, over)
        else:
            climb(report, n, 60 if args.quick else 250, over)
        report.remark(REMARKS[task])
        report.save()


if __name__ == "__main__":
    main()
