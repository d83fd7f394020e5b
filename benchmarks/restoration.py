"""Restoration of Fashion-MNIST's first 1,000 test images, five tasks: MixtureEnsemble beside mixtures, neighbours and filters.

python benchmarks/restoration.py [--seeds 3] [--rows 60000] [--images 1000] --threads 1

Noise of 0.2; the middle 14 x 14 pixels missing; the bottom half missing; 4 x 4 means; half of all pixels missing, other ones
in each image.  Pixels are in [0, 1].  One fit of each method answers all that it can answer.  A seed is that of the fits, the
noise and the missing pixels.  Seconds are of the processor, in one thread.

GMM-20 are the clusters of `peers.Mixture`, k-means with full covariances shrunk by size.  Its own code inverts 784 x 784
numbers for each image and component; its parameters are therefore also run by the code that ours runs by, Cholesky factors of
the seen cells in single precision, once for all images with the same blanks.  Figures of the two are compared on some images.
Strengths of the filters that have one are chosen on training images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from abduce.answers.observation import Linear
from common import ROOT, Report, arguments, parse, say, spread
from peers import Mixture
from torch import Tensor

from abduce import MixtureEnsemble, Noise
from abduce.data.examples import fashion_mnist
from abduce.data.operators import Separable, box
from abduce.data.seen import Seen
from abduce.gaussians.grouped_law import GroupedMixtureLaw

try:
    import cv2
except ImportError:
    cv2: Any = None
try:
    import skimage.restoration as filters
    from skimage.metrics import structural_similarity
except ImportError:
    sys.exit("this benchmark measures by scikit-image: pip install scikit-image")

SIDE, PIXELS = 28, 784
RIDGE = 2e-3  # added to variances of every mixture, pixels in [0, 1]
SIGMA = 0.2
TASKS = ("noise 0.2", "centre", "bottom", "4 x", "50 %")
MEANS = Separable(box(4, 28), box(4, 28))
MISSING = ("centre", "bottom", "50 %")


class Task(NamedTuple):
    """What was seen, images with NaN or small ones; and which pixels were, for those where some are missing."""

    y: np.ndarray
    seen: np.ndarray | None


def tasks(x: np.ndarray, seed: int) -> dict[str, Task]:
    """The five tasks for images (n, 28, 28) in [0, 1]."""
    rng = np.random.default_rng(seed)
    out = {"noise 0.2": Task(x + SIGMA * rng.normal(size=x.shape), None)}
    centre, bottom = np.ones((2, SIDE, SIDE), bool)
    centre[7:21, 7:21] = False
    bottom[14:] = False
    masks = {
        "centre": np.broadcast_to(centre, x.shape),
        "bottom": np.broadcast_to(bottom, x.shape),
        "50 %": rng.random(x.shape) < 0.5,
    }
    out["4 x"] = Task(x.reshape(-1, 7, 4, 7, 4).mean((2, 4)), None)
    out |= {name: Task(np.where(mask, x, np.nan), mask) for name, mask in masks.items()}
    return {name: out[name] for name in TASKS}


def psnr(found: np.ndarray, x: np.ndarray) -> float:
    """Mean over images of 10 log₁₀ 1 / mse, dB."""
    mse = ((found.clip(0, 1) - x) ** 2).mean((1, 2))
    return float((10 * np.log10(1 / mse.clip(1e-9))).mean())


def ssim(found: np.ndarray, x: np.ndarray) -> float:
    """Structural similarity, windows of 7 x 7."""
    pairs = zip(found.clip(0, 1), x, strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=1.0) for a, b in pairs]))


class Exact:
    """A law's answers, in single precision."""

    def __init__(self, law: GroupedMixtureLaw):
        self.law = law

    @classmethod
    def of(cls, peer: Mixture) -> Exact:
        parts = (torch.from_numpy(a).float() for a in (np.log(peer.weights), peer.means, peer.covariances))
        log_weights, means, covariances = parts
        return cls(GroupedMixtureLaw(log_weights, means, torch.arange(len(means)), covariances))

    def __call__(self, name: str, task: Task) -> np.ndarray:
        y = torch.from_numpy(task.y.reshape(len(task.y), -1)).float()
        if task.seen is not None:
            seen = torch.from_numpy(task.seen.reshape(y.shape).copy())
            out = self.law.mean(Seen(torch.where(seen, y, 0.0), seen))
        else:
            known = torch.ones_like(y, dtype=torch.bool)
            view = Linear(SIGMA) if name == "noise 0.2" else Linear(1e-3, MEANS)
            out = self.law.mean(Seen(y, known, view))
        return out.double().numpy().reshape(-1, SIDE, SIDE)


