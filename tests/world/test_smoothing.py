"""Blanks in worlds that bend: equal to the exact answer where the world is linear, obeying the dynamics where it is not."""

import math

import pytest
import torch

from abduce.world.actions import Box
from abduce.world.equations import Equations
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.rollout import follow
from abduce.world.smoothing import _between, smooth
from abduce.world.visited import Visited

NAN = float("nan")


def mass(noise=0.05):
    a = torch.tensor([[1.0, 0.2], [-0.1, 0.9]]).double()
    b = torch.tensor([[0.02], [0.2]]).double()
    linear = LinearGaussian(2, 1).load(a=a, b=b, noise=noise**2 * torch.eye(2))
    return linear, Equations(lambda s, u: s @ a.mT.to(s) + u @ b.mT.to(s), 2, 1, noise)


def test_in_a_linear_world_it_is_the_kalman_smoothers_answer():
    linear, same = mass()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 9, 2, generator=generator).double()
    actions = torch.randn(1, 8, 1, generator=generator).double()
    states[torch.rand(states.shape, generator=generator) < 0.5] = NAN
    actions[torch.rand(actions.shape, generator=generator) < 0.5] = NAN
    exact = linear.fill(states, actions)
    found = smooth(same, linear, Box.of(-math.inf, math.inf), states, actions, 0)
    for name in ("states", "actions", "states_deviation", "actions_deviation", "log_evidence"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-4, atol=1e-5)
    drawn, acted = found.draw(4000, generator)
    assert drawn.shape == (4000, 1, 9, 2)
    torch.testing.assert_close(acted.std(0), exact.actions_deviation, rtol=0.1, atol=1e-3)


