"""What every model owes: gradients, agreement of samples and scores, keeping, repeating, filling."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from models_for_tests import generator, shaken

import abduce
from abduce import VAE
from abduce.fit.bounds import ELBO, IWAE
from abduce.inference.importance import log_prob
from abduce.models.families import rebuild

N = 160


def _latent(seed: int = 0) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=N)


def binary() -> np.ndarray:
    rng, z = _latent()
    return (z[:, None] + 0.5 * rng.normal(size=(N, 6)) > 0).astype(float)


def pixels() -> np.ndarray:
    rng, z = _latent()
    return np.clip(8 + 3 * z[:, None, None] + 1.5 * rng.normal(size=(N, 3, 3)), 0, 16).round()


def numbers() -> np.ndarray:
    rng, z = _latent()
    return np.outer(z, [1.0, -2.0, 0.5, 3.0]) + rng.normal(size=(N, 4))


def table() -> pd.DataFrame:
    rng, z = _latent()
    return pd.DataFrame(
        {
            "real": z + rng.normal(size=N),
            "positive": np.exp(2 * z + rng.normal(size=N)),
            "count": rng.poisson(np.exp(0.7 * z + 2)),
            "ordinal": np.clip(np.round(z + 2), 0, 4),
            "binary": z + rng.normal(size=N) > 0,
            "class": np.array(["a", "b", "c"])[np.clip(z + rng.normal(size=N) + 1, 0, 2).astype(int)],
        }
    )


def counts() -> np.ndarray:
    rng, z = _latent()
    return rng.poisson(np.exp(0.7 * z[:, None] + [1.0, 2.0, 0.5])).astype(float)


SMALL = {
    "latent_dim": 2,
    "hidden": [12],
    "max_epochs": 30,
    "samples": 100,
    "random_state": 0,
    "learning_rate": 5e-3,
}
LONGER = {"max_epochs": 200, "learning_rate": 2e-2}  # networks alone start from nothing
MODELS = {
    "bernoulli network": (binary, LONGER),
    "discretised logistics": (
        pixels,
        {"likelihood": "discretized_logistic_mixture", "linear_path": False} | LONGER,
    ),
    "real with a linear path": (numbers, {}),
    "real network": (numbers, {"linear_path": False} | LONGER),
    "counts network": (
        counts,
        {"kinds": "count", "linear_path": False} | LONGER | {"max_epochs": 600, "weight_decay": 0.0},
    ),
    "mixed table": (table, {}),
    "images": (pixels, {}),
}


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.replace(" ", "-"))
def case(request):
    make, arguments = MODELS[request.param]
    X = make()
    return VAE(**{**SMALL, **arguments}).fit(X), X, arguments


def holed(X, seed: int = 1):
    blank = np.random.default_rng(seed).random(X.shape) < 0.3
    if isinstance(X, pd.DataFrame):
        return X.astype(object).mask(blank).convert_dtypes().astype({"real": float, "positive": float}), blank
    return np.where(blank, np.nan, X), blank


def test_every_parameter_gets_a_finite_gradient(case):
    model, X, _ = case
    x = torch.from_numpy(model.schema_.encode(X)[0])
    network = shaken(copy.deepcopy(model.model_), 0.02)
    for objective in (ELBO(), IWAE(3)):
        network.zero_grad()
        objective(network, x, None, 1.0, generator()).loss.mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_samples_and_scores_are_one_distribution(case):
    """Data that the model makes score as the model expects: two batches of samples agree, and training rows nearly."""
    model, X, _ = case
    one, two = (model.score_samples(model.sample(400, random_state=s)) for s in (0, 1))
    error = np.hypot(one.std(), two.std()) / 20
    assert abs(one.mean() - two.mean()) < 4.5 * error
    own = model.score_samples(X)
    assert abs(own.mean() - one.mean()) < 1.5 * one.std()
    assert 0.3 < model.realism(X, references=200).mean() < 0.8
    assert 0.35 < model.realism(model.sample(150, random_state=3), references=300).mean() < 0.65


def test_scores_normalise(case):
    """The first cell's marginal, the others seen, is a law, and that of the samples."""
    model, _, _ = case
    with torch.no_grad():
        x = model.model_.sample(2000, generator(5))
    seen = torch.zeros_like(x) > 0
    seen[:, 0] = True
    levels = x[:, 0].unique()
    if len(levels) < 60:  # discrete: the masses of what can come add up to one
        rows = torch.zeros(len(levels), x.shape[1], dtype=torch.float64)
        rows[:, 0] = levels
        mass = log_prob(model.model_, rows, seen[: len(levels)], 20_000)[0].exp()
        assert mass.sum().item() == pytest.approx(1.0, abs=0.03)
        shares = torch.stack([(x[:, 0] == level).double().mean() for level in levels])
        torch.testing.assert_close(mass, shares, atol=0.05, rtol=0)
    else:  # a density: its integral over a fine grid is one
        grid = torch.linspace(-12, 12, 2001, dtype=torch.float64)
        rows = torch.zeros(len(grid), x.shape[1], dtype=torch.float64)
        rows[:, 0] = grid
        density = log_prob(model.model_, rows, seen[:1].expand(len(grid), -1), 300)[0].exp()
        assert density.sum().item() * 0.012 == pytest.approx(1.0, abs=0.02)


