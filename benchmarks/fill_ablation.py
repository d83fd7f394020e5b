"""What each part of Auto buys: members alone, pools without some of them, equal weights, and no refit.

Tables as in fill_tables.py, of at most ``--rows`` rows; normalised RMSE of hidden cells, the mean over sets.  A pool without
some members keeps the others' weights, made to sum to one again.

    python benchmarks/fill_ablation.py [--quick] [--seeds 1] [--sets wine vowels]
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from common import Report, arguments, parse, say, spread
from fill_tables import RATES, hidden_cells, tables

from abduce import VAE, Auto
from abduce.data.seen import Seen

SETS = [
    "iris",
    "wine",
    "breast_cancer",
    "diabetes",
    "glass",
    "Ionosphere",
    "Pima",
    "thyroid",
    "vowels",
    "WDBC",
    "Wilt",
    "breastw",
    "cardio",
    "wine_quality",
]


def kind_of(name: str) -> str:
    """A member's name without the sizes, which differ from set to set."""
    words = name.split(", h = ")[0].split()
    what, about = " ".join(words[:-2]), words[-1]
    count = what.split()[0]
    if count.isdigit():
        what = ("few" if int(count) <= 5 else "many") + " factor analysers"
    return f"{what} of {about}"


def variants(X: np.ndarray, seed: int, vae: bool) -> dict[str, np.ndarray]:
    """Filled tables by name of the variant; with ``vae`` also those of a pool that has a VAE among its members."""
    model = Auto(random_state=seed, kinds="real").fit(X)
    pooled, schema = model.model_, model.schema_
    seen = Seen(*(torch.from_numpy(a) for a in schema.encode(X)))
    names = [kind_of(report["member"]) for report in pooled.reports]
    means = [member.answer(seen).mean() for member in pooled.parts]
    each = np.stack([schema.decode(mean.numpy()) for mean in means])
    weights = pooled.numbers.numpy()

    def pool(keep: list[bool], w: np.ndarray) -> np.ndarray:
        kept = np.where(keep, w, 0.0)
        if not kept.sum():
            kept = np.where(keep, 1.0, 0.0)
        return np.tensordot(kept / kept.sum(), each, 1)

    every = [True] * len(names)
    out = {name: each[i] for i, name in enumerate(names)}
    out |= {
        "all, equal weights": pool(every, np.ones(len(names))),
        "without windows": pool(["windows" not in n for n in names], weights),
        "without scores": pool(["scores" not in n for n in names], weights),
        "without mixtures": pool(["factor" not in n for n in names], weights),
        "without the Gaussians": pool(["Gaussian" not in n for n in names], weights),
        "all: Auto": pool(every, weights),
    }
    if vae:
        member = VAE(kinds="real")
        out["all and a VAE"] = Auto(random_state=seed, kinds="real", extra=[member]).fit(X).fill(X)
    return {name: np.where(np.isnan(X), filled, X) for name, filled in out.items()}


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument(
        "--vae", action="store_true", help="fit the VAE too, with its linear path, without, and as a member"
    )
    args = parse(parser)
    if args.quick:
        args.sets = args.sets[:2]
    report = Report("fill_ablation", "Fill: what each part of Auto buys", args)
    found: dict = defaultdict(list)
    for name, X in tables(args.rows, args.sets).items():
        unit = np.where(X.std(0) > 0, X.std(0), 1)
        for rate in RATES:
            for seed in range(args.seeds):
                hidden = hidden_cells(X, "mcar", rate, seed)
                incomplete = np.where(hidden, np.nan, X)
                filled = variants(incomplete, seed, args.vae)
                if args.vae:
                    filled["VAE, linear path"] = (
                        VAE(random_state=seed, kinds="real").fit(incomplete).fill(incomplete)
                    )
                    plain = VAE(random_state=seed, kinds="real", linear_path=False).fit(incomplete)
                    filled["VAE, no linear path"] = plain.fill(incomplete)
                used = hidden & (X.std(0) > 0)
                for variant, whole in filled.items():
                    error = float(np.sqrt(np.mean((((whole - X) / unit)[used]) ** 2)))
                    found[variant, rate].append(error)
                say(f"{name} {rate:.0%} {seed}: {found['all: Auto', rate][-1]:.4f}")
    order = sorted({v for v, _ in found}, key=lambda v: -np.mean(found[v, RATES[0]]))
    report.table(
        f"Mean normalised RMSE over {len(args.sets)} sets",
        ["", *(f"{r:.0%} hidden" for r in RATES), "sets"],
        [
            [v, *(spread([np.mean(found[v, r])], 4) for r in RATES), len(found[v, RATES[0]]) // args.seeds]
            for v in order
        ],
    )
    report.remark(
        f"Sets: {', '.join(args.sets)}; at most {args.rows} rows. Members that a set is too small for count in the sets where "
        "they exist."
    )
    report.keep("ablation", {" | ".join(map(str, k)): v for k, v in found.items()})
    report.save()


if __name__ == "__main__":
    main()
