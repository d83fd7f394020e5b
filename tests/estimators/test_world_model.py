"""WorldModel and Agent: known worlds, intervals that hold, and what they refuse."""

import numpy as np
import pytest
import torch

from abduce import Agent, Goal, Recorder, WorldModel, load
from abduce.world.learning import _chosen

NAN = float("nan")
FAST = {"members": 3, "hidden": (24, 24), "updates": 400}


def springs(n, steps, seed=0, noise=0.0):
    """A mass on a spring, its place and speed, pushed at random."""
    rng = np.random.default_rng(seed)
    pushes = rng.uniform(-1, 1, (n, steps, 1)).repeat(2, 0)[:n]
    s = np.concatenate([rng.uniform(-1, 1, (n, 2))[:, None], np.zeros((n, steps, 2))], 1)
    for t in range(steps):
        place, speed = s[:, t, 0], s[:, t, 1]
        speed = speed + 0.1 * (pushes[:, t, 0] - place - 0.1 * speed)
        s[:, t + 1] = np.stack([place + 0.1 * speed, speed], 1) + noise * rng.normal(size=(n, 2))
    return {"observations": s, "actions": pushes}


def swings(n, steps, seed=0, noise=0.02):
    """A damped pendulum, its angle unwrapped."""
    rng = np.random.default_rng(seed)
    pushes = rng.uniform(-1, 1, (n, steps, 1))
    s = np.concatenate([rng.uniform(-1.5, 1.5, (n, 2))[:, None], np.zeros((n, steps, 2))], 1)
    for t in range(steps):
        angle, speed = s[:, t, 0], s[:, t, 1]
        speed = speed + 0.2 * (pushes[:, t, 0] - 2 * np.sin(angle) - 0.3 * speed)
        s[:, t + 1] = np.stack([angle + 0.2 * speed, speed], 1) + noise * rng.normal(size=(n, 2))
    return {"observations": s, "actions": pushes}


