"""Stacks of laws: weights against other optimisers, and one density, its draws, means and classes told by each other."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from views_for_tests import through

from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.fit.stack import fit_stack, pool_weights, square_weights
from abduce.models.stack import Stack

SIZES = (1, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(frame, seed: int = 0, **kw) -> tuple[Stack, torch.Tensor, torch.Tensor]:
    """A stack with what it was fitted to, model values and mask."""
    schema = Schema.infer(frame, **kw)
    values, observed = schema.encode(frame)
    stack = fit_stack(schema, values, observed, seed, components=SIZES)
    return stack, torch.from_numpy(values), torch.from_numpy(observed)


def mixed(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """A class, and a number whose law it decides."""
    rng = np.random.default_rng(seed)
    c = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {"v": np.array([-2.0, 0.5, 4.0])[c] + 0.7 * rng.normal(size=n), "c": np.array(list("xyz"))[c]}
    )


def curve(n: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, n)
    return np.stack([t, np.sin(2 * t) + 0.1 * rng.normal(size=n), t + rng.normal(size=n)], 1)


@pytest.fixture(scope="module")
def on_mixed():
    return fitted(mixed())


@pytest.fixture(scope="module")
def on_curve():
    return fitted(curve(), kinds="real")


# ------------------------------------------------------------------ weights


def problem(members: int, cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=cells)
    bias = rng.uniform(0, 1.5, members)
    return truth[:, None] + bias * rng.normal(size=(cells, members)) + 0.3 * rng.normal(
        size=(cells, 1)
    ), truth


@given(members=st.integers(1, 6), cells=st.integers(1, 60), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_square_weights_are_the_best_ones(members, cells, seed):
    said, truth = problem(members, cells, seed)
    for prior in (0.0, 20.0):
        w = square_weights(said, truth, prior)
        assert w.sum() == pytest.approx(1.0)
        assert (w >= 0).all()
        pull = prior * members * np.mean((said - said.mean(1, keepdims=True)) ** 2)

        def loss(v: np.ndarray, pull: float = pull) -> float:
            return float(((truth - said @ v) ** 2).sum() + pull * ((v - 1 / members) ** 2).sum())

        found = optimize.minimize(
            loss, np.full(members, 1 / members), method="SLSQP", bounds=[(0, 1)] * members,
            constraints={"type": "eq", "fun": lambda v: v.sum() - 1}, options={"ftol": 1e-12, "maxiter": 500},
        )  # fmt: skip
        assert loss(w) <= found.fun * (1 + 1e-5) + 1e-6


def test_square_weights_of_nothing_and_of_much():
    np.testing.assert_array_equal(square_weights(np.zeros((0, 3)), np.zeros(0), 10.0), np.full(3, 1 / 3))
    np.testing.assert_array_equal(square_weights(np.zeros((1, 4)), np.zeros(1), 200.0), np.full(4, 0.25))
    truth = np.random.default_rng(0).normal(size=500)
    said = np.stack([truth, truth + 2, -truth], 1)
    np.testing.assert_allclose(square_weights(said, truth, 0.0), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(square_weights(said, truth, 1e9), np.full(3, 1 / 3), atol=1e-4)
    np.testing.assert_allclose(square_weights(said[:, [1, 1]], truth, 1.0), [0.5, 0.5])  # both say the same


@given(members=st.integers(1, 5), rows=st.integers(1, 50), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_pool_weights_are_the_best_ones(members, rows, seed):
    log_p = np.random.default_rng(seed).normal(scale=2, size=(rows, members)) - 300
    w = pool_weights(log_p, prior=2.0, rounds=2000)
    assert w.sum() == pytest.approx(1.0)
    assert (w > 0).all()

    def loss(v: np.ndarray) -> float:
        p = np.exp(v - v.max())
        p = p / p.sum()
        return float(-np.log(np.exp(log_p + 300) @ p).sum() - 2.0 * np.log(p).sum())

    best = optimize.minimize(loss, np.zeros(members)).fun
    assert loss(np.log(w)) <= best + 1e-4 * max(1.0, abs(best))


def test_pool_weights_of_nothing_and_of_one_that_is_right():
    np.testing.assert_array_equal(pool_weights(np.zeros((0, 4))), np.full(4, 0.25))
    log_p = np.zeros((1000, 2))
    log_p[:, 1] = -np.inf
    np.testing.assert_allclose(pool_weights(log_p), [1005 / 1010, 5 / 1010])


def test_weights_of_a_stack(on_mixed, on_curve):
    for stack, _, _ in (on_mixed, on_curve):
        for w in (stack.numbers, stack.classes, stack.rows):
            assert len(w) == len(stack.members)
            assert float(w.sum()) == pytest.approx(1.0)
            assert (w >= 0).all()


# ------------------------------------------------------------------ one density


def nodes(stack: Stack, column: int = 0, each: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Midpoints and widths, in model space, of a grid within every piece of a number's scores and far beyond its ends."""
    field = stack.schema.fields[column]
    knots = (stack.codings[1].columns[column].values - field.loc) / field.scale
    tails = np.linspace(0.02, 12, 600)
    edges = np.unique(np.concatenate([knots[0] - tails, knots, knots[-1] + tails]))
    fine = np.unique((edges[:-1, None] + np.diff(edges)[:, None] * np.linspace(0, 1, each + 1)).ravel())
    return torch.from_numpy((fine[1:] + fine[:-1]) / 2), torch.from_numpy(np.diff(fine))


