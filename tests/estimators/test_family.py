"""Priors, posteriors and layers as arguments of the estimator; rows drawn afresh; the prior refitted."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

from abduce import VAE, load
from abduce.distributions.flows import FlowPrior
from abduce.fit.bounds import CIWAE, ELBO, MIWAE, PIWAE, Renyi
from abduce.fit.density import fit_density


def digits(n: int = 120) -> np.ndarray:
    """Binary digits, their middle rows: 24 columns."""
    return (load_digits().data[:n, 16:40] > 7).astype(float)


def small(**kw) -> VAE:
    fixed = {
        "latent_dim": 2,
        "hidden": [8],
        "components": 5,
        "kinds": "binary",
        "max_epochs": 2,
        "samples": 16,
    }
    return VAE(**fixed | {"random_state": 0} | kw)


def blanked(X: np.ndarray) -> np.ndarray:
    out = X.copy()
    out[np.random.default_rng(0).random(out.shape) < 0.2] = np.nan
    return out


FAMILY = [
    *[
        {"prior": prior, "posterior": posterior}
        for prior in ("normal", "mixture", "vamp", "flow")
        for posterior in ("diagonal", "full", "flow", "iaf")
        if not (prior == "vamp" and posterior in ("flow", "iaf"))
    ],
    *[
        {"latent_dim": (2, 3), "prior": prior, "posterior": posterior}
        for prior in ("normal", "mixture", "flow")
        for posterior in ("auto", "bottom_up", "top_down")
        if posterior != "auto" or prior == "normal"
    ],
]
GAUSSIAN = [
    {"prior": prior, "posterior": posterior}
    for prior in ("normal", "mixture", "vamp")
    for posterior in ("diagonal", "full")
]


def name(arguments: dict) -> str:
    return "-".join(str(v) for v in arguments.values())


@pytest.mark.filterwarnings("ignore:.*tail")
@pytest.mark.parametrize("arguments", FAMILY, ids=name)
def test_every_question_of_every_member(arguments, tmp_path):
    X = digits(60)
    slow = "flow" in arguments.values() or "iaf" in arguments.values()
    model = small(**arguments, max_epochs=1 if slow else 2).fit(X)
    dim = int(np.sum(arguments.get("latent_dim", 2)))
    some = X[:10]
    score = model.score_samples(some)
    assert score.shape == (10,)
    assert (score < 0).all()  # masses
    assert (score > -24 * math.log(2) * 2).all()
    assert model.score(some) == pytest.approx(score.mean())
    np.testing.assert_array_equal(model.score_samples(some[3:4]), score[3:4])
    draws = model.sample(20, random_state=0)
    assert draws.shape == (20, 24)
    assert set(np.unique(draws)) <= {0.0, 1.0}
    if not (
        dim == 5 and slow
    ):  # takes many steps through a flow: slow, and no other code than without layers
        holes = blanked(some)
        filled = model.fill(holes)
        np.testing.assert_array_equal(filled[~np.isnan(holes)], holes[~np.isnan(holes)])
        assert not np.isnan(filled).any()
    assert model.transform(some).shape == (10, dim)
    assert model.inverse_transform(model.transform(some)).shape == (10, 24)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.score_samples(some), score, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(again.sample(20, random_state=0), draws)
    assert again.get_params()["prior"] == arguments["prior"]
    assert np.array_equal(again.get_params()["latent_dim"], arguments.get("latent_dim", 2))


@pytest.mark.parametrize("arguments", GAUSSIAN, ids=name)
def test_gaussian_members_compress_without_loss(arguments):
    X = digits(60)
    model = small(**arguments, max_epochs=30, learning_rate=1e-2).fit(X)
    data = model.compress(X)
    np.testing.assert_array_equal(model.decompress(data), X)
    holes = blanked(X)
    np.testing.assert_array_equal(model.decompress(model.compress(holes)), holes)
    assert len(data) < 60 * 24 / 8  # below one bit a cell


def test_others_say_that_nothing_of_them_is_used():
    X = digits(30)
    model = small(prior="flow", max_epochs=1).fit(X)
    with pytest.warns(RuntimeWarning, match=r"its prior would have to be of Gaussians.*FlowPrior"):
        packed = model.compress(X)
    np.testing.assert_array_equal(model.decompress(packed), X)


def test_layers_given_in_any_sequence():
    X = digits(40)
    plain = small(latent_dim=2, max_epochs=1).fit(X).score_samples(X[:5])
    for same in ([2], (2,), np.int64(2)):
        np.testing.assert_array_equal(small(latent_dim=same, max_epochs=1).fit(X).score_samples(X[:5]), plain)
    deep = small(latent_dim=(2, 4), max_epochs=1).fit(X)
    np.testing.assert_array_equal(
        small(latent_dim=[np.int64(2), 4], max_epochs=1).fit(X).score_samples(X[:5]),
        deep.score_samples(X[:5]),
    )
    assert deep.model_.prior.dims == (2, 4)
    assert small(latent_dim=(1, 2, 3), max_epochs=1).fit(X).transform(X[:5]).shape == (5, 6)


def test_the_vamp_prior_starts_from_rows_of_the_data():
    X = digits(40)
    model = small(prior="vamp", learning_rate=1e-9, max_epochs=1, masking=False).fit(X)
    read = model.model_.features(*model._encode(X)[:2])
    pseudo = model.model_.prior.pseudo
    apart = (pseudo.unsqueeze(1) - read).abs().amax(-1).amin(1)
    assert pseudo.shape == (5, 24)
    assert (apart < 1e-4).all()


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(beta=2.0, total_correlation=1.0, mmd=1.0, dip=1.0),
        Renyi(-math.inf, 3),
        MIWAE(2, 2),
        PIWAE(2, 2),
        CIWAE(0.5, 2),
    ],
    ids=lambda o: type(o).__name__,
)
def test_every_objective_trains_and_is_kept(objective, tmp_path):
    X = digits(60)
    model = small(objective=objective, max_epochs=1).fit(X)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").objective == objective
    np.testing.assert_array_equal(
        small(objective=objective, max_epochs=1).fit(X).sample(5, 0), model.sample(5, 0)
    )


# ---------------------------------------------------------------- bad combinations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "vamp", "latent_dim": (2, 3)}, "prior='vamp' mixes the posteriors of one layer"),
        ({"prior": "vamp", "posterior": "flow"}, "prior='vamp' mixes .* posterior='flow'"),
        ({"prior": "vamp", "posterior": "iaf"}, "prior='vamp' mixes .* posterior='iaf'"),
        ({"posterior": "bottom_up"}, "posterior of 1 layer of latents must be one of .*, got 'bottom_up'"),
        ({"posterior": "top_down", "latent_dim": [3]}, "posterior of 1 layer of latents .* got 'top_down'"),
        ({"posterior": "full", "latent_dim": (2, 3)}, "posterior of 2 layers of latents .* got 'full'"),
        ({"linear_path": True, "prior": "normal"}, "linear_path=True brings its own prior .* got 'normal'"),
        ({"linear_path": True, "posterior": "full"}, "linear_path=True brings its own .* 'full'"),
        ({"linear_path": True, "latent_dim": (2, 3)}, "linear_path=True brings its own"),
        ({"latent_dim": ()}, "latent_dim must have at least one layer"),
        ({"latent_dim": (2, 0)}, "latent_dim must be a sequence of positive ints"),
        ({"latent_dim": (2, 1.5)}, "latent_dim must be a sequence of positive ints"),
        ({"latent_dim": (2, True)}, "latent_dim must be a sequence of positive ints"),
        ({"prior": "gaussian"}, "'prior' parameter of VAE"),
        ({"posterior": "gaussian"}, "'posterior' parameter of VAE"),
        ({"components": 0}, "'components' parameter of VAE"),
        ({"transforms": 0}, "'transforms' parameter of VAE"),
        ({"objective": "renyi"}, "'objective' parameter of VAE"),
    ],
)
def test_bad_combinations_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments).fit(digits(20))


# ---------------------------------------------------------------- rows drawn afresh


def grey(n: int = 60) -> np.ndarray:
    return load_digits().data[:n, 16:40] / 16


def binarised(epoch: int) -> np.ndarray:
    X = grey()
    return (np.random.default_rng(epoch).random(X.shape) < X).astype(float)


def test_rows_are_drawn_once_an_epoch():
    epochs: list[int] = []

    def redraw(epoch: int) -> np.ndarray:
        epochs.append(epoch)
        return binarised(epoch)

    start = binarised(99)
    model = small(max_epochs=4).fit(start, redraw=redraw)
    assert epochs == [0, 1, 2, 3]
    again = small(max_epochs=4).fit(start, redraw=binarised)
    np.testing.assert_array_equal(again.score_samples(start), model.score_samples(start))
    still = small(max_epochs=4).fit(start)
    assert np.abs(still.score_samples(start) - model.score_samples(start)).max() > 1e-4
    same = small(max_epochs=4).fit(start, redraw=lambda epoch: start)
    np.testing.assert_array_equal(same.score_samples(start), still.score_samples(start))


def test_a_model_of_redrawn_rows_does_not_learn_one_draw_by_heart():
    """Of 60 rows in one draw a large network keeps more than the law they are from."""
    fixed = {"hidden": [64], "latent_dim": 8, "max_epochs": 150, "learning_rate": 1e-2, "weight_decay": 0.0}
    fixed |= {"validation_fraction": 0.0, "masking": False}
    start, fresh = binarised(999), np.concatenate([binarised(epoch) for epoch in range(900, 903)])
    still = small(**fixed).fit(start).score_samples(fresh)
    gain = small(**fixed).fit(start, redraw=binarised).score_samples(fresh) - still
    assert gain.mean() > 0.1


@pytest.mark.parametrize("shape", [(59, 24), (61, 24)])
def test_redrawn_rows_must_be_those_of_x(shape):
    with pytest.raises(ValueError, match=r"redraw must return the rows of X, \(60, 24\), got"):
        small().fit(binarised(0), redraw=lambda epoch: np.resize(binarised(epoch), shape))


# ---------------------------------------------------------------- the prior refitted


def clusters(n: int, seed: int) -> np.ndarray:
    """Two kinds of rows, far apart: an aggregate posterior in two lumps."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n) < 0.5
    p = np.where(kind[:, None], 0.9, 0.1) * np.ones(16)
    return (rng.random((n, 16)) < p).astype(float)