class Spring:
    """The same spring, as an environment; rewards are zero, as none is read."""

    def __init__(self, steps=40):
        import gymnasium

        self.steps = steps
        self.observation_space = gymnasium.spaces.Box(-9, 9, (2,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, **_):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.state, self.t = self.rng.uniform(-1, 1, 2), 0
        return self.state.astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        place, speed = self.state
        speed = speed + 0.1 * (float(action[0]) - place - 0.1 * speed)
        self.state, self.t = np.array([place + 0.1 * speed, speed]), self.t + 1
        return self.state.astype(np.float32), 0.0, False, self.t >= self.steps, {}

    def close(self):
        pass


@pytest.fixture(scope="module")
def spring():
    return WorldModel(random_state=0, **FAST).fit(springs(6, 40), low=-1, high=1)


@pytest.fixture(scope="module")
def swing():
    return WorldModel(random_state=0, **FAST).fit(swings(12, 60))


def test_the_kind_of_model_is_what_foresees_held_out_steps(spring, swing):
    assert type(spring.transition_).__name__ == "LinearGaussian"
    assert type(swing.transition_).__name__ == "GaussianProcess"
    assert swing.errors_["process"] < min(swing.errors_["ensemble"], swing.errors_["linear"])


def test_networks_are_chosen_where_they_are_clearly_nearer():
    assert _chosen({"linear": 1.0, "process": 0.3, "ensemble": 0.2}) == "process"
    assert _chosen({"linear": 1.0, "process": 0.3, "ensemble": 0.1}) == "ensemble"
    assert _chosen({"linear": 0.1, "process": 0.3, "ensemble": 0.2}) == "linear"
    assert _chosen({}) == "process"


@pytest.mark.parametrize(("kind", "family"), [("process", "GaussianProcess"), ("ensemble", "Ensemble")])
def test_a_kind_that_is_asked_for_is_kept(kind, family):
    world = WorldModel(model=kind, random_state=0, **FAST).fit(swings(4, 40))
    assert type(world.transition_).__name__ == family
    assert list(world.errors_) == [kind]


def test_a_linear_world_is_predicted_exactly(spring):
    new = springs(3, 30, seed=7)
    found = spring.predict(new["observations"][:, 0], new["actions"])
    assert np.allclose(found, new["observations"][:, 1:], atol=1e-5)
    alone = spring.predict(new["observations"][0, 0], new["actions"][0])
    assert np.allclose(alone, found[0], atol=1e-12)


@pytest.mark.parametrize("h", [1, 10, 25])
def test_intervals_of_new_episodes_hold_as_stated(swing, h):
    new = swings(150, 60, seed=3)
    at = np.arange(150) % (60 - h)  # a start an episode
    row = np.arange(150)
    acts = np.stack([a[k : k + h] for a, k in zip(new["actions"], at, strict=True)])
    low, high = swing.predict_interval(new["observations"][row, at], acts, 0.9)
    truth = new["observations"][row, at + h]
    held = ((truth >= low[:, -1]) & (truth <= high[:, -1])).mean()
    assert 0.85 <= held <= 0.95


def test_surprise_is_where_the_world_was_pushed(swing):
    new = swings(1, 50, seed=5)
    o = new["observations"][0].copy()
    o[30:] += 0.5
    odd = swing.anomaly_score({"observations": o, "actions": new["actions"][0]})
    assert odd.shape == (50,)
    assert odd.argmax() == 29
    assert swing.score(new) == pytest.approx(swing.score_samples(new).mean())


def test_blanks_are_filled_in_fits_and_skipped_in_scores():
    torn, whole = springs(8, 40, noise=0.01), springs(8, 40, noise=0.01)
    rng = np.random.default_rng(0)
    for v in torn.values():
        v[rng.uniform(size=v.shape) < 0.03] = NAN
    model = WorldModel(model="linear", random_state=0).fit(torn)
    full = WorldModel(model="linear", random_state=0).fit(whole)
    assert torch.allclose(model.transition_.a, full.transition_.a, atol=0.03)
    assert torch.allclose(model.transition_.b, full.transition_.b, atol=0.01)
    scores = model.score_samples({k: v[0] for k, v in torn.items()})
    o, a = torn["observations"][0], torn["actions"][0]
    blank = np.isnan(o[:-1]).any(1) | np.isnan(o[1:]).any(1) | np.isnan(a).any(1)
    assert np.array_equal(np.isnan(scores), blank)


def test_actions_between_a_start_and_a_goal_lead_there(spring):
    way = {"observations": np.full((31, 2), NAN), "actions": np.full((30, 1), NAN)}
    way["observations"][0], way["observations"][-1] = [1.0, 0.0], [0.5, 0.0]
    found = spring.fill(way)
    reached = spring.predict([1.0, 0.0], found["actions"].clip(-1, 1))
    assert np.allclose(reached[-1], [0.5, 0.0], atol=1e-3)
    copies = spring.fill(way, draws=3, random_state=0)
    assert len(copies) == 3
    assert np.array_equal(copies[0]["observations"][[0, -1]], way["observations"][[0, -1]])


def test_in_a_world_that_bends_a_goal_is_reached_and_a_lost_action_found(swing):
    way = {"observations": np.full((26, 2), NAN), "actions": np.full((25, 1), NAN)}
    way["observations"][0], way["observations"][-1] = [0.3, 0.0], [-0.3, 0.0]
    found = swing.fill(way)
    reached = swing.predict([0.3, 0.0], found["actions"])[-1]
    assert np.abs(reached - [-0.3, 0.0]).max() < 0.1
    whole = {k: v[0] for k, v in swings(1, 12, seed=8, noise=0.0).items()}
    lost = {"observations": whole["observations"], "actions": whole["actions"].copy()}
    lost["actions"][5] = NAN
    assert swing.fill(lost)["actions"][5] == pytest.approx(whole["actions"][5], abs=0.15)


def test_without_luck_the_expected_way_is_the_one_that_comes(swing, spring, tmp_path):
    """What is expected under the actions is what was filled in; kept models fill the same."""
    for model in (swing, spring):
        way = {"observations": np.full((16, 2), NAN), "actions": np.full((15, 1), NAN)}
        way["observations"][0], way["observations"][-1] = [0.5, 0.0], [-0.2, 0.0]
        gaps = []
        for luck in (True, False):
            found = model.fill(way, luck=luck)
            reached = model.predict([0.5, 0.0], found["actions"].clip(-1, 1))
            gaps.append(np.abs(reached - found["observations"][1:]).max())
        assert gaps[1] < 0.005
        assert gaps[1] < gaps[0] or model is spring
        model.save(tmp_path / type(model.transition_).__name__)
        again = load(tmp_path / type(model.transition_).__name__).fill(way, luck=False)
        assert np.array_equal(again["actions"], found["actions"])


def test_a_plan_says_what_it_expects(spring):
    cost = Goal([0.0, 0.0], tolerance=0.3, effort=0.01)
    plan = spring.plan([1.0, 0.0], cost, horizon=25, method="ilqr")
    assert plan.actions.shape == (25, 1)
    assert np.abs(plan.actions).max() <= 1
    assert np.allclose(plan.observations[1:], spring.predict([1.0, 0.0], plan.actions), atol=1e-8)
    o, a = torch.from_numpy(plan.observations), torch.from_numpy(plan.actions)
    assert plan.cost == pytest.approx(float(cost.value(o[:-1], a, o[1:]).sum()), rel=1e-6)
    assert (np.diff(plan.costs) <= 1e-9).all()
    both = spring.plan([[1.0, 0.0], [-1.0, 0.0]], cost, horizon=25, method="ilqr")
    assert np.allclose(both.actions[0], plan.actions, atol=1e-6)
    assert np.allclose(both.actions[1], -plan.actions, atol=1e-2)


def test_saved_models_answer_as_before(spring, swing, tmp_path):
    new = swings(2, 10, seed=1)
    for name, model in (("a", spring), ("b", swing)):
        model.save(tmp_path / name)
        again = load(tmp_path / name)
        for ask in (
            lambda m: m.predict(new["observations"][:, 0], new["actions"], draws=5),
            lambda m: np.concatenate(m.score_samples(new)),
            lambda m: m.plan([0.3, 0.0], Goal([0.0, 0.0]), 10, "ilqr").actions,
        ):
            assert np.array_equal(ask(model), ask(again))
    places = {"observations": springs(3, 30)["observations"][..., :1], "actions": springs(3, 30)["actions"]}
    past = places["observations"][:, 4:6]
    blind = WorldModel(model="process", history=2, random_state=0).fit(places)
    blind.save(tmp_path / "past")
    asked = past, places["actions"][:, 5:]
    assert np.array_equal(load(tmp_path / "past").predict(*asked, draws=3), blind.predict(*asked, draws=3))
    with pytest.raises(ValueError, match="equations is code"):
        WorldModel.of_equations(lambda s, a: s, 1, -1, 1).save(tmp_path / "c")


def test_velocities_that_are_not_seen_are_told_by_history():
    data = springs(8, 40)
    data["observations"] = data["observations"][..., :1]
    blind = WorldModel(model="linear", random_state=0).fit(data)
    seeing = WorldModel(model="linear", history=2, random_state=0).fit(data)
    new = springs(4, 30, seed=9)
    o = new["observations"][..., :1]
    found = seeing.predict(o[:, 4:6], new["actions"][:, 5:])
    assert np.allclose(found, o[:, 6:], atol=1e-3)
    assert np.abs(blind.predict(o[:, 5], new["actions"][:, 5:]) - o[:, 6:]).max() > 0.1
    assert np.isnan(seeing.score_samples({k: v[0] for k, v in {**new, "observations": o}.items()})).sum() == 1
    with pytest.raises(ValueError, match=r"\(4, 1\) has 4 observations of one past.*takes the last 2"):
        seeing.predict(o[:, 5], new["actions"][:, 5:])  # four starts, or one past of four?
    first = seeing.predict(o[0, :1], new["actions"][0])  # of fewer, the first is taken for those before it
    assert np.array_equal(first, seeing.predict(o[0, [0, 0]], new["actions"][0]))


def test_an_agent_learns_a_spring_and_holds_it():
    cost = Goal([0.4, 0.0], tolerance=0.2, effort=0.01)
    made = [
        Agent(
            WorldModel(model="linear"), cost, horizon=20, method="ilqr", explore=40, refit=40, random_state=1
        )
        for _ in range(2)
    ]
    for agent in made:
        agent.learn(Spring, steps=120)
    agent = made[0]
    assert agent.experience_.steps == 120
    assert [step for step, _ in agent.returns_] == [40, 80, 120]
    short = Agent(WorldModel(model="linear"), cost, method="ilqr", explore=40, longest=25).learn(
        Spring, steps=60
    )
    assert [len(e) for e in short.experience_.episodes] == [25, 25, 10]
    assert np.array_equal(
        agent.experience_.episodes[2].actions, made[1].experience_.episodes[2].actions
    )  # the same seed, the same actions
    found = agent.evaluate(Spring, seeds=range(4))
    assert found.lengths.tolist() == [40] * 4
    assert not found.terminated.any()
    best = Agent(
        WorldModel.of_equations(
            lambda s, a: torch.stack(
                [
                    s[..., 0] + 0.1 * (s[..., 1] + 0.1 * (a[..., 0] - s[..., 0] - 0.1 * s[..., 1])),
                    s[..., 1] + 0.1 * (a[..., 0] - s[..., 0] - 0.1 * s[..., 1]),
                ],
                -1,
            ),
            2, -1, 1,
        ),
        cost, horizon=20, method="ilqr",
    ).evaluate(Spring, seeds=range(4))  # fmt: skip
    assert np.allclose(found.costs, best.costs, rtol=1e-3)
    one = agent.evaluate(Spring(), seeds=[2])  # one that cannot be copied is gone through seed by seed
    assert one.costs == pytest.approx(found.costs[2:3])


class Place(Spring):
    """The spring without its speed."""

    def __init__(self):
        super().__init__()
        import gymnasium

        self.observation_space = gymnasium.spaces.Box(-9, 9, (1,))

    def reset(self, seed=None, **_):
        return super().reset(seed)[0][:1], {}

    def step(self, action):
        seen, *rest = super().step(action)
        return seen[:1], *rest


def test_episodes_side_by_side_remember_what_was_observed_before():
    """An evaluation writes observations into one array; a speed that is not seen follows from the one before all the same."""
    agent = Agent(
        WorldModel(model="linear", history=2), Goal([0.0]), horizon=12, method="ilqr", random_state=0
    )
    agent.learn(Place, steps=120)
    together = agent.evaluate(Place, seeds=[0, 1]).episodes
    for seed, went in enumerate(together):
        env = Place()
        seen, _ = env.reset(seed=seed)
        agent.reset()
        for t, action in enumerate(went.actions):
            assert np.allclose(agent.act(seen), action, atol=1e-6)
            seen = env.step(np.clip(action, -1, 1).astype(np.float32))[0]
            assert np.allclose(seen, went.observations[t + 1], atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: WorldModel(model="deep").fit(springs(2, 9)), "model must be one of"),
        (lambda m: WorldModel(history=0).fit(springs(2, 9)), "history must be an int >= 1"),
        (lambda m: WorldModel().fit(springs(1, 1)), "at least two"),
        (lambda m: WorldModel().fit(springs(2, 9), low=-0.1, high=0.1), r"must lie between \[-0.1\]"),
        (lambda m: WorldModel().fit((np.full((9, 2), NAN), np.eye(8)[:, :1])), "without blanks"),
        (lambda m: m.plan([0.0, 0.0], Goal([0.0, 0.0]), horizon=0), "horizon must be an int >= 1"),
        (lambda m: m.plan([0.0, 0.0], Goal([0.0, 0.0]), method="magic"), "method must be one of"),
        (lambda m: m.plan([0.0, 0.0], Goal([0.0, 0.0]), 5, "ilqr", rate=1), "no setting 'rate'"),
        (lambda m: m.plan([0.0, 0.0], lambda o, a, n: o), "cost must return a tensor of shape"),
        (lambda m: m.plan([0.0, 0.0], lambda o, a, n: o[:, 0] * NAN), "cost must return numbers"),
        (lambda m: m.plan([0.0, 0.0], "win"), "cost must be a callable"),
        (lambda m: m.plan([0.0, NAN], Goal([0.0, 0.0])), "obs has blanks"),
        (lambda m: m.plan([0.0], Goal([0.0])), r"obs must be of shape \(2,\)"),
        (lambda m: m.predict([0.0, 0.0], [[3.0]]), "must lie between"),
        (lambda m: m.predict([0.0, 0.0], [[0.1, 0.2]]), r"actions must be \(H, 1\)"),
        (lambda m: m.predict([0.0, 0.0], [[NAN]]), "actions must be finite"),
        (lambda m: m.score_samples((np.zeros((4, 3)), np.zeros((3, 1)))), "observations of 3 numbers"),
        (lambda m: Agent(m, Goal([0.0, 0.0])).evaluate("Pendulum-v1", seeds=[0]), "env has observations of 3"),
        (lambda m: Agent(m, Goal([0.0, 0.0]), horizon=0).act([0.0, 0.0]), "horizon must be an int >= 1"),
        (lambda m: Agent(m, Goal([0.0, 0.0])).evaluate(Spring, seeds=[]), "at least one seed"),
        (lambda m: Agent(m, Goal([0.0, 0.0])).learn(Spring, steps=0), "steps must be an int >= 1"),
        (lambda m: Agent(m, Goal([0.0, 0.0]), longest=1).learn(Spring, steps=9), "longest must be above the world's hist"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(spring, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(spring)


def test_categories_are_planned_without_gradients_or_refused():
    """Steps of 1 to the left or to the right."""
    rng = np.random.default_rng(0)
    acts = rng.integers(0, 2, (10, 12))
    places = np.concatenate([np.zeros((10, 1)), (2 * acts - 1).cumsum(1)], 1)[..., None]
    model = WorldModel(model="linear", random_state=0).fit(
        [{"observations": o, "actions": a} for o, a in zip(places, acts, strict=True)]
    )
    assert model.predict([0.0], np.array([1, 1, 0])).round(3).ravel().tolist() == [1.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="categories"):
        model.plan([0.0], Goal([3.0]), horizon=3, method="ilqr")


def test_recorders_give_their_box(spring):
    env = Recorder(Spring())
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.array([0.25 if env.steps % 2 else -0.25], np.float32))
    model = WorldModel(model="linear").fit(env)
    assert (model.space_.low.tolist(), model.space_.high.tolist()) == ([-1.0], [1.0])
