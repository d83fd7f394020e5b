"""States that remember: what they hold, and transitions whose differences follow from the observations they foresee."""

import numpy as np
import pytest
import torch

from abduce import WorldModel
from abduce.world.ensemble import Ensemble
from abduce.world.episodes import episodes
from abduce.world.history import ObservationHistory, Remembering
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.rollout import drawn, follow
from abduce.world.transitions import derivatives

RNG = np.random.default_rng(0)
O, A = RNG.normal(size=(6, 2)), RNG.normal(size=(5, 1))


def test_history_holds_the_last_observations_as_differences():
    o = torch.from_numpy(O)
    states = ObservationHistory(3, 2).states(o)
    assert states.shape == (4, 6)
    expected = torch.cat([o[4], o[4] - o[3], o[3] - o[2]])
    torch.testing.assert_close(states[2], expected)
    torch.testing.assert_close(ObservationHistory(3, 2).observed(states), o[2:])
    [e] = ObservationHistory(2, 2).episodes(episodes({"observations": O, "actions": A}))
    assert e.observations.shape == (5, 4)
    assert np.array_equal(e.actions, A[1:])
    with pytest.raises(ValueError, match="history=6"):
        ObservationHistory(6, 2).episodes(episodes({"observations": O, "actions": A}))


def foreseeing(steps, size=2, actions=1):
    """Networks of random weights over states of so many steps, tied."""
    torch.manual_seed(steps)
    model = Ensemble(steps * size, actions, members=3, hidden=(8,)).double().requires_grad_(False)
    model.weights[-1].normal_(0.0, 0.1)
    model.low.fill_(-50.0)
    model.high.fill_(50.0)
    return Remembering(model.eval(), size)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_what_is_remembered_is_what_was_foreseen(steps):
    model = foreseeing(steps)
    history = ObservationHistory(steps, 2)
    past = torch.randn(5, steps, 2, dtype=torch.float64)
    start = history.states(past)[:, 0]
    actions = torch.randn(5, 6, 1, dtype=torch.float64)
    for found in (
        follow(model, start, actions),
        follow(model, start, actions, torch.arange(5) % 3),
        drawn(model, start, actions, 4, torch.Generator().manual_seed(0))[0],
    ):
        came = torch.cat([past[:, :-1].expand(*found.shape[:-2], -1, -1), found[..., :2]], -2)
        torch.testing.assert_close(history.states(came), found)
    alone = model.inner.mean(start, actions[:, 0])
    torch.testing.assert_close(model.mean(start, actions[:, 0])[:, :2], alone[:, :2])


@pytest.mark.parametrize("steps", [2, 3])
def test_slopes_are_those_of_the_mean(steps):
    model = foreseeing(steps)
    s, a = torch.randn(4, 2 * steps).double(), torch.randn(4, 1).double()
    for found, expected in zip(model.jacobian(s, a), derivatives(model.mean, s, a), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("steps", [2, 3])
def test_moments_are_those_of_draws(steps):
    model = foreseeing(steps)
    s, a = torch.randn(1, 2 * steps).double(), torch.randn(1, 1).double()
    many = model.draw(s.expand(40_000, -1), a.expand(40_000, -1), torch.Generator().manual_seed(0))
    mean, spread = model.moments(s, a)
    torch.testing.assert_close(many.mean(0), mean[0], atol=0.02, rtol=0.02)
    torch.testing.assert_close(many.std(0), spread[0], atol=0.02, rtol=0.03)


def test_exact_worlds_and_those_of_one_step_are_left_as_they_are():
    model = foreseeing(2).inner
    linear = LinearGaussian(4, 1)
    assert ObservationHistory(1, 4).tied(model) is model
    assert ObservationHistory(2, 2).tied(linear) is linear
    assert ObservationHistory(2, 2).tied(model).family == "Ensemble"


def test_a_learnt_world_keeps_to_its_own_differences():
    """What is seen of a swing is its angle; 20 steps ahead differences are still those of the angles foreseen."""
    t = np.arange(60)
    places = np.stack([np.sin(0.3 * t + p) for p in np.linspace(0, 6, 8)])[..., None]
    world = WorldModel(model="process", history=2, random_state=0).fit((places, RNG.normal(size=(8, 59, 1))))
    start = world.history_.states(torch.from_numpy(places[:3, 4:6]))[:, 0]
    found = follow(world.transition_, start, torch.zeros(3, 20, 1).double())
    torch.testing.assert_close(found[:, 1:, 1], found[:, 1:, 0] - found[:, :-1, 0])
    assert float((found[:, :, 0] - torch.from_numpy(places[:3, 5:26, 0])).abs().max()) < 0.02