@pytest.fixture(scope="module")
def lumps() -> tuple[VAE, np.ndarray, np.ndarray]:
    X, fresh = clusters(400, 0), clusters(400, 1)
    fixed = {"latent_dim": 1, "hidden": [16], "masking": False, "samples": 64, "objective": ELBO(beta=0.2)}
    return small(**fixed, max_epochs=60, learning_rate=5e-3).fit(X), X, fresh


@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_a_refitted_prior_scores_new_rows_higher(lumps, prior, tmp_path):
    model, X, fresh = lumps
    z = model.transform(X)[:, 0]
    kurtosis = np.mean((z - z.mean()) ** 4) / z.var() ** 2
    assert kurtosis < 2  # two lumps, where a normal law has 3
    model.fit_prior(X, "normal")
    before, offset = model.score_samples(fresh), model.offset_
    assert model.fit_prior(X, prior, components=4, max_epochs=15) is model
    after = model.score_samples(fresh)
    gain = after - before
    assert gain.mean() > 0.1
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(gain))
    assert model.offset_ == pytest.approx(np.quantile(model.score_samples(X), 0.1, method="higher"))
    assert model.offset_ != offset
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.score_samples(fresh), after, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(again.sample(9, 0), model.sample(9, 0))
    # the same seed gives the same prior, "normal" the one of before
    model.fit_prior(X, prior, components=4, max_epochs=15)
    np.testing.assert_array_equal(model.score_samples(fresh), after)
    model.fit_prior(X, "normal")
    np.testing.assert_array_equal(model.score_samples(fresh), before)


