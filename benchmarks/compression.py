"""Lossless compression: bits per dimension of held-out images, beside the model's own −ELBO and general codecs.

python benchmarks/compression.py [--only digits mnist fashion binary] [--quick] [--epochs N]

Sizes are `len(bytes)` of everything needed but the model and the codec. "Marginal" leaves out the first rows, which
are coded without bits-back and paid in full. Models are `VAE()` without arguments, but for the epochs where they are
named. A trained model is kept in out/benchmarks/models and used again.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, Report, arguments, data_folder, parse, say, timed
from PIL import Image

import abduce
from abduce.data.examples import fashion_mnist, load_digits_images, mnist

sys.path.append(str(ROOT / "tests"))
from rates_for_tests import rate

SEED = 0
SETS = "digits", "mnist", "fashion", "binary"


def codecs(train: np.ndarray, test: np.ndarray, levels: int) -> dict[str, int]:
    """Bytes that general codecs take for the test images; each gets the layout that suits it best."""
    raw = np.packbits(test, axis=None).tobytes() if levels == 2 else test.astype(np.uint8).tobytes()
    grey = (test.astype(float) * (255 / (levels - 1))).round().astype(np.uint8)
    out = {
        "gzip -9": len(gzip.compress(raw, 9)),
        "bz2 -9": len(bz2.compress(raw, 9)),
        "xz -9e": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }
    for name, options in {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100}}.items():
        separate = 0
        for image in grey:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, name, **options)
            separate += buffer.tell()
        out[f"{name}, one an image"] = separate
        if len(grey) * grey.shape[1] <= 16_000:
            buffer = io.BytesIO()
            Image.fromarray(grey.reshape(-1, grey.shape[2])).save(buffer, name, **options)
            out[f"{name}, one strip"] = buffer.tell()
    out["order-0 of each pixel"] = order_zero(train, test, levels)
    return out


def order_zero(train: np.ndarray, test: np.ndarray, levels: int) -> int:
    """Bytes under each pixel's own histogram, learned on the training images (one added to each count)."""
    train, test = train.reshape(len(train), -1).astype(int), test.reshape(len(test), -1).astype(int)
    bits = 0.0
    for column, values in zip(train.T, test.T, strict=True):
        count = np.bincount(column, minlength=levels) + 1.0
        bits -= np.log2(count / count.sum())[values].sum()
    return int(np.ceil(bits / 8))


def model_of(name: str, train: np.ndarray, epochs: int | None, **arguments: Any) -> tuple[Any, float]:
    """Fit the model, or load the one that an earlier run left; with the seconds of the fit."""
    folder = ROOT / "out/benchmarks/models" / f"compression-{name}-{epochs}"
    stamp = folder.with_suffix(".seconds")
    if folder.exists() and stamp.exists():
        return abduce.load(folder), float(stamp.read_text())
    say(f"{name}: fitting")
    model = abduce.VAE(max_epochs=epochs or "auto", random_state=SEED, verbose=1, **arguments)
    _, seconds = timed(model.fit, train)
    model.save(folder)
    Path(stamp).write_text(str(seconds))
    return model, seconds


def measure(
    report: Report, name: str, train: np.ndarray, test: np.ndarray, levels: int, model: Any, fit: float
) -> None:
    """One table: ours and the codecs."""
    say(f"{name}: compressing {len(test)} images")
    data, encode = timed(model.compress, test)
    back, decode = timed(model.decompress, data)
    assert np.array_equal(back, test) and back.dtype == test.dtype, "not lossless"
    figures = rate(model.model_, model.schema_, test)
    per = test[0].size

    def bpd(n_bytes: float) -> float:
        return n_bytes * 8 / test.size

    rows = [
        [
            "**abduce, total bytes**",
            bpd(len(data)),
            len(data),
            f"{len(test) / encode:,.0f}",
            f"{len(test) / decode:,.0f}",
        ],
        ["abduce, marginal", figures.marginal_bits / per, "–", "–", "–"],
        ["limit: the model's −ELBO", figures.negative_elbo_bits / per, "–", "–", "–"],
    ]
    others = codecs(train, test, levels)
    rows += [
        [codec, bpd(size), size, "–", "–"] for codec, size in sorted(others.items(), key=lambda kv: kv[1])
    ]
    report.table(
        f"{name}: {len(test):,} test images", ["code", "bits/dim", "bytes", "rows/s in", "rows/s out"], rows
    )
    overhead = figures.marginal_bits / figures.negative_elbo_bits - 1
    report.remark(
        f"Marginal rate over −ELBO: {overhead:+.2%}. First rows, coded without bits-back: {figures.first_rows}; header "
        f"{figures.header_bytes} bytes. Fit: {fit:.0f} s on {len(train):,} images. Rows per second include the check that"
        " decodes the fresh bytes before they are returned."
    )
    report.keep(
        name,
        {"bytes": len(data), "bpd": bpd(len(data)), "marginal": figures.marginal_bits / per,
         "negative_elbo": figures.negative_elbo_bits / per, "overhead": overhead, "first_rows": figures.first_rows,
         "encode_rows_per_s": len(test) / encode, "decode_rows_per_s": len(test) / decode, "fit_seconds": fit,
         "codecs": {k: bpd(v) for k, v in others.items()}},
    )  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=int, help="epochs of 60,000 images (default: the model's own)")
    args = parse(parser)
    report = Report("_".join(["compression", *args.only]), "Lossless compression", args)
    if "digits" in args.only:
        images = load_digits_images()[0].astype(np.uint8)
        order = np.random.default_rng(SEED).permutation(len(images))
        train, test = images[order[:1500]], images[order[1500:]]
        measure(report, "digits", train, test, 17, *model_of("digits", train, 2 if args.quick else None))
    if set(SETS[1:]) & set(args.only):
        data_folder()
    for name, load in (("mnist", mnist), ("fashion", fashion_mnist), ("binary", mnist)):
        if name not in args.only:
            continue
        data = load()
        train, test, levels = data.x_train, data.x_test, 256
        if name == "binary":
            rng, levels = np.random.default_rng(SEED), 2
            train, test = (np.asarray(rng.random(x.shape) < x / 255.0, np.uint8) for x in (train, test))
        if args.quick:
            train, test = train[:2000], test[:500]
        title = {
            "mnist": "MNIST, raw",
            "fashion": "Fashion-MNIST, raw",
            "binary": f"MNIST, binarised at random once (seed {SEED})",
        }[name]
        measure(report, title, train, test, levels, *model_of(name, train, 1 if args.quick else args.epochs))
    report.save()


if __name__ == "__main__":
    main()
