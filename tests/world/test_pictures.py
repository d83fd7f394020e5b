"""Worlds seen in pictures: a light on a strip of pixels, whose place the codes have to find, is pushed to and fro."""

import gymnasium
import numpy as np
import pytest
import torch

from abduce import Agent, Cost, WorldModel, load
from abduce.world.costs import Cost as WorldCost

PIXELS, NAN = 12, float("nan")


def light(place):
    """A strip whose light is at a place between 0 and 1."""
    return np.exp(-0.5 * ((np.arange(PIXELS) - (1 + 9 * np.asarray(place)[..., None])) / 1.2) ** 2)


def shown(place, pushes):
    """Strips of a light that is pushed, and its places."""
    places = [np.asarray(place, float)]
    for push in np.moveaxis(pushes[..., 0], -1, 0):
        places.append((places[-1] + 0.1 * push).clip(0, 1))
    places = np.stack(places, -1)
    return {"observations": light(places), "actions": pushes}, places


def where(strips):
    """Where the light is."""
    strips = torch.as_tensor(strips)
    return ((strips * torch.arange(PIXELS).to(strips)).sum(-1) / strips.sum(-1) - 1) / 9


def off(obs, action, after):
    """How far the light is from the middle of the strip."""
    return torch.stack([3 * (where(after) - 0.5), 0.05 * action[..., 0]], -1)


COST = Cost(lambda o, a, n: off(o, a, n).square().sum(-1), residuals=off)


@pytest.fixture(scope="module")
def strip():
    rng = np.random.default_rng(0)
    data, _ = shown(rng.uniform(size=20), rng.uniform(-1, 1, (20, 25, 1)))
    return WorldModel(model="process", codes=1, random_state=0).fit(data, low=-1, high=1)


def test_codes_hold_what_differs_and_are_decoded(strip):
    pictures, places = strip.pictures_, np.linspace(0.05, 0.95, 19)
    codes = pictures.encode(torch.from_numpy(light(places)))
    assert codes.shape == (19, 1)
    steps = codes[:, 0].diff()
    assert bool((steps > 0).all() or (steps < 0).all())
    assert float((pictures.decode(codes) - torch.from_numpy(light(places))).abs().mean()) < 0.03
    single = pictures.decode(codes.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), pictures.decode(codes), rtol=1e-4, atol=1e-5)
    torn = light(places)
    torn[3, 2] = NAN
    assert np.flatnonzero(pictures.encode(torch.from_numpy(torn)).isnan().any(1)).tolist() == [3]


def test_slopes_go_through_the_decoder(strip):
    pictures = strip.pictures_
    codes = pictures.encode(torch.from_numpy(light(np.array([0.3, 0.6]))))
    slope = torch.func.jvp(pictures.decode, (codes,), (torch.ones_like(codes),))[1]
    either = [pictures.decode(codes + sign * 1e-5) for sign in (1, -1)]
    torch.testing.assert_close(slope, (either[0] - either[1]) / 2e-5, rtol=1e-4, atol=1e-7)
    cost = pictures.cost(WorldCost.of(COST))
    action = torch.tensor([[0.5], [-0.5]]).double()
    seen = pictures.decode(codes)
    expected = COST(seen, action, seen)
    assert torch.allclose(cost(codes, action, codes), expected)
    assert torch.allclose(cost.residuals(codes, action, codes).square().sum(1), expected)


def test_pictures_that_follow_are_foreseen_and_surprises_seen(strip):
    rng = np.random.default_rng(1)
    new, places = shown(rng.uniform(size=10), rng.uniform(-1, 1, (10, 8, 1)))
    found = strip.predict(new["observations"][:, 0], new["actions"])
    assert found.shape == (10, 8, PIXELS)
    assert float((where(found) - torch.from_numpy(places[:, 1:])).abs().mean()) < 0.04
    low, high = strip.predict_interval(new["observations"][:, 0], new["actions"])
    assert low.shape == high.shape == found.shape
    assert (low <= high).all()
    strange = {k: v[0].copy() for k, v in new.items()}
    strange["observations"][5] = light(np.array(0.0 if places[0, 5] > 0.5 else 1.0))
    assert strip.anomaly_score(strange).argmax() in (4, 5)