def test_keeping_and_loading(case, tmp_path):
    model, X, _ = case
    model.save(tmp_path / "m")
    loaded = abduce.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    a, b = model.sample(5, random_state=2), loaded.sample(5, random_state=2)
    (pd.testing.assert_frame_equal if isinstance(a, pd.DataFrame) else np.testing.assert_array_equal)(a, b)


def rebuilt(model: torch.nn.Module) -> torch.nn.Module:
    """A model of its name, its configuration after a passage through JSON, and its weights."""
    config = json.loads(json.dumps(model.config))
    other = rebuild({"family": type(model).__name__, "config": config})
    assert json.loads(json.dumps(other.config)) == config
    other.load_state_dict(model.state_dict())
    return other.double()


VARIANTS = {
    "mixture": (binary, {"prior": "mixture", "components": 3}),
    "vamp": (binary, {"prior": "vamp", "components": 3, "posterior": "full"}),
    "flows": (binary, {"prior": "flow", "posterior": "iaf"}),
    "layers": (binary, {"latent_dim": (2, 3), "posterior": "top_down"}),
    "convolutions": (pixels, {"network": "conv", "likelihood": "beta_binomial"}),
    "columns": (table, {"likelihood": {"real": "student_t", "count": "poisson"}, "activation": "tanh"}),
    "not at random": (
        lambda: holed(numbers())[0],
        {"missing": "mnar", "mask_model": {"x1": "self_masking_low"}},
    ),
    "refitted": (numbers, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_configuration_and_weights_are_a_model(name):
    make, arguments = VARIANTS[name]
    X = make()
    model = VAE(**(SMALL | {"max_epochs": 1} | arguments)).fit(X)
    if name == "refitted":
        model.fit_prior(X, "mixture", components=2)
    x, seen = (torch.from_numpy(a) for a in model.schema_.encode(X))
    one, two = (log_prob(m.joint(), x, seen, 20)[0] for m in (model.model_, rebuilt(model.model_)))
    torch.testing.assert_close(two, one, rtol=0, atol=0)


def test_a_seed_is_a_model(case):
    model, X, arguments = case
    short = {**SMALL, **arguments, "max_epochs": 2}
    a, b = (VAE(**short).fit(X).score_samples(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    rows = [7, 3, 90]
    few = model.score_samples(X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows])
    np.testing.assert_allclose(few, model.score_samples(X)[rows], rtol=0, atol=1e-9)


def test_fills_touch_blanks_only(case):
    model, X, _ = case
    gaps, blank = holed(X)
    filled = model.fill(gaps)
    if isinstance(X, pd.DataFrame):
        assert not filled.isna().any().any()
        for j, column in enumerate(X):
            kept = ~blank[:, j]
            assert (filled[column].to_numpy()[kept] == X[column].to_numpy()[kept]).all()
        return
    np.testing.assert_array_equal(filled[~blank], X[~blank])
    assert np.isfinite(filled).all()
    # what one cell says of another is used: better than the column's mean, of 0s and 1s the commoner
    mean = np.broadcast_to(np.nanmean(gaps, 0), X.shape)
    if set(np.unique(X)) == {0.0, 1.0}:
        mean = mean.round()
    assert ((filled - X)[blank] ** 2).mean() < 0.9 * ((mean - X)[blank] ** 2).mean()


def test_training_helped(case):
    model, X, arguments = case
    start = VAE(**{**SMALL, **arguments, "max_epochs": 1, "learning_rate": 1e-9}).fit(X)
    assert model.score(X) > start.score(X) - 0.05  # never worse than where it started
    assert all(np.isfinite(record["train"]) for record in model.history_)