def test_the_refitted_mixture_follows_the_latents(lumps):
    model, X, _ = lumps
    model.fit_prior(X, "mixture", components=2, draws=2)
    inside, codes = model.model_, torch.from_numpy(model.transform(X))
    prior, z = inside.prior, inside.code_axes.latents(codes)[:, 0].numpy()
    cut = (z.max() + z.min()) / 2
    found = np.sort(prior.means.numpy()[:, 0])
    np.testing.assert_allclose(found, [z[z < cut].mean(), z[z > cut].mean()], atol=0.2)
    np.testing.assert_allclose(prior.weights.sum(), 1, atol=1e-6)
    draws = model.sample(2000, 0).mean(1)  # of 16 cells: near 0.1 or 0.9 and seldom between
    assert np.mean(np.abs(draws - 0.5) < 0.15) < 0.1
    model.fit_prior(X, "normal")


@pytest.mark.filterwarnings("ignore:.*tail")
def test_a_refitted_prior_beside_a_linear_path_and_in_place_of_others(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4)) @ rng.normal(size=(4, 4))
    models = [VAE(latent_dim=2, hidden=[8], max_epochs=2, samples=16, random_state=0).fit(X)]
    B = digits(60)
    models += [small(prior=p, posterior=q).fit(B) for p, q in (("vamp", "diagonal"), ("flow", "full"))]
    for i, (model, rows) in enumerate(zip(models, (X, B, B), strict=True)):
        for prior in ("mixture", "flow"):
            model.fit_prior(rows, prior, components=3, max_epochs=2)
            model.save(tmp_path / f"{i}-{prior}")
            again = load(tmp_path / f"{i}-{prior}")
            np.testing.assert_allclose(
                again.score_samples(rows[:9]), model.score_samples(rows[:9]), atol=1e-4
            )
            again.fit_prior(rows, "normal")


