"""The training loop: same seed, same numbers; interruption, resumption, early stopping, trimming."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from models_for_tests import factor_rows, generator, linear_model, plain_model

from abduce.fit.bounds import ELBO, IWAE, Bound
from abduce.fit.checkpoint import ModelFolderError
from abduce.fit.loop import train as train_step
from abduce.fit.settings import Settings
from abduce.fit.steps import LatentStep
from abduce.inference.importance import log_prob

BASE = {"epochs": 6, "batch_size": 32, "learning_rate": 5e-3, "event_shape": (5,), "seed": 3}


def train(model, objective, x, observed, settings, *rest):
    return train_step(LatentStep(model, objective, settings, len(x)), x, observed, settings, *rest)


def binary_data(n: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    x = (torch.from_numpy(factor_rows(n)) > 0).float()
    return x, torch.ones_like(x) > 0


def start(seed: int = 0):
    return plain_model(d=5, seed=seed)[0].float()


def same(a, b) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def figures(run) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in run.history]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("objective", [ELBO(warmup=0.2), IWAE(3)], ids=["elbo", "iwae"])
def test_the_same_seed_gives_the_same_numbers(holes, objective):
    x, seen = binary_data()
    if holes:
        seen = torch.rand(x.shape, generator=generator()) < 0.8
    settings = Settings(**BASE)
    models = [start(), start(), start()]
    runs = [
        train(m, objective, x * seen, seen, s)
        for m, s in zip(models, [settings] * 2 + [Settings(**{**BASE, "seed": 4})], strict=True)
    ]
    assert figures(runs[0]) == figures(runs[1])
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    assert not same(models[0], start())
    assert runs[0].history[-1]["train"] > runs[0].history[0]["train"]


class StopAfter:
    """A callback that interrupts after some epochs, as Ctrl-C would."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def __call__(self, record):
        if record["epoch"] == self.epochs:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    x, seen = binary_data()
    settings, objective = Settings(**BASE), IWAE(3)
    straight, broken = start(), start()
    whole = train(straight, objective, x, seen, settings)
    # epoch 4 is done but not yet kept when the interrupt comes: it is done again
    first = train(broken, objective, x, seen, settings, StopAfter(4), tmp_path / "state")
    assert first.interrupted
    assert len(first.history) == 4
    other = start(seed=9)  # whatever the model holds, the state replaces
    second = train(other, objective, x, seen, settings, None, tmp_path / "state")
    assert not second.interrupted
    assert figures(second) == figures(whole)
    assert same(other, straight)
    assert second.best.epoch == whole.best.epoch
    # once more: nothing is left to do
    third = train(start(), objective, x, seen, settings, None, tmp_path / "state")
    assert figures(third) == figures(whole)


def test_units_left_out_are_the_same_after_an_interrupt(tmp_path):
    x, seen = binary_data()
    models = [plain_model(d=5)[0].float() for _ in range(3)]
    for model in models:
        model.decoder.net.append(torch.nn.Dropout(0.3))
    whole = train(models[0], ELBO(), x, seen, Settings(**BASE))
    train(models[1], ELBO(), x, seen, Settings(**BASE), StopAfter(3), tmp_path / "state")
    torch.rand(7)  # whatever else draws numbers
    again = train(models[2], ELBO(), x, seen, Settings(**BASE), None, tmp_path / "state")
    assert figures(again) == figures(whole)
    assert same(models[2], models[0])


def test_rows_held_out_teach_at_the_end():
    x, seen = binary_data()
    settings = Settings(**{**BASE, "finish": 0.3})
    models = [start(), start(), start()]
    plain = train(models[0], ELBO(), x, seen, Settings(**BASE))
    run = train(models[1], ELBO(), x, seen, settings)
    assert figures(run)[:6] == figures(plain)
    assert [record["epoch"] for record in run.history] == list(range(1, 9))
    assert ["valid" in record for record in run.history] == [True] * 6 + [False] * 2
    held = settings.split(len(x))[1]
    for model in models[:2]:
        model.eval()
    before, after = (LatentStep(m, ELBO(), settings, len(x)).value(x[held], None, 0) for m in models[:2])
    assert after > before
    # what is held out matters now: other values there, another model
    y = x.clone()
    y[held] = 1 - y[held]
    train(models[2], ELBO(), y, seen, settings)
    assert not same(models[2], models[1])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    x, seen = binary_data()
    train(start(), ELBO(), x, seen, Settings(**{**BASE, "epochs": 1}), None, tmp_path / "state")
    with pytest.raises(ModelFolderError, match="belongs to another run"):
        train(start(), ELBO(), x, seen, Settings(**{**BASE, "epochs": 2}), None, tmp_path / "state")
    with pytest.raises(ModelFolderError, match="belongs to another run"):
        train(start(), ELBO(), 1 - x, seen, Settings(**{**BASE, "epochs": 1}), None, tmp_path / "state")


