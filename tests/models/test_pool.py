"""Pools of models: weights against other optimisers, and one density, its draws, means and classes told by each other."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from abduce import RBM, VAE, Auto, EnergyNetwork, GaussianMixture, KMeans, load
from abduce.answers.answer import Effort
from abduce.answers.views import Flips, Linear
from abduce.data.operators import Dense
from abduce.data.schema import Schema
from abduce.data.seen import Seen, Unanswerable
from abduce.fit.pool import fit_pool, pool_weights, square_weights
from abduce.fit.table_members import table_families
from abduce.gaussians.ensemble_fit import Member
from abduce.models.energy_model import EnergyModel
from abduce.models.families import rebuild
from abduce.models.mixture import GroupedMixtureEnergy
from abduce.models.pool import Pool

SIZES = (1, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(frame, seed: int = 0, **kw) -> tuple[Pool, torch.Tensor, torch.Tensor]:
    """A pool with what it was fitted to, model values and mask."""
    schema = Schema.infer(frame, **kw)
    values, observed = schema.encode(frame)
    families = table_families(schema, values, observed, SIZES, seed)
    pool = fit_pool(schema, values, observed, families, seed)
    return pool, torch.from_numpy(values), torch.from_numpy(observed)


def score(pool: Pool, x: torch.Tensor, observed: torch.Tensor | None = None) -> torch.Tensor:
    return pool.answer(Seen.whole(x) if observed is None else Seen(x, observed)).log_evidence


def means(pool: Pool, x: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    return pool.answer(Seen(x, observed)).mean()


def rows(pool: Pool, x: torch.Tensor, observed: torch.Tensor, n: int, random) -> torch.Tensor:
    """Joint draws of whole rows."""
    return pool.answer(Seen(x, observed)).draws(n, random)


def cells(pool: Pool, x: torch.Tensor, observed: torch.Tensor, n: int, random) -> torch.Tensor:
    """Draws of each cell on its own."""
    return pool.answer(Seen(x, observed)).draws(n, random, "cells")


def titles(pool: Pool) -> list[str]:
    return [report["member"] for report in pool.reports]


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


def test_weights_of_a_pool(on_mixed, on_curve):
    for pool, _, _ in (on_mixed, on_curve):
        for w in (pool.numbers, pool.classes, pool.rows):
            assert len(w) == len(pool.parts)
            assert float(w.sum()) == pytest.approx(1.0)
            assert (w >= 0).all()


# ------------------------------------------------------------------ one density


def nodes(pool: Pool, column: int = 0, each: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Midpoints and widths, in model space, of a grid within every piece of a number's scores and far beyond its ends."""
    field = pool.schema.fields[column]
    (coding, *_) = (m.coding for m in pool.parts if m.coding.scores)
    knots = (coding.columns[column].values - field.loc) / field.scale
    tails = np.linspace(0.02, 12, 600)
    edges = np.unique(np.concatenate([knots[0] - tails, knots, knots[-1] + tails]))
    fine = np.unique((edges[:-1, None] + np.diff(edges)[:, None] * np.linspace(0, 1, each + 1)).ravel())
    return torch.from_numpy((fine[1:] + fine[:-1]) / 2), torch.from_numpy(np.diff(fine))


@pytest.mark.parametrize("kind", ["normal", "cubed", "lattice"])
def test_density_of_one_number_integrates_to_one(kind):
    """In model space, and where the column is heavy in the tails or all repeats."""
    x = np.random.default_rng(0).normal(size=(300, 1))
    x = {"normal": x, "cubed": x**3, "lattice": np.round(2 * x) / 2}[kind]
    pool, _, _ = fitted(x, kinds="real")
    at, width = nodes(pool)
    assert float(score(pool, at.unsqueeze(1)).exp() @ width) == pytest.approx(1.0, abs=0.01)


def test_density_of_a_number_and_a_class_integrates_to_one(on_mixed):
    pool, values, _ = on_mixed
    at, width = nodes(pool, each=4)
    p = torch.stack([score(pool, torch.stack([at, torch.full_like(at, c)], 1)) for c in range(3)]).exp()
    share = p @ width
    assert float(share.sum()) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(share, np.bincount(values[:, 1].long()) / len(values), atol=0.04)
    # what is said of the number alone is what is left when classes are summed out
    x = torch.stack([at, torch.zeros_like(at)], 1)
    alone = score(pool, x, torch.tensor([True, False]).expand_as(x)).exp()
    torch.testing.assert_close(alone, p.sum(0), rtol=1e-9, atol=1e-12)


