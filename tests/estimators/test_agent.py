"""An agent in MuJoCo: a pole on a cart is balanced after 200 steps, falls included."""

import pytest

from abduce import Agent, WorldModel
from abduce.showcase.acting import OBJECTIVES

pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'abduce[world]'")


def test_a_pole_is_balanced_after_two_hundred_steps():
    known = OBJECTIVES["InvertedPendulum-v5"]
    agent = Agent(WorldModel(model="linear"), known.cost, random_state=0, **known.settings)
    agent.learn("InvertedPendulum-v5", steps=200, seed=0)
    assert agent.experience_.steps == 200
    assert agent.returns_[0][1] < 30  # it fell at first
    found = agent.evaluate("InvertedPendulum-v5", seeds=range(4), steps=150)
    assert found.lengths.tolist() == [150] * 4
    assert not found.terminated.any()
    assert found.returns.tolist() == [150.0] * 4
