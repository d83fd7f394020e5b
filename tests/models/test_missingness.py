"""Missing not at random: the bound against closed forms, fills against quadrature, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import laplace, norm

from abduce import ELBO, IWAE, VAE, load
from abduce.answers.answer import Effort
from abduce.answers.weighed import Weighed
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.distributions.continuous import Laplace
from abduce.inference.importance import log_prob
from abduce.models.choice import Choice
from abduce.models.missingness import MaskModel
from abduce.models.shapes import Shapes
from abduce.models.vae import VariationalAutoencoder


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def masked_vae(schema: Schema, choice: Choice, mask: dict | None) -> VariationalAutoencoder:
    return VariationalAutoencoder(schema, choice, replace(Shapes.of(schema, choice), mask=mask)).double()


def factor_model(mask: dict | None, loading=(0.8, 0.8), noise: float = 0.6):
    """x = loading · z + noise · e over two real columns, z a standard normal: every answer is an integral over x_0."""
    schema = Schema.infer(np.random.default_rng(0).normal(size=(50, 2)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = masked_vae(schema, Choice(1, [4], scale="cell"), mask)
    with torch.no_grad():
        for parameter in [*model.decoder.parameters(), *model.encoder.parameters()]:
            parameter.zero_()
        first, last = model.decoder.net[0], model.decoder.net[-1]
        first.weight[:, 0] = torch.tensor([1.0, -1.0, 0.0, 0.0])  # silu(z) − silu(−z) = z
        last.weight[:, 0], last.weight[:, 1] = torch.tensor(loading), -torch.tensor(loading)
        head = model.heads.heads[0]
        log_floor = math.log(head.floor)
        head.raw_scale.fill_(log_floor + math.log(math.expm1(math.log(noise) - log_floor)))
    return model


def one_number(share=0.5, weight=0.0, sign=0) -> dict:
    return {"cells": [0], "shares": [share], "levels": [0], "signs": [sign], "reads": None}


def answers_by_quadrature(y: float, a: float, b: float, loading=0.8, noise=0.6):
    """E, and log p(x_1 = y, s_0 = 0), of x_0 given x_1 = y and that x_0 is blank, on a grid of x_0."""
    variance = loading**2 + noise**2
    mean, spread = loading**2 / variance * y, math.sqrt(variance - loading**4 / variance)
    x = np.linspace(mean - 10 * spread, mean + 10 * spread, 20_001)
    law = np.exp(-0.5 * ((x - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
    blank = law * (1 - sigmoid(a + b * x))
    total = np.trapezoid(blank, x)
    log_y = -0.5 * (y**2 / variance + math.log(2 * math.pi * variance))
    return np.trapezoid(x * blank, x) / total, log_y + math.log(total)


def with_mask(a: float, b: float):
    model = factor_model(one_number())
    with torch.no_grad():
        model.mask_model.bias.fill_(a)
        model.mask_model.weight.fill_(b)
    return model


@pytest.mark.parametrize("objective", [IWAE(7), IWAE(7, gradient="plain"), ELBO(samples=3)])
def test_without_slopes_the_bound_is_that_of_mar_plus_the_masks_own_likelihood(objective):
    model = with_mask(0.4, 0.0)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[True, True], [False, True], [False, False]] * 2)
    joint = model.joint()
    noise = torch.randn(7, 6, joint.noise_dim, dtype=torch.float64)
    got = joint.log_weights(x, observed, noise).log_w
    expected = model.log_weights(x, observed, noise[..., : model.noise_dim]).log_w
    share = sigmoid(0.4)
    constant = torch.where(observed[:, 0], math.log(share), math.log(1 - share))
    torch.testing.assert_close(got, expected + constant)
    bound = objective(joint, x, observed, 1.0, torch.Generator().manual_seed(0))
    assert (bound.value[observed[:, 0]] < math.log(share)).all()  # densities of these rows are below one


@pytest.mark.parametrize(("a", "b", "y"), [(0.0, -2.0, 0.5), (1.0, 3.0, -1.0), (-0.5, -8.0, 0.0)])
def test_log_p_and_fill_of_a_self_masked_number_are_what_quadrature_says(a, b, y):
    model = with_mask(a, b)
    x = torch.tensor([[0.0, y]], dtype=torch.float64)
    seen = torch.tensor([[False, True]])
    mean, log_p = answers_by_quadrature(y, a, b)
    found = log_prob(model.joint(), x, seen, samples=20_000)
    assert abs(float(found.value) - log_p) < 0.02
    moments = Weighed(model.joint(), Seen(x, seen), Effort(samples=20_000)).moments()
    assert abs(float(moments[0][0, 0]) - mean) < 0.02
    plain = Weighed(model, Seen(x, seen), Effort(samples=20_000)).moments()
    assert abs(float(plain[0][0, 0]) - mean) > 0.2  # what is forgotten without the mask


def test_draws_of_a_blank_have_its_law_given_that_it_is_blank():
    model = with_mask(0.0, -8.0)
    x, seen = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[False, True]])
    generator = torch.Generator().manual_seed(0)
    drawn = Weighed(model.joint(), Seen(x, seen), Effort(samples=2000)).draws(4000, generator)
    mean, _ = answers_by_quadrature(0.0, 0.0, -8.0)
    assert abs(float(drawn[:, 0, 0].mean()) - mean) < 0.03
    assert float((drawn[:, 0, 0] < -0.3).double().mean()) < 0.03  # a low value would have been observed


def test_blanks_of_classes_are_summed_out_and_tilted():
    frame = pd.DataFrame({"b": [0, 1] * 20, "c": list("xyzx") * 10, "r": np.linspace(-1.3, 2.1, 40)})
    schema = Schema.infer(frame)
    cells = {f.name: i for i, f in enumerate(schema.fields)}
    mask = {
        "cells": [cells["b"], cells["c"]], "shares": [0.5, 0.5], "levels": [2, 3], "signs": [0, 0], "reads": None,
    }  # fmt: skip
    torch.manual_seed(0)
    model = masked_vae(schema, Choice(2, [5]), mask)
    with torch.no_grad():
        model.mask_model.level_logits.copy_(torch.tensor([[1.0, -2.0, 9.0], [0.5, -1.0, 2.0]]))
    joint = model.joint()
    z = torch.randn(3, 1, joint.latent_dim, dtype=torch.float64)
    row = torch.zeros(1, 3, dtype=torch.float64)
    seen = torch.ones(1, 3, dtype=torch.bool)

    def whole(b, c):
        row[0, cells["b"]], row[0, cells["c"]] = b, c
        return model.likelihood(z).log_prob(row.clone())

    blank = seen.clone()
    blank[0, cells["b"]] = blank[0, cells["c"]] = False
    log_blank = torch.nn.functional.logsigmoid(-model.mask_model.level_logits)
    terms = torch.stack([whole(b, c) + log_blank[0, b] + log_blank[1, c] for b in range(2) for c in range(3)])
    torch.testing.assert_close(joint.likelihood(z).log_prob(row, blank), torch.logsumexp(terms, 0))
    weights = torch.softmax(terms, 0).unflatten(0, (2, 3))
    law = joint.likelihood(z).condition(row, blank)
    for part_cells, part in law.parts:
        own = list(range(3)) if isinstance(part_cells, slice) else part_cells.tolist()
        if cells["b"] in own:
            torch.testing.assert_close(part.moments()[..., 0, 0], weights.sum(1)[1])
        if cells["c"] in own:
            torch.testing.assert_close(part.moments()[..., 0, :], weights.sum(0).movedim(0, -1))


def test_a_logistic_mask_reads_the_rows_other_numbers():
    mask = MaskModel([0], [0.5], [0], [0], reads=[0, 1])
    with torch.no_grad():
        mask.weight.copy_(torch.tensor([[0.0, 2.0]]))
    value = mask.numbers(torch.tensor([[5.0, 1.0]]), torch.tensor([[False, True]]))
    assert abs(value.item() - math.log(1 - sigmoid(2.0))) < 1e-6


def test_a_known_direction_is_kept_whatever_the_weight():
    mask = MaskModel([0, 1], [0.5, 0.5], [0, 0], [-1, 1])
    with torch.no_grad():
        mask.weight.copy_(torch.tensor([3.0, -3.0]))
    b = mask.slopes()
    assert b[0] < 0 < b[1]


def test_laplace_noise_is_moved_by_the_quantile_function():
    u = torch.tensor([[-3.0, -0.5, 0.0, 1.0, 6.0]], dtype=torch.float64)
    law = Laplace(torch.full((1, 5), 0.3, dtype=torch.float64), torch.full((1, 5), 2.0, dtype=torch.float64))
    got = law.moved(u, [0, 1, 2, 3, 4]).squeeze(0).numpy()
    expected = np.where(u[0] < 0, laplace.ppf(norm.cdf(u[0]), 0.3, 2.0), laplace.isf(norm.sf(u[0]), 0.3, 2.0))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def censored(n=1200, seed=0):
    """Three noisy readings of one number, the first blank the likelier the higher it is."""
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 3))
    X = whole.copy()
    X[rng.random(n) < sigmoid(3 * whole[:, 0]), 0] = np.nan
    return X, whole


@pytest.fixture(scope="module")
def fitted():
    X, whole = censored()
    common = {"latent_dim": 1, "hidden": [16], "max_epochs": 60, "learning_rate": 3e-3, "random_state": 0}
    mnar = VAE(missing="mnar", mask_model={"x0": "self_masking_high"}, **common).fit(X)
    return X, whole, mnar, VAE(**common).fit(X)


def test_a_fit_learns_the_mechanism_and_fills_without_its_bias(fitted):
    X, whole, mnar, mar = fitted
    blank = np.isnan(X)
    bias = {name: float((m.fill(X) - whole)[blank].mean()) for name, m in (("mnar", mnar), ("mar", mar))}
    assert bias["mar"] < -0.5
    assert abs(bias["mnar"]) < 0.2
    assert mnar.model_.mask_model.slopes().item() < -1


def test_intervals_hold_what_was_blanked_out(fitted):
    X, whole, mnar, mar = fitted
    blank = np.isnan(X)
    cover = []
    for model in (mnar, mar):
        low, high = model.fill_interval(X)
        cover.append(((low <= whole) & (whole <= high))[blank].mean())
    assert cover[0] > 0.83
    assert cover[0] > cover[1] + 0.1


def test_a_model_reads_back_to_the_same_answers(fitted, tmp_path):
    X, _, mnar, _ = fitted
    mnar.save(tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.missing == "mnar"
    assert back.mask_model == {"x0": "self_masking_high"}
    np.testing.assert_allclose(back.fill(X[:70]), mnar.fill(X[:70]), rtol=1e-5)
    np.testing.assert_allclose(back.score_samples(X[:70]), mnar.score_samples(X[:70]), rtol=1e-5)


def test_answers_are_deterministic_and_of_each_row_alone(fitted):
    X, _, mnar, _ = fitted
    np.testing.assert_array_equal(mnar.score_samples(X[:70]), mnar.score_samples(X[:70]))
    np.testing.assert_array_equal(mnar.score_samples(X[:70])[:5], mnar.score_samples(X[:5]))
    np.testing.assert_array_equal(mnar.fill(X[:70])[:5], mnar.fill(X[:5]))


def test_a_row_with_nothing_observed_has_the_probability_of_its_mask(fitted):
    X, _, mnar, mar = fitted
    empty = np.full((1, 3), np.nan)
    assert mar.score_samples(empty)[0] == 0.0
    share = np.isnan(X[:, 0]).mean()
    assert abs(mnar.score_samples(empty, samples=4000)[0] - math.log(share)) < 0.15


def test_annealing_agrees_with_importance_sampling(fitted):
    X, _, mnar, _ = fitted
    rows = X[np.isnan(X[:, 0])][:8]
    by_ais = mnar.log_prob(rows, method="ais", temperatures=60)
    np.testing.assert_allclose(by_ais, mnar.score_samples(rows, samples=4000), atol=0.15)


def test_what_cannot_be_is_refused():
    X, whole = censored(60)
    with pytest.raises(ValueError, match="X has no blank"):
        VAE(missing="mnar").fit(whole)
    with pytest.raises(ValueError, match="mask_model must be one of"):
        VAE(missing="mnar", mask_model="sometimes").fit(X)
    with pytest.raises(ValueError, match=r"not there or left out: \['income'\]"):
        VAE(missing="mnar", mask_model={"income": "self_masking"}).fit(X)
    with pytest.raises(ValueError, match="student_t"):
        VAE(missing="mnar", likelihood="student_t").fit(X)
    frame = pd.DataFrame({"a": whole[:, 0], "c": np.random.default_rng(0).choice(["u", "v", "w"], 60)})
    frame.loc[::4, "c"] = None
    with pytest.raises(ValueError, match="column 'c' \\(kind categorical\\)"):
        VAE(missing="mnar", mask_model="self_masking_high").fit(frame)
    VAE(missing="mnar", max_epochs=1, random_state=0).fit(frame).fill(frame)
    counts = pd.DataFrame({"n": [0, 3, 8, None] * 20, "r": np.linspace(0.1, 7.3, 80)})
    with pytest.raises(ValueError, match="negative_binomial"):
        VAE(missing="mnar", kinds={"n": "count"}).fit(counts)