@pytest.mark.parametrize("kind", ["normal", "cubed", "lattice"])
def test_density_of_one_number_integrates_to_one(kind):
    """In model space, and where the column is heavy in the tails or all repeats."""
    x = np.random.default_rng(0).normal(size=(300, 1))
    x = {"normal": x, "cubed": x**3, "lattice": np.round(2 * x) / 2}[kind]
    stack, _, _ = fitted(x, kinds="real")
    at, width = nodes(stack)
    assert float(stack.log_prob(at.unsqueeze(1)).exp() @ width) == pytest.approx(1.0, abs=0.01)


def test_density_of_a_number_and_a_class_integrates_to_one(on_mixed):
    stack, values, _ = on_mixed
    at, width = nodes(stack, each=4)
    p = torch.stack([stack.log_prob(torch.stack([at, torch.full_like(at, c)], 1)) for c in range(3)]).exp()
    share = p @ width
    assert float(share.sum()) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(share, np.bincount(values[:, 1].long()) / len(values), atol=0.04)
    # what is said of the number alone is what is left when classes are summed out
    x = torch.stack([at, torch.zeros_like(at)], 1)
    alone = stack.log_prob(x, torch.tensor([True, False]).expand_as(x)).exp()
    torch.testing.assert_close(alone, p.sum(0), rtol=1e-9, atol=1e-12)


def test_a_class_alone_has_probabilities_that_sum_to_one(on_mixed):
    stack, values, _ = on_mixed
    x = torch.tensor([[0.0, c] for c in range(3)], dtype=torch.float64)
    p = stack.log_prob(x, torch.tensor([False, True]).expand_as(x)).exp()
    assert float(p.sum()) == pytest.approx(1.0)
    np.testing.assert_allclose(p, np.bincount(values[:, 1].long()) / len(values), atol=0.02)
    nothing = stack.log_prob(x, torch.zeros(3, 2, dtype=torch.bool))
    torch.testing.assert_close(nothing, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_density_is_near_that_of_the_data():
    """One Gaussian column: within a few hundredths of a nat of its entropy."""
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(600, 1))
    stack, _, _ = fitted(x, kinds="real")
    new = np.random.default_rng(1).normal(3.0, 2.0, size=(2000, 1))
    values = torch.from_numpy(stack.schema.encode(new)[0])
    exact = -0.5 * np.log(2 * np.pi) - 0.5 * ((new[:, 0] - 3) / 2) ** 2 - np.log(2.0)
    ours = stack.log_prob(values).numpy() - np.log(stack.schema.fields[0].scale)
    assert exact.mean() - 0.06 < ours.mean() < exact.mean() + 0.01