def ours(model: MixtureEnsemble) -> Callable[[str, Task], np.ndarray]:
    def answer(name: str, task: Task) -> np.ndarray:
        if task.seen is not None:
            return np.asarray(model.fill(task.y))
        return np.asarray(model.denoise(task.y, SIGMA) if name == "noise 0.2" else model.upscale(task.y, 4))

    return answer


def neighbours(train: np.ndarray, count: int = 10) -> Callable[[str, Task], np.ndarray]:
    """Means of the training images that are nearest in the pixels seen."""
    rows = torch.from_numpy(train.reshape(-1, PIXELS))
    squares = rows.square()

    def answer(name: str, task: Task) -> np.ndarray:
        del name
        y = torch.from_numpy(task.y.reshape(len(task.y), -1)).float()
        seen = ~y.isnan()
        known = torch.where(seen, y, 0.0)
        out = known.clone()
        for part in torch.arange(len(y)).split(100):
            distance = seen[part].float() @ squares.T - 2 * known[part] @ rows.T
            mean = rows[distance.topk(count, 1, largest=False).indices].mean(1)
            out[part] = torch.where(seen[part], known[part], mean)
        return out.double().numpy().reshape(-1, SIDE, SIDE)

    return answer


def each(function: Callable[[np.ndarray, np.ndarray | None], np.ndarray]):
    """A filter of one image and the mask of its missing pixels."""

    def answer(name: str, task: Task) -> np.ndarray:
        del name
        masks = [None] * len(task.y) if task.seen is None else ~task.seen
        return np.stack([function(image, mask) for image, mask in zip(task.y, masks, strict=True)])

    return answer


