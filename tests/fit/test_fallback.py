"""Training that falls: what counts as a fall, the way back, the error where there is none, and what is told."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from models_for_tests import factor_rows
from sklearn.datasets import load_digits
from test_train import BASE, StopAfter, binary_data, figures, same, start

from abduce import PSD, RBM, VAE, Autoencoder, ContrastiveDivergence, Diverged, EnergyNetwork
from abduce.fit.bounds import ELBO, Bound
from abduce.fit.fallback import TRIES, Best, is_fall
from abduce.fit.loop import train as train_step
from abduce.fit.settings import Settings
from abduce.fit.steps import EnergyStep, LatentStep
from abduce.inference.gibbs import BlockGibbs
from abduce.models.boltzmann import RBMEnergy

FELL = "training fell in epoch"


def train(model, objective, settings, *rest, x=None):
    x = binary_data()[0] if x is None else x
    return train_step(LatentStep(model, objective, settings, len(x)), x, None, settings, *rest)


# --- what a fall is ---


@pytest.mark.parametrize(
    ("value", "loss", "due", "ends", "expected"),
    [
        (-33.0, 33.0, True, False, False),  # best -2, start -10, unit 13: three of them are 39
        (-40.0, 40.0, True, False, False),
        (-42.0, 42.0, True, False, True),
        (-42.0, 42.0, False, False, False),  # no value of the rows watched
        (-42.0, 12.0, True, False, False),  # a warm-up: the bound sinks while the loss is well
        (math.nan, 1.0, False, False, True),
        (-math.inf, 1.0, True, False, True),
        (-1.0, math.inf, False, False, True),
        (-14.0, 14.0, True, True, False),
        (-16.0, 16.0, True, True, True),  # a run that ends has nothing left to come back by
    ],
)
def test_a_fall_is_far_below_the_best(value, loss, due, ends, expected):
    assert Best(start=-10.0, value=-2.0, epoch=3).fallen(value, loss, due, ends) is expected


def test_an_end_a_little_below_a_ceiling_is_a_fall():
    best = Best(start=-10.0, value=-10.0, epoch=3)
    assert not best.fallen(-11.0, None, True, True)
    assert best.fallen(-11.1, None, True, True)
    assert not best.fallen(-73.0, None, True, False)
    assert best.fallen(-74.0, None, True, False)


def test_an_end_below_a_start_that_nothing_was_better_than_is_a_fall():
    best = Best(start=-10.0, value=-10.0, epoch=0)
    assert not best.fallen(-30.0, 30.0, True, True)
    assert not best.fallen(-32.0, 32.0, True, False)
    assert best.fallen(-32.0, 32.0, True, True)


def test_errors_of_other_kinds_are_no_falls():
    well, lost = [torch.nn.Parameter(torch.ones(2))], [torch.nn.Parameter(torch.tensor([1.0, math.nan]))]
    assert is_fall(Diverged("ran away"), well)
    assert is_fall(torch.linalg.LinAlgError("not positive definite"), well)
    assert is_fall(RuntimeError("probability tensor contains nan"), lost)
    assert not is_fall(RuntimeError("sizes do not match"), well)
    assert not is_fall(TypeError("no such argument"), lost)


# --- the way back ---


class Broken:
    """An objective that breaks once: from call ``first`` to ``last`` its loss is no number."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.calls = first, last, 0

    def __call__(self, model, x, observed, progress, generator=None, rows=None) -> Bound:
        bound = ELBO()(model, x, observed, progress, generator)
        if not model.training:
            return bound
        self.calls += 1
        broken = self.first <= self.calls <= self.last
        return bound._replace(loss=bound.loss * math.nan) if broken else bound


STEPS = 4  # an epoch: 160 rows, of which 16 are held out, in batches of 32


