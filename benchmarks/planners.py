"""Planners beside each other on equations that are known: linear-quadratic control, Pendulum-v1, the car in the valley.

Nothing is learnt here: all planners read the same equations (torch copies of Gymnasium's, at its own starts of seeds 0, 1,
...), clip to the same box, and evaluate about as many transitions for an action; derivatives of a transition in S + A
directions count as S + A transitions, a backward pass as one more rollout.  Limits: Riccati, dynamic programming on a grid.
Planners see their horizon only, which the tables give; times are of the processor, all starts in one batch.
Settings were tuned on starts from 1000 on.

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

F64 = {"dtype": torch.float64}
TITLES = {
    "lqr": "Planners on linear dynamics with a quadratic cost",
    "pendulum": "Planners on Pendulum's equations",
    "car": "Planners on the equations of the car in the valley",
}
REMARKS = {
    "lqr": "The planners' budgets are at most 50,000 transitions a plan. Collocation ends with three steps of iLQR on the "
    "true rollout, which here find the optimum by themselves.",
    "pendulum": "Gap: cost of the executed episode less that of dynamic programming from the same start, with its standard "
    "error over starts; a grid's policy is not quite optimal, so a gap may be negative.",
    "car": "The return is 100 at the flag less .1 a² a step. The horizon shrinks, because a goal that is always as far ahead "
    "is put off for ever. Gauss-Newton begins from one plan or from screened ones.",
}


# ---------------------------------------------------------------- equations and costs


def squared(residuals: Any, **end: Any) -> Cost:
    """A cost from its residuals."""
    return Cost(lambda o, a, n: residuals(o, a, n).square().sum(-1), residuals=residuals, **end)


def pendulum() -> tuple[Equations, Cost, Box]:
    """Observations (cos θ, sin θ, θ'), θ upward from 0; torque in [-2, 2]; cost θ² + .1 θ'² + .001 a²."""

    def step(obs: Tensor, action: Tensor) -> Tensor:
        cos, sin, speed = obs.unbind(-1)
        speed = (speed + 0.05 * (15.0 * sin + 3.0 * action[..., 0])).clamp(-8.0, 8.0)
        c, s = (0.05 * speed).cos(), (0.05 * speed).sin()
        return torch.stack([cos * c - sin * s, sin * c + cos * s, speed], -1)

    def residuals(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        angle = torch.atan2(obs[..., 1], obs[..., 0])
        return torch.stack([angle, 0.1**0.5 * obs[..., 2], 0.001**0.5 * action[..., 0]], -1)

    return Equations(step, 3, 1), squared(residuals), Box.of(-2.0, 2.0)


def valley() -> tuple[Equations, Cost, Box]:
    """Observations (place, speed); force in [-1, 1]; cost .1 a², at the end 1000 times the squared distance to the flag."""

    def step(obs: Tensor, action: Tensor) -> Tensor:
        place, speed = obs.unbind(-1)
        speed = (speed + 0.0015 * action[..., 0] - 0.0025 * torch.cos(3 * place)).clamp(-0.07, 0.07)
        place = (place + speed).clamp(-1.2, 0.6)
        return torch.stack([place, torch.where((place == -1.2) & (speed < 0), 0 * speed, speed)], -1)

    def short(obs: Tensor) -> Tensor:
        return 1000**0.5 * torch.relu(0.46 - obs[..., :1])

    end = {"terminal": lambda o: short(o).square().sum(-1), "terminal_residuals": short}
    return Equations(step, 2, 1), squared(lambda o, a, n: 0.1**0.5 * a, **end), Box.of(-1.0, 1.0)


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
    cost = squared(
        lambda o, u, s: torch.cat([o, 0.1**0.5 * u], -1),
        terminal=lambda o: o.square().sum(-1),
        terminal_residuals=lambda o: o,
    )
    return Equations(lambda s, u: s @ a.mT + u @ b.mT, size, n), cost, (a, b, q, r, q)


def lqr(report: Report, n: int) -> None:
    """Plans of 50 steps from common starts, against Riccati's."""
    planners: dict[str, Planner] = {
        "CEM, coloured": CEM(iterations=10, draws=100, colour=2.0),
        "MPPI": MPPI(iterations=10, draws=100),
        "gradient (Adam)": Gradient(iterations=50, starts=8, candidates=200),
        "collocation": Collocation(iterations=100, starts=4, candidates=100, penalty=10.0),
        "iLQR": ILQR(iterations=10),
        "auto: screened iLQR": Screened(candidates=120, survivors=4, iterations=4),
    }
    rows = []
    for size in (2, 4):
        world, cost, matrices = linear(size)
        start = 0.5 * torch.randn(n, size, generator=Generator().manual_seed(size), **F64)
        found = regulator(*matrices, 50)
        least = torch.einsum("ni,ij,nj->n", start, found.value[0], start)
        for name, planner in planners.items():
            problem = Problem.of(world, cost, start, 50, Box.of([-8.0] * (size // 2), 8.0))
            begun = time.process_time()
            plans, _, told = solve(planner, problem, Generator().manual_seed(0))
            clock = 1000 * (time.process_time() - begun) / n
            over, whole = 100 * (plans.cost / least - 1), 100 * float(plans.cost.sum() / least.sum() - 1)
            count = sum(info["transitions"] for info in told)
            say("lqr", size, name, whole, float(over.max()))
            report.keep(f"lqr {size} {name}", {"over": over.tolist(), "transitions": count, "ms": clock})
            rows.append(
                [
                    f"{size}",
                    name,
                    f"{abs(whole):.4f}",
                    f"{abs(float(over.max())):.4f}",
                    f"{count:,}",
                    f"{clock:.2f}",
                ]
            )
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


def optimum(start: Tensor, angles: int = 301, speeds: int = 241, torques: int = 31) -> np.ndarray:
    """Costs of Pendulum by dynamic programming over its 200 steps, values between grid points interpolated."""
    world, cost, _ = pendulum()
    theta = torch.linspace(-math.pi, math.pi, angles + 1)[:-1]
    grid = torch.cartesian_prod(theta, torch.linspace(-8, 8, speeds))
    states = torch.stack([grid[:, 0].cos(), grid[:, 0].sin(), grid[:, 1]], 1)

    def ahead(state: Tensor, torque: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The cost of a torque, and where it leads on the grid."""
        action = torch.full_like(state[:, :1], torque)
        after = world.mean(state, action)
        x = (torch.atan2(after[:, 1], after[:, 0]) + math.pi) / (2 * math.pi) * angles
        y = (after[:, 2] + 8) / 16 * (speeds - 1)
        i, j = x.floor().long() % angles, y.floor().long().clamp(0, speeds - 2)
        return cost(state, action, after), (i, j, x - x.floor(), y - j)

    def value_at(value: Tensor, place: tuple[Tensor, ...]) -> Tensor:
        i, j, a, b = place
        k = (i + 1) % angles
        low, high = (value[i, c] * (1 - a) + value[k, c] * a for c in (j, j + 1))
        return low * (1 - b) + high * b

    moves = [ahead(states, float(u)) for u in torch.linspace(-2, 2, torques)]
    values = [torch.zeros(angles, speeds)]
    for _ in range(199):
        best = torch.full((len(states),), torch.inf)
        for step, place in moves:
            best = torch.minimum(best, step + value_at(values[-1], place))
        values.append(best.view(angles, speeds))
    fine, out, row = torch.linspace(-2, 2, 161), torch.zeros(len(start)), torch.arange(len(start))
    for value in values[::-1]:
        tried = [ahead(start, float(u)) for u in fine]
        best = torch.stack([c + value_at(value, place) for c, place in tried]).argmin(0)
        action = fine[best].unsqueeze(1)
        after = world.mean(start, action)
        out += torch.stack([c for c, _ in tried])[best, row]
        start = after
    return out.numpy()


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