def inpainting(method: int):
    def one(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        assert mask is not None
        bytes_ = np.nan_to_num(255 * image).round().astype(np.uint8)
        found = cv2.inpaint(bytes_, mask.astype(np.uint8), 3, method) / 255
        return np.where(mask, found, image)

    return each(one)


def best(make: Callable[[float], Any], strengths: tuple[float, ...], x: np.ndarray, task: Task) -> Any:
    """The filter of the strength that does best on training images."""
    value = {s: psnr(make(s)("noise 0.2", task), x) for s in strengths}
    return make(max(value, key=value.__getitem__))


def classical(train: np.ndarray, seed: int) -> list[tuple[str, tuple[str, ...], Any]]:
    """Methods that are fitted to nothing: name, tasks, and how they answer; what is not installed is said and left out."""
    out: list[tuple[str, tuple[str, ...], Any]] = []
    x = train[-200:].astype(float)
    noisy = tasks(x, 1000 + seed)["noise 0.2"]
    means = best(
        lambda h: each(
            lambda y, _: filters.denoise_nl_means(
                y, patch_size=3, patch_distance=7, h=h, sigma=SIGMA, fast_mode=False
            )
        ),
        (0.08, 0.12, 0.16, 0.2),
        x,
        noisy,
    )
    out.append(("non-local means", ("noise 0.2",), means))
    variation = best(
        lambda w: each(lambda y, _: filters.denoise_tv_chambolle(y, weight=w)),
        (0.1, 0.15, 0.2, 0.25, 0.3),
        x,
        noisy,
    )
    out.append(("total variation", ("noise 0.2",), variation))
    try:
        import bm3d  # pyright: ignore[reportMissingImports]

        out.append(("BM3D", ("noise 0.2",), each(lambda y, _: bm3d.bm3d(y, SIGMA))))
    except ImportError:
        say("bm3d is not installed: left out")
    try:
        import pywt  # noqa: F401  # pyright: ignore[reportMissingImports]

        wavelet = each(lambda y, _: filters.denoise_wavelet(y, sigma=SIGMA, rescale_sigma=True))
        out.append(("wavelets", ("noise 0.2",), wavelet))
    except ImportError:
        say("PyWavelets is not installed: wavelets are left out")
    out.append(("biharmonic", MISSING, each(lambda y, m: filters.inpaint_biharmonic(np.nan_to_num(y), m))))
    if cv2 is None:
        say("OpenCV is not installed: its inpainting, bicubic and Lanczos are left out")
        return out
    out += [
        ("OpenCV, Telea", MISSING, inpainting(cv2.INPAINT_TELEA)),
        ("OpenCV, Navier-Stokes", MISSING, inpainting(cv2.INPAINT_NS)),
    ]
    for name, how in (("bicubic", cv2.INTER_CUBIC), ("Lanczos", cv2.INTER_LANCZOS4)):
        resize = each(lambda y, _, how=how: cv2.resize(y, (SIDE, SIDE), interpolation=how))
        out.append((name, ("4 x",), resize))
    return out


def both_log_probs(law: GroupedMixtureLaw, x: Tensor, seen: Tensor) -> Tensor:
    """log p of whole images and of the pixels seen, (2, n)."""
    return torch.stack([law.log_prob(Seen.whole(x)), law.log_prob(Seen(x, seen))])


def of_missing(log_probs: Tensor, seen: Tensor) -> float:
    """Mean log p of a missing pixel given those seen, nats; what all of ``log_probs`` has in common does not count."""
    return float((log_probs[0] - log_probs[1]).sum() / (~seen).sum())


def clock(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """The result of a call, and seconds of the processor."""
    start = time.process_time()
    return function(*args), time.process_time() - start


def picture(
    model: MixtureEnsemble, x: np.ndarray, asked: dict[str, Task], which: list[int], path: Path
) -> None:
    """A row for each task: seen, mean, standard deviation, a draw, the truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from abduce import Blanks, Downsample

    titles = ("seen", "mean", "standard deviation", "a draw", "another", "truth")
    figure, axes = plt.subplots(len(TASKS), len(titles), figsize=(6.6, 5.8))
    for row, (name, i) in enumerate(zip(TASKS, which, strict=True)):
        y = asked[name].y[i : i + 1]
        observation = {"noise 0.2": Noise(SIGMA), "4 x": Downsample(4)}.get(name, Blanks())
        mean, std = model.restore(y, observation, return_std=True)
        draws = model.restore(y, observation, draws=2, random_state=0)
        shown = (y[0], mean[0], std[0], draws[0][0], draws[1][0], x[i])
        for axis, title, image in zip(axes[row], titles, shown, strict=True):
            colours = plt.get_cmap("magma" if title == titles[2] else "gray").with_extremes(bad="steelblue")
            axis.imshow(image, cmap=colours, vmin=0, vmax=0.3 if title == titles[2] else 1)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=8)
        axes[row][0].set_ylabel(name, fontsize=8)
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = arguments(__doc__, 3)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--images", type=int, default=1000)
    args = parse(parser)
    try:
        data = fashion_mnist()
    except FileNotFoundError as error:
        sys.exit(f"skipped: {error}")
    rows, images = (2000, 40) if args.quick else (args.rows, args.images)
    train = (data.x_train[:rows] / 255).astype(np.float32)
    x = data.x_test[:images] / 255
    flat = torch.from_numpy(x.reshape(-1, PIXELS))
    report = Report("restoration", "Restoration of Fashion-MNIST, five tasks", args)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.seeds):
        asked = tasks(x, seed)
        seen = torch.from_numpy(asked["50 %"].seen.reshape(-1, PIXELS).copy())  # pyright: ignore
        methods: list[tuple[str, tuple[str, ...], Any]] = []
        fits: dict[str, float] = {}
        ridge = RIDGE / 0.5**2  # a pixel's unit in the model is half its range
        model, fits["MixtureEnsemble"] = clock(MixtureEnsemble(reg_covar=ridge, random_state=seed).fit, train)
        methods.append(("MixtureEnsemble", TASKS, ours(model)))
        laws: list[Any] = [member.law for member in model.model_.parts]
        field = model.schema_.fields[0]
        standard = (flat - field.loc) / field.scale
        say(seed, "fitted", fits)
        parts = []
        odds = {}
        for name, member in zip(("its tree alone", "its windows alone"), laws, strict=True):
            parts.append(both_log_probs(member, standard, seen))
            odds[name] = of_missing(parts[-1], seen) - np.log(field.scale)
            methods.append((name, TASKS, _alone(model, member)))
        odds["MixtureEnsemble"] = of_missing(torch.stack(parts).logsumexp(0), seen) - np.log(field.scale)
        say(seed, "log p of a missing pixel", odds)
        for name, k in (("GMM-20", 20), ("one Gaussian", 1)):
            peer, fits[name] = clock(Mixture.clusters, train.reshape(len(train), -1), k, RIDGE, seed)
            exact = Exact.of(peer)
            methods.append((name, TASKS, exact))
            odds[name] = of_missing(both_log_probs(exact.law, flat.float(), seen), seen)
            if k > 1 and seed == 0:
                some = Task(asked["50 %"].y[:3], asked["50 %"].seen[:3])  # pyright: ignore
                theirs, seconds = clock(peer.fill, some.y.reshape(3, -1))
                off = float(abs(exact("50 %", some).reshape(3, -1) - theirs).max())
                report.keep(
                    "GMM-20 by its own code", {"seconds an image": seconds / 3, "largest difference": off}
                )
        methods.append(("10 nearest neighbours", MISSING, neighbours(train)))
        if seed == 0 or args.seeds > 1:
            methods += classical(train, seed)
        for name, does, answer in methods:
            row = found.setdefault(name, {})
            for task in does:
                image, seconds = clock(answer, task, asked[task])
                row.setdefault(f"{task} psnr", []).append(psnr(image, x))
                row.setdefault(f"{task} ssim", []).append(ssim(image, x))
                row.setdefault(f"{task} seconds", []).append(seconds / len(x))
            if name in fits:
                row.setdefault("fit", []).append(fits[name])
            if name in odds:
                row.setdefault("log p", []).append(odds[name])
            say(
                seed,
                name,
                {t: round(row[f"{t} psnr"][-1], 2) for t in does},
                f"{sum(row[f'{t} seconds'][-1] for t in does):.4f} s an image",
            )
        if seed == 0:
            folder = ROOT / ("out/benchmarks" if args.quick else "docs/images")
            picture(model, x, asked, [4, 10, 17, 23, 36], folder / "restoration.png")
            report.keep("covariances", [len(law.covariances) for law in laws])
            report.keep("model bytes", sum(t.numel() * t.element_size() for t in model.model_.buffers()))
        _tables(report, found, len(train), len(x))
    report.save()


def _alone(model: MixtureEnsemble, member: GroupedMixtureLaw) -> Callable[[str, Task], np.ndarray]:
    """One member of an ensemble, in the units of the data."""
    field = model.schema_.fields[0]
    loc, scale = field.loc, field.scale
    scaled = GroupedMixtureLaw(
        member.log_weights,
        member.means * scale + loc,
        member.group,
        member.covariances * scale**2,
        member.temper,
        member.keep,
    )
    return Exact(scaled)


def _tables(report: Report, found: dict[str, dict[str, list[float]]], rows: int, images: int) -> None:
    report.parts.clear()

    def line(name: str, what: str, digits: int, mean: bool) -> list[str]:
        row = found[name]
        cells = [spread(row.get(f"{task} {what}", []), digits) for task in TASKS]
        if mean:
            whole = all(f"{task} {what}" in row for task in TASKS)
            every = np.mean([row[f"{t} {what}"] for t in TASKS], 0) if whole else []
            cells.append(spread(every, digits))
        return [f"**{name}**" if name == "MixtureEnsemble" else name, *cells]

    report.table(
        f"PSNR, dB, mean over {images:,} test images; fitted to {rows:,} training images",
        ["method", *TASKS, "mean"],
        [line(name, "psnr", 2, True) for name in found],
    )
    report.table(
        "Structural similarity", ["method", *TASKS, "mean"], [line(name, "ssim", 3, True) for name in found]
    )
    report.table(
        "Milliseconds of the processor an image, seconds to fit, and log p of a missing pixel in the 50 % task, nats",
        ["method", *TASKS, "fit, s", "log p"],
        [
            [
                name,
                *(spread(row.get(f"{task} seconds", []), 1, 1000) for task in TASKS),
                spread(row.get("fit", []), 0),
                spread(row.get("log p", []), 3),
            ]
            for name, row in found.items()
        ],
    )
    for name, row in found.items():
        report.keep(name, row)
    if size := report.data.get("model bytes"):
        own = report.data.get("GMM-20 by its own code", {})
        report.remark(
            f"Mixtures have {RIDGE:g} added to their variances. MixtureEnsemble holds {report.data['covariances']} "
            f"covariances, {size / 1e6:.0f} MB. GMM-20 runs by the code of ours; its own, `peers.Mixture`, takes "
            f"{own.get('seconds an image', float('nan')):.1f} s an image and task, and no pixel differs by more than "
            f"{own.get('largest difference', float('nan')):.0e}. log p of ours counts the groups kept for each row."
        )


if __name__ == "__main__":
    main()
