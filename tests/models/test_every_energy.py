"""What every energy-based method owes, on handwritten digits: each task that it claims, by one test a task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import abduce
from abduce.data.examples import load_digits_images
from abduce.data.seen import Unanswerable
from abduce.estimators.methods import ENERGIES

QUICK = {"max_epochs": 40}
CASES = {
    "PCA": {"components": 10},
    "PCA reconstruction": {"components": 10, "form": "reconstruction"},
    "ICA": {},
    "KMeans": {"components": 10},
    "GaussianMixture": {"components": 5, "reg_covar": 0.01},
    "MixtureEnsemble": {},
    "MixtureOfFactorAnalyzers": {"components": 5, "factors": 6},
    "RBM": {"hidden": 30} | QUICK,
    "RBM binary": {"hidden": 30, "max_epochs": 200},
    "Ising binary": QUICK,
    "LatentClasses binary": {},
    "EnergyNetwork": {"hidden": (64,)} | QUICK,
    "EnergyNetwork binary": {"hidden": (64,), "max_epochs": 100},
    "Autoencoder": {"code": 8, "hidden": (32,)} | QUICK,
    "DenoisingAutoencoder": {"code": 64, "hidden": (), "corruption": 0.5} | QUICK,
    "DenoisingAutoencoder potential": {"form": "potential", "corruption": 0.7} | QUICK,
    "DenoisingAutoencoder binary": {"corruption": 0.1} | QUICK,
    "SparseCoding": {"code": 32, "iterations": 30},
    "SparseAutoencoder": QUICK,
    "SparseAutoencoder binary": QUICK,
    "PSD": {"code": 32} | QUICK,
    "ContractiveAutoencoder": QUICK,
    "SaturatingAutoencoder": QUICK,
}
# trained this briefly these score and clean, but do not fill or sharpen better than means do
ROUGH = {
    "SparseCoding",
    "PSD",
    "ContractiveAutoencoder",
    "EnergyNetwork",
    "EnergyNetwork binary",
    "RBM binary",
}
CELLS_ONLY = {"LatentClasses binary"}  # see cells, blank or flipped, no sums of them
COMPRESS = {"PCA", "KMeans", "GaussianMixture", "MixtureOfFactorAnalyzers"}  # families of Gaussians


def digits() -> np.ndarray:
    """The middle of handwritten digits, 8 x 4 pixels, whole numbers blurred by a rounding error."""
    middle = load_digits_images()[0][:600, :, 2:6]
    return (middle + np.random.default_rng(0).random(middle.shape) - 0.5)[:530]  # 30 to judge by


class Case:
    """A fitted method, the rows it saw and rows it did not."""

    def __init__(self, name: str):
        self.name = name
        X = digits()
        self.binary = name.endswith("binary")
        if self.binary:
            X = np.greater(X, np.median(X)).astype(float)
        self.X, self.new = X[:500], X[500:]
        self.arguments = CASES[name]
        self.model = self.fresh().fit(self.X)
        self.model.normalize()

    def fresh(self, **kw):
        return ENERGIES[self.name.split()[0]](random_state=0, **{**self.arguments, **kw})


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    return Case(request.param)


def holes(X: np.ndarray, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    blank = np.random.default_rng(1).random(X.shape) < share
    return np.where(blank, np.nan, X), blank


def test_a_score_is_the_energy_beta_the_base_and_log_z(case):
    value = case.model.score_samples(case.new)
    energy = case.model.energy(case.new)
    x = torch.from_numpy(case.model.schema_.encode(case.new)[0])
    base = 0.0 if case.model.base_ is None else case.model.base_.log_prob(x).numpy()
    units = 0.0 if case.binary else -x.shape[1] * np.log(case.model.schema_.fields[0].scale)
    expected = -case.model.beta_ * energy + base - case.model.log_z_.value + units
    np.testing.assert_allclose(value, expected, rtol=0, atol=0.02)
    found = case.model.log_z_
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 3.0
    assert {"method", "beta", "base"} <= set(found.diagnostics)


def test_samples_and_scores_are_one_distribution(case):
    """The mean energy of the model's samples is that of its density: what weights say on the way, and what draws say."""
    one, two = (case.model.energy(case.model.sample(200, random_state=s)) for s in (0, 1))
    error = np.hypot(one.std(), two.std()) / np.sqrt(200)
    assert abs(one.mean() - two.mean()) < 5 * error
    own = case.model.energy(case.X)
    assert (
        case.name in ROUGH or abs(own.mean() - one.mean()) < 2.5 * one.std()
    )  # samples are like data, to the energy
    realism = case.model.realism(case.model.sample(100, random_state=3), references=300)
    assert 0.4 < realism.mean() < 0.6


def test_sampling_is_diagnosed(case):
    about = case.model.sampling_diagnostics(64, random_state=0)
    assert about["method"] in ("exact", "annealed")
    if about["method"] == "annealed":
        assert about["acceptance"] > 0.3
        assert 1 <= about["ancestors"] <= 64
        assert about["r_hat"] > 0.9  # far above one where wells are deep: the chains stay in them


