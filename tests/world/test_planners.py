"""Planners against answers that are known: Riccati's, enumeration, finite differences, other programs."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from worlds_for_tests import (
    PENDULUM_BOX,
    double_integrator,
    linear,
    pendulum,
    pendulum_cost,
    pendulum_starts,
    quadratic,
)

from abduce.world.actions import Box, Categories
from abduce.world.equations import Equations
from abduce.world.planners import ilqr
from abduce.world.planners.cem import CEM
from abduce.world.planners.collocation import Collocation, lagrangian
from abduce.world.planners.gradient import Gradient, adjoint
from abduce.world.planners.ilqr import ILQR
from abduce.world.planners.mppi import MPPI
from abduce.world.planners.noise import root
from abduce.world.planners.planner import Problem, solve
from abduce.world.planners.riccati import regulator
from abduce.world.planners.screened import Screened
from abduce.world.rollout import follow, total

OPEN = Box.of(-float("inf"), float("inf"))
WIDE = Box.of(-12.0, 12.0)
BOXED = {"ilqr": ILQR(), "screened": Screened(), "gradient": Gradient(), "cem": CEM(), "mppi": MPPI()}
ALL = BOXED | {"collocation": Collocation()}


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def lqr(horizon=20, starts=3, box=OPEN, residuals=True):
    """A problem of the double integrator and Riccati's actions, states and costs."""
    a, b, q, r, end = double_integrator()
    x = torch.randn(starts, 2, generator=random(), dtype=torch.float64)
    problem = Problem.of(linear(a, b), quadratic(q, r, end, residuals), x, horizon, box)
    found = regulator(a, b, q, r, end, horizon)
    states, actions = [x], []
    for gain in found.gains:
        actions.append(states[-1] @ gain.T)
        states.append(problem.transition.mean(states[-1], actions[-1]))
    least = torch.einsum("ni,ij,nj->n", x, found.value[0], x)
    return problem, torch.stack(actions, 1), torch.stack(states, 1), least, found


@pytest.mark.parametrize("residuals", [True, False])
def test_ilqr_is_riccati_in_one_iteration(residuals):
    problem, actions, _, least, found = lqr(50, residuals=residuals)
    planner = ILQR(damping=0.0)
    state, info = planner.step(problem, planner.init(problem, random()), random())
    assert bool(info["improved"].all())
    assert torch.allclose(state.plans.cost, least, rtol=1e-10)
    assert torch.allclose(state.plans.actions, actions, atol=1e-8, rtol=0)
    assert torch.allclose(state.plans.gains[0], found.gains, atol=1e-8, rtol=0)


def test_many_steps_are_expanded_in_bounded_parts(monkeypatch):
    """Memory is that of some steps, however many plans there are; what is found does not depend on the cut."""
    problem, actions, *_ = lqr(20, starts=5)
    plans = problem.plans(actions)
    whole = ilqr.expand(problem, plans)
    monkeypatch.setattr(ilqr, "ROWS", 7)
    asked = []
    jacobian = problem.transition.jacobian
    monkeypatch.setattr(
        problem.transition, "jacobian", lambda s, a: asked.append(len(s)) or jacobian(s, a), raising=False
    )
    parts = ilqr.expand(problem, plans)
    assert (max(asked), sum(asked)) == (7, 100)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-12, rtol=0)


def masses():
    """Two masses that are pushed by two forces, coupled: 4 states, 2 actions."""
    a = torch.eye(4, dtype=torch.float64)
    a[0, 2] = a[1, 3] = 0.1
    a[2, 0], a[3, 0] = -0.2, 0.1
    b = torch.zeros(4, 2, dtype=torch.float64)
    b[2:] = torch.tensor([[0.1, 0.03], [-0.05, 0.1]])
    return a, b