def test_a_class_alone_has_probabilities_that_sum_to_one(on_mixed):
    pool, values, _ = on_mixed
    x = torch.tensor([[0.0, c] for c in range(3)], dtype=torch.float64)
    p = score(pool, x, torch.tensor([False, True]).expand_as(x)).exp()
    assert float(p.sum()) == pytest.approx(1.0)
    np.testing.assert_allclose(p, np.bincount(values[:, 1].long()) / len(values), atol=0.02)
    nothing = score(pool, x, torch.zeros(3, 2, dtype=torch.bool))
    torch.testing.assert_close(nothing, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_density_is_near_that_of_the_data():
    """One Gaussian column: within a few hundredths of a nat of its entropy."""
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(600, 1))
    pool, _, _ = fitted(x, kinds="real")
    new = np.random.default_rng(1).normal(3.0, 2.0, size=(2000, 1))
    values = torch.from_numpy(pool.schema.encode(new)[0])
    exact = -0.5 * np.log(2 * np.pi) - 0.5 * ((new[:, 0] - 3) / 2) ** 2 - np.log(2.0)
    ours = score(pool, values).numpy() - np.log(pool.schema.fields[0].scale)
    assert exact.mean() - 0.06 < ours.mean() < exact.mean() + 0.01


def test_samples_are_of_the_density(on_mixed):
    """Shares of classes, and each class's mean and deviation, by quadrature; and E log p of samples."""
    pool, _, _ = on_mixed
    new = pool.sample(6000, generator())
    at, width = nodes(pool, each=3)
    entropy = 0.0
    for c in range(3):
        log_p = score(pool, torch.stack([at, torch.full_like(at, c)], 1))
        p = log_p.exp() * width
        share = float(p.sum())
        mean = float(p @ at) / share
        deviation = (float(p @ at**2) / share - mean**2) ** 0.5
        entropy += float(torch.where(p > 0, p * log_p, 0.0).sum())
        own = new[new[:, 1] == c, 0]
        assert len(own) / 6000 == pytest.approx(share, abs=0.03)
        assert float(own.mean()) == pytest.approx(mean, abs=0.1 * deviation)
        assert float(own.std()) == pytest.approx(deviation, rel=0.1)
    assert float(score(pool, new).mean()) == pytest.approx(entropy, abs=0.1)


def test_samples_are_of_all_members(on_mixed):
    """New rows are drawn each by a member of its own, as the density says, not all by one."""
    pool, _, _ = on_mixed
    means = torch.stack([pool.sample(400, generator(s))[:, 0].mean() for s in range(12)])
    one = pool.sample(4800, generator(99))[:, 0].std() / 400**0.5
    assert float(means.std()) < 1.7 * float(one)


def test_samples_are_like_the_data(on_curve):
    pool, x, _ = on_curve
    new = pool.sample(4000, generator(1))
    torch.testing.assert_close(new.mean(0), x.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(new.T.cov(), x.T.cov(), rtol=0, atol=0.15)


# ------------------------------------------------------------------ blanks


def test_draws_have_the_mean_and_the_classes_predicted(on_mixed, on_curve):
    n = 1500
    pool, x, _ = on_mixed
    x, observed = x[:8].clone(), torch.ones(8, 2, dtype=torch.bool)
    observed[:4, 0], observed[4:, 1] = False, False
    drawn = rows(pool, x, observed, n, generator())
    assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
    mean, classes = means(pool, x, observed), pool.answer(Seen(x, observed)).chances(1).numpy()
    deviation = drawn[:, :4, 0].std(0)
    assert ((drawn[:, :4, 0].mean(0) - mean[:4, 0]).abs() < 0.08 * deviation + 5 * deviation / n**0.5).all()
    for c in range(3):
        share = (drawn[:, 4:, 1] == c).double().mean(0)
        np.testing.assert_allclose(share, classes[4:, c], atol=5 * 0.5 / n**0.5)
    assert (mean[4:, 1].numpy() == classes[4:].argmax(1)).all()
    pool, x, _ = on_curve
    x = x[:8]
    observed = torch.rand(x.shape, generator=generator(3)) < 0.5
    for ask in (rows, cells):
        drawn = ask(pool, x, observed, n, generator())
        assert torch.equal(drawn[:, observed], x[observed].expand(n, -1))
        off = (drawn.mean(0) - means(pool, x, observed)).abs() / drawn.std(0).clamp_min(1e-9)
        assert off[~observed].max() < 0.15


def test_the_mean_of_the_pool_is_the_weighted_mean_of_its_members(on_curve):
    pool, x, _ = on_curve
    observed = torch.rand(x.shape, generator=generator(3)) < 0.5
    total = sum(
        w * member.answer(Seen(x, observed)).mean()
        for w, member in zip(pool.numbers.tolist(), pool.parts, strict=True)
    )
    torch.testing.assert_close(means(pool, x, observed), total)


def test_joint_draws_keep_two_classes_together():
    """Where b is a under another name, drawn rows have them equal, filled and new ones; marginal draws need not."""
    rng = np.random.default_rng(0)
    a = rng.choice(3, 400)
    frame = pd.DataFrame(
        {"a": np.array(list("xyz"))[a], "b": np.array(list("pqr"))[a], "v": rng.normal(size=400)}
    )
    pool, x, _ = fitted(frame)
    observed = torch.zeros(20, 3, dtype=torch.bool)
    observed[:, 2] = True
    drawn = rows(pool, x[:20], observed, 100, generator())
    assert (drawn[..., 0] == drawn[..., 1]).double().mean() > 0.97
    shares = torch.stack([(drawn[..., 0] == c).double().mean() for c in range(3)])
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3), rtol=0, atol=0.08)
    new = pool.sample(1000, generator())
    assert (new[:, 0] == new[:, 1]).double().mean() > 0.97
    apart = cells(pool, x[:20], observed, 100, generator())
    assert (apart[..., 0] == apart[..., 1]).double().mean() < 0.5
    assert (score(pool, new[:50]) > score(pool, new[:50] * 0 + torch.tensor([0.0, 1.0, 0.0])) + 3).all()