@pytest.mark.parametrize("validation", [0.1, 0.0])
def test_a_run_goes_back_to_its_best_weights_at_a_tenth(validation):
    per = STEPS if validation else STEPS + 1
    settings = Settings(**{**BASE, "validation": validation, "masking": False})
    model, kept = start(), []
    with pytest.warns(
        UserWarning, match=f"{FELL} 4 .*back and goes on from there at 0.1 of the learning rate"
    ):
        run = train(
            model,
            Broken(3 * per + 2, 3 * per + 2),
            settings,
            lambda _: kept.append(copy.deepcopy(model.state_dict())),
        )
    assert [r["epoch"] for r in run.history] == [1, 2, 3, 4, 5, 6]
    fell = [(r["epoch"], r["fell"]) for r in run.history if "fell" in r]
    assert fell == [(4, [{"epoch": 4, "value": None, "back_to": 3, "rate": 0.1}])]
    assert all(math.isfinite(r["train"]) for r in run.history)

    def moved(a, b):
        return math.sqrt(sum(float((kept[a][k] - kept[b][k]).square().sum()) for k in kept[a]))

    assert 0 < moved(3, 2) < 0.2 * moved(2, 1)  # a step from where epoch 3 had come, a tenth as long


def test_an_ordinary_run_never_falls():
    model, other = start(), start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train(model, ELBO(warmup=0.5), Settings(**BASE))
        train(other, ELBO(beta=0.0), Settings(**{**BASE, "epochs": 60}))  # its bound sinks as it should
    assert run.best.falls == 0
    assert run.best.rate == 1.0
    assert not any("fell" in r for r in run.history)


@pytest.mark.parametrize("after", [3, 4, 5])
@pytest.mark.filterwarnings(f"ignore:{FELL}")
def test_a_run_that_fell_is_resumed_to_the_same_weights(tmp_path, after):
    settings = Settings(**{**BASE, "epochs": 8, "learning_rate": 30.0, "masking": False})
    straight, broken, other = start(), start(), start(seed=9)
    whole = train(straight, ELBO(), settings)
    assert whole.best.falls >= 2  # one before it stops, or after
    stopped = train(broken, ELBO(), settings, StopAfter(after), tmp_path / "state")
    assert stopped.interrupted
    resumed = train(other, ELBO(), settings, None, tmp_path / "state")
    assert figures(resumed) == figures(whole)
    assert same(other, straight)
    assert (resumed.best.falls, resumed.best.rate) == (whole.best.falls, whole.best.rate)


def test_a_run_that_always_falls_ends_with_an_error_or_with_its_best(tmp_path):
    settings = Settings(**{**BASE, "masking": False})
    with (
        pytest.warns(UserWarning, match=FELL),
        pytest.raises(
            Diverged, match=r"the last of 5 times, at down to 0.0001 .*never better than at its start"
        ),
    ):
        train(start(), Broken(1, 10**9), settings)
    model, kept = start(), []
    with pytest.warns(UserWarning, match=r"epoch 2 .*it went back and ends there") as told:
        run = train(
            model,
            Broken(2 * STEPS + 1, 10**9),
            settings,
            lambda _: kept.append(copy.deepcopy(model.state_dict())),
            tmp_path / "state",
        )
    assert len([w for w in told if FELL in str(w.message)]) == TRIES + 1
    assert len(run.history) == 2
    assert [f["rate"] for f in run.history[-1]["fell"]] == pytest.approx([0.1, 0.01, 0.001, 0.0001, 0.0])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[1][name])
    other = start(seed=9)
    again = train(other, Broken(1, 10**9), settings, None, tmp_path / "state")  # nothing is left to do
    assert figures(again) == figures(run)
    assert same(other, model)


# --- models ---


def rows(binary: bool = False) -> np.ndarray:
    x = factor_rows(400)
    return (x > 0).astype(int) if binary else x


@pytest.mark.parametrize("rate", [10.0, 100.0])
@pytest.mark.parametrize("validation", [0.1, 0.0])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.filterwarnings("ignore:the posterior collapsed")
def test_a_learning_rate_that_diverges_is_recovered_from(rate, validation, binary):
    X = rows(binary)
    arguments = {"latent_dim": 2, "max_epochs": 15, "random_state": 0, "validation_fraction": validation}
    usual = VAE(**arguments).fit(X)
    with pytest.warns(UserWarning, match=FELL):
        model = VAE(**arguments, learning_rate=rate).fit(X)
    assert any("fell" in r for r in model.history_)
    assert [r["epoch"] for r in model.history_] == list(range(1, 16))
    assert model.score(X) > usual.score(X) - 0.3


