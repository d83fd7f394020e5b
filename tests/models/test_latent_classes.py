"""Latent classes against sums over all rows, in every pattern of blanks and through flips; EM against what it must do."""

from __future__ import annotations

import json
import math
from itertools import pairwise, permutations, product
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from abduce.data.seen import Blanks, Seen, Unanswerable
from abduce.fit import latent_classes as fitting
from abduce.fit.latent_classes import ClassTable, Runs, fit_latent_classes, short_runs
from abduce.models.latent_classes import LatentClassesEnergy, LatentClassLaw, Levels

SIZES = [2, 3, 2, 4, 1]


class Flips(Blanks):
    """Binary cells turned over with probability ``rate``, as a view."""

    name: ClassVar[str] = "flips"

    def __init__(self, rate: float):
        self.rate = rate


class Sums(Blanks):
    name: ClassVar[str] = "linear"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_law(sizes: list[int] = SIZES, components: int = 3, seed: int = 0) -> LatentClassLaw:
    g = generator(seed)
    weights = torch.randn(components, generator=g, dtype=torch.float64)
    return LatentClassLaw(
        sizes, weights, 1.5 * torch.randn(components, sum(sizes), generator=g, dtype=torch.float64)
    )


def every_row(sizes: list[int] = SIZES) -> Tensor:
    return torch.tensor(list(product(*(range(size) for size in sizes))), dtype=torch.float64)


def probabilities(law: LatentClassLaw, rows: Tensor) -> Tensor:
    """p(x), cell by cell and component by component."""
    out = []
    for row in rows.long().tolist():
        total = 0.0
        for k, weight in enumerate(law.log_weights.exp().tolist()):
            for j, code in enumerate(row):
                weight *= float(law.log_p[k, int(law.levels.first[j]) + code].exp())
            total += weight
        out.append(total)
    return torch.tensor(out, dtype=torch.float64)


def masks(d: int) -> Tensor:
    return torch.tensor(list(product([False, True], repeat=d)))


# ---------------------------------------------------------------- the law


def test_log_p_by_hand_sums_to_one():
    law, rows = random_law(), every_row()
    p = law.log_prob(Seen.whole(rows)).exp()
    torch.testing.assert_close(p, probabilities(law, rows), rtol=1e-12, atol=0)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)


def test_blanks_are_summed_out():
    """log p of the observed cells is that of all completions, whatever stands in the blanks; of nothing it is 0."""
    law, rows = random_law(), every_row()
    p = probabilities(law, rows)
    for mask in masks(len(SIZES)):
        for x in rows[::7]:
            agrees = ((rows == x) | ~mask).all(1)
            seen = Seen(torch.where(mask, x, torch.nan).unsqueeze(0), mask.unsqueeze(0))
            assert float(law.log_prob(seen)) == pytest.approx(float(p[agrees].sum().log()), abs=1e-12)
    assert float(law.log_prob(Seen.nothing(1, len(SIZES)))) == pytest.approx(0.0, abs=1e-14)


def joint_with_flips(law: LatentClassLaw, y: Tensor, mask: Tensor, rate: float) -> Tensor:
    """p(x, y_seen) of every clean row x."""
    rows = every_row()
    joint = probabilities(law, rows)
    for j, size in enumerate(SIZES):
        if mask[j]:
            same = (rows[:, j] == y[j]).double()
            joint *= same * (1 - rate) + (1 - same) * rate if size == 2 else same
    return joint


@pytest.mark.parametrize("rate", [None, 0.0, 0.1, 0.4])
def test_conditionals_and_means(rate):
    """p(level of each cell | what was seen), in all patterns of blanks, clean and flipped, by sums over all clean rows."""
    law, rows = random_law(), every_row()
    view = Blanks() if rate is None else Flips(rate)
    for mask in masks(len(SIZES)):
        for y in rows[3::11]:
            seen = Seen(y.unsqueeze(0), mask.unsqueeze(0), view)
            joint = joint_with_flips(law, y, mask, rate or 0.0)
            assert float(law.log_prob(seen)) == pytest.approx(float(joint.sum().log()), abs=1e-10)
            mean = law.mean(seen)[0]
            for j, size in enumerate(SIZES):
                expected = (
                    torch.stack([joint[rows[:, j] == level].sum() for level in range(size)]) / joint.sum()
                )
                found = law.chances(seen, j)[0]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
                assert float(mean[j]) == pytest.approx(
                    float(expected[1] if size == 2 else expected.argmax()), abs=1e-12
                )
            torch.testing.assert_close(
                law.probabilities(seen)[0], torch.cat([law.chances(seen, j)[0] for j in range(len(SIZES))])
            )