def test_plans_agents_and_blanks_are_of_pictures(strip):
    start = light(np.array(0.0))
    plan = strip.plan(start, COST, horizon=8, candidates=60, survivors=8)
    assert plan.observations.shape == (9, PIXELS)
    _, came = shown(np.array([0.0]), plan.actions[None])
    assert came[0, -1] == pytest.approx(0.5, abs=0.08)
    agent = Agent(strip, COST, horizon=6, settings={"candidates": 60, "survivors": 8})
    assert agent.act(start) > 0.5
    assert agent.act(light(np.array(1.0))) < 0
    whole, places = shown(np.array([0.2]), np.full((1, 6, 1), 0.8))
    torn = {"observations": whole["observations"][0].copy(), "actions": whole["actions"][0]}
    torn["observations"][2:5] = NAN
    found = strip.fill(torn)
    assert np.array_equal(found["observations"][[0, 1, 5, 6]], whole["observations"][0][[0, 1, 5, 6]])
    assert float((where(found["observations"]) - torch.from_numpy(places[0])).abs().max()) < 0.05


def test_kept_worlds_see_the_same(strip, tmp_path):
    strip.save(tmp_path / "strip")
    again = load(tmp_path / "strip")
    rng = np.random.default_rng(1)
    new, _ = shown(rng.uniform(size=3), rng.uniform(-1, 1, (3, 8, 1)))
    asked = new["observations"][:, 0], new["actions"]
    assert np.array_equal(again.predict(*asked, draws=3), strip.predict(*asked, draws=3))
    assert np.array_equal(np.stack(again.score_samples(new)), np.stack(strip.score_samples(new)))


class Strip(gymnasium.Env):
    """The strip as an environment, whose speed is pushed: one picture does not tell it."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (PIXELS,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        self.place, self.speed, self.steps = 0.2, 0.0, 0
        return light(np.array(self.place)), {}

    def step(self, action):
        self.speed = 0.8 * self.speed + 0.03 * float(action[0])
        self.place, self.steps = min(max(self.place + self.speed, 0.0), 1.0), self.steps + 1
        return light(np.array(self.place)), 0.0, False, self.steps == 20, {}


def test_an_agent_learns_from_pictures_that_follow_one_another():
    """Codes are others after each fit, and plans begin anew with them."""
    world = WorldModel(
        model="ensemble", history=2, codes=1, members=2, hidden=(16,), updates=200, random_state=0
    )
    agent = Agent(
        world,
        COST,
        horizon=10,
        explore=80,
        refit=20,
        settings={"candidates": 60, "survivors": 8},
        random_state=0,
    )
    agent.learn(Strip(), steps=125, seed=0)
    assert agent.experience_.steps == 125
    found = agent.evaluate(Strip, range(2), steps=20)
    assert abs(float(where(found.episodes[0].observations[-1])) - 0.5) < 0.12


def test_refused(strip):
    with pytest.raises(ValueError, match="codes must be at most the 12 numbers"):
        WorldModel(codes=13).fit(shown(np.array([0.5]), np.linspace(-1, 1, 5)[None, :, None])[0])
    with pytest.raises(ValueError, match="history=7 needs an episode of at least 8"):
        WorldModel(codes=2, history=7).fit(shown(np.array([0.5]), np.linspace(-1, 1, 5)[None, :, None])[0])
    with pytest.raises(ValueError, match="codes must be"):
        WorldModel(codes=0).fit(shown(np.array([0.5]), np.ones((1, 5, 1)))[0])
    with pytest.raises(ValueError, match=r"obs must be of shape \(12,\)"):
        strip.predict(np.zeros(1), np.zeros((2, 1)))
    blank = {"observations": np.full((6, PIXELS), NAN), "actions": np.linspace(-1, 1, 5)[:, None]}
    with pytest.raises(ValueError, match="0 pictures without blanks"):
        WorldModel(codes=1).fit(blank)
