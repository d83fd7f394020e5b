"""An agent: in MuJoCo a pole on a cart is balanced after 200 steps, falls included; plans that are shaken tell more."""

import numpy as np
import pytest
import torch
from torch import Generator

from abduce import Agent, Goal, WorldModel
from abduce.estimators.agent import _shaken
from abduce.showcase.acting import OBJECTIVES
from abduce.world.actions import Box, Categories


def test_a_pole_is_balanced_after_two_hundred_steps():
    pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'abduce[world]'")
    known = OBJECTIVES["InvertedPendulum-v5"]
    agent = Agent(WorldModel(model="linear"), known.cost, random_state=0, **known.settings)
    agent.learn("InvertedPendulum-v5", steps=200, seed=0)
    assert agent.experience_.steps == 200
    assert agent.returns_[0][1] < 30  # it fell at first
    found = agent.evaluate("InvertedPendulum-v5", seeds=range(4), steps=150)
    assert found.lengths.tolist() == [150] * 4
    assert not found.terminated.any()
    assert found.returns.tolist() == [150.0] * 4


def test_shaken_plans_do_not_always_do_the_same_in_the_same_place(monkeypatch):
    gymnasium = pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'abduce[world]'")

    class Cart(gymnasium.Env):
        """Moves by its action."""

        observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float64)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place, self.left = self.np_random.uniform(-1, 1, 1), 30
            return self.place, {}

        def step(self, action):
            self.place, self.left = 0.9 * self.place + 0.1 * action, self.left - 1
            return self.place, 0.0, False, self.left == 0, {}

    def planned(shake):
        agent = Agent(
            WorldModel(model="linear"), Goal([0.2]), explore=30, refit=30, shake=shake, random_state=0
        )
        agent.learn(Cart, steps=150, seed=0)
        every = [e.actions for e in agent.experience_.episodes]
        return np.concatenate(every[1::2]), np.concatenate(every[2::2])

    monkeypatch.setattr(Agent, "act", lambda self, obs: np.array([0.8]))  # a plan that is always the same
    assert np.array_equal(np.concatenate(planned(0.0)), np.full((120, 1), 0.8))
    still, shaken = planned(0.3)  # every other episode
    assert np.array_equal(still, np.full((60, 1), 0.8))
    assert np.abs(shaken - 0.8).max() <= 0.3 + 1e-12
    assert 0.05 < shaken.std() < 0.3
    assert shaken.max() == 1.0  # inside the box
    assert np.array_equal(shaken, planned(0.3)[1])  # the same seed, the same actions


def test_a_share_of_a_random_action_is_added_or_the_random_one_taken_at_that_rate():
    box, generator = Box.of([-2.0, 0.0], [2.0, 1.0]), Generator().manual_seed(0)
    chosen, tried = np.array([1.0, 0.9]), np.array([-2.0, 1.0])
    assert np.allclose(
        _shaken(chosen, tried, 0.3, box, generator), [0.4, 1.0]
    )  # 0.9 + 0.3 (1 - 0.5), clipped
    taken = [_shaken(np.array(0), np.array(1), 0.3, Categories(2), generator) for _ in range(2000)]
    assert np.mean(taken) == pytest.approx(0.3, abs=3 * np.sqrt(0.3 * 0.7 / 2000))


@pytest.mark.parametrize("shake", [-0.1, 1.5, float("nan"), "much"])
def test_a_share_out_of_bounds_is_refused(shake):
    agent = Agent(WorldModel.of_equations(lambda s, a: s + a, 1, -1.0, 1.0), Goal([0.0]), shake=shake)
    with pytest.raises(ValueError, match=r"shake must be in \[0, 1\]"):
        agent.act(torch.zeros(1))
