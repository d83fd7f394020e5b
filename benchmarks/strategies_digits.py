"""Every strategy on handwritten digits: what each method's probability, fills, cleaning, oddities and codes are worth.

1,500 of scikit-learn's digits to fit, 297 to judge.  Grey pixels (0 to 16) are blurred by their rounding, so that all methods
are densities of the same thing; binary methods see pixels above 7.  Each method runs at its defaults, but for the sizes below;
the VAE stands beside them.  log p is in nats a digit, with the 90 % interval of log Z where it is estimated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Report, arguments, parse, say, spread, timed
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import abduce
from abduce.data.examples import load_digits_images
from abduce.estimators.methods import METHODS

REAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PCA": ("1", "PCA", {}),
    "k-means, 20": ("1", "KMeans", {"components": 20}),
    "Gaussian mixture, 20": ("1", "GaussianMixture", {"components": 20, "reg_covar": 0.01}),
    "ICA": ("1", "ICA", {}),
    "auto-encoder, code 10": ("1", "Autoencoder", {"code": 10, "hidden": (64,)}),
    "Gaussian RBM, PCD": ("3", "RBM", {}),
    "energy network, NCE": ("3", "EnergyNetwork", {"objective": "NCE"}),
    "energy network, PCD": ("3", "EnergyNetwork", {"objective": "PCD"}),
    "energy network, sliced score matching": ("4", "EnergyNetwork", {"objective": "SlicedScoreMatching"}),
    "energy network, denoising score matching": ("4", "EnergyNetwork", {}),
    "denoising auto-encoder": ("5", "DenoisingAutoencoder", {"corruption": 0.5}),
    "denoising auto-encoder, potential": (
        "5",
        "DenoisingAutoencoder",
        {"form": "potential", "corruption": 0.7},
    ),
    "sparse coding": ("6", "SparseCoding", {"code": 64}),
    "sparse auto-encoder": ("6", "SparseAutoencoder", {}),
    "PSD": ("6", "PSD", {"code": 64}),
    "contractive auto-encoder": ("7", "ContractiveAutoencoder", {}),
    "saturating auto-encoder": ("7", "SaturatingAutoencoder", {}),
    "VAE": ("–", "VAE", {"kinds": "real"}),
}
BINARY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "RBM, PCD": ("3", "RBM", {}),
    "RBM, CD-1": ("3", "RBM", {"objective": "ContrastiveDivergence"}),
    "RBM, minimum probability flow": ("3", "RBM", {"objective": "MinimumProbabilityFlow"}),
    "RBM, ratio matching": ("3", "RBM", {"objective": "RatioMatching"}),
    "Ising, pseudo-likelihood": ("3", "Ising", {}),
    "energy network, PCD": ("3", "EnergyNetwork", {}),
    "denoising auto-encoder": ("5", "DenoisingAutoencoder", {"corruption": 0.1}),
    "sparse auto-encoder": ("6", "SparseAutoencoder", {}),
    "contractive auto-encoder": ("7", "ContractiveAutoencoder", {}),
    "VAE": ("–", "VAE", {}),
}


def objective(name: str) -> Any:
    if name == "PCD":
        return abduce.ContrastiveDivergence(k=5, persistent=True)
    return getattr(abduce, name)()


def judge(
    model: Any, new: np.ndarray, labels: tuple[np.ndarray, np.ndarray], X: np.ndarray, seed: int
) -> dict[str, float]:
    """All figures of one fitted, normalised model."""
    rng = np.random.default_rng(seed + 1)
    binary = set(np.unique(new)) == {0.0, 1.0}
    out: dict[str, float] = {}
    out["log_p"] = float(model.score(new))
    known = getattr(model, "log_z_", None)
    out["half"] = 0.0 if known is None else 0.5 * (known.high - known.low)
    blank = rng.random(new.shape) < 0.5
    gaps = np.where(blank, np.nan, new)
    filled, out["fill_s"] = timed(model.fill, gaps)
    out["fill"] = float(np.sqrt(((filled - new)[blank] ** 2).mean()))
    low, high = model.fill_interval(gaps[:64])
    out["coverage"] = float(((low <= new[:64]) & (new[:64] <= high))[blank[:64]].mean())
    if binary:
        noisy = np.where(rng.random(new.shape) < 0.1, 1 - new, new)
        out["denoise"] = float(np.sqrt(((model.denoise(noisy, 0.1) - new) ** 2).mean()))
    else:
        noisy = new + 0.2 * 16 * rng.normal(size=new.shape)
        out["denoise"] = float(np.sqrt(((model.denoise(noisy, 3.2) - new) ** 2).mean()))
    coarse = new.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    out["upscale"] = float(np.sqrt(((model.upscale(coarse, 2) - new) ** 2).mean()))
    odd = rng.permuted(new.reshape(len(new), -1), axis=1).reshape(new.shape)
    mirrored = new[:, :, ::-1]
    score = model.anomaly_score(new)
    for name, other in (("odd_shuffled", odd), ("odd_mirrored", mirrored)):
        both = np.r_[score, model.anomaly_score(other)]
        out[name] = float(roc_auc_score(np.r_[np.zeros(len(new)), np.ones(len(other))], both))
    near = KNeighborsClassifier(10).fit(model.transform(X), labels[0])
    out["embed"] = float(near.score(model.transform(new), labels[1]))
    _, out["sample_s"] = timed(model.sample, 100, random_state=seed)
    return out


def run(
    cases: dict[str, tuple[str, str, dict[str, Any]]],
    images: np.ndarray,
    labels: np.ndarray,
    args: Any,
    scale: float,
) -> tuple[list, dict]:
    rows, kept = [], {}
    for title, (strategy, name, given) in cases.items():
        found = []
        for seed in range(args.seeds):
            order = np.random.default_rng(seed).permutation(len(images))
            X, new = images[order[:1500]], images[order[1500:]]
            arguments = {k: objective(v) if k == "objective" else v for k, v in given.items()}
            if args.quick and name not in ("PCA", "KMeans", "GaussianMixture", "ICA", "SparseCoding"):
                arguments["max_epochs"] = 5
            model, seconds = timed(METHODS[name](random_state=seed, **arguments).fit, X)
            extra = 0.0
            if getattr(model, "log_z_", 0) is None:
                _, extra = timed(model.normalize)
            figures = judge(model, new, (labels[order[:1500]], labels[order[1500:]]), X, seed)
            figures |= {"fit_s": seconds, "normalize_s": extra}
            found.append(figures)
            say(
                f"{title}, seed {seed}: log p {figures['log_p']:.1f}, fill {figures['fill'] / scale:.3f}, {seconds:.0f} s"
            )
        kept[title] = found

        def show(key: str, digits: int, by: float = 1.0, found: list = found) -> str:
            return spread([f[key] * by for f in found], digits)

        half = float(np.mean([f["half"] for f in found]))
        rows.append(
            [
                title,
                strategy,
                show("log_p", 1) + (f" (± {half:.1f})" if half > 0.005 else ""),
                show("fill", 3, 1 / scale),
                show("coverage", 2),
                show("denoise", 3, 1 / scale),
                show("upscale", 3, 1 / scale),
                show("odd_shuffled", 3),
                show("odd_mirrored", 3),
                show("embed", 3),
                show("fit_s", 0),
                show("normalize_s", 0),
            ]
        )
    return rows, kept


HEADER = [
    "method",
    "strategy",
    "log p, held out",
    "fill, half blank, RMSE",
    "90 % intervals hold",
    "denoise, RMSE",
    "upscale 2x, RMSE",
    "AUROC, pixels shuffled",
    "AUROC, mirrored",
    "10 neighbours on codes",
    "fit, s",
    "log Z, s",
]


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--only", nargs="*", default=None, help="some methods, by name")
    args = parse(parser)
    images, labels = load_digits_images()
    if args.quick:
        images, labels = images[:1700], labels[:1700]
    report = Report("strategies_digits", "Seven strategies on handwritten digits", args)

    def chosen(cases: dict) -> dict:
        return {k: v for k, v in cases.items() if args.only is None or k in args.only}

    blurred = images + np.random.default_rng(0).random(images.shape) - 0.5
    rows, kept = run(chosen(REAL), blurred, labels, args, 16.0)
    report.table("Grey pixels, as densities", HEADER, rows)
    report.keep("grey", kept)
    rows, kept = run(chosen(BINARY), (images > 7).astype(float), labels, args, 1.0)
    report.table("Binary pixels", HEADER, rows)
    report.keep("binary", kept)
    report.remark(
        "RMSE in units of the grey range (of binary pixels: of 0 and 1, filled by the likelier of the two). Noise: standard "
        "deviation 0.2 of the grey range, or a tenth of the binary pixels turned over. After ± in brackets: half of the 90 % "
        "interval of log Z, the same for all digits. log p of grey and of binary pixels measure different things."
    )
    report.save()


if __name__ == "__main__":
    main()
