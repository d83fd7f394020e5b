"""A stack of laws: several models of the same rows, pooled by how well each predicts cells that were hidden from it.

    p(x_b | x_o) = Σ_m w_m p_m(x_b | x_o)

Each member is a law over features (:class:`~abduce.data.coding.Coding`): one Gaussian, mixtures of factor analysers, Parzen
windows, of the numbers themselves or of their normal scores.  A member's number is its conditional mean, its class the
normalised conditional means of the indicators, so that

    log p_m(x) = log p_m(numbers) + Σ_j log p_m(class_j | numbers, classes before j)

is a probability of mixed rows, and log p(x) = log Σ_m v_m p_m(x) that of the stack.

Sources: Wolpert 1992, Breiman 1996 (stacking); Stone 1961 (the linear opinion pool).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.parzen_law import ParzenLaw
from abduce.inference.energy import Base, Energy

POINTS = 24  # of a cell's law, behind the mean of a number that was coded by its score
FLOOR = 1e-3  # least probability of a class, times the number of its levels
ROWS = 2048  # points of more rows at once would not fit into memory


class Member(NamedTuple):
    """A law of the features that one of the codings makes."""

    name: str
    coding: int
    law: FactorMixtureLaw | ParzenLaw


class Stack(Energy):
    """The pool as an energy, E(x) = −log p(x) in model space; it is its own law.

    ``numbers``, ``classes`` and ``rows`` (M,) are the members' weights: of numbers and of classes when cells are filled, of
    whole rows when they are scored.  ``spread`` (D',) scales the deviations of drawn numbers from their mean, so that
    intervals hold what they should.  ``represent`` gives the factors of the first member, one Gaussian.

    Built by :meth:`of`; the constructor takes what :attr:`config` holds and waits for ``load_state_dict``.
    """

    support = "mixed"
    bounded_volume = True  # it is normalised
    smooth = False
    numbers: Tensor
    classes: Tensor
    rows: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        codings: list[dict[str, Any]],
        members: list[dict[str, Any]],
        spread: list[float] | None = None,
    ):
        super().__init__()
        self.config = {"schema": schema, "codings": codings, "members": members, "spread": spread}
        self.schema = Schema.from_json(schema)
        self.n_cells = self.schema.n_cells
        self.spread = spread
        for kind, parts in (("coding", codings), ("member", members)):
            for i, part in enumerate(parts):
                for name, (shape, whole) in part["arrays"].items():
                    dtype = torch.int64 if whole else torch.float64
                    self.register_buffer(_key(kind, i, name), torch.zeros(shape, dtype=dtype))
        for name in ("numbers", "classes", "rows"):
            self.register_buffer(name, torch.ones(len(members), dtype=torch.float64) / len(members))
        self._parts: tuple[list[Coding], list[Member]] | None = None
        self.register_load_state_dict_post_hook(_forget)

    @classmethod
    def of(
        cls,
        codings: Sequence[Coding],
        members: Sequence[Member],
        weights: tuple[Tensor, Tensor, Tensor],
        spread: list[float] | None = None,
        reports: Sequence[dict[str, Any]] | None = None,
    ) -> Stack:
        """Build from fitted parts, and weights of numbers, classes and rows; ``reports`` say how each member did."""
        arrays = [{n: torch.from_numpy(np.asarray(a)) for n, a in c.to_arrays().items()} for c in codings]
        laws = [_arrays(m.law) for m in members]
        about = list(reports or ({} for _ in members))
        self = cls(
            codings[0].schema.to_json(),
            [{"scores": c.scores, "arrays": _shapes(a)} for c, a in zip(codings, arrays, strict=True)],
            [
                {"name": m.name, "coding": m.coding, "arrays": _shapes(a), "report": r}
                for m, a, r in zip(members, laws, about, strict=True)
            ],
            spread,
        )
        state = dict(zip(("numbers", "classes", "rows"), weights, strict=True))
        for kind, parts in (("coding", arrays), ("member", laws)):
            state |= {_key(kind, i, n): t for i, part in enumerate(parts) for n, t in part.items()}
        self.load_state_dict(state)
        return self

    def _built(self) -> tuple[list[Coding], list[Member]]:
        if self._parts is None:
            codings = [
                Coding.from_arrays(
                    self.schema,
                    {n: getattr(self, _key("coding", i, n)).numpy() for n in c["arrays"]},
                    c["scores"],
                )
                for i, c in enumerate(self.config["codings"])
            ]
            members = [
                Member(
                    m["name"],
                    m["coding"],
                    _law({n: getattr(self, _key("member", i, n)) for n in m["arrays"]}),
                )
                for i, m in enumerate(self.config["members"])
            ]
            self._parts = codings, members
        return self._parts

    @property
    def codings(self) -> list[Coding]:
        """What members read."""
        return self._built()[0]

    @property
    def members(self) -> list[Member]:
        """The laws."""
        return self._built()[1]

    @property
    def reports(self) -> list[dict[str, Any]]:
        """How each member predicted hidden cells, and its weights."""
        return [{"member": m["name"], **m["report"]} for m in self.config["members"]]

    @property
    def coding(self) -> Coding:
        """The coding in the numbers' own units."""
        return self.codings[0]

    # ------------------------------------------------------------------ as an energy, and as its law

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return -self.log_prob(x.detach(), observed)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return self.rows.new_zeros(()) if beta == 1 and base is None else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> Stack | None:
        """Itself at β = 1 without a base; None elsewhere."""
        return self if beta == 1 and base is None else None

    def represent(self, x: Tensor) -> Tensor:
        law = self.members[0].law
        assert isinstance(law, FactorMixtureLaw)
        features, _ = self.coded(x, torch.ones_like(x, dtype=torch.bool))[0]
        return law.factors(features).mean[:, 0]

    def mean(self, x: Tensor, observed: Tensor) -> Tensor:
        """Rows with blanks at their mean (numbers) or mode (classes), in model space."""
        numbers, classes = self.predict(x, observed)
        out = x.clone()
        out[:, self.coding.numbers] = torch.from_numpy(self.coding.to_model(numbers))
        for j, p in classes.items():
            out[:, j] = torch.from_numpy(p.argmax(1).astype(float))
        return torch.where(observed, x, out)

    def complete(
        self, x: Tensor, observed: Tensor, draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Joint draws of whole rows (draws, rows, D): class after class given those before, then the numbers given all."""
        generator = generator or torch.Generator().manual_seed(torch.initial_seed())
        values, seen = x.repeat(draws, 1), observed.repeat(draws, 1)
        for j in self.coding.classes:
            rows = (~seen[:, j]).nonzero().squeeze(1)
            if len(rows):
                p = torch.from_numpy(self.predict(values[rows], seen[rows], numbers=False)[1][j])
                values[rows, j] = torch.multinomial(p, 1, generator=generator)[:, 0].double()
                seen[:, j] = True
        values, seen = values.view(draws, *x.shape), seen.view(draws, *x.shape)
        chosen = self._allot(draws, generator)
        if bool((seen == observed).all()):
            drawn = self._numbers_drawn(x, observed, chosen, generator)
        else:
            drawn = torch.cat(
                [
                    self._numbers_drawn(values[i], seen[i], chosen[:, i : i + 1], generator)
                    for i in range(draws)
                ]
            )
        return torch.where(observed, x, torch.where(seen, values, drawn))

    def marginals(self, x: Tensor, observed: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Draws of each cell given the row (draws, rows, D), for intervals: classes each on its own."""
        chosen = self._allot(draws, generator)
        out = self._numbers_drawn(x, observed, chosen, generator, np.ones(len(self.coding.numbers), bool))
        if self.coding.classes:
            for j, p in self.predict(x, observed, numbers=False)[1].items():
                drawn = torch.multinomial(torch.from_numpy(p), draws, replacement=True, generator=generator)
                out[..., j] = torch.where(observed[:, j], x[:, j], drawn.mT.double())
        return out

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """New rows (n, D) of the density that :meth:`log_prob` gives: a member each, its numbers, then class after class.

        Where a number repeats values, members of scores draw all rows: a density has no spikes.
        """
        generator = generator or torch.Generator().manual_seed(torch.initial_seed())
        out = torch.zeros(n, self.n_cells, dtype=torch.float64)
        weights = self.rows if self.coding.smooth.all() else self._scored(self.rows)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        for m in chosen.unique().tolist():
            rows = (chosen == m).nonzero().squeeze(1)
            law, coding = self.members[m].law, self.codings[self.members[m].coding]
            drawn = coding.to_model(coding.decode_numbers(law.sample(len(rows), generator).numpy()))
            values, seen = np.zeros((len(rows), self.n_cells)), np.zeros((len(rows), self.n_cells), bool)
            values[:, coding.numbers], seen[:, coding.numbers] = drawn, True
            for j in coding.classes:
                features, known = (torch.from_numpy(a) for a in coding.code(values, seen))
                p = coding.probabilities(law.mean(features, known).numpy(), j, _floor(coding, j))
                values[:, j] = torch.multinomial(torch.from_numpy(p), 1, generator=generator)[:, 0].numpy()
                seen[:, j] = True
            out[rows] = torch.from_numpy(values)
        return out

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p of the observed cells, nats (n,): densities of numbers in model space, probabilities of classes."""
        observed = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
        units = self.schema.log_jacobian(x.numpy(), observed.numpy(), pixels=True)
        return torch.logsumexp(self.log_probs(x, observed) + self.rows.log(), 1) - torch.from_numpy(units)

    def through(self, seen: Callable[[Tensor], Tensor], noise: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """E[x | y] for y = A x + noise · N(0, I); by the members that are mixtures of the numbers themselves."""
        return self._through(lambda law: law.through(seen, noise, y, known))

    def complete_through(
        self,
        seen: Callable[[Tensor], Tensor],
        noise: Tensor,
        y: Tensor,
        known: Tensor,
        draws: int,
        generator: torch.Generator | None = None,
        shared: bool = False,
    ) -> Tensor:
        """Draw from p(x | y), arguments as in :meth:`through`: (draws, batch, D)."""
        return self._through(
            lambda law: law.complete_through(seen, noise, y, known, draws, generator, shared), draws=True
        )

    def _through(self, ask: Callable[[Any], Tensor], draws: bool = False) -> Tensor:
        """Average the means, or take draws in turn, of the raw mixtures brought to model space."""
        if len(self.coding.numbers) < self.n_cells or any(
            f.kind not in ("real", "pixel") for f in self.schema.fields
        ):
            raise ValueError("noise and coarser views need columns that are all real")
        scale = torch.tensor([f.scale for f in self.schema.fields], dtype=torch.float64)
        loc = torch.tensor([f.loc for f in self.schema.fields], dtype=torch.float64)
        ratio = torch.from_numpy(self.coding.scale) / scale
        shift = (torch.from_numpy(self.coding.loc) - loc) / scale
        laws, weights = [], []
        for member, w in zip(self.members, self.numbers.tolist(), strict=True):
            if member.coding == 0 and isinstance(member.law, FactorMixtureLaw):
                law = member.law.dense()
                covariances = law.covariances * ratio.unsqueeze(1) * ratio
                laws.append(type(law)(law.log_weights, law.means * ratio + shift, covariances))
                weights.append(w + 1e-6)
        answers = torch.stack([ask(law) for law in laws])
        share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        if not draws:
            return torch.tensordot(share, answers, 1)
        count = answers.shape[1]
        turn = torch.searchsorted(share.cumsum(0), (torch.arange(count) + 0.5).double() / count)
        return answers[turn.clamp_max(len(laws) - 1), torch.arange(count)]

    # ------------------------------------------------------------------ predict

    def coded(self, x: Tensor, observed: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features and mask of rows in model space under each coding."""
        return coded(self.codings, x.numpy(), observed.numpy())

    def predict(
        self, x: Tensor, observed: Tensor, numbers: bool = True
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Means of numbers in data units (n, D'), and probabilities (n, L) of each class cell."""
        coded = self.coded(x, observed)
        means = np.zeros((len(x), len(self.coding.numbers)))
        classes: dict[int, Any] = dict.fromkeys(self.coding.classes, 0.0)
        for member, w, c in zip(self.members, self.numbers.tolist(), self.classes.tolist(), strict=True):
            asked = numbers and w > 0
            if asked or (classes and c > 0):
                found, chances = predicted(
                    member, self.codings[member.coding], *coded[member.coding], numbers=asked
                )
                means += w * found
                for j, p in chances.items():
                    classes[j] = classes[j] + c * p
        return means, classes

    def _scored(self, weights: Tensor) -> Tensor:
        """Weights of the members that read normal scores: they alone repeat a value as often as the data do."""
        of_scores = torch.tensor([self.codings[member.coding].scores for member in self.members])
        return torch.where(of_scores, weights + 1e-9, 0.0)

    def _allot(self, n: int, generator: torch.Generator) -> Tensor:
        """Which member makes which of n draws, systematic, in random order: (2, n), of all members and of those of scores."""
        u = (torch.arange(n) + torch.rand(1, generator=generator)) / n
        order = torch.randperm(n, generator=generator)
        out = []
        for weights in (self.numbers, self._scored(self.numbers)):
            chosen = torch.searchsorted(weights.cumsum(0), u.double() * weights.sum())
            out.append(chosen.clamp_max(len(self.members) - 1)[order])
        return torch.stack(out)

    def _numbers_drawn(
        self,
        x: Tensor,
        observed: Tensor,
        chosen: Tensor,
        generator: torch.Generator,
        scaled: np.ndarray | None = None,
    ) -> Tensor:
        """Rows with numbers drawn by the chosen members (2, n), (n, rows, D); classes as they are.

        Rows where a number that repeats values is blank go to members of scores.  ``scaled`` (D',) are the numbers whose
        deviations are brought to their spread; by default those that do not repeat, as the others must go on repeating.
        """
        coded = self.coded(x, observed)
        numbers = torch.from_numpy(self.coding.numbers)
        data = np.empty((chosen.shape[1], len(x), len(numbers)))
        repeats = (~observed[:, numbers[torch.from_numpy(~self.coding.smooth)]]).any(1)
        for kind, own in enumerate(chosen):
            rows = (repeats == bool(kind)).nonzero().squeeze(1)
            for m in own.unique().tolist() if len(rows) else ():
                member = self.members[m]
                which = (own == m).nonzero().squeeze(1)
                features, seen = coded[member.coding]
                drawn = member.law.complete(features[rows], seen[rows], len(which), generator)
                place = np.ix_(which.numpy(), rows.numpy())
                data[place] = self.codings[member.coding].decode_numbers(drawn.numpy())
        if self.spread is not None and len(numbers):
            centre, _ = self.predict(x, observed)
            scaled = self.coding.smooth if scaled is None else scaled
            data[..., scaled] = (centre + np.array(self.spread) * (data - centre))[..., scaled]
        out = x.expand(len(data), *x.shape).clone()
        out[..., numbers] = torch.from_numpy(self.coding.to_model(data))
        return torch.where(observed, x, out)

    def log_probs(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p of the observed cells under each member, (n, M)."""
        coded = self.coded(x, observed)
        pairs = zip(self.codings, coded, strict=True)
        slopes = [torch.from_numpy(c.log_slope_at(f.numpy(), observed.numpy())) for c, (f, _) in pairs]
        out = x.new_empty(len(x), len(self.members))
        for m, member in enumerate(self.members):
            coding = self.codings[member.coding]
            features, seen = coded[member.coding]
            known = seen.clone()
            known[:, len(coding.numbers) :] = False
            out[:, m] = member.law.log_prob(features, known) + slopes[member.coding]
            for j, (block, _, _) in coding.classes.items():
                rows = observed[:, j].nonzero().squeeze(1)
                if len(rows):
                    mean = member.law.mean(features[rows], known[rows])
                    p = coding.probabilities(mean.numpy(), j, _floor(coding, j))
                    level = x[rows, j].long().numpy()
                    out[rows, m] += torch.from_numpy(np.log(p[np.arange(len(level)), level]))
                known[:, block] = seen[:, block]
        return out


def coded(codings: Sequence[Coding], values: np.ndarray, observed: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Features and mask of rows (n, D) under each coding, as tensors."""
    pairs = [coding.code(values, observed) for coding in codings]
    return [(torch.from_numpy(features), torch.from_numpy(seen)) for features, seen in pairs]


def predicted(
    member: Member, coding: Coding, features: Tensor, seen: Tensor, numbers: bool = True
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What one member makes of rows: numbers in data units (n, D') and probabilities of each class cell."""
    count = len(coding.numbers)
    means = np.zeros((len(features), count))
    classes: dict[int, np.ndarray] = {}
    by_points = numbers and coding.scores
    if coding.classes or (numbers and not by_points):
        mean = member.law.mean(features, seen).numpy()
        classes = {j: coding.probabilities(mean, j, _floor(coding, j)) for j in coding.classes}
        if numbers and not by_points:
            means = coding.decode_numbers(mean)
    if by_points:
        for i in range(0, len(features), ROWS):
            rows = slice(i, i + ROWS)
            points = member.law.points(features[rows], seen[rows], POINTS)[..., :count]
            means[rows] = coding.decode_numbers(points.numpy()).mean(0)
    return means, classes


def _forget(stack: torch.nn.Module, keys: Any) -> None:
    """Rebuild the parts when they are next asked for: other parameters were loaded."""
    stack._parts = None  # pyright: ignore[reportArgumentType]


def _floor(coding: Coding, j: int) -> float:
    return FLOOR / len(coding.classes[j][1])


def _key(kind: str, i: int, name: str) -> str:
    """A buffer's name; torch allows no dots in it."""
    return f"{kind}_{i}_{name.replace('.', '_')}"


def _shapes(arrays: dict[str, Tensor]) -> dict[str, list]:
    """Shape of each array, and whether it holds whole numbers."""
    return {n: [list(t.shape), not t.is_floating_point()] for n, t in arrays.items()}


def _arrays(law: FactorMixtureLaw | ParzenLaw) -> dict[str, Tensor]:
    """What a law is rebuilt from."""
    if isinstance(law, FactorMixtureLaw):
        return {
            "log_weights": law.log_weights,
            "means": law.means,
            "loadings": law.loadings,
            "noise": law.noise,
        }
    bandwidth = torch.tensor([law.bandwidth], dtype=torch.float64)
    out = {"centres": law.centres, "loadings": law.loadings, "noise": law.noise, "bandwidth": bandwidth}
    return out if law.keys is None else out | {"keys": law.keys}


def _law(arrays: dict[str, Tensor]) -> FactorMixtureLaw | ParzenLaw:
    if "means" in arrays:
        return FactorMixtureLaw(**arrays)
    return ParzenLaw(**arrays | {"bandwidth": float(arrays["bandwidth"])})  # pyright: ignore[reportArgumentType]