def test_samples_are_of_the_density(on_mixed):
    """Shares of classes, and each class's mean and deviation, by quadrature; and E log p of samples."""
    stack, _, _ = on_mixed
    new = stack.sample(6000, generator())
    at, width = nodes(stack, each=3)
    entropy = 0.0
    for c in range(3):
        log_p = stack.log_prob(torch.stack([at, torch.full_like(at, c)], 1))
        p = log_p.exp() * width
        share = float(p.sum())
        mean = float(p @ at) / share
        deviation = (float(p @ at**2) / share - mean**2) ** 0.5
        entropy += float(torch.where(p > 0, p * log_p, 0.0).sum())
        own = new[new[:, 1] == c, 0]
        assert len(own) / 6000 == pytest.approx(share, abs=0.03)
        assert float(own.mean()) == pytest.approx(mean, abs=0.1 * deviation)
        assert float(own.std()) == pytest.approx(deviation, rel=0.1)
    assert float(stack.log_prob(new).mean()) == pytest.approx(entropy, abs=0.1)


def test_samples_are_of_all_members(on_mixed):
    """New rows are drawn each by a member of its own, as the density says, not all by one."""
    stack, _, _ = on_mixed
    means = torch.stack([stack.sample(400, generator(s))[:, 0].mean() for s in range(12)])
    one = stack.sample(4800, generator(99))[:, 0].std() / 400**0.5
    assert float(means.std()) < 1.7 * float(one)


def test_samples_are_like_the_data(on_curve):
    stack, x, _ = on_curve
    new = stack.sample(4000, generator(1))
    torch.testing.assert_close(new.mean(0), x.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(new.T.cov(), x.T.cov(), rtol=0, atol=0.15)


# ------------------------------------------------------------------ blanks


def test_draws_have_the_mean_and_the_classes_predicted(on_mixed, on_curve):
    n = 1500
    stack, x, _ = on_mixed
    x, observed = x[:8].clone(), torch.ones(8, 2, dtype=torch.bool)
    observed[:4, 0], observed[4:, 1] = False, False
    drawn = stack.complete(x, observed, n, generator())
    assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
    mean, classes = stack.mean(x, observed), stack.predict(x, observed)[1][1]
    deviation = drawn[:, :4, 0].std(0)
    assert ((drawn[:, :4, 0].mean(0) - mean[:4, 0]).abs() < 0.08 * deviation + 5 * deviation / n**0.5).all()
    for c in range(3):
        share = (drawn[:, 4:, 1] == c).double().mean(0)
        np.testing.assert_allclose(share, classes[4:, c], atol=5 * 0.5 / n**0.5)
    assert (mean[4:, 1].numpy() == classes[4:].argmax(1)).all()
    stack, x, _ = on_curve
    x = x[:8]
    observed = torch.rand(x.shape, generator=generator(3)) < 0.5
    for ask in (stack.complete, stack.marginals):
        drawn = ask(x, observed, n, generator())
        assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
        off = (drawn.mean(0) - stack.mean(x, observed)).abs() / drawn.std(0).clamp_min(1e-9)
        assert off[~observed].max() < 0.15


def test_the_mean_of_the_pool_is_the_weighted_mean_of_its_members(on_curve):
    stack, x, _ = on_curve
    observed = torch.rand(x.shape, generator=generator(3)) < 0.5
    total = torch.zeros_like(x)
    for m, w in enumerate(stack.numbers.tolist()):
        lone = [0.0] * len(stack.members)
        lone[m] = 1.0
        one = torch.tensor(lone, dtype=torch.float64)
        total += w * Stack.of(stack.codings, stack.members, (one, one, one)).mean(x, observed)
    torch.testing.assert_close(stack.mean(x, observed), total)


def test_joint_draws_keep_two_classes_together():
    """Where b is a under another name, drawn rows have them equal, filled and new ones; marginal draws need not."""
    rng = np.random.default_rng(0)
    a = rng.choice(3, 400)
    frame = pd.DataFrame(
        {"a": np.array(list("xyz"))[a], "b": np.array(list("pqr"))[a], "v": rng.normal(size=400)}
    )
    stack, x, _ = fitted(frame)
    observed = torch.zeros(20, 3, dtype=torch.bool)
    observed[:, 2] = True
    drawn = stack.complete(x[:20], observed, 100, generator())
    assert (drawn[..., 0] == drawn[..., 1]).double().mean() > 0.97
    shares = torch.stack([(drawn[..., 0] == c).double().mean() for c in range(3)])
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3), rtol=0, atol=0.08)
    new = stack.sample(1000, generator())
    assert (new[:, 0] == new[:, 1]).double().mean() > 0.97
    apart = stack.marginals(x[:20], observed, 100, generator())
    assert (apart[..., 0] == apart[..., 1]).double().mean() < 0.5
    assert (stack.log_prob(new[:50]) > stack.log_prob(new[:50] * 0 + torch.tensor([0.0, 1.0, 0.0])) + 3).all()