def test_a_flow_that_ran_away_goes_back():
    torch.manual_seed(0)
    law, z = FlowPrior(2), torch.randn(400, 2) + 3

    class Spiked(FlowPrior):
        calls = 0

        def log_prob(self, z):
            Spiked.calls += self.training
            return super().log_prob(z) * (math.nan if Spiked.calls == 3 and self.training else 1.0)

    spiked = Spiked(2)
    before = float(law.log_prob(z).detach().mean())
    fit_density(law, z, 20, 0)
    with pytest.warns(UserWarning, match="training fell in epoch 3"):
        fit_density(spiked, z, 20, 0)
    assert float(law.log_prob(z).detach().mean()) > before + 3
    assert float(spiked.log_prob(z).detach().mean()) > before + 0.1
    assert all(bool(torch.isfinite(p).all()) for p in spiked.parameters())


def test_compression_after_a_refit():
    X = digits(60)
    model = small().fit(X).fit_prior(X, "mixture", components=3)
    np.testing.assert_array_equal(model.decompress(model.compress(X)), X)


def test_bad_refits():
    X = digits(30)
    with pytest.raises(NotFittedError):
        small().fit_prior(X)
    model = small(max_epochs=1).fit(X)
    for wrong in ("vamp", "gaussian", None):
        with pytest.raises(ValueError, match=f"prior must be one of .*, got {wrong!r}"):
            model.fit_prior(X, wrong)
    for argument in ("components", "draws", "max_epochs"):
        for value in (0, -1, 2.5, True):
            with pytest.raises(ValueError, match=f"{argument} must be an int >= 1, got {value!r}"):
                model.fit_prior(X, **{argument: value})
    deep = small(latent_dim=(2, 3), max_epochs=1).fit(X)
    with pytest.raises(ValueError, match=r"fit_prior needs one layer of latents, this model has \[2, 3\]"):
        deep.fit_prior(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # more components than distinct draws are cut down without a word
        model.fit_prior(X[:2], "mixture", components=50, draws=2)
    assert len(model.model_.prior.weights) <= 4
