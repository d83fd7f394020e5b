"""Episodes in all their forms give the same steps; what holds no step to learn from is refused."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from abduce.world.environments import interface_of, make, makers
from abduce.world.episodes import complete, episodes, transitions
from abduce.world.recorder import Recorder

RNG = np.random.default_rng(0)
O, A = RNG.normal(size=(3, 6, 2)), RNG.normal(size=(3, 5, 1))
ONE = [{"observations": o, "actions": a} for o, a in zip(O, A, strict=True)]


def minari():
    return SimpleNamespace(iterate_episodes=lambda: (SimpleNamespace(**e) for e in ONE))


@pytest.mark.parametrize(
    "data",
    [ONE, {"observations": O, "actions": A}, (O, A), [(o, a) for o, a in zip(O, A, strict=True)], minari()],
    ids=["dicts", "stacked", "pair", "pairs", "minari"],
)
def test_forms_agree(data):
    steps = transitions(episodes(data))
    assert np.array_equal(steps.state, O[:, :-1].reshape(-1, 2))
    assert np.array_equal(steps.after, O[:, 1:].reshape(-1, 2))
    assert np.array_equal(steps.action, A.reshape(-1, 1))
    assert steps.episode.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_blanks_stay_and_complete_steps_have_none():
    o = O[0].copy()
    o[2, 1] = np.nan
    steps = transitions(episodes((o, A[0])))
    assert int(steps.after.isnan().sum()) == int(steps.state.isnan().sum()) == 1
    assert len(complete(steps).state) == 3


def test_choices_become_a_one_among_zeros_and_stay_so():
    given = episodes([(O[0], np.array([0, 2, 1, 1, 0])), (O[1], np.zeros(5, int))])
    assert [e.choices for e in given] == [3, 3]
    assert np.array_equal(given[0].actions.argmax(1), [0, 2, 1, 1, 0])
    again = episodes(given)
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(given, again, strict=True))
    assert episodes((O[0], np.array([0, 1, 1, 0, 0])), choices=4)[0].actions.shape == (5, 4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "holds no episode"),
        ((O[0][:2], A[0][:1]), "episode has at least two"),
        ((O[0][:5], A[0]), r"5 actions have 6 observations.*got 5"),
        ({"observations": O[0]}, "without 'actions'"),
        ([ONE[0], (RNG.normal(size=(6, 3)), A[0])], r"observations have \[2, 3\] columns"),
        ((RNG.normal(size=(6, 4, 4, 3)), A[0]), "flatten pictures"),
        ((np.where(O[0] > 9, O[0], np.inf), A[0]), "infinite"),
        ({"observations": {"place": O[0]}, "actions": A[0]}, "are a dict"),
        ((O[0].astype(str), A[0][:0]), "5 actions|0 actions"),
        ((np.full((6, 2), "x"), A[0]), "must be numbers"),
        (O[0], "must be a dict"),
        ((O[0], np.array([0, -1, 0, 0, 0])), "whole numbers from 0"),
    ],
)
def test_what_is_no_episode_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        episodes(data)


def test_a_recorder_keeps_every_step_and_counts_them():
    env = Recorder(gymnasium.make("Pendulum-v1", max_episode_steps=7))
    env.reset(seed=3)
    for _ in range(10):
        *_, over, cut, _ = env.step(np.array([1.0], np.float32))
        if over or cut:
            env.reset()
    found = episodes(env)
    assert [len(e) for e in found] == [7, 3]
    assert env.steps == 10
    assert np.array_equal(env.box[1], [2.0])
    other = gymnasium.make("Pendulum-v1")
    first, _ = other.reset(seed=3)
    second = other.step(np.array([1.0], np.float32))[0]
    assert np.array_equal(found[0].observations[:2], np.stack([first, second]).astype(float))
    assert env.observation_space.shape == (3,)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_of_environments_gives_the_episodes_of_each(mode):
    def one():
        return gymnasium.make("Pendulum-v1", max_episode_steps=6)

    vector = Recorder(SyncVectorEnv([one] * 3, autoreset_mode=mode))
    vector.reset(seed=[10, 11, 12])
    rng = np.random.default_rng(0)
    for _ in range(16):
        vector.step(rng.uniform(-1, 1, (3, 1)).astype(np.float32))
    found = episodes(vector)
    assert vector.steps == sum(map(len, found))
    assert vector.steps == (42 if mode == AutoresetMode.NEXT_STEP else 48)
    for e in found:  # each follows Pendulum's own equations: no step goes from one episode to another
        theta, speed = np.arctan2(e.observations[:-1, 1], e.observations[:-1, 0]), e.observations[:-1, 2]
        after = speed + (15 * np.sin(theta) + 3 * e.actions[:, 0]) * 0.05
        assert np.allclose(e.observations[1:, 2], after.clip(-8, 8), atol=1e-4)


def test_environments_say_what_they_take():
    face = interface_of(gymnasium.make("Pendulum-v1"))
    assert (face.observation_size, face.space.size, face.space.choices) == (3, 1, 0)
    assert face.action(np.array([0.5])).dtype == np.float32
    poles = interface_of(gymnasium.make("CartPole-v1"))
    assert (poles.observation_size, poles.space.choices, poles.action(1)) == (4, 2, 1)
    with pytest.raises(ValueError, match="observations that are numbers"):
        interface_of(SimpleNamespace(observation_space=gymnasium.spaces.Discrete(3), action_space=None))
    box = gymnasium.spaces.Box(-1, 1, (2,))
    with pytest.raises(ValueError, match="actions that are numbers"):
        interface_of(
            SimpleNamespace(observation_space=box, action_space=gymnasium.spaces.MultiDiscrete([2, 2]))
        )
    assert make(lambda: 5) == 5
    assert len(makers("Pendulum-v1", 3)) == 3
    assert makers(SimpleNamespace(reset=None), 2) is None
