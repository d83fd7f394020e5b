"""Oddness of rows by how far they lie from random training rows, judged by models that did not see them.

Each fold of the training rows is left out once.  From the others come two metrics, all columns over their ranges (Gower's)
and rows whitened by a shrunk covariance (Mahalanobis), and small random bags of rows.  In each metric r, for bags of few and
of many rows s,

    a_rs(x) = mean over bags of log ‖x − nearest row of the bag‖_r,        a training row by the bags that left it out
    u_rs(x) = −log share of training rows that are as far,                 of its far tail an exponential's share
    oddness(x) = max_rs u_rs(x)                                            nats

Many rows tell a row that no other is near; few rows hardly ever hold an anomaly, so a small cluster of anomalies among the
training rows is still far from them.  The largest tells any of these.  Shares of the training rows that are as odd are
conformal p-values: uniform for new rows like the training rows, as these were judged without their own help.

Blanks are drawn a few times from a Gaussian given the row's seen cells, the distances averaged: what is blank is never odd.
Rows in fixed chunks, so that a score depends on its row alone.

Sources: Bandaragoda et al. 2018 (nearest neighbours in small samples); Gower 1971; Vovk 2015 (cross-conformal predictors);
Bates et al. 2023 (conformal p-values of outliers).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from abduce.data.seen import Seen
from abduce.gaussians.parzen_law import row_keys
from abduce.models.transformed import Transformed

CHUNK = 256  # rows of a chunk of fixed shape
BLOCK = 2048  # rows that are completed at once
COPIES = 3  # completed copies of a row with blanks
FEW = 8  # rows of a small bag
NEAR = 1e-3  # nearer than this, times √features, is the same place
BULK = 0.9  # share of the training rows whose ranks count as they are
LEAST = 0.1  # of the step from the median to there: the least mean excess of a tail
SAME = 1e-9  # off a constant column by no more than a rounding error
LEAST_TAIL = 1e-6  # nats
LEAST_SPAN = 1e-9
SORTED = ("keys", "far", "known", "plain")
BOUNDED = ("span", "loc", "root", "points", "far")
MOST = 1e60  # of what is squared and summed on the way to a distance


class Oddness(nn.Module):
    """Metrics and bags of K ``folds`` of rows of F ``features``, and what training rows scored.

    ``gaussian`` codes rows as features and draws their blanks; ``bags`` B of ``size`` M rows a fold, M a multiple of the rows
    of a small bag.  ``rows`` n are the training rows with known scores, ``distinct`` the different ones among them.
    """

    span: Tensor  # ranges of features, (K, F)
    loc: Tensor  # means, (K, F)
    root: Tensor  # whitening, (K, F, F)
    constant: Tensor  # features that never varied, bool (F,)
    points: Tensor  # the bags' features, (K, B M, F)
    keys: Tensor  # hashes of the training rows, sorted, (U,)
    judges: Tensor  # which folds judge each, in shares, (U, K)
    far: Tensor  # log distances of training rows, sorted, (4, n)
    tail: Tensor  # mean excess beyond the bulk, (4,)
    known: Tensor  # oddness of training rows, sorted, (n,)
    plain: Tensor  # the same without the far tail's own scale, (n,), see `contamination`

    def __init__(
        self,
        gaussian: Transformed,
        features: int,
        folds: int,
        bags: int,
        size: int,
        rows: int,
        distinct: int,
        seed: int,
    ):
        super().__init__()
        self.gaussian, self.seed = gaussian, seed
        self.shape = {
            "features": features,
            "folds": folds,
            "bags": bags,
            "size": size,
            "rows": rows,
            "distinct": distinct,
        }
        self.bags, self.size, self.few = bags, size, min(FEW, size)

        def zeros(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
            self.register_buffer(name, torch.zeros(*shape, dtype=dtype))

        zeros("span", folds, features)
        zeros("loc", folds, features)
        zeros("root", folds, features, features)
        zeros("constant", features, dtype=torch.bool)
        zeros("points", folds, bags * size, features)
        zeros("keys", distinct, dtype=torch.int64)
        zeros("judges", distinct, folds)
        zeros("far", 4, rows)
        zeros("tail", 4)
        zeros("known", rows)
        zeros("plain", rows)

    @property
    def config(self) -> dict[str, Any]:
        """What, with the ``state_dict``, builds it again."""
        inner = {"family": type(self.gaussian).__name__, "config": self.gaussian.config}
        return {"gaussian": inner, **self.shape, "seed": self.seed}

    def check(self) -> None:
        """Refuse, by ValueError, numbers that no rows give, as those of a folder that was changed: scores might be none."""
        sound = {
            "span": self.span > LEAST_SPAN,
            "tail": self.tail >= LEAST_TAIL,
            "judges": (self.judges >= 0).all() & ((self.judges.sum(1) - 1).abs() < SAME),
        }
        for name, numbers in self.named_buffers(recurse=False):
            good = sound.get(name, torch.tensor(True)).all()
            good &= name not in SORTED or (numbers.diff(dim=-1) >= 0).all()
            good &= name not in BOUNDED or (numbers.abs() <= MOST).all()
            if not good:
                raise ValueError(f"oddness: {name!r} holds numbers that no rows give")

    # ------------------------------------------------------------------ how odd

    @torch.no_grad()
    def score(self, seen: Seen) -> Tensor:
        """Oddness of rows in model space, nats (n,): −log of about the share of training rows that are as odd."""
        return self.surprise(self.log_distances(seen)).amax(1)

    def p_values(self, oddness: Tensor, contamination: float | str = "auto") -> Tensor:
        """Share of training rows as odd as each, (1 + count) / (1 + n), (rows,): uniform for rows like those.

        A share of ``contamination`` of the training rows, the oddest, does not count; "auto": :attr:`contamination`.
        """
        share = self.contamination if contamination == "auto" else float(contamination)
        kept = self.known[: max(1, len(self.known) - round(share * len(self.known)))]
        count = len(kept) - torch.searchsorted(kept, oddness.contiguous())
        return (1 + count).double() / (1 + len(kept))

    @property
    def contamination(self) -> float:
        """Share of the training rows that the others would flag, at a false discovery rate of a tenth.

        By tails that go on as they do between the third quartile and the bulk's end, which a few anomalies leave as it is.
        """
        n = len(self.plain)
        p = torch.exp(-self.plain.flip(0)) * len(self.far)  # of the oddest first; of any of the four
        passed = (p <= 0.1 * torch.arange(1, n + 1, dtype=p.dtype) / n).nonzero()
        return float(passed[-1] + 1) / n if len(passed) else 0.0

    def threshold(self, contamination: float) -> float:
        """The oddness beyond which a share of ``contamination`` of the training rows lies."""
        return float(torch.quantile(self.known, 1 - contamination, interpolation="lower"))

    def surprise(self, far: Tensor) -> Tensor:
        """−log share of training rows as far (n, 4), nats: by ranks in the bulk, beyond by an exponential tail."""
        return self._shares(far, self.tail)

    def _shares(self, far: Tensor, tail: Tensor) -> Tensor:
        n = self.far.shape[1]
        as_far = n - torch.searchsorted(self.far, far.mT.contiguous()).mT
        ranked = -torch.log((1 + as_far).double() / (1 + n))
        edge = torch.quantile(self.far, BULK, dim=1)
        return torch.where(far > edge, (far - edge) / tail - math.log(1 - BULK), ranked)

    # ------------------------------------------------------------------ how far

    def log_distances(self, seen: Seen) -> Tensor:
        """Mean log distances (n, 4) to the nearest rows of bags: over ranges, few and many rows; whitened, the same."""
        features, mask = (
            torch.from_numpy(a) for a in self.gaussian.coding.code(seen.y.numpy(), seen.mask.numpy())
        )
        judges = self._judges(features, mask)
        out = features.new_zeros(len(features), 4)
        for start in range(0, len(features), BLOCK):
            part = slice(start, start + BLOCK)
            share = judges[part]
            copies = self.completed(Seen(features[part], mask[part]))
            for k in range(share.shape[1]):
                rows = share[:, k].nonzero().squeeze(1)
                for some in rows.split(CHUNK) if len(rows) else ():
                    found = self._of_fold(copies[:, _padded(some)], k).mean(0)[: len(some)]
                    out[start + some] += share[some, k].unsqueeze(1) * found
        return out

    def completed(self, seen: Seen) -> Tensor:
        """Rows of features whose blanks are drawn given the rest, (copies, n, F), with the same noise for every row."""
        if bool(seen.mask.all()):
            return seen.y.unsqueeze(0)
        law: Any = self.gaussian.model.law  # pyright: ignore[reportAttributeAccessIssue]
        return law.draws(seen, COPIES, torch.Generator().manual_seed(self.seed), shared=True)

    def _judges(self, features: Tensor, mask: Tensor) -> Tensor:
        """The share that each fold has in judging a row, (n, K): a training row is judged by those that left it out."""
        folds = len(self.span)
        out = self.far.new_full((len(features), folds), 1 / folds)
        if len(self.keys):
            key = row_keys(features, mask)
            place = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
            mine = self.keys[place] == key
            out[mine] = self.judges[place[mine]]
        return out

    def _of_fold(self, x: Tensor, k: int) -> Tensor:
        """Log distances of completed rows (copies, n, F) to the bags of a fold, (copies, n, 4)."""
        floor = NEAR**2 * x.shape[-1]
        out = []
        for metric in (self.over_ranges, self.whitened):
            rows, points = metric(x.flatten(0, 1), k), metric(self.points[k], k)
            # ‖x − c‖² = ‖x‖² − 2 xᵀ c + ‖c‖², the first added where the nearest is known
            near = torch.addmm(points.square().sum(1), rows, points.mT, alpha=-2)
            for count in (self.few, self.size):
                nearest = near.unflatten(1, (-1, count)).amin(2) + rows.square().sum(1, keepdim=True)
                out.append(0.5 * nearest.clamp_min(floor).log().mean(1))
        return torch.stack(out, 1).unflatten(0, x.shape[:2])

    def _varied(self, x: Tensor) -> Tensor:
        """Features, where one never varied only whether it does."""
        return torch.where(self.constant, ((x - self.loc[0]).abs() > SAME).to(x), x)

    def over_ranges(self, x: Tensor, k: int) -> Tensor:
        """Features over their ranges, so that units do not count."""
        return self._varied(x) / self.span[k]

    def whitened(self, x: Tensor, k: int) -> Tensor:
        """Features whose distances are Mahalanobis'."""
        return (self._varied(x) - self.loc[k]) @ self.root[k]

    # ------------------------------------------------------------------ fit

    @torch.no_grad()
    def calibrate(self, seen: Seen) -> Oddness:
        """Learn what training rows score, by folds that left them out."""
        found = self.log_distances(seen)
        self.far.copy_(found.mT.sort(dim=1)[0])
        middle, quarter, edge = (torch.quantile(self.far, q, dim=1) for q in (0.5, 0.75, BULK))
        beyond = (self.far - edge.unsqueeze(1)).clamp_min(0)
        excess = beyond.sum(1) / (beyond > 0).sum(1).clamp_min(1)
        self.tail.copy_(torch.maximum(excess, LEAST * (edge - middle)).clamp_min(LEAST_TAIL))
        inner = (edge - quarter) / math.log(0.25 / (1 - BULK))
        self.known.copy_(self.surprise(found).amax(1).sort()[0])
        straight = torch.maximum(inner, LEAST * (edge - middle)).clamp_min(LEAST_TAIL)
        self.plain.copy_(self._shares(found, straight).amax(1).sort()[0])
        return self


def _padded(rows: Tensor) -> Tensor:
    """Places of a chunk's rows, the last one again and again up to the chunk's size."""
    return torch.cat([rows, rows[-1:].expand(CHUNK - len(rows))])
