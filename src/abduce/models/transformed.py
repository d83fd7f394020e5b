"""A model of features seen as a model of rows: column transforms in front of it, and back behind it.

    log p(x) = log p(f(x)) + Σ_j log |f_j'(x_j)|

Numbers are features by an affine map or by normal scores (:class:`~abduce.data.coding.Coding`), classes by their indicators.
The model is asked about features.  A number's mean is the mean over what the features' points go back to; a class has the
normalised conditional means of its indicators for chances, and classes follow one another after the numbers, so that

    log p(x) = log p(numbers) + Σ_j log p(class_j | numbers, classes before j)

is a probability of mixed rows.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Answer, Effort, joined
from abduce.answers.exact import padded_chunks
from abduce.answers.views import Linear
from abduce.data.coding import Coding
from abduce.data.operators import Scaled
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.models.model import Model, draw_classes

POINTS = 24  # of a cell's distribution, behind the mean of a number that is coded by its score
FLOOR = 1e-3  # least probability of a class, times the number of its levels
ROWS = 2048  # points of more rows at once would not fit into memory

# equal codings are one, which codes rows once
_CODINGS: WeakValueDictionary[bytes, Coding] = WeakValueDictionary()


class Transformed(Model):
    """``model`` of features behind a ``coding`` of a schema's rows; JSON-able parts and buffers rebuild it."""

    in_units = True

    def __init__(self, model: Model, schema: Schema, scores: bool, arrays: dict[str, np.ndarray]):
        super().__init__()
        self.model, self.schema, self.scores = model, schema, scores
        self._names = sorted(arrays)
        for i, name in enumerate(self._names):
            self.register_buffer(f"array_{i}", torch.from_numpy(np.array(arrays[name])))
        self.layout, self.n_cells = schema.layout, schema.n_cells
        self._coding: Coding | None = None
        self.register_load_state_dict_post_hook(_forget)

    @classmethod
    def of(cls, model: Model, coding: Coding) -> Transformed:
        """Put a model behind a coding."""
        out = cls(model, coding.schema, coding.scores, coding.to_arrays())
        out._coding = coding
        return out

    @property
    def config(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        buffers = {n: [list(t.shape), not t.is_floating_point()] for n, t in self._arrays().items()}
        inner = {"family": type(self.model).__name__, "config": self.model.config}
        return {"model": inner, "schema": self.schema.to_json(), "scores": self.scores, "arrays": buffers}

    def _arrays(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"array_{i}") for i, name in enumerate(self._names)}

    @property
    def coding(self) -> Coding:
        """The way to features and back."""
        if self._coding is None:
            arrays = {name: array.numpy() for name, array in self._arrays().items()}
            about = repr((self.schema.to_json(), self.scores, self._names)).encode()
            key = hashlib.sha256(about + b"".join(a.tobytes() for a in arrays.values())).digest()
            if (found := _CODINGS.get(key)) is None:
                _CODINGS[key] = found = Coding.from_arrays(self.schema, arrays, self.scores)
            self._coding = found
        return self._coding

    @cached_property
    def views(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Blanks; linear views where features are an affine map of model values: then noise stays Gaussian noise."""
        affine = not self.scores and {f.kind for f in self.schema.fields} <= {"real", "pixel"}
        return frozenset({"blanks", "linear"} if affine else {"blanks"}) & self.model.views

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer:
        self.check(seen)
        if seen.exact:
            return _ThroughCoding(self, seen, effort)
        # model value = scale · feature + loc, (D,) each
        zero, one = np.zeros((1, len(self.coding.numbers))), np.ones((1, len(self.coding.numbers)))
        low, high = (self.coding.to_model(self.coding.decode_numbers(v))[0] for v in (zero, one))
        scale, loc = torch.from_numpy(high - low), torch.from_numpy(low)
        view: Any = seen.view
        inner_view = Linear(view.noise, Scaled(view.operator, scale))
        inner = Seen(seen.y - view.apply(loc), seen.mask, inner_view)
        return _Rescaled(self.model.answer(inner, effort), scale, loc)

    def sample(self, n: int, generator: Generator) -> Tensor:
        coding = self.coding
        drawn = coding.to_model(coding.decode_numbers(self.model.sample(n, generator).numpy()))
        values, seen = Seen.nothing(n, self.n_cells)[:2]
        values[:, coding.numbers], seen[:, coding.numbers] = torch.from_numpy(drawn), True
        draw_classes(self, values, seen, coding.classes, generator)
        return values


class _ThroughCoding(Answer):
    """Answers in rows from answers in features."""

    kind = "estimate"

    def __init__(self, owner: Transformed, seen: Seen, effort: Effort):
        self.owner, self.seen, self.effort, self.coding = owner, seen, effort, owner.coding

    @cached_property
    def _inner(self) -> Answer:
        return self.owner.model.answer(Seen(*self.coding.features(self.seen.y, self.seen.mask)), self.effort)

    @cached_property
    def _inner_mean(self) -> np.ndarray:
        return self._inner.mean().numpy()

    @property
    def log_evidence(self) -> Tensor:
        if (
            not self.coding.classes
        ):  # the model's own answer sees to it that rows don't depend on their neighbours
            return self._evidence(self.seen)
        return joined([self._evidence(chunk)[:n] for chunk, n in padded_chunks(self.seen)])

    def _evidence(self, chunk: Seen) -> Tensor:
        coding, model = self.coding, self.owner.model
        x, observed = chunk.y, chunk.mask
        features, seen = coding.features(x, observed)
        known = seen.clone()
        known[:, len(coding.numbers) :] = False
        out = model.answer(Seen(features, known), self.effort).log_evidence
        out = out + coding.slope(x, observed)
        for j, known_class in coding.classes.items():
            rows = observed[:, j].nonzero().squeeze(1)
            if len(rows):
                mean = model.answer(Seen(features[rows], known[rows]), self.effort).mean()
                p = coding.probabilities(mean.numpy(), j, FLOOR / len(known_class.share))
                level = x[rows, j].long().numpy()
                out[rows] += torch.from_numpy(np.log(p[np.arange(len(level)), level]))
            known[:, known_class.block] = seen[:, known_class.block]
        return out

    @property
    def ess(self) -> Tensor:
        return self._inner.ess

    def mean(self) -> Tensor:
        out = self.seen.y.clone()
        out[:, self.coding.numbers] = torch.from_numpy(self.coding.to_model(self.numbers()))
        for j in self.coding.classes:
            out[:, j] = self.chances(j).argmax(1).double()
        return torch.where(self.seen.mask, self.seen.y, out)

    def numbers(self) -> np.ndarray:
        """Means of numbers in data units, (rows, D')."""
        coding, count = self.coding, len(self.coding.numbers)
        if not coding.scores or not count:
            return coding.decode_numbers(self._inner_mean)
        features, seen = coding.features(self.seen.y, self.seen.mask)
        out = np.zeros((len(features), count))
        for i in range(0, len(features), ROWS):
            rows = slice(i, i + ROWS)
            answer = self.owner.model.answer(Seen(features[rows], seen[rows]), self.effort)
            out[rows] = coding.decode_numbers(answer.points(POINTS)[..., :count].numpy()).mean(0)
        return out

    def chances(self, cell: int) -> Tensor:
        floor = FLOOR / len(self.coding.classes[cell].share)
        return torch.from_numpy(self.coding.probabilities(self._inner_mean, cell, floor))

    def draws(self, n: int, generator: Generator, what: str = "rows") -> Tensor:
        coding, x, observed = self.coding, self.seen.y, self.seen.mask
        blank = [j for j in coding.classes if not bool(observed[:, j].all())]
        if what == "rows" and blank:
            values, seen = x.repeat(n, 1), observed.repeat(n, 1)
            draw_classes(self.owner, values, seen, blank, generator, self.effort)
            rest = self.owner.answer(Seen(values, seen), self.effort).draws(1, generator)
            return rest.view(n, *x.shape)
        drawn = coding.decode_numbers(self._inner.draws(n, generator).numpy())
        out = x.expand(n, *x.shape).clone()
        out[..., coding.numbers] = torch.from_numpy(coding.to_model(drawn))
        if what == "cells":
            for j in blank:
                out[..., j] = torch.multinomial(self.chances(j), n, True, generator=generator).mT.double()
        return torch.where(observed, x, out)

    def latents(self) -> Tensor:
        return self._inner.latents()

    def points(self, count: int) -> Tensor:
        return self.draws(count, Generator().manual_seed(self.effort.seed), "cells")


class _Rescaled(Answer):
    """Answers about features f as answers about x = scale · f + loc, for what was seen of x through a linear view."""

    log_evidence = property(lambda self: self.inner.log_evidence)
    ess = property(lambda self: self.inner.ess)

    def __init__(self, inner: Answer, scale: Tensor, loc: Tensor):
        self.inner, self.scale, self.loc, self.kind = inner, scale, loc, inner.kind

    def mean(self) -> Tensor:
        return self.scale * self.inner.mean() + self.loc

    def draws(self, n: int, generator: Generator, what: str = "rows") -> Tensor:
        return self.scale * self.inner.draws(n, generator, what) + self.loc

    def chances(self, cell: int) -> Tensor:
        return self.inner.chances(cell)

    def latents(self) -> Tensor:
        return self.inner.latents()

    def points(self, count: int) -> Tensor:
        return self.scale * self.inner.points(count) + self.loc


def _forget(transformed: torch.nn.Module, keys: Any) -> None:
    """Rebuild the coding when it is next asked for: other arrays were loaded."""
    transformed._coding = None  # pyright: ignore[reportArgumentType]