def test_an_interrupt_leaves_a_usable_model():
    x, seen = binary_data()
    model = start()
    run = train(model, ELBO(), x, seen, Settings(**BASE), StopAfter(2))
    assert run.interrupted
    assert len(run.history) == 2
    assert not model.training
    value = log_prob(model.double(), x.double(), seen, samples=16)[0]
    assert torch.isfinite(value).all()


class Scripted:
    """An objective whose held-out value follows a script; a parameter counts the steps."""

    def __init__(self, values: list[float]):
        self.values, self.checks = values, -1

    def __call__(self, model, x, observed, progress, generator=None, rows=None) -> Bound:
        still = torch.zeros(len(x))
        if model.training:
            loss = sum(p.sum() for p in model.parameters()) * torch.ones(len(x))
            return Bound(loss, still, torch.zeros(len(x), 2), still, still)
        self.checks += 1
        value = self.values[min(self.checks, len(self.values) - 1)]
        return Bound(still, torch.full((len(x),), value), torch.zeros(len(x), 2), still, still)


def test_early_stopping_keeps_the_best_weights():
    x, seen = binary_data()
    # checks: before training, then after each epoch; the best is that of epoch 2
    script = Scripted([-9.0, -3.0, -1.0, -2.0, -2.0, -2.0, -2.0])
    kept: list = []
    model = start()
    settings = Settings(**{**BASE, "epochs": 50, "patience": 3, "masking": False})
    run = train(model, script, x, seen, settings, lambda _: kept.append(copy.deepcopy(model.state_dict())))
    assert run.best.epoch == 2
    assert len(run.history) == 5
    assert [r["valid"] for r in run.history] == [-3.0, -1.0, -2.0, -2.0, -2.0]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[1][name])


def test_a_start_that_training_only_spoils_is_kept():
    x, seen = binary_data()
    model = start()
    run = train(model, Scripted([0.0, -1.0]), x, seen, Settings(**{**BASE, "masking": False}))
    assert run.best.epoch == 0
    assert same(model, start())


def test_trimming_resists_contamination():
    rng = np.random.default_rng(0)
    clean, fresh = factor_rows(400)[:300], factor_rows(400)[300:]
    odd = 6 + 3 * rng.normal(size=(40, 5))
    x = torch.from_numpy(np.concatenate([clean, odd])).float()
    every = torch.ones_like(x) > 0
    reached = {}
    for trim in (0.0, 0.2):
        model = linear_model()[0].float()  # fitted to all the 400 clean rows; training has to keep it there
        settings = Settings(
            epochs=40, batch_size=85, learning_rate=2e-2, validation=0.0, masking=False, trim=trim, seed=1
        )
        train(model, ELBO(), x, every, settings)
        value = log_prob(model.double(), torch.from_numpy(fresh), torch.ones(fresh.shape) > 0).value
        reached[trim] = float(value.mean())
    assert reached[0.2] > reached[0.0] + 0.3


def test_divergence_is_an_error():
    x, seen = binary_data()

    def broken(model, x, observed, progress, generator=None, rows=None):
        bound = ELBO()(model, x, observed, progress, generator)
        return bound._replace(loss=bound.loss * math.nan, value=bound.value * math.nan)

    with pytest.raises(FloatingPointError, match=r"training diverged in epoch 1 .* smaller learning_rate"):
        train(start(), broken, x, seen, Settings(**{**BASE, "validation": 0.0}))


def test_epochs_follow_the_size_of_the_data():
    settings = Settings(batch_size=100, steps=1000)
    assert settings.n_epochs(1000) == 100
    assert settings.n_epochs(50) == 600
    assert settings.n_epochs(1_000_000) == 10
    assert Settings(epochs=3).n_epochs(10) == 3


def test_held_out_rows_are_a_seeded_part():
    rows, held = Settings(seed=1).split(200)
    assert len(held) == 20
    assert sorted(torch.cat([rows, held]).tolist()) == list(range(200))
    again = Settings(seed=1).split(200)
    assert torch.equal(rows, again[0])
    assert not torch.equal(held, Settings(seed=2).split(200)[1])
    assert len(Settings().split(19)[1]) == 0


def test_a_single_row_trains():
    x, seen = (t[:1] for t in binary_data())
    run = train(start(), ELBO(), x, seen, Settings(**{**BASE, "epochs": 2}))
    assert len(run.history) == 2
