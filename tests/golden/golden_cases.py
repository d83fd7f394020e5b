"""What the golden file is of: every preset, with arguments that fit in a moment, and small real data to fit it to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, load_iris, load_wine

import abduce

NEW = 6  # rows that questions are asked about; the model has not seen them


@dataclass(frozen=True)
class Data:
    """Rows to fit to, rows to ask about, and what may have been seen of these."""

    train: Any
    rows: Any  # whole
    gaps: Any  # with blanks; of the first row everything
    noisy: Any
    noise: float  # its standard deviation, or the rate of flips
    seen: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # what was seen, and through what
    small: Any = None  # images at half the resolution


# of energies without a law these run the chains once more: the digest does without
CHAINS = (
    "fill_interval",
    "fill, observed",
    "anomaly_score, blanks",
    "spread",
    "realism",
    "transform, blanks",
    "sampling_diagnostics",
    "restore, noise",
    "restore, noise, draws",
    "restore, flips",
    "restore, linear map",
    "restore, quantise",
    "restore, blur",
    "restore, downsample",
)


# ------------------------------------------------------------------ data


def _holes(shape: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def _data(whole: Any, n: int, holes: float, noise: float, flips: bool = False) -> Data:
    """Shuffle rows, blank some cells of the ``n`` to fit to and of those to ask about, and make noisy ones."""
    order = np.random.default_rng(0).permutation(len(whole))[: n + NEW]
    whole = whole.iloc[order].reset_index(drop=True) if isinstance(whole, pd.DataFrame) else whole[order]
    train, rows = whole[:n], whole[n:]
    if isinstance(rows, pd.DataFrame):
        rows = rows.reset_index(drop=True)
    if holes:
        train = _without(train, _holes(train.shape, holes, 3))
    blank = _holes(rows.shape, 0.3, 1)
    blank[0] = True
    gaps = _without(rows, blank)
    rng = np.random.default_rng(2)
    noisy = rows
    if flips:
        noisy = np.where(rng.random(rows.shape) < noise, 1 - rows, rows)
    elif _numeric(rows):
        noisy = rows + noise * rng.normal(size=rows.shape)
    seen = _observations(rows, gaps, noisy, noise, flips)
    small = _halved(rows) if rows.ndim == 3 else None
    return Data(train, rows, gaps, noisy, noise, seen=seen, small=small)


def _numeric(X: Any) -> bool:
    return X.select_dtypes("number").shape == X.shape if isinstance(X, pd.DataFrame) else True


def _without(X: Any, blank: np.ndarray) -> Any:
    return X.mask(blank) if isinstance(X, pd.DataFrame) else np.where(blank, np.nan, X)


def _halved(images: np.ndarray) -> np.ndarray:
    n, h, w = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))


def _observations(rows: Any, gaps: Any, noisy: Any, noise: float, flips: bool) -> dict[str, tuple[Any, Any]]:
    """What was seen of rows, and through what; what a model refuses is recorded as refused."""
    if not _numeric(rows):
        return {"noise": (noisy, abduce.Noise(noise)), "blanks": (gaps, abduce.Blanks())}
    flat = np.asarray(rows, np.float64).reshape(len(rows), -1)
    matrix = np.random.default_rng(4).normal(size=(3, flat.shape[1])) / flat.shape[1] ** 0.5
    level = 0.3 if flips else noise
    seen: dict[str, tuple[Any, Any]] = {
        "noise": (noisy, abduce.Noise(level)),
        "linear map": (flat @ matrix.T, abduce.LinearMap(matrix, 0.5 * level)),
        "quantise": (np.round(rows / (2 * level)) * (2 * level), abduce.Quantise(2 * level)),
    }
    if flips:
        seen["flips"] = (noisy, abduce.Flips(noise))
    if rows.ndim == 3:
        left = 0.5 * rows + 0.5 * np.concatenate([rows[:, :, :1], rows[:, :, :-1]], 2)
        kernel = np.array([[0.0, 0.5, 0.5]])
        seen["blur"] = (left, abduce.Blur(kernel, noise=0.5 * level))
        seen["downsample"] = (_halved(rows), abduce.Downsample(2, noise=0.5 * level))
    return seen


def penguins() -> pd.DataFrame:
    """Numbers, classes, a date, and blanks that were always there."""
    spec = find_spec("palmerpenguins")
    assert spec is not None
    folder = Path((spec.submodule_search_locations or [""])[0]) / "data"
    table = pd.read_csv(folder / "penguins.csv")
    table["laid"] = pd.to_datetime(pd.read_csv(folder / "penguins-raw.csv")["Date Egg"])
    return table


def _digits() -> np.ndarray:
    return load_digits().images


def _wine() -> np.ndarray:
    """Eleven columns whose spreads are within a factor of thirty."""
    return np.delete(load_wine().data, [4, 12], axis=1)


def _bits() -> np.ndarray:
    """6 x 4 pixels that are off or on: more than can be enumerated."""
    middle = _digits()[:, 1:7, 2:6]
    return np.greater(middle, np.median(middle)).astype(float)


def _few_bits() -> np.ndarray:
    """4 x 4 pixels that are off or on: all 2^16 states can be summed."""
    return _bits()[:, 1:5]


def _classes() -> pd.DataFrame:
    table = penguins()
    heavy = (table["body_mass_g"] > 4000).where(table["body_mass_g"].notna())
    return table[["species", "island", "sex"]].assign(heavy=heavy.astype("boolean"))


DATA: dict[str, Callable[[], Data]] = {
    "mixed": lambda: _data(penguins(), 140, 0.1, 1.0),
    "classes": lambda: _data(_classes(), 140, 0.1, 1.0),
    "wine": lambda: _data(_wine(), 140, 0.1, 0.3),
    "iris": lambda: _data(load_iris(as_frame=True).data, 120, 0.1, 0.3),
    "flowers": lambda: _data(load_iris().data, 120, 0.0, 0.2),
    "counts": lambda: _data(np.round(10 * load_iris().data), 120, 0.1, 2.0),
    "digits": lambda: _data(_digits(), 200, 0.0, 4.0),
    "grey": lambda: _data(np.round(_halved(_digits())).astype(np.uint8), 200, 0.0, 2.0),
    "tiny": lambda: _data(_halved(_digits()), 200, 0.0, 2.0),
    "binary": lambda: _data(np.greater(_digits(), 7).astype(float), 200, 0.0, 0.1, flips=True),
    "bits": lambda: _data(_bits(), 200, 0.0, 0.1, flips=True),
    "few bits": lambda: _data(_few_bits(), 200, 0.0, 0.1, flips=True),
}


@cache
def data(name: str) -> Data:
    """Data by name, made once."""
    return DATA[name]()


# ------------------------------------------------------------------ presets


@dataclass(frozen=True)
class Case:
    """A preset, its data and arguments, and what is asked of it besides what is asked of all."""

    preset: str  # a name of abduce.__all__
    data: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()  # what takes seconds here and is asked of another case
    brief: bool = False  # only the questions that tell whether the fit has moved
    loose: tuple[str, ...] = ()  # questions whose answers jump: draws of values that repeat
    tolerance: float = 5e-3  # on another machine, in spreads: what rounding makes of a short training

    @property
    def chains(self) -> bool:
        """Whether answers about blanks and noise come from Markov chains."""
        return self.preset not in (*GAUSSIANS, "VAE", "Auto", "KMeans")

    def model(self) -> Any:
        """The preset, not fitted."""
        return getattr(abduce, self.preset)(random_state=0, **self.arguments)


GAUSSIANS = ("PCA", "GaussianMixture", "MixtureOfFactorAnalyzers", "MixtureEnsemble")
SPREAD = ("spread",)  # 400 draws a row
SAME = (*SPREAD, "restore, quantise", "fill, observed")  # the chains of noise and of blanks once more
BITS = (*SAME, "fill_interval", "restore, linear map", "restore, blur", "restore, downsample", "realism")


def _vae(
    data: str,
    *more: str,
    brief: bool = False,
    skip: tuple[str, ...] = (),
    tolerance: float = 5e-3,
    **arguments: Any,
) -> Case:
    small = {"max_epochs": 2, "samples": 20, "hidden": (16,), "device": "cpu"}
    return Case("VAE", data, small | arguments, more, skip, brief, tolerance=tolerance)


def _trained(
    preset: str, data: str, *more: str, brief: bool = False, skip: tuple[str, ...] = (), **arguments: Any
) -> Case:
    return Case(preset, data, {"max_epochs": 3} | arguments, more, skip, brief)


def _closed(preset: str, data: str, *more: str, tolerance: float = 1e-6, **arguments: Any) -> Case:
    return Case(preset, data, arguments, more, tolerance=tolerance)


CASES: dict[str, Case] = {
    # models with latents, on every kind of data
    "VAE mixed": _vae("mixed", "log_prob"),
    # beside a linear path slopes vanish from the first step on here, and Adam would go where their rounding points
    "VAE wine": _vae("wine", "log_prob", "certify", "diagnose", "bootstrap", linear_path=False),
    "VAE counts": _vae("counts", kinds="count"),
    "VAE digits": _vae("digits", "log_prob", "annealed", "certify", "diagnose", "fit_prior", latent_dim=8),
    "VAE grey": _vae(
        "grey", likelihood="discretized_logistic_mixture", latent_dim=4, skip=(*SPREAD, "estimate_noise")
    ),
    "VAE binary": _vae("binary", "log_prob", latent_dim=8),
    # ... and of every make
    "VAE IWAE": _vae("flowers", objective=abduce.IWAE(5), linear_path=False),
    "VAE vamp": _vae("binary", prior="vamp", components=10, latent_dim=6),
    "VAE flow": _vae("flowers", posterior="flow", latent_dim=2, skip=("estimate_noise",)),
    "VAE layers": _vae("binary", latent_dim=(3, 6), posterior="top_down", skip=("restore, quantise",)),
    "VAE mnar": _vae("iris", missing="mnar", latent_dim=2, tolerance=0.03),
    "VAE conv": _vae(
        "digits",
        network="conv",
        hidden=(8, 8),
        max_epochs=1,
        latent_dim=8,
        skip=(*SPREAD, "fill_interval", "estimate_noise"),
    ),
    "VAE elbo": _vae("binary", brief=True, objective=abduce.ELBO(beta=0.5, free_bits=0.1), latent_dim=4),
    "VAE renyi": _vae("binary", brief=True, objective=abduce.Renyi(0.5), latent_dim=4),
    "VAE miwae": _vae("binary", brief=True, objective=abduce.MIWAE(2, 3), latent_dim=4),
    "VAE piwae": _vae("binary", brief=True, objective=abduce.PIWAE(2, 3), latent_dim=4),
    "VAE ciwae": _vae("binary", brief=True, objective=abduce.CIWAE(), latent_dim=4),
    "VAE mixture": _vae("tiny", brief=True, prior="mixture", components=5, posterior="full", latent_dim=3),
    "VAE student": _vae("wine", brief=True, likelihood="student_t", scale="shared"),
    "VAE laplace": _vae("wine", brief=True, likelihood="laplace", scale="cell"),
    "VAE logistic": _vae("grey", brief=True, likelihood="discretized_logistic", latent_dim=3),
    "VAE beta": _vae("grey", brief=True, likelihood="beta_binomial", latent_dim=3),
    # pools
    "Auto mixed": Case("Auto", "mixed", {"components": (1, 3)}, ("members",), loose=("fill, draws",)),
    "Auto iris": _closed("Auto", "iris", "members", tolerance=1e-3, components=(1, 3)),
    "Auto classes": _closed("Auto", "classes", "members", tolerance=1e-3, components=(1, 3)),
    "LatentClasses": _closed("LatentClasses", "classes", tolerance=1e-3, components=3),
    # families of Gaussians
    "MixtureOfFactorAnalyzers": _closed(
        "MixtureOfFactorAnalyzers", "wine", "bootstrap", tolerance=1e-5, components=2, factors=3
    ),
    "MixtureEnsemble": _closed("MixtureEnsemble", "tiny", tolerance=1e-4),
    "PCA": _closed("PCA", "iris", components=2),
    "PCA images": _closed("PCA", "tiny", components=6),
    "PCA reconstruction": _closed("PCA", "tiny", components=6, form="reconstruction"),
    "ICA": _closed("ICA", "flowers", tolerance=1e-3),
    "KMeans": _closed("KMeans", "flowers", components=3),
    "GaussianMixture": _closed("GaussianMixture", "iris", "adapters", components=2, reg_covar=0.01),
    # energies trained by gradients
    "RBM real": _trained("RBM", "flowers", "normalize", hidden=6),
    "RBM binary": _trained("RBM", "bits", "normalize", hidden=24, skip=SAME),
    "Ising": _trained("Ising", "few bits", "normalize", skip=(*BITS, "upscale")),
    "EnergyNetwork": _trained("EnergyNetwork", "flowers", "normalize", hidden=(16,), skip=SAME),
    "EnergyNetwork binary": _trained("EnergyNetwork", "few bits", hidden=(16,), skip=BITS),
    "Autoencoder": _trained("Autoencoder", "tiny", code=4, hidden=(16,), skip=SPREAD),
    "Autoencoder binary": _trained("Autoencoder", "bits", brief=True, code=4, hidden=(16,)),
    "DenoisingAutoencoder": _trained("DenoisingAutoencoder", "flowers", code=8, hidden=(16,), skip=SAME),
    "DenoisingAutoencoder potential": _trained(
        "DenoisingAutoencoder", "flowers", code=16, form="potential", skip=SAME
    ),
    "SparseCoding": Case("SparseCoding", "flowers", {"code": 6, "iterations": 10}, skip=SAME),
    "SparseAutoencoder": _trained("SparseAutoencoder", "flowers", code=16, skip=SAME),
    "PSD": _trained("PSD", "flowers", code=8, skip=SAME),
    "ContractiveAutoencoder": _trained("ContractiveAutoencoder", "flowers", code=8, hidden=(16,), skip=SAME),
    "SaturatingAutoencoder": _trained("SaturatingAutoencoder", "flowers", code=16, skip=SAME),
    # ... by every objective
    "RBM divergence": _trained(
        "RBM", "bits", brief=True, hidden=8, objective=abduce.ContrastiveDivergence(k=2)
    ),
    "RBM nce": _trained("RBM", "bits", brief=True, hidden=8, objective=abduce.NCE()),
    "RBM flow": _trained("RBM", "bits", brief=True, hidden=8, objective=abduce.MinimumProbabilityFlow()),
    "RBM ratios": _trained("RBM", "bits", brief=True, hidden=8, objective=abduce.RatioMatching()),
    "RBM likelihood": _trained("RBM", "bits", brief=True, hidden=8, objective=abduce.MaximumLikelihood()),
    "EnergyNetwork score": _trained(
        "EnergyNetwork", "flowers", brief=True, hidden=(16,), objective=abduce.ScoreMatching()
    ),
    "EnergyNetwork sliced": _trained(
        "EnergyNetwork", "flowers", brief=True, hidden=(16,), objective=abduce.SlicedScoreMatching()
    ),
    "EnergyNetwork divergence": _trained(
        "EnergyNetwork", "flowers", brief=True, hidden=(16,), objective=abduce.ContrastiveDivergence(k=2)
    ),
    "EnergyNetwork conv": _trained("EnergyNetwork", "tiny", brief=True, hidden=(4,), architecture="conv"),
}