def pendulum(s, u):
    speed = s[..., 1] + 0.1 * (u[..., 0] - 3 * torch.sin(s[..., 0]))
    return torch.stack([s[..., 0] + 0.1 * speed, speed], -1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pendulum_is_swung_from_hanging_to_upright_within_its_box(seed):
    """Its motor is too weak to lift it straight; the actions that are filled in lead there when they are done."""
    world = Equations(pendulum, 2, 1, 0.001)
    start = torch.zeros(1, 1, 2).double()
    a, b = world.jacobian(start[0], torch.zeros(1, 1).double())
    linear = LinearGaussian(2, 1).load(
        a=a[0], b=b[0], noise=1e-2 * torch.eye(2), first_covariance=4 * torch.eye(2)
    )
    states, actions = torch.full((1, 61, 2), NAN).double(), torch.full((1, 60, 1), NAN).double()
    states[0, 0], states[0, -1] = 0.0, torch.tensor([math.pi, 0.0])
    found = smooth(world, linear, Box.of(-1.2, 1.2), states, actions, seed)
    assert float(found.actions.abs().max()) <= 1.2
    gaps = found.states[:, 1:] - pendulum(found.states[:, :-1], found.actions)
    assert float(gaps.abs().max()) < 0.002
    reached = follow(world, torch.zeros(1, 2).double(), found.actions)[0, -1]
    assert abs(float(reached[0]) - math.pi) < 0.35
    assert float(found.states[0, :, 0].min()) < -0.3  # it swings back first


# ---------------------------------------------------------------- plans: noise explains nothing

NOWHERE = Visited(torch.zeros(0, 2))


def ends(steps, start, goal):
    """Blanks between a start and a goal: states and actions of two numbers."""
    states, actions = torch.full((1, steps + 1, 2), NAN).double(), torch.full((1, steps, 2), NAN).double()
    states[0, 0], states[0, -1] = torch.tensor(start), torch.tensor(goal)
    return states, actions


def test_plans_of_a_noisy_linear_world_are_those_of_one_without_noise():
    """And less than them where noise may do a part of the work."""
    linear, same = mass(0.5)
    still, _ = mass(1e-6)
    states, actions = torch.full((1, 21, 2), NAN).double(), torch.full((1, 20, 1), NAN).double()
    states[0, 0], states[0, -1] = 0.0, torch.tensor([1.0, 0.0])
    exact = still.fill(states, actions).actions
    box = Box.of(-math.inf, math.inf)
    lucky = smooth(same, linear, box, states, actions, 0)
    plan = smooth(same, linear, box, states, actions, 0, visited=NOWHERE)
    reached = follow(same, torch.zeros(1, 2).double(), plan.actions)[0, -1]
    assert float((plan.actions - exact).abs().max()) < 0.02 * float(exact.abs().max())
    assert float((reached - states[0, -1]).abs().max()) < 0.02
    assert float(lucky.actions.square().sum()) < 0.8 * float(exact.square().sum())


def blocked(s, u):
    """Two rooms: a wall in the middle, |x| < .2, whose ends are soft, with a door at the top."""
    there = s + 0.15 * u
    inside = torch.sigmoid((0.2 - there[..., :1].abs()) / 0.01)
    closed = torch.sigmoid((0.5 - there[..., 1:]) / 0.01)
    return there - inside * closed * (there - s)


def test_a_plan_goes_through_the_door_and_luck_through_the_wall():
    world = Equations(blocked, 2, 2, 0.05)
    linear = LinearGaussian(2, 2).load(
        a=torch.eye(2), b=0.15 * torch.eye(2), noise=0.0025 * torch.eye(2), first_covariance=0.3 * torch.eye(2),
        action_covariance=0.3 * torch.eye(2),
    )  # fmt: skip
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41)).double()
    free = Visited(grid[(grid[:, 0].abs() > 0.2) | (grid[:, 1] > 0.5)])
    states, actions = ends(30, [-0.6, -0.2], [0.6, -0.2])
    box, start = Box.of([-1.0, -1.0], [1.0, 1.0]), states[:, 0]
    lucky = smooth(world, linear, box, states, actions, 0)
    plan = smooth(world, linear, box, states, actions, 0, visited=free)
    assert float((follow(world, start, lucky.actions)[0, -1] - states[0, -1]).norm()) > 0.5
    went = follow(world, start, plan.actions)[0]
    assert float((went[-1] - states[0, -1]).norm()) < 0.05
    assert float(went[:, 1].max()) > 0.5
    assert float(free.excess(plan.states)[0].max()) < 1.0
    assert float(plan.actions.abs().max()) <= 1.0


def test_a_plan_between_places_where_no_episode_was_does_not_go_back_to_where_one_was():
    world = Equations(lambda s, u: s + 0.15 * u, 2, 2, 0.05)
    linear = LinearGaussian(2, 2).load(
        a=torch.eye(2), b=0.15 * torch.eye(2), noise=0.0025 * torch.eye(2), first_covariance=0.3 * torch.eye(2),
        action_covariance=0.3 * torch.eye(2),
    )  # fmt: skip
    grid = torch.cartesian_prod(torch.linspace(-1, 0, 21), torch.linspace(-1, 1, 41)).double()
    states, actions = ends(14, [0.7, 0.0], [0.8, 0.0])
    plan = smooth(world, linear, Box.of([-1.0, -1.0], [1.0, 1.0]), states, actions, 0, visited=Visited(grid))
    assert float(plan.states[0, :, 0].min()) > 0.6
    assert float((follow(world, states[:, 0], plan.actions)[0, -1] - states[0, -1]).norm()) < 0.01


def test_how_far_states_lie_anyhow_is_that_of_the_nearer_of_those_seen_around_them():
    line = Visited(torch.linspace(0, 1, 11).view(-1, 1))  # a radius is .1
    seen = torch.tensor([NAN, 2.0, NAN, 0.5, NAN, NAN, 1.5, NAN, 1.3]).double().view(-1, 1)
    found = _between(seen, line)
    assert torch.allclose(found, torch.tensor([9.0, 9, 0, 0, 0, 0, 4, 2, 2]).double())
    assert torch.equal(_between(torch.full((3, 1), NAN), line), torch.zeros(3))
