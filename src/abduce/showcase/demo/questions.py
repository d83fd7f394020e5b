"""The questions of the demonstration, one function each: what was measured, and the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import KNNImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from abduce.data.examples import load_digits_images
from abduce.showcase import plots
from abduce.showcase.demo import peers
from abduce.showcase.demo.peers import TOP
from abduce.showcase.plots import Row
from abduce.showcase.report import Picture

SIDE, TRAINING = 8, 1500
BLANKED = 0.2
NOISE = 3.2  # a fifth of the brightest pixel
SHOWN = 10  # images in a row of a picture


@dataclass(frozen=True)
class Finding:
    """One line of the table: our figure beside the peers'; ``goal`` is "low", "high" or the ideal value."""

    task: str
    unit: str
    ours: float
    peers: dict[str, float]
    goal: str | float

    def cost(self, figure: float) -> float:
        """A figure as something where lower is better."""
        if isinstance(self.goal, float):
            return abs(figure - self.goal)
        return figure if self.goal == "low" else -figure

    @property
    def best_peer(self) -> str:
        """The peer with the best figure."""
        return min(self.peers, key=lambda name: self.cost(self.peers[name]))

    @property
    def ours_is_best(self) -> bool:
        """Whether no peer does better."""
        return self.cost(self.ours) <= self.cost(self.peers[self.best_peer])


Findings = tuple[list[Finding], list[Picture]]


class Digits:
    """The data of the demonstration: blanked training images and whole held-out ones, pixels 0 to 16."""

    def __init__(self, seed: int):
        self.seed = seed
        images, labels = load_digits_images()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(images))
        train, test = order[:TRAINING], order[TRAINING:]
        self.train = np.where(rng.random(images[train].shape) < BLANKED, np.nan, images[train])
        self.test = images[test]
        self.train_labels, self.test_labels = labels[train], labels[test]

    @cached_property
    def complete(self) -> np.ndarray:
        """Training rows ``(n, 64)``, filled by nearest neighbours, for peers that cannot read blanks."""
        return KNNImputer().fit_transform(flat(self.train))

    @cached_property
    def densities(self) -> dict[str, peers.MixturePeer]:
        """Densities of whole-valued pixels, fitted to the completed training rows."""
        components = {"full Gaussian": 1, "mixture of 20 Gaussians": 20}
        return {name: peers.MixturePeer(self.complete, k, self.seed) for name, k in components.items()}


def flat(images: np.ndarray) -> np.ndarray:
    """View images as rows."""
    return images.reshape(len(images), -1)


def square(rows: np.ndarray) -> np.ndarray:
    """View rows as images."""
    return rows.reshape(len(rows), SIDE, SIDE)


