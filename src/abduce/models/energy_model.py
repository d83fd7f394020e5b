"""An energy made a model: with a temperature, a base measure where the integral needs one, and a place to start from.

    p(x) = exp(−β E(x)) b(x) / Z

Where the family has an exact law, answers are exact; elsewhere particles are annealed from the start.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Generator, Tensor, nn

from abduce.answers.annealed import Annealed
from abduce.answers.answer import EFFORT, Answer, Effort
from abduce.answers.exact import Exact
from abduce.data.layout import Layout
from abduce.data.seen import Seen, Unanswerable
from abduce.inference.energy import VIEWS, Energy, Law, LogZ
from abduce.inference.generate import Generated, generate
from abduce.inference.partition import log_z
from abduce.inference.paths import Density
from abduce.models.model import Model, versions


class EnergyModel(Model):
    """``energy`` with inverse temperature ``beta``, measure ``base`` and ``start``, two modules of
    :mod:`abduce.distributions.bases` or None; a family with an exact law needs no start.

    ``levels`` (D,) are classes a cell, 0 for numbers; None: all cells are what the family's support says.
    """

    energy: Energy
    start: Any
    measure: Any  # the module of the base measure

    def __init__(
        self,
        energy: Energy,
        start: nn.Module | None = None,
        beta: float = 1.0,
        base: nn.Module | None = None,
        partition: LogZ | None = None,
        levels: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.energy, self.start, self.measure = energy, start, base
        self.beta, self.partition = float(beta), partition
        self._made: tuple[Any, Law | None] | None = None
        if levels is None:
            levels = (2 if energy.support == "binary" else 0,) * energy.n_cells
        self.layout, self.n_cells = Layout((len(levels),), tuple(levels)), len(levels)

    @property
    def config(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {
            "energy": {"family": type(self.energy).__name__, "config": self.energy.config},
            "beta": self.beta,
            "partition": None if self.partition is None else asdict(self.partition),
            "levels": list(self.layout.levels),
            "start": None if self.start is None else self.start.name,
            "base": None if self.base is None else self.base.name,
        }

    @property
    def base(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.measure

    @property
    def density(self) -> Density:
        """exp(−β E) b, and where to start from."""
        return Density(self.energy, self.start, self.beta, self.base)

    @property
    def law(self) -> Law | None:
        """The distribution, where its marginals, conditionals and draws are exact; made once, as that may factorise."""
        version = (self.beta, *versions(self.energy))
        if self._made is None or self._made[0] != version:
            self._made = version, self.energy.law(self.beta, self.base)
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # copies and pickles do without the law

    @property
    def views(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the law answers; of particles, whatever the cells' kind allows."""
        law = self.law
        return VIEWS[self.energy.support] if law is None else law.views

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer:
        law = self.law
        if law is None or seen.view.name not in law.views:
            self.check(seen)
        if law is not None:
            return Exact(law, seen, self.energy.represent, self.layout.levels)
        if self.start is None:
            raise Unanswerable(f"{type(self.energy).__name__} needs a start to anneal from, and has none")
        return Annealed(self.density, seen, effort, None if self.partition is None else self.partition.value)

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.generate(n, generator).x

    def generate(self, n: int, generator: Generator) -> Generated:
        """New rows and how they came about; raises Diverged where chains run away or stand still."""
        return generate(self.density, n, generator)

    def decode(self, z: Tensor) -> Tensor:
        return self.energy.decode(z)

    def pieces(self, x: Tensor) -> list[Tensor]:
        if self.exact:
            return []
        measures = [measure.log_prob(x) for measure in (self.start, self.base) if measure is not None]
        return [self.energy.energy(x), self.energy.represent(x), *measures]

    def coder(self) -> Any:
        law = self.law
        return self.energy if law is None else law

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.law is not None

    def knows_log_z(self) -> bool:
        """Whether log Z needs no sampling."""
        if self.law is not None:
            return True
        return self.energy.in_nats and self.energy.log_z(self.beta, self.base) is not None

    def normalize(self, method: str, **sampler: Any) -> LogZ:
        """Estimate log Z and keep it; see :func:`abduce.inference.partition.log_z`."""
        found = log_z(self.density, method, **sampler)
        found.diagnostics.update(beta=self.beta, base="none" if self.base is None else self.base.name)
        self.partition = found
        return found
