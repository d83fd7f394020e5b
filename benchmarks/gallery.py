"""The energy surface of every method on one spiral: the picture and the numbers that docs/gallery.md shows.

python benchmarks/gallery.py

One seed, as the picture is of one fit.  The picture goes to docs/images/gallery.png, with --quick to out/benchmarks.
Seconds are of the processor: fit, and log Z where it has no closed form.
"""

from __future__ import annotations

from common import ROOT, Report, arguments, parse, say

from abduce.showcase import gallery


def main() -> None:
    args = parse(arguments(__doc__, seeds=1))
    report = Report("gallery", "Energy surfaces on a spiral", args)
    folder = ROOT / ("out/benchmarks" if args.quick else "docs/images")
    result = gallery.run(folder / "gallery.png", quick=args.quick, show=lambda text, share: say(text))
    report.remark(
        f"{result['rows']['train']} rows of the spiral to train on, as many held out; the box is [−1, 1]². AUC: held-out rows "
        "against the box. Volume: share of the box with energy below the 95th percentile of that of held-out rows. Covered: "
        "share of the curve's length in the part of the box where energy is lowest, a part as large as the truth's volume. "
        "Tangent: mean |cos| between the softest direction of the energy and the curve (0.64 at random; – where no direction "
        "is softer). log p: held-out mean, nats, with each method's own β, base measure and log Z, named in the last columns. "
        "Seconds of the processor."
    )
    rows = [
        (*line, how.get("log_z", "–"), f"{how['beta']:.3g}" if how else "–", how.get("base", "–"))
        for line, how in zip(gallery.headline(result), ({}, *result["methods"]), strict=True)
    ]
    header = ["strategy", "method", *gallery.COLUMNS, "log Z by", "β", "base"]
    report.table("Every method", header, rows)
    report.keep("gallery", result)
    report.save()


if __name__ == "__main__":
    main()