@pytest.mark.parametrize("preset", [Autoencoder, EnergyNetwork, PSD])
def test_energies_recover_too(preset):
    X, arguments = rows(), {"max_epochs": 15, "random_state": 0}
    usual = preset(**arguments).fit(X)
    with pytest.warns(UserWarning, match=FELL):
        model = preset(**arguments, learning_rate=100.0).fit(X)

    def best(m):
        return max(r["valid"] for r in m.history_ if "valid" in r)

    assert best(model) > best(usual) - 0.5 * abs(best(usual))


# --- a posterior that collapsed ---


def own(X: np.ndarray) -> float:
    """Mean log p of binary rows, column by column."""
    rates = X.mean(0).clip(1e-3, 1 - 1e-3)
    return float((X * np.log(rates) + (1 - X) * np.log1p(-rates)).sum(1).mean())


def test_a_collapsed_posterior_is_told():
    X = rows(binary=True)
    arguments = {"latent_dim": 2, "max_epochs": 60, "random_state": 0, "learning_rate": 1e-2}
    with pytest.warns(
        UserWarning, match=r"none of 2 latent units tells anything about a row .*masking=False"
    ):
        model = VAE(objective=ELBO(beta=50.0), **arguments).fit(X)
    assert model.score(X) == pytest.approx(own(X), abs=0.05)
    assert max(model.diagnose(X).kl_per_unit or ()) < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert VAE(**arguments).fit(X).score(X) > own(X) + 0.2


def test_a_vamp_prior_that_collapses_is_no_worse_than_its_columns():
    X = (load_digits().data[:600] > 7).astype(int)
    with pytest.warns(UserWarning, match=FELL) as told:
        model = VAE(
            prior="vamp",
            components=20,
            max_epochs=60,
            learning_rate=1e-2,
            random_state=0,
            validation_fraction=0.0,
        ).fit(X)
    assert any("the posterior collapsed" in str(w.message) for w in told)
    assert model.score(X) > own(X) - 1.0


# --- a loss that measures nothing: contrastive divergence ---


def independent(X: np.ndarray) -> float:
    """Mean log p of rows, column by column: of binary ones by their shares, of others by normal distributions."""
    if set(np.unique(X)) <= {0, 1}:
        return own(X)
    return float(-(np.log(X.std(0)) + 0.5 * math.log(2 * math.pi) + 0.5).sum())


@pytest.mark.parametrize("learning_rate", [1e-4, 1e-2, 1.0, 3.0, 10.0, 30.0, 100.0])
@pytest.mark.parametrize("data", ["binary", "digits", "real"])
@pytest.mark.parametrize("persistent", [True, False])
def test_contrastive_divergence_at_any_rate_is_no_worse_than_columns_of_their_own_or_says_so(
    learning_rate, data, persistent
):
    if data == "digits":  # the middle 16 pixels, so that log Z is a sum
        X = (load_digits().images[:400, 2:6, 2:6].reshape(400, 16) > 7).astype(int)
    else:
        X = rows(binary=data == "binary")
    objective = ContrastiveDivergence(1, persistent=persistent)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = RBM(
            hidden=20, objective=objective, learning_rate=learning_rate, max_epochs=20, random_state=0
        ).fit(X)
    assert model.log_z_.kind == "exact"
    said = any("worse than columns" in str(w.message) for w in told)
    assert said or model.score(X) > independent(X) - 0.05 * X.shape[1]
    assert model.score(X) > independent(X) - 0.2 * X.shape[1]
    assert any(FELL in str(w.message) for w in told) == any("fell" in r for r in model.history_)
    assert bool(told) or learning_rate < 30


def test_a_network_that_chains_have_not_trained_yet_is_told():
    X = rows()[:, :3]
    objective = ContrastiveDivergence(1, persistent=True)
    with pytest.warns(UserWarning, match="worse than columns that do not depend on each other"):
        model = EnergyNetwork(objective=objective, learning_rate=1e-5, max_epochs=3, random_state=0).fit(X)
    assert model.score(X) < independent(X) - 0.3


def test_a_model_of_chains_that_ends_worse_than_columns_of_their_own_is_told():
    X = rows(binary=True)
    model = RBMEnergy.start(torch.from_numpy(X).float(), 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weight *= 1e4
    loss = ContrastiveDivergence().start(
        model, torch.from_numpy(X).float(), torch.Generator(), BlockGibbs(model)
    )
    told = EnergyStep(loss).doubt(torch.from_numpy(X).float(), None)
    assert told is not None
    assert "worse than columns that do not depend on each other" in told
