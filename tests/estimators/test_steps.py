"""Sequences of vectors of cells: chains that sum to one, blanks by enumeration, a Markov chain's entropy, what is refused."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import abduce
from abduce import Steps
from abduce.sequences.steps.network import ChainNet, ChainShape
from abduce.sequences.steps.particles import complete

SMALL = {"updates": 150, "width": 16, "batch_size": 64, "random_state": 0}


def every(levels):
    return np.array(list(itertools.product(*(range(k) for k in levels))), np.int16)


def random_net(**kw):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = ChainNet(ChainShape(**kw))
        for p in net.parameters():
            p.data.copy_(0.18 * torch.randn_like(p))
    return net.eval().requires_grad_(False)


SHAPES = {
    "line": {
        "rows": 1,
        "columns": 6,
        "levels": (2,) * 6,
        "lags": (1, 2),
        "below": 3,
        "reach": 2,
        "frames": 2,
    },
    "own": {"rows": 1, "columns": 4, "levels": (2, 3, 2, 4), "lags": (1, 3), "near": False, "frames": 2},
    "grid": {
        **{"rows": 2, "columns": 3, "levels": (2,) * 6, "lags": (1, 2), "whole": False},
        **{"below": 1, "above": 1, "reach": 1, "depth": 2},
    },
    "grid that moves": {
        **{"rows": 2, "columns": 3, "levels": (2, 2, 3, 2, 2, 2), "lags": (1, 3), "whole": False},
        **{"below": 1, "above": 1, "reach": 1, "motion": 1},
    },
    "line of levels": {
        "rows": 1,
        "columns": 4,
        "levels": (3, 2, 3, 3),
        "lags": (1,),
        "below": 2,
        "reach": 1,
        "frames": 1,
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_chain_sums_to_one(name):
    net = random_net(**SHAPES[name])
    rows = torch.from_numpy(every(net.shape.levels))
    window = rows[torch.randint(len(rows), (1, net.shape.memory), generator=torch.Generator().manual_seed(0))]
    log_p = net(window.expand(len(rows), -1, -1), torch.zeros(len(rows)), rows)
    total = log_p.gather(2, rows.long()[..., None]).double().sum((1, 2)).exp()
    assert total.sum() == pytest.approx(1, abs=1e-5)
    assert total.std() > 1e-4  # and it is not uniform


@pytest.mark.parametrize("name", SHAPES)
def test_a_cell_sees_those_before_it_alone(name):
    net = random_net(**SHAPES[name])
    rows = torch.from_numpy(every(net.shape.levels))
    window, t = torch.zeros(1, net.shape.memory, net.shape.cells), torch.zeros(1)
    first = net(window, t, rows[:1])
    seen = set()
    for i in range(net.shape.cells):
        changed = rows[:1].clone()
        changed[0, i] = 1
        now = net(window, t, changed)
        assert torch.equal(now[:, : i + 1], first[:, : i + 1])
        seen.add(bool((now[:, i + 1 :] != first[:, i + 1 :]).any()))
    assert True in seen


@pytest.mark.parametrize("name", SHAPES)
def test_cell_by_cell_is_the_same_law(name):
    net = random_net(**SHAPES[name])
    g = torch.Generator().manual_seed(1)
    rows = torch.from_numpy(every(net.shape.levels))
    x = rows[torch.randint(len(rows), (5,), generator=g)].long()
    window = rows[torch.randint(len(rows), (5, net.shape.memory), generator=g)]
    parts = []

    def pick(i, log_p):
        parts.append(log_p)
        return x[:, i]

    assert torch.equal(net.walk(window, torch.arange(5), pick), x)
    torch.testing.assert_close(torch.stack(parts, 1), net(window, torch.arange(5), x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["line of levels", "own"])
def test_blanks_against_enumeration(name):
    """Two steps of five with blanks: probabilities and log p of what is seen, by summing over all ways to fill them."""
    net = random_net(**SHAPES[name])
    levels, rng = net.shape.levels, np.random.default_rng(0)
    x = np.stack([rng.integers(0, levels) for _ in range(6)]).astype(np.int16)
    x[1, [0, 2]] = -1
    x[2, 1:] = -1
    at = np.argwhere(x < 0)
    ways = every([levels[d] for _, d in at])
    whole = np.repeat(x[None], len(ways), 0)
    whole[:, at[:, 0], at[:, 1]] = ways
    memory = net.shape.memory
    frames = torch.from_numpy(
        np.concatenate([np.zeros((len(ways), memory, len(levels)), np.int16), whole], 1)
    )
    log_p = sum(
        net(frames[:, t : t + memory], torch.full((len(ways),), t), frames[:, t + memory])
        .gather(2, frames[:, t + memory].long()[..., None])
        .double()
        .sum((1, 2))
        for t in range(6)
    )
    w = torch.softmax(log_p, 0).numpy()
    found = complete(net, x, 20_000, torch.Generator().manual_seed(0))
    chances, error = found.chances(max(levels)), 0.005 + 2 / found.ess**0.5
    assert 500 < found.ess <= 20_000
    for k, (t, d) in enumerate(at):
        for v in range(levels[d]):
            assert chances[t, d, v] == pytest.approx(w[ways[:, k] == v].sum(), abs=error)
    assert found.step_log_p.sum() == pytest.approx(float(torch.logsumexp(log_p, 0)), abs=0.03)
    seen = x >= 0
    assert all((d[seen] == x[seen]).all() and (d >= 0).all() for d in found.draws(5, torch.Generator()))


@pytest.fixture(scope="module")
def markov():
    """A cell that stays with probability 0.9, one that copies it but for one time in five, and one that is always on."""
    rng = np.random.default_rng(0)

    def one(n):
        a = np.logical_xor.accumulate(rng.random(n) < 0.1).astype(int)
        return np.stack([a, a ^ (rng.random(n) < 0.2), np.ones(n, int)], 1)

    return [one(400) for _ in range(12)]


@pytest.fixture(scope="module")
def fitted(markov):
    return Steps(**{**SMALL, "updates": 1500}).fit(markov[:10])


def test_reaches_the_entropy_of_a_markov_chain(markov, fitted):
    def h(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    assert -fitted.score(markov[10:]) == pytest.approx(h(0.1) + h(0.2), abs=0.06)
    assert fitted.score_samples(markov[10:]).sum() / 800 == pytest.approx(fitted.score(markov[10:]), rel=1e-6)
    cells = np.concatenate(fitted.explain(markov[10:]))
    np.testing.assert_allclose(cells.sum(1), np.concatenate(fitted.anomaly_score(markov[10:])), rtol=1e-4)


def test_blanks_of_a_markov_chain(markov, fitted):
    """a_t between two ones, its copy missing too: 0.81 / 0.82."""
    x = np.ones((7, 3))
    x[3] = np.nan
    chances = fitted.fill_proba(x)
    assert chances[3, 0] == pytest.approx(0.81 / 0.82, abs=0.03)
    assert chances[3, 2] > 0.999
    assert (fitted.fill(x) == 1).all()
    draws, ess = fitted.fill_draws(x, 400, random_state=1, return_ess=True)
    assert np.mean([d[3, 1] for d in draws]) == pytest.approx(0.8, abs=0.08)
    assert 100 < ess[0] <= 400
    # what is next: 0.9 stay
    assert fitted.forecast_proba(1, np.ones((7, 3)), draws=2000)[0, 0] == pytest.approx(0.9, abs=0.04)
    assert fitted.sample_paths(4, 3, np.ones((7, 3))).shape == (3, 4, 3)
    assert fitted.sample(2, 5).shape == (2, 5, 3)
    assert fitted.sample(20, 50)[..., 2].all()


def test_whole_steps_in_the_middle_are_inferred_from_both_sides(fitted):
    """Three steps between a one and a zero: by sums over all ways of the chain, and not what those before alone would say."""
    x = np.zeros((9, 3))
    x[:, 2], x[:3, :2] = 1, 1
    x[3:6] = np.nan
    stay = {True: 0.9, False: 0.1}
    ways = np.array(list(itertools.product((0, 1), repeat=3)))
    chain = np.column_stack([np.ones(8), ways, np.zeros(8)])
    weight = np.prod([[stay[bool(s)] for s in row] for row in chain[:, 1:] == chain[:, :-1]], 1)
    expected = (weight[:, None] * ways).sum(0) / weight.sum()
    many = copy.copy(fitted)
    many.particles = 4000
    found = many.fill_proba(x)[3:6, 0]
    np.testing.assert_allclose(found, expected, atol=0.05)
    before = fitted.forecast_proba(3, x[:3], draws=4000)[:, 0]
    assert (before - found).min() > 0.1


def test_seeds_and_folders(markov, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    again = abduce.load(tmp_path / "m")
    x = [m.astype(float) for m in markov[10:]]
    x[0][5, 0] = np.nan
    np.testing.assert_array_equal(again.score_samples(x), fitted.score_samples(x))
    np.testing.assert_array_equal(again.forecast(3), fitted.forecast(3))
    same = Steps(**SMALL).fit(markov[:6])
    np.testing.assert_array_equal(
        same.score_samples(markov[10:]), Steps(**SMALL).fit(markov[:6]).score_samples(markov[10:])
    )


def test_forms(markov, fitted):
    frame = pd.DataFrame(markov[0][:9], columns=list("abc"), index=range(5, 14)).astype(float)
    frame.iloc[3, 0] = np.nan
    filled = fitted.fill(frame)
    assert list(filled.columns) == list("abc")
    assert list(filled.index) == list(range(5, 14))
    stack = np.stack(markov[:2])[:, :9]
    assert fitted.anomaly_score(stack).shape == (2, 9)
    assert [s.shape for s in fitted.anomaly_score([m[:4] for m in markov[:2]])] == [(4,), (4,)]
    grids = np.random.default_rng(0).integers(0, 2, (6, 8, 4, 3))
    grid = Steps(**{**SMALL, "updates": 5}).fit(grids)
    assert grid.net_.shape.rows == 4
    assert grid.fill(grids[:2]).shape == (2, 8, 4, 3)
    assert grid.sample_paths(2, 3, grids[:2]).shape == (3, 2, 2, 4, 3)


def test_levels():
    """A cell that goes 0, 1, 2, 0, ... and one that is its parity."""
    a = np.arange(60) % 3
    x = np.stack([a, a % 2], 1)
    model = Steps(**{**SMALL, "updates": 400}).fit([x, x[1:], x[2:]])
    np.testing.assert_array_equal(model.forecast(3, x[:7]), x[7:10])
    torn = x[:12].astype(float)
    torn[6] = np.nan
    np.testing.assert_array_equal(model.fill(torn), x[:12])
    proba = model.fill_proba(torn)
    assert proba.shape == (12, 2, 3)
    np.testing.assert_allclose(proba.sum(2), 1)
    assert proba[6, 1, 2] == 0


def test_a_square_goes_on():
    """Two by two pixels that drift by (1, −1) a frame: seen once, the rest follows; and the frame between is known."""
    rng = np.random.default_rng(0)

    def clip(r, c, length=8, box=12):
        x = np.zeros((length, box, box), int)
        for t in range(length):
            x[t, r + t : r + t + 2, c - t : c - t + 2] = 1
        return x

    clips = [clip(rng.integers(0, 3), rng.integers(7, 11)) for _ in range(30)]
    model = Steps(updates=150, width=16, batch_size=16, particles=20, random_state=0).fit(clips)
    new = clip(1, 8)
    assert model.anomaly_score([new])[0][4:].max() < 2
    assert (model.forecast(2, [new[:6]])[0] == new[6:]).all()
    torn = new.astype(float)
    torn[5] = np.nan
    assert (model.fill([torn])[0] == new).all()


def test_transposition_carries_over():
    """A melody of steps upward learnt in low places is known in high ones when training moves it."""
    low = np.zeros((200, 24), int)
    low[np.arange(200), np.arange(200) % 6] = 1
    low[0, 23] = 1  # the range
    high = np.roll(low[6:100], 12, 1)
    plain, moved = (Steps(**{**SMALL, "shift": s, "updates": 300}).fit([low[:, :]]) for s in (0, 20))
    assert moved.score(high) > plain.score(high) + 0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[[0.5, 1]]], "whole numbers"),
        ([[[0, 1]], [[0, 1, 0]]], "one shape"),
        ([], "no sequence"),
        (np.zeros(5), "shape"),
        (np.zeros((5, 3)), "ever changes"),
        (np.array([[0, 1], [np.nan, 0], [1, 1]]), "has blanks"),
        ([[["a", "b"]]], "whole numbers"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        Steps(**SMALL).fit(data)


def test_bad_questions(fitted):
    with pytest.raises(TypeError, match="X must be"):
        Steps().fit("notes")
    with pytest.raises(ValueError, match="fit with levels="):
        fitted.fill(np.full((3, 3), 2))
    with pytest.raises(ValueError, match="expected \\(3,\\)"):
        fitted.fill(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="n must be an int"):
        fitted.forecast(0)
    with pytest.raises(ValueError, match="places"):
        Steps(places="ring").fit(np.eye(4))
    with pytest.raises(ValueError, match="shift=2"):
        Steps(places="own", shift=2).fit(np.eye(4))
    with pytest.raises(ValueError, match="levels must be 3"):
        Steps(levels=2).fit(np.array([[0, 1], [2, 0]]))
    with pytest.raises(ValueError, match="does not fit steps"):
        Steps(places="grid").fit(np.eye(4))
