"""The adaptive law symbol by symbol, as coding needs it: who decodes knows no more than what came before.

The same law as :meth:`KneserNey.adaptive_log_prob`, in dictionaries.  A symbol is coded by a chain of choices that need not
look at the whole alphabet: is it one of the few that followed the longest known context, and if not, one that followed the
shorter one, and so on; choices have the law's own probabilities, so the chain costs −log p(x), but for rounding to 2⁻²⁴.

Only whole numbers and single float64 operations go in, in an order that is fixed: coder and decoder agree to the bit.
"""

from __future__ import annotations

from typing import Any, Protocol

from abduce.sequences.text.kneser_ney import KneserNey

_SCALE = float(1 << 24)
_SHIFT = 32  # bits of a symbol in a key
_TINY = 1e-300


class Chooser(Protocol):
    """Codes the choice of one of several widths: writes ``which``, or says which it reads."""

    def code(self, widths: Any, which: int | None = None) -> int: ...

    def uniform(self, size: int, value: int | None = None) -> int: ...


class Follower:
    """A law that reads along: :meth:`code` one symbol, :meth:`learn` it, :meth:`begin` another text."""

    def __init__(self, law: KneserNey):
        self.order, self.size, self._edge = law.order, law.size, law.edge
        self._discounts = [[[0.0, *own] for own in level] for level in law.discounts.tolist()]
        self._law, self._width = law, law.counts.width
        self._numbers: list[dict[int, int]] = []  # of n-grams, by context and symbol
        self._totals: list[list[int]] = []
        self._spreads: list[list[int]] = []  # three numbers for each context
        self._rows: list[
            dict[int, dict[int, int]]
        ] = []  # counts by context, and by symbol: those that were asked for
        for level in law.counts.levels:
            keys = (level.keys // self._width << _SHIFT) + level.keys % self._width
            shorter = len(self._numbers) < self.order
            self._numbers.append(dict(zip(keys.tolist(), range(len(keys)), strict=True)) if shorter else {})
            self._totals.append(level.total.tolist())
            self._spreads.append(level.spread.ravel().tolist())
            self._rows.append({})
        self._fresh = 0
        self._context: list[int] = []
        self.begin()

    def begin(self) -> None:
        """Start a text."""
        self._context = [0]
        if self._edge is not None:
            self.learn(self._edge, counts=False)

    @property
    def known(self) -> int:
        """Symbols that are known by now."""
        return self.size + self._fresh

    def code(self, coder: Chooser, symbol: int | None = None) -> int:
        """Code ``symbol``, a known one or −1 for any other; to decode give none: the symbol that is read."""
        steps, base = self._steps(), 1.0 / (self.known + 1)
        above = 1.0  # what the orders above leave, where they gave nothing
        left, seen, place = 1.0, set(), len(steps)
        while place:
            row, share = steps[place - 1][0], steps[place - 1][3]
            fresh = [v for v in row if v not in seen] if seen else list(row)
            if fresh:
                rest, scale, widths, orders = left, _SCALE / left, [], steps[:place]
                for v in fresh:
                    p = base
                    for counts, total, own, below in orders:
                        p = below * p
                        if v in counts:
                            count = counts[v]
                            p += (count - own[count if count < 3 else 3]) / total
                    p *= above
                    widths.append(int(p * scale) + 1)
                    rest -= p
                widths.append(int(rest * scale) + 1 if rest > 0 else 1)
                which = None if symbol is None else fresh.index(symbol) if symbol in row else len(fresh)
                which = coder.code(widths, which)
                if which < len(fresh):
                    return fresh[which]
                left = rest if rest > _TINY else _TINY
                seen.update(fresh)
            above *= share
            place -= 1
        return -1

    def _steps(self) -> list[tuple[dict[int, int], int, list[float], float]]:
        """Of orders whose context is known, shortest first: counts, their sum, discounts, share left to the shorter."""
        steps = []
        for k, context in enumerate(self._context):
            total = self._totals[k][context]
            if total:
                one, two, more = self._spreads[k][3 * context : 3 * context + 3]
                varied = one + two + more
                own = self._discounts[k][(varied if varied < 3 else 3) - 1]
                left = (own[1] * one + own[2] * two + own[3] * more) / total
                steps.append((self._row(k, context), total, own, left))
        return steps

    def _row(self, order: int, context: int) -> dict[int, int]:
        """Counts of the symbols that followed a context."""
        row = self._rows[order].get(context)
        if row is None:
            level, row = self._law.counts.levels[order], {}
            if context < len(level.total):
                here = slice(level.starts[context], level.starts[context + 1])
                pairs = zip(
                    (level.keys[here] % self._width).tolist(), level.counts[here].tolist(), strict=True
                )
                row = {v: count for v, count in pairs if count}
            self._rows[order][context] = row
        return row

    def learn(self, symbol: int | None, counts: bool = True) -> int:
        """Take in a symbol, None for one that was not known and is from now on: its number."""
        if symbol is None:
            self._fresh += 1
            symbol = self.size + 1 + self._fresh
        context, longest = self._context, len(self._context) - 1
        after, is_new = [], False
        for k in range(longest, -1, -1):
            if counts and (is_new or k == longest):
                is_new = self._count(k, context[k], symbol)
            else:
                is_new = False
            if k < self.order:
                numbers, key = self._numbers[k], (context[k] << _SHIFT) + symbol
                number = numbers.get(key)
                if number is None:
                    number = numbers[key] = len(numbers)
                    self._totals[k + 1].append(0)
                    self._spreads[k + 1] += (0, 0, 0)
                after.append(number)
        after.append(0)
        after.reverse()
        self._context = after
        return symbol

    def _count(self, order: int, context: int, symbol: int) -> bool:
        """Count a symbol after a context once more; whether it is the first time."""
        row = self._row(order, context)
        count = row.get(symbol, 0)
        row[symbol] = count + 1
        self._totals[order][context] += 1
        if count < 3:
            self._spreads[order][3 * context + count] += 1
            if count:
                self._spreads[order][3 * context + count - 1] -= 1
        return not count