def test_a_class_decides_the_number_drawn_with_it(on_mixed):
    """Neither is seen: a joint draw has the number where its class lies."""
    stack, x, _ = on_mixed
    drawn = stack.complete(x[:50], torch.zeros(50, 2, dtype=torch.bool), 40, generator()).reshape(-1, 2)
    data = mixed()
    loc, scale = stack.schema.fields[0].loc, stack.schema.fields[0].scale
    for c, name in enumerate("xyz"):
        own = drawn[drawn[:, 1] == c, 0] * scale + loc
        assert float(own.mean()) == pytest.approx(data["v"][data["c"] == name].mean(), abs=0.3)


def test_spikes_are_drawn_beside_numbers_that_do_not_repeat():
    """A blank spike is drawn by members of scores, whole rows and cells alike; draws of the other column keep their mean."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    X = np.stack([z + 0.5 * rng.normal(size=400), np.where(rng.random(400) < 0.6, 0.0, np.exp(z))], 1)
    stack, x, _ = fitted(X, kinds="real")
    zero = x[X[:, 1] == 0][0, 1]
    share = (X[:, 1] == 0).mean()
    new = stack.sample(3000, generator())
    assert float(((new[:, 1] - zero).abs() < 1e-9).double().mean()) == pytest.approx(share, abs=0.05)
    for ask in (stack.complete, stack.marginals):
        drawn = ask(x[:100], torch.zeros(100, 2, dtype=torch.bool), 40, generator())
        assert float(((drawn[..., 1] - zero).abs() < 1e-9).double().mean()) == pytest.approx(share, abs=0.05)
        assert float(drawn[..., 0].mean()) == pytest.approx(float(x[:, 0].mean()), abs=0.1)


@pytest.mark.parametrize("d", [3, 6])
def test_intervals_of_gaussian_data_hold_what_they_say(d):
    rng = np.random.default_rng(d)
    root = rng.normal(size=(d, d))
    stack, _, _ = fitted(rng.normal(size=(400, d)) @ root, kinds="real")
    x = torch.from_numpy(stack.schema.encode(rng.normal(size=(400, d)) @ root)[0])
    observed = torch.rand(x.shape, generator=generator(1)) < 0.7
    drawn = stack.marginals(x, observed, 100, generator())
    level = torch.tensor([0.05, 0.95], dtype=torch.float64)
    low, high = torch.quantile(drawn, level, dim=0)
    inside = ((low <= x) & (x <= high))[~observed].double().mean()
    assert 0.85 <= inside <= 0.95


# ------------------------------------------------------------------ kept, repeated, refused


def test_kept_by_its_config_and_its_state(on_mixed, on_curve):
    for stack, x, observed in (on_mixed, on_curve):
        again = Stack(**json.loads(json.dumps(stack.config)))
        again.load_state_dict(stack.state_dict())
        assert torch.equal(again.log_prob(x), stack.log_prob(x))
        some = observed & (torch.rand(x.shape, generator=generator()) < 0.5)
        assert torch.equal(again.mean(x, some), stack.mean(x, some))
        assert torch.equal(again.complete(x, some, 3, generator()), stack.complete(x, some, 3, generator()))
        assert torch.equal(again.sample(9, generator()), stack.sample(9, generator()))
        assert [m.name for m in again.members] == [m.name for m in stack.members]
        assert again.double().log_prob(x).dtype == torch.float64


def test_same_seed_same_stack():
    one, two = (fitted(curve(80), seed=3, kinds="real")[0] for _ in range(2))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert one.spread == two.spread


def test_is_its_own_law_at_its_own_temperature_only(on_curve):
    stack, x, observed = on_curve
    assert stack.law().stack is stack
    assert stack.law(beta=2.0) is None
    assert float(stack.log_z()) == 0.0
    assert stack.log_z(beta=2.0) is None
    torch.testing.assert_close(stack.energy(x, observed), -stack.log_prob(x, observed))
    assert stack.represent(x).shape == (len(x), 2)


def test_what_is_seen_through_a_map(on_curve, on_mixed):
    """With little noise the sum of two cells is met, and draws scatter about the mean."""
    stack, x, _ = on_curve

    def seen(rows: torch.Tensor) -> torch.Tensor:
        return rows[..., :2].sum(-1, keepdim=True)

    noise = torch.tensor([1e-3], dtype=torch.float64)
    y, known = seen(x[:6]), torch.ones(6, 1, dtype=torch.bool)
    looked, law = through(seen, noise, y, known), stack.law()
    mean = law.mean(looked)
    torch.testing.assert_close(seen(mean), y, rtol=0, atol=0.01)
    drawn = law.draws(looked, 1000, generator())
    assert ((drawn.mean(0) - mean).abs() < 0.25 * drawn.std(0)).all()
    with pytest.raises(ValueError, match="noise and coarser views need columns that are all real"):
        on_mixed[0].law().mean(looked)


def test_windows_do_not_count_a_row_as_its_own_neighbour(on_curve):
    """Windows of the numbers score the rows they were made of as they score new ones, also through what is kept of them."""
    stack, x, observed = on_curve
    new = torch.from_numpy(stack.schema.encode(curve(2000, 9))[0])
    (m,) = (i for i, member in enumerate(stack.members) if "windows of numbers" in member.name)
    own = stack.log_probs(x, observed)[:, m].mean()
    other = stack.log_probs(new, torch.ones_like(new, dtype=torch.bool))[:, m].mean()
    assert float(own) == pytest.approx(float(other), abs=0.1)
    law = stack.members[m].law
    law.keys = None
    try:
        assert float(stack.log_probs(x, observed)[:, m].mean()) > float(other) + 0.2
    finally:
        stack.load_state_dict(stack.state_dict())


def test_rows_are_weighed_by_densities_that_did_not_see_what_was_hidden():
    """Scores have a knot at every value of a small table, so their slopes flatter the cells they were fitted to.

    On Gaussian data the Gaussian of the numbers is right, and must not weigh less than that of the scores.
    """
    X = np.random.default_rng(0).normal(size=(100, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    stack, _, _ = fitted(X, kinds="real")
    weight = {r["member"]: r["row_weight"] for r in stack.reports}
    assert weight["Gaussian of numbers"] > 1.1 * weight["Gaussian of scores"]


def test_tiny_and_odd_tables():
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"a": list("xyxyz"), "b": list("ppqqp")}),
        pd.DataFrame({"v": rng.normal(size=2), "w": [1.0, 2.5]}),
        pd.DataFrame({"v": [1.0] * 6, "w": rng.normal(size=6)}),
    ]
    for frame in frames:
        stack, x, observed = fitted(frame)
        assert torch.isfinite(stack.log_prob(x, observed)).all()
        nothing = torch.zeros_like(observed)
        assert torch.isfinite(stack.mean(x, nothing)).all()
        assert torch.isfinite(stack.complete(x, nothing, 2, generator())).all()
        assert torch.isfinite(stack.sample(5, generator())).all()


def test_rows_at_most():
    """Of more rows than asked for, as many are windows."""
    schema = Schema.infer(curve(300), kinds="real")
    values, observed = schema.encode(curve(300))
    stack = fit_stack(schema, values, observed, 0, 50, SIZES)
    windows = [m.law for m in stack.members if "windows" in m.name]
    assert len(windows) == 2
    assert {len(law.means) for law in windows} == {50}
    assert [isinstance(c, Coding) for c in stack.codings] == [True, True]