def test_ilqr_in_a_box_is_the_quadratic_program():
    """Two actions, ends that bind: the same plan as L-BFGS-B on all actions at once."""
    a, b = masses()
    world, eye = linear(a, b), torch.eye(4, dtype=torch.float64)
    cost = quadratic(eye, 0.1 * torch.eye(2, dtype=torch.float64), 5 * eye)
    start = torch.tensor([[2.0, -1.0, 0.0, 1.0], [0.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    problem = Problem.of(world, cost, start, 15, Box.of([-1.0, -0.5], [0.8, 2.0]))
    plans, _, _ = solve(ILQR(iterations=40), problem, random())

    def value(u):
        actions = torch.as_tensor(u).view(1, 2, 15, 2)
        costs, slopes = adjoint(problem, actions)
        return float(costs.sum()), slopes.flatten().numpy()

    ends = [(-1.0, 0.8), (-0.5, 2.0)] * 30
    known = scipy.optimize.minimize(
        value,
        np.zeros(60),
        jac=True,
        bounds=ends,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )
    assert float(plans.cost.sum()) == pytest.approx(known.fun, rel=1e-7)
    assert np.allclose(plans.actions.flatten().numpy(), known.x, atol=2e-3)
    assert bool((plans.actions[0] == problem.box.low).any() | (plans.actions[0] == problem.box.high).any())
    assert bool((plans.gains[plans.actions == problem.box.low] == 0).all())


def test_adjoint_is_finite_differences():
    problem = Problem.of(
        pendulum(), pendulum_cost(), pendulum_starts([1, 2], torch.float64), 12, PENDULUM_BOX
    )
    actions = torch.rand(3, 2, 12, 1, generator=random(), dtype=torch.float64) - 0.5
    _, gradient = adjoint(problem, actions)
    h = 1e-5
    for t in range(12):
        shift = torch.zeros_like(actions)
        shift[:, :, t] = h
        slope = (problem.score(actions + shift) - problem.score(actions - shift)) / (2 * h)
        assert torch.allclose(gradient[:, :, t, 0], slope, rtol=1e-5, atol=1e-6)


def test_gradient_of_riccati_is_zero():
    problem, actions, _, least, _ = lqr()
    cost, gradient = adjoint(problem, actions[None])
    assert torch.allclose(cost[0], least)
    assert float(gradient.abs().max()) < 1e-10


def test_gradient_of_collocation_is_zero_at_riccati():
    """With the adjoint 2 P_{t+1} s_{t+1} for multipliers; elsewhere it is not."""
    problem, actions, states, least, found = lqr()
    multipliers = 2 * torch.einsum("tij,ntj->nti", found.value[1:], states[:, 1:])
    unit = torch.ones(2, dtype=torch.float64)
    for weight in (0.0, 3.0):
        value, gaps, slopes = lagrangian(problem, actions, states[:, 1:], multipliers, weight, unit)
        assert torch.allclose(value, least)
        assert float(gaps.abs().max()) < 1e-12
        assert max(float(g.abs().max()) for g in slopes) < 1e-10
    _, _, slopes = lagrangian(problem, actions, states[:, 1:] + 0.1, multipliers, 3.0, unit)
    assert float(slopes[1].abs().max()) > 0.1


def test_multipliers_of_collocation_come_to_the_adjoint():
    problem, _, states, _, found = lqr(8, box=Box.of(-20.0, 20.0))
    planner = Collocation(
        iterations=1200, starts=1, candidates=1, rate=0.01, penalty=30.0, growth=1.0, period=20, polish=0
    )
    plans, state, told = solve(planner, problem, random())
    known = 2 * torch.einsum("tij,ntj->nti", found.value[1:], states[:, 1:])
    assert float((state.multipliers - known).abs().max()) < 0.01 * float(known.abs().max())
    assert float(told[-1]["gap"].max()) < 2e-3  # units of states
    assert torch.allclose(plans.states, states, atol=5e-3)


def test_mppi_comes_to_riccati_as_one_over_root_n():
    """Posterior means of actions are Riccati's, whatever λ; errors fall as 1/√N."""
    problem, actions, *_ = lqr(3, 1)
    sizes, errors = (2000, 8000, 32000), []
    for n in sizes:
        planner = MPPI(draws=n, deviation=5.0, colour=0.0, temperature=2.0, prior=float("inf"))
        found = []
        for seed in range(30):
            state, _ = planner.step(problem, planner.init(problem, random()), random(seed))
            found.append(((state.mean - actions) ** 2).mean())
        errors.append(float(torch.stack(found).mean().sqrt()))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.12)
    for heat in (0.5, 8.0):
        planner = MPPI(draws=100_000, deviation=10.0, colour=0.0, temperature=heat, prior=float("inf"))
        state, info = planner.step(problem, planner.init(problem, random()), random(5))
        assert torch.allclose(state.mean, actions, atol=0.15)
        assert 100 < float(info["ess"].min()) < 100_000


@pytest.mark.parametrize("colour", [0.0, 2.0])
def test_prior_of_mppi_is_a_cost_of_effort(colour):
    """A prior N(0, Σ) on actions is the cost λ/2 aᵀΣ⁻¹a: the least of both together is the posterior mean."""
    problem, *_ = lqr(5, 1)
    heat, deviation = 4.0, 1.5

    def value(u):
        actions = u.view(1, 5, 1)
        return total(problem.cost, follow(problem.transition, problem.start, actions), actions).sum()

    zero = torch.zeros(5, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(value, zero)
    curvature = torch.autograd.functional.hessian(value, zero)
    lower = deviation * root(5, colour)
    known = -torch.linalg.solve(curvature + heat * torch.linalg.inv(lower @ lower.T), slope)
    planner = MPPI(draws=400_000, deviation=deviation, colour=colour, temperature=heat, prior=deviation)
    state, _ = planner.step(problem, planner.init(problem, random()), random(1))
    assert torch.allclose(state.mean.flatten(), known, atol=0.02)


@pytest.mark.parametrize("name", list(ALL))
def test_near_riccati_in_a_wide_box(name):
    problem, _, _, least, _ = lqr(15, box=WIDE)
    plans, _, told = solve(ALL[name], problem, random())
    worst = {"cem": 1.15, "mppi": 1.25, "gradient": 1.03}.get(name, 1.0001)
    assert bool((plans.cost <= worst * least).all()), plans.cost / least
    assert bool((plans.cost >= least - 1e-9).all())
    assert torch.allclose(follow(problem.transition, problem.start, plans.actions), plans.states)
    assert torch.allclose(problem.score(plans.actions[None])[0], plans.cost)
    assert all(info["transitions"] > 0 for info in told)


@pytest.mark.parametrize("name", list(ALL))
def test_an_advance_is_better_than_beginning_again(name):
    """One step later, with few steps more, plans are no worse than after many from nothing; the same seed, the same plans."""
    problem, *_ = lqr(15, box=WIDE)
    first, state, _ = solve(ALL[name], problem, random())
    after = problem.transition.mean(problem.start, first.actions[:, 0])
    later = Problem.of(problem.transition, problem.cost, after, 15, problem.space)
    plans, _, _ = solve(ALL[name], later, random(), state)
    fresh, _, _ = solve(ALL[name], later, random())
    assert bool((plans.cost <= 1.1 * fresh.cost + 1e-6).all())
    again, _, _ = solve(ALL[name], later, random(), state)
    assert torch.equal(again.actions, plans.actions)
    shorter = Problem.of(problem.transition, problem.cost, after, 9, problem.space)
    assert solve(ALL[name], shorter, random(), state)[0].actions.shape == (3, 9, 1)


@pytest.mark.parametrize("name", list(ALL))
def test_a_plan_does_not_depend_on_which_starts_come_along(name):
    problem, *_ = lqr(8, box=WIDE)
    alone = Problem.of(problem.transition, problem.cost, problem.start[1:2], 8, problem.space)
    together = solve(ALL[name], problem, random())[0]
    close = {"collocation": 1e-2}.get(name, 1e-6)  # its units are those of all starts
    assert torch.allclose(solve(ALL[name], alone, random())[0].actions[0], together.actions[1], atol=close)


def test_screened_swings_the_pendulum_up():
    problem = Problem.of(pendulum(), pendulum_cost(), pendulum_starts(range(1000, 1004)), 60, PENDULUM_BOX)
    plans, _, told = solve(Screened(), problem, random())
    assert float(plans.states[:, -1, 0].min()) > 0.99  # cos θ
    assert float(plans.actions.abs().max()) <= 2.0
    lazy = solve(ILQR(), problem, random())[0]
    assert float((lazy.cost - plans.cost).max()) > 50  # one start from the middle stays in its valley
    assert told[-1]["rows"] == 2


# ---------------------------------------------------------------- categories


def maze():
    """A point on a line pushed by -1, 0 or 2, a cost with two valleys: all 3^5 plans can be tried."""
    pushes = torch.tensor([-1.0, 0.0, 2.0])
    world = Equations(lambda s, a: s + (a @ pushes.to(a)).unsqueeze(-1), 1, 3)

    def cost(obs, action, after):
        place = after[:, 0]
        return (place - 3).abs().minimum(0.5 + (place + 4).abs()) + 0.3 * action[:, 2]

    start = torch.tensor([[0.0], [-3.0], [7.0]])
    return Problem.of(world, cost, start, 5, Categories(3))


@pytest.mark.parametrize("planner", [CEM(iterations=8), MPPI(iterations=20)])
def test_categories_against_all_plans(planner):
    problem = maze()
    every = torch.tensor(list(itertools.product(range(3), repeat=5)))
    least = problem.score(problem.space.rows(every).unsqueeze(1)).amin(0)
    plans, state, _ = solve(planner, problem, random())
    assert torch.allclose(plans.cost, least)
    assert torch.equal(plans.actions.sum(-1), torch.ones(3, 5))
    assert set(plans.actions.unique().tolist()) == {0.0, 1.0}
    assert solve(planner, problem, random(), state)[0].actions.shape == (3, 5, 3)


@pytest.mark.parametrize("planner", [ILQR(), Screened(), Gradient(), Collocation()])
def test_gradients_refuse_categories(planner):
    with pytest.raises(ValueError, match="these are 3 categories: use method='cem' or 'mppi'"):
        solve(planner, maze(), random())


# ---------------------------------------------------------------- noise


def test_planning_by_one_draw_is_optimistic():
    """To push hard is a gamble whose luck a single draw takes for skill; over many draws the sure way is taken.

    s' = s + a + |a| ε with cost (s − 1)²: expected cost 2a² − 2a + 1 from 0 is least at a = ½, where one draw plans for a = 1.
    """
    a_cost = {}
    for draws in (1, 400):
        world = Gamble()
        problem = Problem.of(
            world, lambda o, a, n: (n[:, 0] - 1).square(), torch.zeros(1, 1), 1, Box.of(-2.0, 2.0), draws
        )
        plans, _, told = solve(CEM(draws=300), problem, random())
        a = float(plans.actions)
        a_cost[draws] = (float(told[-1]["cost"]), 2 * a * a - 2 * a + 1, a)
    lucky, sure = a_cost[1], a_cost[400]
    assert lucky[0] < 0.1 < 0.5 <= lucky[1]  # what it promised, what it gets
    assert sure[2] == pytest.approx(0.5, abs=0.1)
    assert sure[0] == pytest.approx(sure[1], abs=0.12)


class Gamble(Equations):
    """s' = s + a + |a| ε."""

    def __init__(self):
        super().__init__(lambda s, a: s + a, 1, 1)

    def draw(self, state, action, generator, member=None):
        return state + action + action.abs() * torch.randn(state.shape, generator=generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon must be an int >= 1, got 0"),
        ({"start": torch.zeros(2, 3)}, r"start must have shape \(batch, 2\), got \(2, 3\)"),
        ({"start": torch.full((1, 2), torch.nan)}, "start must be finite"),
        ({"space": Box.of([-1.0, -1.0], 1.0)}, "actions must have the model's 1 numbers, got 2"),
        ({"cost": lambda o, a, n: n}, "cost must return"),
        ({"cost": lambda o, a, n: n[:, 0] * torch.nan}, "cost must return numbers, got NaN"),
    ],
)
def test_refused(change, message):
    a, b, q, r, end = double_integrator()
    given = {
        "transition": linear(a, b),
        "cost": quadratic(q, r, end),
        "start": torch.zeros(1, 2),
        "horizon": 3,
        "space": Box.of(-1.0, 1.0),
    }
    with pytest.raises(ValueError, match=message):
        Problem.of(**(given | change))