def psnr(guess: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the whole set, dB: 10 log10(peak² / mean square error)."""
    return float(10 * np.log10(TOP**2 / np.mean((guess - truth) ** 2)))


def strips(images: Mapping[str, np.ndarray], *more: Row) -> Callable[[], Figure]:
    """Draw the first images of each kind, a row a kind."""
    return lambda: plots.grid([*(Row(label, kind[:SHOWN], TOP) for label, kind in images.items()), *more])


def fill(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Blank a fifth of the pixels of held-out digits, fill them, and see whether the intervals hold."""
    hidden = rng.random(digits.test.shape) < BLANKED
    blanked = np.where(hidden, np.nan, digits.test)
    filled = model.fill(blanked)
    low, high = model.fill_interval(blanked, level=0.9)

    def covered(low: np.ndarray, high: np.ndarray) -> float:
        return float(np.mean((low <= digits.test)[hidden] & (digits.test <= high)[hidden]))

    def rmse(guess: np.ndarray) -> float:
        return float(np.sqrt(np.mean((guess - digits.test)[hidden] ** 2))) / TOP

    imputers = peers.imputers(flat(digits.train))
    others = {name: rmse(square(impute(flat(blanked)))) for name, impute in imputers.items()}
    mean, deviation = map(square, peers.GaussianPeer(digits.complete).fill(flat(blanked)))
    others["full Gaussian"] = rmse(mean)
    reach = 1.645 * deviation
    inside = covered(np.round(mean - reach), np.round(mean + reach))
    answers = [
        Finding("fill 20 % blanks", "RMSE, pixels 0 to 1", rmse(filled), others, "low"),
        Finding("90 % intervals hold", "share inside", covered(low, high), {"full Gaussian": inside}, 0.9),
    ]

    spread = np.std(model.fill(blanked[:SHOWN], draws=32, random_state=0), axis=0)
    unsure = Row("unsure", spread, float(spread.max()), "magma")
    half = digits.test[:SHOWN].copy()
    half[:, SIDE // 2 :] = np.nan
    copies = model.fill(half, draws=3, random_state=0)
    draws = {f"draw {k}": copy for k, copy in enumerate(copies, 1)}
    pictures = [
        Picture(
            "fill",
            "Fill the blanks",
            "Held-out digits; a fifth of the pixels blank (orange); filled with the posterior mean; and how "
            "unsure the model is of each blank (standard deviation of 32 draws, bright is unsure).",
            strips({"original": digits.test, "blanked": blanked, "filled": filled}, unsure),
        ),
        Picture(
            "halves",
            "Several ways to end a digit",
            "Only the upper half is given. Each row below is one draw of the rest: where the half leaves a "
            "choice, the draws differ.",
            strips({"given": half, **draws, "original": digits.test}),
        ),
    ]
    return answers, pictures


def _sharper(task: str, ours: np.ndarray, theirs: dict[str, np.ndarray], truth: np.ndarray) -> Finding:
    """How near images are to the truth, beside the peers'."""
    others = {name: psnr(np.clip(guess, 0, TOP), truth) for name, guess in theirs.items()}
    return Finding(task, "PSNR, dB", psnr(ours, truth), others, "high")


def denoise(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Add Gaussian noise of a fifth of the peak, and clean it."""
    noisy = digits.test + rng.normal(0.0, NOISE, digits.test.shape)
    cleaned = model.denoise(noisy, NOISE)
    denoisers = peers.denoisers(digits.complete, SIDE, NOISE, rng)
    results = {name: square(clean(flat(noisy))) for name, clean in denoisers.items()}
    finding = _sharper("denoise, noise 20 %", cleaned, results, digits.test)
    best = finding.best_peer
    picture = Picture(
        "denoise",
        "Clean the noise",
        "Gaussian noise of a fifth of the brightest pixel, cleaned by the model, which was never trained "
        "for it, beside the best peer.",
        strips({"original": digits.test, "noisy": noisy, "cleaned": cleaned, best: results[best]}),
    )
    return [finding], [picture]


def upscale(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Average blocks of four pixels, and ask for the larger image."""
    small = (flat(digits.test) @ peers.block_mean(SIDE, 2).T).reshape(-1, SIDE // 2, SIDE // 2)
    raised = model.upscale(small, 2)
    results = {name: enlarge(small) for name, enlarge in peers.upscalers(digits.complete, SIDE).items()}
    picture = Picture(
        "upscale",
        "Raise 4x4 to 8x8",
        "Each pixel of the small image is the mean of four. The model knows what digits look like, so it "
        "can say what was between.",
        strips({"4x4": small, "Lanczos": results["Lanczos"], "raised": raised, "original": digits.test}),
    )
    return [_sharper("upscale 4x4 to 8x8", raised, results, digits.test)], [picture]


def odd(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Mix strangers among held-out digits: turned by a quarter, in negative, or with their rows shuffled."""
    third = len(digits.test) // 3
    base = digits.test[rng.permutation(len(digits.test))]
    strangers = {
        "turned": np.rot90(base[:third], axes=(1, 2)),
        "negative": TOP - base[third : 2 * third],
        "rows shuffled": rng.permutation(base[2 * third :], axis=1),
    }
    images = np.concatenate([digits.test, *strangers.values()])
    names = np.repeat(["digit", *strangers], [len(digits.test), *map(len, strangers.values())])
    strange = names != "digit"
    scores = model.anomaly_score(images)
    detectors = peers.detectors(digits.complete)
    others = {name: float(roc_auc_score(strange, f(flat(images)))) for name, f in detectors.items()}
    realism = model.realism(images)
    answers = [
        Finding("spot the odd images", "AUROC", float(roc_auc_score(strange, scores)), others, "high"),
        Finding("realism of held-out digits", "mean, ideal 0.5", float(realism[~strange].mean()), {}, 0.5),
        Finding("realism of strangers", "mean", float(realism[strange].mean()), {}, "low"),
    ]
    oddest = np.argsort(-scores[~strange])[:SHOWN]
    picks = np.concatenate([np.flatnonzero(names == name)[:SHOWN] for name in strangers])[1::3]
    plain = np.argsort(scores[~strange])[:SHOWN]

    rows = {"oddest digits": oddest, "plainest": plain, "strangers": picks}.items()

    def shown(label: str, which: np.ndarray) -> Row:
        return Row(label, images[which], TOP, notes=[f"{realism[k]:.2f}" for k in which])

    picture = Picture(
        "odd",
        "The oddest images",
        "Held-out digits that the model finds most and least surprising, and strangers mixed among them "
        "(turned by a quarter, in negative, rows shuffled). Under each image its realism: the share of the "
        "model's own samples that are less plausible.",
        lambda: plots.grid([shown(*row) for row in rows]),
    )
    return answers, [picture]


def compress(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Compress the held-out digits without loss; every byte counts, the model itself does not."""
    packed = model.compress(digits.test)
    if not np.array_equal(model.decompress(packed), digits.test):
        raise RuntimeError("decompress did not return the digits that were compressed")
    ours = 8 * len(packed) / digits.test.size
    others = peers.compressed_bits(flat(digits.test), flat(digits.train), SIDE)
    nats = -ours * np.log(2) * SIDE * SIDE
    densities = {name: float(d.log_prob(flat(digits.test)).mean()) for name, d in digits.densities.items()}
    picture = Picture(
        "compress",
        "Compress without loss",
        f"{len(digits.test)} held-out digits in one file. The bytes come back identical.",
        lambda: plots.bars({"abduce": ours, **others}, "bits a pixel", "abduce"),
    )
    answers = [
        Finding("compress, lossless", "bits a pixel", ours, others, "low"),
        # what a code of that length proves: the model gives a digit at least this probability
        Finding("log p, at least", "nats a digit", float(nats), densities, "high"),
    ]
    return answers, [picture]


def sample(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Draw new digits, and see how well a classifier tells them from held-out ones."""
    real, count = flat(digits.test), len(digits.test)
    samples = np.asarray(model.sample(count, random_state=0), dtype=float)
    others = {name: _told_apart(real, d.sample(count)) for name, d in digits.densities.items()}
    ours = _told_apart(real, flat(samples))
    answer = Finding("samples told from digits", "AUROC, ideal 0.5", ours, others, 0.5)
    picture = Picture(
        "samples",
        "New digits",
        "Drawn from the model: nobody wrote these.",
        lambda: plots.grid([Row("", samples[k : k + 12], TOP) for k in range(0, 48, 12)], cell=0.52),
    )
    return [answer], [picture]


def _told_apart(real: np.ndarray, made: np.ndarray) -> float:
    """How well a random forest tells made rows from real ones, AUROC by cross-validation."""
    rows, label = np.concatenate([real, made]), np.repeat([0, 1], [len(real), len(made)])
    forest = RandomForestClassifier(100, random_state=0)
    chance = np.asarray(cross_val_predict(forest, rows, label, method="predict_proba", cv=5))
    return float(roc_auc_score(label, chance[:, 1]))


def embed(model: Any, digits: Digits, rng: np.random.Generator) -> Findings:
    """Place the digits in latent space, where neighbours should be the same digit."""
    train, test = model.transform(digits.train), model.transform(digits.test)
    dimensions = train.shape[1]
    directions = PCA(dimensions, random_state=0).fit(digits.complete)

    def accuracy(near: np.ndarray, far: np.ndarray) -> float:
        return float(KNeighborsClassifier(10).fit(near, digits.train_labels).score(far, digits.test_labels))

    near, far = (directions.transform(rows) for rows in (digits.complete, flat(digits.test)))
    others = {f"PCA, {dimensions}": accuracy(near, far)}
    points = np.concatenate([train, test])[:, :2]
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    picture = Picture(
        "latent",
        "The latent map",
        f"Every digit at its code ({dimensions} dimensions, the widest two shown), coloured by a label that the "
        "model never saw.",
        lambda: plots.latent_map(points, labels),
    )
    finding = Finding("embed, 10 neighbours", "label accuracy", accuracy(train, test), others, "high")
    return [finding], [picture]


QUESTIONS = (fill, denoise, upscale, odd, compress, sample, embed)