def test_fills(case):
    gaps, blank = holes(case.new)
    filled = case.model.fill(gaps)
    np.testing.assert_array_equal(filled[~blank], case.new[~blank])
    mean = np.broadcast_to(case.X.mean(0), gaps.shape)
    mean = mean.round() if case.binary else mean
    share = 1.3 if case.name in ROUGH else 0.95
    assert ((filled - case.new)[blank] ** 2).mean() < share * ((mean - case.new)[blank] ** 2).mean()
    copies = case.model.fill(gaps, draws=8, random_state=0)
    assert len(copies) == 8
    assert np.stack(copies)[:, blank].std(0).mean() > 0.05 * case.X.std()  # draws, not copies of the best
    low, high = case.model.fill_interval(gaps, level=0.9)
    inside = (low <= case.new)[blank] & (case.new <= high)[blank]
    assert inside.mean() > 0.6
    np.testing.assert_allclose(filled[:3], case.model.fill(gaps[:3]), rtol=1e-5)  # whatever rows come along


def test_scores_of_rows_with_blanks(case):
    """log p(x_obs) ≥ log p(x_obs, x_mis) where cells have probabilities, and a row with nothing seen has probability one."""
    gaps, _ = holes(case.new[:20])
    part = case.model.score_samples(gaps)
    assert np.isfinite(part).all()
    if case.binary:
        assert (part > case.model.score_samples(case.new[:20]) - 0.3).all()
    nothing = np.full_like(gaps[:2], np.nan)
    tolerance = 3 * (case.model.log_z_.high - case.model.log_z_.low) + 0.5
    np.testing.assert_allclose(case.model.score_samples(nothing), 0.0, atol=tolerance)


def test_cleans_noise(case):
    rng = np.random.default_rng(2)
    if case.binary:
        noisy = np.where(rng.random(case.new.shape) < 0.2, 1 - case.new, case.new)
        clean = case.model.denoise(noisy, 0.2)
    else:
        noise = 1.0 * case.X.std()
        noisy = case.new + noise * rng.normal(size=case.new.shape)
        clean = case.model.denoise(noisy, noise)
    assert ((clean - case.new) ** 2).mean() <= ((noisy - case.new) ** 2).mean()


def test_raises_resolution(case):
    coarse = case.new.reshape(-1, 4, 2, 2, 2).mean((2, 4))
    if case.name in CELLS_ONLY:
        with pytest.raises(Unanswerable):
            case.model.upscale(coarse, 2)
        return
    fine = case.model.upscale(coarse, 2)
    assert fine.shape == case.new.shape
    repeated = coarse.repeat(2, 1).repeat(2, 2)
    bound = 1.6 if case.name in ROUGH else 1.15 if case.binary else 1.0
    target = repeated.round() if case.binary else repeated
    assert ((fine - case.new) ** 2).mean() < bound * ((target - case.new) ** 2).mean()


def test_flags_what_is_odd(case):
    rng = np.random.default_rng(3)
    odd = rng.permuted(case.new.reshape(-1, 32), axis=1).reshape(case.new.shape)  # pixels out of place
    score = np.r_[case.model.anomaly_score(case.new), case.model.anomaly_score(odd)]
    label = np.r_[np.zeros(len(case.new)), np.ones(len(odd))]
    assert roc_auc_score(label, score) > 0.75
    flagged = case.model.predict(case.X) == -1
    assert flagged.mean() == pytest.approx(0.1, abs=0.02)
    np.testing.assert_array_equal(
        case.model.predict(case.new) == -1, case.model.decision_function(case.new) < 0
    )


def test_represents(case):
    codes = case.model.transform(case.new)
    assert codes.shape == (len(case.new), len(case.model.get_feature_names_out()))
    assert codes.std(0).max() > 1e-3
    gaps, _ = holes(case.new)
    assert np.isfinite(case.model.transform(gaps)).all()


def test_keeping_and_loading(case, tmp_path):
    case.model.save(tmp_path / "m")
    loaded = abduce.load(tmp_path / "m")
    assert type(loaded) is type(case.model)
    assert loaded.log_z_ == case.model.log_z_
    np.testing.assert_allclose(loaded.score_samples(case.new), case.model.score_samples(case.new), rtol=1e-12)
    np.testing.assert_array_equal(loaded.predict(case.new), case.model.predict(case.new))
    np.testing.assert_allclose(loaded.transform(case.new), case.model.transform(case.new), atol=1e-9)
    drawn = case.model.sample(
        5, random_state=1
    )  # where the weights lie in memory moves the last bits of long chains
    np.testing.assert_allclose(loaded.sample(5, random_state=1), drawn, rtol=1e-3, atol=1e-3)
    assert loaded.get_params()["random_state"] == 0


def test_a_seed_is_a_model(case):
    kw = {"max_epochs": 2} if "max_epochs" in case.arguments else {}
    a, b = (case.fresh(**kw).fit(case.X[:200]).energy(case.new) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_compresses_or_says_that_nothing_of_it_is_used(case):
    whole = case.X if case.binary else case.X.round()
    model = case.fresh(**({"max_epochs": 1} if "max_epochs" in case.arguments else {})).fit(whole)
    if case.name.split()[0] in COMPRESS:
        packed = model.compress(whole[:50])
        assert len(packed) < whole[:50].astype(np.uint8).nbytes
    else:
        with pytest.warns(RuntimeWarning, match="compress uses nothing of"):
            packed = model.compress(whole[:50])
    np.testing.assert_array_equal(model.decompress(packed), whole[:50])
