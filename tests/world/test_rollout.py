"""Rollouts: means, gains, and draws whose doubt stays apart from their noise."""

import pytest
import torch
from worlds_for_tests import double_integrator, linear, quadratic

from abduce.world.actions import Box
from abduce.world.equations import Equations
from abduce.world.planners.riccati import regulator
from abduce.world.rollout import Plans, corrected, drawn, follow, priced, total
from abduce.world.transitions import Transition

OPEN = Box.of(-float("inf"), float("inf"))


class Unsure(Transition):
    """s' = s + c_m with c_m = ±1: all doubt, no noise."""

    observation_size, action_size, members = 1, 1, 2

    def shift(self, member):
        return 2.0 * member - 1.0

    def mean(self, state, action, member=None):
        return state + (0.0 if member is None else self.shift(member).unsqueeze(-1))

    def moments(self, state, action):
        return state, torch.ones_like(state)

    def draw(self, state, action, generator, member=None):
        if member is None:
            member = torch.randint(2, state.shape[:-1], generator=generator)
        return self.mean(state, action, member)

    def jacobian(self, state, action):
        return torch.ones(*state.shape, 1), torch.zeros(*state.shape, 1)

    def log_prob(self, state, action, after):
        return after[..., 0]


def test_rollouts_are_the_same_with_slopes_and_without():
    """They are kept in other ways, and a step that gives another shape is refused in both."""
    a, b, *_ = double_integrator()
    world, generator = linear(a, b), torch.Generator().manual_seed(0)
    start, actions = (torch.randn(s, generator=generator).double() for s in ((3, 2), (4, 3, 6, 1)))
    gains = torch.randn(3, 6, 1, 2, generator=generator).double()
    plans = Plans(actions[0], follow(world, start, actions[0]), torch.zeros(3), gains)
    asked = (
        lambda: follow(world, start, actions),
        lambda: torch.cat([v.flatten() for v in corrected(world, start + 1, plans, OPEN)]),
        lambda: drawn(world, start, actions, 2, torch.Generator().manual_seed(1))[0],
    )
    for ask in asked:
        with torch.no_grad():
            without = ask()
        assert torch.equal(ask(), without)
    narrow = Equations(lambda s, a: s[..., :1] + a, 2, 1)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode(), pytest.raises((ValueError, RuntimeError)):
            follow(narrow, start, actions)


def test_a_rollout_is_steps_one_after_another():
    a, b, q, r, end = double_integrator()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    u = torch.randn(4, 3, 7, 1, generator=generator, dtype=torch.float64)
    states = follow(linear(a, b), x, u)
    s, cost = x.expand(4, 3, 2), torch.zeros(4, 3, dtype=torch.float64)
    for t in range(7):
        cost = cost + torch.einsum("...i,ij,...j->...", s, q, s) + 0.1 * u[:, :, t, 0] ** 2
        assert torch.allclose(states[:, :, t], s)
        s = s @ a.T + u[:, :, t] @ b.T
    cost = cost + torch.einsum("...i,ij,...j->...", s, end, s)
    assert torch.allclose(total(quadratic(q, r, end), states, u), cost)
    assert torch.allclose(priced(linear(a, b), quadratic(q, r, end), x, u), cost)


def test_priced_in_chunks_is_the_same(monkeypatch):
    a, b, q, r, end = double_integrator()
    u = torch.randn(9, 3, 7, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    whole = priced(linear(a, b), quadratic(q, r, end), x, u)
    monkeypatch.setattr("abduce.world.rollout.CELLS", 130)
    assert torch.allclose(priced(linear(a, b), quadratic(q, r, end), x, u), whole)


def test_gains_take_a_plan_to_another_start():
    """Riccati's plan from one start, rolled forward from another by its gains, is Riccati's plan from there."""
    a, b, q, r, end = double_integrator()
    world, found = linear(a, b), regulator(a, b, q, r, end, 20)

    def best(x):
        states, actions = [x], []
        for gain in found.gains:
            actions.append(states[-1] @ gain.T)
            states.append(world.mean(states[-1], actions[-1]))
        return torch.stack(actions, 1), torch.stack(states, 1)

    here, there = (torch.tensor([v], dtype=torch.float64) for v in ([1.0, 2.0], [-3.0, 0.5]))
    actions, states = best(here)
    plans = Plans(actions, states, torch.zeros(1), found.gains.unsqueeze(0))
    moved, path = corrected(world, there, plans, OPEN)
    assert torch.allclose(moved, best(there)[0])
    assert torch.allclose(path, best(there)[1])
    clipped, _ = corrected(world, there, plans, Box.of(-0.5, 0.5))
    assert float(clipped.abs().max()) == 0.5


def test_each_draw_keeps_its_member():
    """Doubt grows like the number of steps, ±H, where noise would grow like its root."""
    states, _ = drawn(
        Unsure(), torch.zeros(1, 1), torch.zeros(1, 25, 1), 40, torch.Generator().manual_seed(0)
    )
    assert states.shape == (40, 1, 26, 1)
    assert set(states[:, 0, -1, 0].tolist()) == {-25.0, 25.0}


def test_noise_of_draws_is_that_of_the_equations():
    world = Equations(lambda s, a: s + a, 1, 1, noise=0.3)
    states, _ = drawn(
        world, torch.zeros(1, 1), torch.zeros(1, 16, 1), 20000, torch.Generator().manual_seed(0)
    )
    assert states[:, 0, -1, 0].std().item() == pytest.approx(0.3 * 4, rel=0.02)
    after = torch.tensor([[0.4]])
    known = torch.distributions.Normal(0.1, 0.3).log_prob(torch.tensor(0.4))
    assert torch.allclose(world.log_prob(torch.zeros(1, 1), torch.full((1, 1), 0.1), after), known)


def test_refused():
    with pytest.raises(ValueError, match="noise must be"):
        Equations(lambda s, a: s, 2, 1, noise=[1.0])
    with pytest.raises(ValueError, match="low must be below high"):
        Box.of(1.0, 1.0)
    with pytest.raises(ValueError, match=r"actions must lie between \[-1.0\] and \[1.0\], got \[3.0\]"):
        Box.of(-1.0, 1.0).check(torch.tensor([[0.0], [3.0]]))