@pytest.mark.parametrize("view", [Blanks(), Flips(0.2)], ids=["blanks", "flips"])
def test_draws_come_as_often_as_they_are_probable(view):
    """200,000 draws of whole clean rows given two cells: each row's share within five standard errors."""
    law, rows = random_law(), every_row()
    y = torch.tensor([[1.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False, True, False], [False, True, True, False, False]])
    n = 200_000
    drawn = law.draws(Seen(y, mask, view), n, generator())
    assert drawn.shape == (n, 2, len(SIZES))
    for i in range(2):
        joint = joint_with_flips(law, y[i], mask[i], getattr(view, "rate", 0.0))
        p = joint / joint.sum()
        place = (rows.unsqueeze(1) == drawn[:, i].unique(dim=0)).all(-1).any(1)
        assert bool((p[place] > 0).all())
        number = (drawn[:, i] * torch.tensor([24, 8, 4, 1, 0]).double()).sum(-1).long()
        share = torch.bincount(number, minlength=len(rows)) / n
        assert bool(((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-12).all())


def test_samples_agree_with_scores():
    law, rows = random_law(seed=3), every_row()
    n = 200_000
    drawn = law.sample(n, generator())
    p = probabilities(law, rows)
    value = law.log_prob(Seen.whole(drawn))
    entropy, spread = -(p * p.log()).sum(), (p * p.log().square()).sum() - (p * p.log()).sum().square()
    assert abs(float(-value.mean() - entropy)) < 5 * math.sqrt(float(spread) / n)


def test_shared_draws_do_not_depend_on_who_comes_along():
    law, rows = random_law(), every_row()
    mask = torch.rand(rows.shape, generator=generator()) < 0.4
    seen = Seen(rows, mask, Flips(0.1))
    every = law.draws(seen, 7, generator(1), shared=True)
    few = law.draws(seen.rows(slice(5, 8)), 7, generator(1), shared=True)
    torch.testing.assert_close(every[:, 5:8], few, rtol=0, atol=0)


def test_many_rows_are_taken_in_blocks(monkeypatch):
    law, rows = random_law(), every_row()
    seen = Seen(rows, torch.rand(rows.shape, generator=generator()) < 0.5)
    whole = law.log_prob(seen), law.mean(seen)
    monkeypatch.setattr("abduce.gaussians.mixture.BUDGET", 60)
    torch.testing.assert_close((law.log_prob(seen), law.mean(seen)), whole, rtol=1e-13, atol=1e-13)
    none = Seen.nothing(0, len(SIZES))
    assert law.log_prob(none).shape == (0,)
    assert law.mean(none).shape == (0, len(SIZES))


def test_probabilities_of_zero_stay_finite():
    law = LatentClassLaw([2], torch.zeros(1, dtype=torch.float64), torch.tensor([[0.0, -math.inf]]).double())
    value = law.log_prob(Seen.whole(torch.tensor([[0.0], [1.0]]).double()))
    assert value[0] == 0
    assert -1000 < value[1] < -700
    assert float(law.sample(100, generator()).sum()) == 0


def test_what_cannot_be_answered_is_said():
    law = random_law()
    with pytest.raises(Unanswerable, match="through blanks or flips, not through 'linear'"):
        law.log_prob(Seen(every_row(), every_row() >= 0, Sums()))
    with pytest.raises(ValueError, match="cell 1 has 3 levels and holds 3"):
        law.log_prob(Seen.whole(torch.tensor([[0.0, 3.0, 0.0, 0.0, 0.0]]).double()))
    with pytest.raises(ValueError, match="log_weights and log_p must have shapes"):
        LatentClassLaw([2, 2], torch.zeros(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one level"):
        Levels([2, 0])


# ---------------------------------------------------------------- the energy


def test_energy_is_minus_log_p_and_normalised():
    law, rows = random_law(), every_row()
    model = LatentClassesEnergy.of(SIZES, law.log_weights, law.log_p)
    energy = model.energy(rows.view(4, 12, -1))
    torch.testing.assert_close(energy.flatten(), -law.log_prob(Seen.whole(rows)))
    assert float(model.log_z()) == 0 == pytest.approx(float(torch.logsumexp(-energy.flatten(), 0)), abs=1e-12)
    assert model.log_z(0.5) is None is model.law(0.5)
    r = model.represent(rows)
    torch.testing.assert_close(r.sum(1), torch.ones(len(rows)).double())
    again = LatentClassesEnergy(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.energy(rows), energy.flatten(), rtol=0, atol=0)


def test_between_codes_a_value_is_a_share_of_each():
    """On binary cells Π_j p_j^{x_j} (1 − p_j)^{1 − x_j}, and its gradient is that formula's."""
    law = random_law([2, 2, 2])
    model = LatentClassesEnergy.of([2, 2, 2], law.log_weights, law.log_p)
    x = torch.tensor([[0.2, 0.7, 0.5]], dtype=torch.float64, requires_grad=True)
    value = model.energy(x)
    no, yes = law.log_p[:, 0::2], law.log_p[:, 1::2]
    expected = -torch.logsumexp(law.log_weights + (x * yes + (1 - x) * no).sum(1), 0)
    torch.testing.assert_close(value[0], expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (value, expected)))


# ---------------------------------------------------------------- the fit


def table(
    n: int, sizes: list[int], components: int, seed: int = 0, apart: float = 2.0
) -> tuple[Tensor, LatentClassLaw]:
    g = generator(seed)
    law = LatentClassLaw(
        sizes,
        torch.linspace(0, 1, components, dtype=torch.float64),
        apart * torch.randn(components, sum(sizes), generator=g, dtype=torch.float64),
    )
    return law.sample(n, g), law


def nearest(truth: LatentClassLaw, found: LatentClassesEnergy) -> tuple[Tensor, Tensor]:
    """Weights and level probabilities of the fit, its components in the order that is nearest to the truth."""
    order = min(
        permutations(range(len(truth.log_weights))),
        key=lambda o: float((found.log_p[list(o)].exp() - truth.log_p.exp()).square().sum()),
    )
    return found.log_weights[list(order)].exp(), found.log_p[list(order)].exp()


@pytest.mark.parametrize("blank", [0.0, 0.3])
def test_parameters_are_recovered(blank):
    """20,000 rows, of whole rows and with a third of the cells blank."""
    x, truth = table(20_000, [2, 3, 4, 2, 3, 5, 2, 2], 3)
    observed = torch.rand(x.shape, generator=generator(1)) >= blank
    found = fit_latent_classes(torch.where(observed, x, torch.nan), observed, truth.levels.sizes.tolist(), 3)
    weights, p = nearest(truth, found)
    torch.testing.assert_close(weights, truth.log_weights.exp(), rtol=0, atol=0.02)
    torch.testing.assert_close(p, truth.log_p.exp(), rtol=0, atol=0.04)


def test_one_component_has_the_columns_shares():
    """(n_l + α m_l) / (n + α), over the observed cells."""
    x, truth = table(200, [2, 3], 2)
    observed = torch.rand(x.shape, generator=generator(1)) < 0.8
    found = fit_latent_classes(x, observed, [2, 3], 1, pseudo_rows=4.0).log_p[0].exp()
    for j, part in ((0, slice(0, 2)), (1, slice(2, 5))):
        size = truth.levels.sizes[j]
        count = torch.bincount(x[observed[:, j], j].long(), minlength=int(size)).double()
        m = (count + 0.5) / (count.sum() + 0.5 * size)
        torch.testing.assert_close(found[part], (count + 4 * m) / (count.sum() + 4))


def test_em_never_falls_and_ends_where_the_gradient_is_zero():
    x, _ = table(300, [2, 3, 2, 4, 2], 3, apart=1.0)
    observed = torch.rand(x.shape, generator=generator(1)) < 0.8
    data = ClassTable(x, observed, Levels([2, 3, 2, 4, 2]), 2.0)
    runs, values = short_runs(data, 3, 4, generator()), []
    for _ in range(3000):
        runs = data.step(runs)
        values.append(float(runs.value[0]))
    assert all(after >= before - 1e-9 for before, after in pairwise(values))
    weights, p = (t[0].clone().requires_grad_() for t in (runs.log_weights, runs.log_p))
    levels = data.levels
    log_weights = torch.log_softmax(weights, 0)
    log_p = p - levels.totals(p.exp()).log()[:, levels.cells]
    rows = log_weights + levels.indicators(x, observed) @ log_p.mT
    value = torch.logsumexp(rows, 1).sum() + (data.prior * log_p).sum() + log_weights.sum()
    assert float(value.detach()) == pytest.approx(values[-1], abs=1e-6)
    for slope in torch.autograd.grad(value, (weights, p)):
        assert float(slope.abs().max()) < 1e-3


def test_runs_side_by_side_are_runs_alone():
    x, _ = table(200, [2, 3, 2], 2)
    data = ClassTable(x, x >= 0, Levels([2, 3, 2]), 1.0)
    p = torch.randn(3, 2, 7, generator=generator(), dtype=torch.float64)
    both = data.step(Runs(torch.zeros(3, 2).double(), data.levels.log_normalised(p), torch.zeros(3).double()))
    for s in range(3):
        alone = data.step(
            Runs(
                torch.zeros(1, 2).double(), data.levels.log_normalised(p[s : s + 1]), torch.zeros(1).double()
            )
        )
        for one, all_ in zip(alone, both, strict=True):
            torch.testing.assert_close(one[0], all_[s])


def test_a_level_that_never_occurred_stays_possible():
    x, _ = table(100, [2, 3], 2)
    found = fit_latent_classes(x, None, [2, 5], 2).law()
    assert found is not None
    chance = found.chances(Seen.nothing(1, 2), 1)[0]
    assert bool((chance[3:] > 1e-4).all())
    assert bool((chance[3:] < 0.02).all())


def test_the_number_of_components_is_chosen():
    """Few for columns that know nothing of one another; for three classes, as good a prediction as the truth's own."""
    noise, fresh = torch.randint(0, 3, (2, 2000, 6), generator=generator()).double()
    none = fit_latent_classes(noise, None, [3] * 6)
    assert none.config["components"] <= 2
    assert float(none.energy(fresh).mean()) / 6 == pytest.approx(math.log(3), abs=0.005)
    sizes = [2, 3, 4, 2, 3, 5, 2, 2]
    x, truth = table(4000, sizes, 3)
    new = truth.sample(4000, generator(9))
    hidden = torch.rand(new.shape, generator=generator(2)) < 0.2
    seen = Seen(new, ~hidden)
    where = truth.levels.indicators(new, hidden)
    found = fit_latent_classes(x, None, sizes)
    assert found.config["components"] in (2, 4, 8)
    law = found.law()
    assert law is not None
    ours, best = (
        float(torch.xlogy(where, each.probabilities(seen)).sum() / hidden.sum()) for each in (law, truth)
    )
    assert best - 0.01 < ours < best + 0.005


def test_a_seed_is_a_fit_and_memory_does_not_matter(monkeypatch):
    x, _ = table(500, [2, 3, 2, 4], 3)
    one, two = (fit_latent_classes(x, None, [2, 3, 2, 4], "auto", seed=5) for _ in range(2))
    torch.testing.assert_close(one.log_p, two.log_p, rtol=0, atol=0)
    monkeypatch.setattr(fitting, "KEPT", 0)
    monkeypatch.setattr(fitting, "BLOCK", 1100)  # a hundred rows at a time, made again for every step
    three = fit_latent_classes(x, None, [2, 3, 2, 4], "auto", seed=5)
    torch.testing.assert_close(one.log_p, three.log_p, rtol=1e-6, atol=1e-6)


def test_as_many_components_as_rows(monkeypatch):
    monkeypatch.setattr(fitting, "SOME", 5)
    x, _ = table(12, [2, 3], 2)
    assert fit_latent_classes(x, None, [2, 3], 12).config["components"] == 12


def test_arguments_of_the_fit_are_checked():
    x, _ = table(10, [2, 3], 2)
    with pytest.raises(ValueError, match="from 1 to the number of rows, 10, got 11"):
        fit_latent_classes(x, None, [2, 3], 11)
    with pytest.raises(ValueError, match="pseudo_rows must be above 0, got 0"):
        fit_latent_classes(x, None, [2, 3], 2, pseudo_rows=0)