def test_a_class_decides_the_number_drawn_with_it(on_mixed):
    """Neither is seen: a joint draw has the number where its class lies."""
    pool, x, _ = on_mixed
    drawn = rows(pool, x[:50], torch.zeros(50, 2, dtype=torch.bool), 40, generator()).reshape(-1, 2)
    data = mixed()
    loc, scale = pool.schema.fields[0].loc, pool.schema.fields[0].scale
    for c, name in enumerate("xyz"):
        own = drawn[drawn[:, 1] == c, 0] * scale + loc
        assert float(own.mean()) == pytest.approx(data["v"][data["c"] == name].mean(), abs=0.3)


def test_spikes_are_drawn_beside_numbers_that_do_not_repeat():
    """A blank spike is drawn by members of scores, whole rows and cells alike; draws of the other column keep their mean."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    X = np.stack([z + 0.5 * rng.normal(size=400), np.where(rng.random(400) < 0.6, 0.0, np.exp(z))], 1)
    pool, x, _ = fitted(X, kinds="real")
    zero = x[X[:, 1] == 0][0, 1]
    share = (X[:, 1] == 0).mean()
    new = pool.sample(3000, generator())
    assert float(((new[:, 1] - zero).abs() < 1e-9).double().mean()) == pytest.approx(share, abs=0.05)
    for ask in (rows, cells):
        drawn = ask(pool, x[:100], torch.zeros(100, 2, dtype=torch.bool), 40, generator())
        assert float(((drawn[..., 1] - zero).abs() < 1e-9).double().mean()) == pytest.approx(share, abs=0.05)
        assert float(drawn[..., 0].mean()) == pytest.approx(float(x[:, 0].mean()), abs=0.1)


@pytest.mark.parametrize("d", [3, 6])
def test_intervals_of_gaussian_data_hold_what_they_say(d):
    rng = np.random.default_rng(d)
    root = rng.normal(size=(d, d))
    pool, _, _ = fitted(rng.normal(size=(400, d)) @ root, kinds="real")
    x = torch.from_numpy(pool.schema.encode(rng.normal(size=(400, d)) @ root)[0])
    observed = torch.rand(x.shape, generator=generator(1)) < 0.7
    drawn = cells(pool, x, observed, 100, generator())
    level = torch.tensor([0.05, 0.95], dtype=torch.float64)
    low, high = torch.quantile(drawn, level, dim=0)
    inside = ((low <= x) & (x <= high))[~observed].double().mean()
    assert 0.85 <= inside <= 0.95


# ------------------------------------------------------------------ kept, repeated, refused


def test_kept_by_its_config_and_its_state(on_mixed, on_curve):
    for pool, x, observed in (on_mixed, on_curve):
        body = json.loads(json.dumps({"family": "Pool", "config": pool.config}))
        again = rebuild(body).double()
        again.load_state_dict(pool.state_dict())
        assert torch.equal(score(again, x), score(pool, x))
        some = observed & (torch.rand(x.shape, generator=generator()) < 0.5)
        assert torch.equal(means(again, x, some), means(pool, x, some))
        assert torch.equal(rows(again, x, some, 3, generator()), rows(pool, x, some, 3, generator()))
        assert torch.equal(again.sample(9, generator()), pool.sample(9, generator()))
        assert titles(again) == titles(pool)
        assert len({id(m.coding) for m in again.parts}) == len({m.coding.scores for m in again.parts})


def test_same_seed_same_pool():
    one, two = (fitted(curve(80), seed=3, kinds="real")[0] for _ in range(2))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert one.spread == two.spread


def test_fills_and_scores_have_weights_of_their_own(on_curve):
    pool, x, observed = on_curve
    answer = pool.answer(Seen(x, observed))
    assert answer.kind == "pooled"
    each = torch.stack([m.answer(Seen(x, observed)).log_evidence for m in pool.parts], 1)
    torch.testing.assert_close(answer.log_evidence, torch.logsumexp(each + pool.rows.log(), 1))
    assert answer.latents().shape == (len(x), 2)


def test_what_is_seen_through_a_map(on_curve, on_mixed):
    """With little noise the sum of two cells is met, and draws scatter about the mean."""
    pool, x, _ = on_curve
    view = Linear(1e-3, Dense(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)))
    y = view.apply(x[:6])
    answer = pool.answer(Seen(y, torch.ones_like(y, dtype=torch.bool), view))
    mean = answer.mean()
    torch.testing.assert_close(view.apply(mean), y, rtol=0, atol=0.01)
    drawn = answer.draws(1000, generator())
    assert ((drawn.mean(0) - mean).abs() < 0.25 * drawn.std(0)).all()
    with pytest.raises(
        Unanswerable, match=r"Pool has no answer to rows seen through Linear.*it answers blanks"
    ):
        on_mixed[0].answer(Seen(y, torch.ones_like(y, dtype=torch.bool), view))
    with pytest.raises(Unanswerable, match=r"Flips\(0.1\)"):
        pool.answer(Seen.whole(x)._replace(view=Flips(0.1)), Effort())


def test_windows_do_not_count_a_row_as_its_own_neighbour(on_curve):
    """Windows of the numbers score the rows they were made of as they score new ones, also through what is kept of them."""
    pool, x, observed = on_curve
    new = torch.from_numpy(pool.schema.encode(curve(2000, 9))[0])
    (m,) = (i for i, title in enumerate(titles(pool)) if "windows of numbers" in title)
    windows = pool.parts[m]
    own = windows.answer(Seen(x, observed)).log_evidence.mean()
    other = windows.answer(Seen.whole(new)).log_evidence.mean()
    assert float(own) == pytest.approx(float(other), abs=0.1)
    energy = windows.model.energy
    keys, energy.keys = energy.keys, None
    try:
        assert float(windows.answer(Seen(x, observed)).log_evidence.mean()) > float(other) + 0.2
    finally:
        energy.keys = keys


def test_rows_are_weighed_by_densities_that_did_not_see_what_was_hidden():
    """Scores have a knot at every value of a small table, so their slopes flatter the cells they were fitted to.

    On Gaussian data the Gaussian of the numbers is right, and must not weigh less than that of the scores.
    """
    X = np.random.default_rng(0).normal(size=(100, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    pool, _, _ = fitted(X, kinds="real")
    weight = {r["member"]: r["row_weight"] for r in pool.reports}
    assert weight["Gaussian of numbers"] > 1.1 * weight["Gaussian of scores"]


def test_tiny_and_odd_tables():
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"a": list("xyxyz"), "b": list("ppqqp")}),
        pd.DataFrame({"v": rng.normal(size=2), "w": [1.0, 2.5]}),
        pd.DataFrame({"v": [1.0] * 6, "w": rng.normal(size=6)}),
    ]
    for frame in frames:
        pool, x, observed = fitted(frame)
        assert torch.isfinite(score(pool, x, observed)).all()
        nothing = torch.zeros_like(observed)
        assert torch.isfinite(means(pool, x, nothing)).all()
        assert torch.isfinite(rows(pool, x, nothing, 2, generator())).all()
        assert torch.isfinite(pool.sample(5, generator())).all()


# ------------------------------------------------------------------ any model may be a member


def grouped(seed: int) -> GroupedMixtureEnergy:
    """A mixture of Gaussians in three cells."""
    g = generator(seed)
    centres = 2 * torch.randn(4, 3, generator=g)
    member = Member(
        torch.randn(4, generator=g), centres, torch.tensor([0, 0, 1, 1]), 0.5 * torch.eye(3).repeat(2, 1, 1)
    )
    return GroupedMixtureEnergy.of(member)


def test_a_pool_of_densities_is_a_mixture_whose_means_are_averaged():
    schema = Schema.infer(np.random.default_rng(0).normal(size=(50, 3)), kinds="real")
    members = [EnergyModel(grouped(seed).double()) for seed in (1, 2)]
    w = torch.tensor([0.25, 0.75], dtype=torch.float64)
    pool = Pool(schema, members, (w, w, w), codes=(0, 1))
    one, two = (member.law for member in members)
    x = torch.randn(6, 3, generator=generator(3), dtype=torch.float64)
    seen = Seen(x, torch.rand(x.shape, generator=generator(4)) < 0.5)
    whole = Seen.whole(x)
    expected = torch.logsumexp(torch.stack([one.log_prob(whole), two.log_prob(whole)], 1) + w.log(), 1)
    torch.testing.assert_close(pool.answer(whole).log_evidence, expected)
    mean = torch.where(seen.mask, x, 0.25 * one.mean(seen) + 0.75 * two.mean(seen))
    torch.testing.assert_close(pool.answer(seen).mean(), mean)
    n = 20_000
    drawn = pool.answer(seen).draws(n, generator(5))
    assert ((drawn.mean(0) - mean).abs() < 5 * drawn.std(0) / n**0.5 + 1e-9).all()
    new = pool.sample(n, generator(6))
    own = 0.25 * one.log_weights.exp() @ one.means + 0.75 * two.log_weights.exp() @ two.means
    assert ((new.mean(0) - own).abs() < 5 * new.std(0) / n**0.5).all()
    assert pool.answer(whole).latents().shape == (6, 4)


@pytest.mark.parametrize(
    "extra",
    [
        VAE(latent_dim=1, hidden=[8], max_epochs=5),
        KMeans(components=4),
        GaussianMixture(components=2),
        EnergyNetwork(hidden=(4,), max_epochs=2),  # whose log Z no fit knows
    ],
    ids=lambda extra: type(extra).__name__,
)
def test_any_estimator_may_be_a_member_of_auto(extra, tmp_path):
    """Weighed with the others by hidden cells, it answers every question with them, and is kept with them."""
    X = curve(120)
    model = Auto(components=(1,), extra=[extra], random_state=0).fit(X)
    table = model.members()
    assert table.index[-1] == f"{type(extra).__name__} 1"
    assert table["weight"].sum() == pytest.approx(1.0)
    assert model.model_.parts[-1].partition is not None  # its log p is one, and can be weighed
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    filled = model.fill(gaps)
    np.testing.assert_array_equal(filled[~np.isnan(gaps)], X[~np.isnan(gaps)])
    assert np.isfinite(filled).all()
    assert np.isfinite(model.score_samples(gaps)).all()
    assert len(model.fill(gaps, draws=3, random_state=0)) == 3
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.fill(gaps), filled, rtol=1e-6)
    np.testing.assert_allclose(again.score_samples(gaps), model.score_samples(gaps), rtol=1e-6)


def test_a_boltzmann_machine_is_a_member_of_a_table_of_bits():
    rng = np.random.default_rng(0)
    bit = rng.random((1500, 1)) < 0.5
    X = (bit ^ (rng.random((1500, 6)) < 0.05)).astype(float)
    extra = RBM(hidden=4, max_epochs=60)
    model = Auto(components=(1,), extra=[extra], random_state=0).fit(X[:300])
    assert model.members()["class_weight"].iloc[-1] > 0.02
    gaps = X[300:].copy()
    gaps[:, 0] = np.nan
    assert (model.fill(gaps)[:, 0] == X[300:, 0]).mean() > 0.85
    flipped = np.where(rng.random(X[300:].shape) < 0.1, 1 - X[300:], X[300:])
    assert (model.denoise(flipped, 0.1) != X[300:]).mean() < 0.8 * (flipped != X[300:]).mean()


def test_noisy_copies_of_one_bit_are_cleaned_by_all_of_them():
    """Eight copies with 5 % noise, a tenth turned over: what the others say brings the error from 10 % to about 5 %."""
    rng = np.random.default_rng(0)
    bit = rng.random((3000, 1)) < 0.5
    X = (bit ^ (rng.random((3000, 8)) < 0.05)).astype(float)
    model = Auto(components=(1,), random_state=0).fit(X[:1000])
    flipped = np.where(rng.random((2000, 8)) < 0.1, 1 - X[1000:], X[1000:])
    assert (flipped != X[1000:]).mean() == pytest.approx(0.1, abs=0.01)
    assert (model.denoise(flipped, 0.1) != X[1000:]).mean() == pytest.approx(0.053, abs=0.008)
