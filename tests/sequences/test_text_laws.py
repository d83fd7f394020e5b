"""Kneser-Ney over symbols beside a plain implementation in dictionaries, enumeration of blanks, and coding there and back."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from abduce.compress.container import CompressedDataError
from abduce.compress.ranges import RangeDecoder, RangeEncoder
from abduce.sequences.text import coding, lookahead
from abduce.sequences.text.asking import FillQuestion
from abduce.sequences.text.between import Between
from abduce.sequences.text.counts import Counted, NgramCounts, Stream
from abduce.sequences.text.discounts import fit_discounts, interpolated, usual
from abduce.sequences.text.follower import Follower
from abduce.sequences.text.gaps import BLANK, Stretch, mark, stretches
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import Vocabulary

PASSAGE = (
    "the cat sat on the mat; the rat sat on that cat. a cat that sat at the mat ate the rat that sat. " * 2
)


class Plain:
    """Interpolated modified Kneser-Ney as the formula says it, one symbol at a time, over tuples."""

    def __init__(self, order, size, discounts, edge):
        self.order, self.size, self.discounts, self.edge = order, size, discounts, edge
        self.counts = defaultdict(int)  # (context, symbol)
        self.seen = set()

    def read(self, text):
        led = ([] if self.edge is None else [self.edge]) + list(text)
        for t in range(len(led) - len(text), len(led)):
            self.learn(tuple(led[max(0, t - self.order) : t]), led[t])

    def learn(self, context, x):
        """Count the longest n-gram; a shorter one each time that the one longer by a symbol is new."""
        for start in range(len(context) + 1):
            gram = (context[start:], x)
            self.counts[gram] += 1
            if gram in self.seen:
                return
            self.seen.add(gram)

    def p(self, context, x, known):
        below = 1 / (known + 1) if not context else self.p(context[1:], x, known)
        after = {w: c for (h, w), c in self.counts.items() if h == context}
        if not after:
            return below
        own = (0, *self.discounts[len(context)][min(len(after), 3) - 1])
        total = sum(after.values())
        left = sum(own[min(c, 3)] for c in after.values()) / total
        c = after.get(x, 0)
        return (c - own[min(c, 3)]) / total + left * below

    def log_prob(self, text, adaptive):
        """``text`` of symbols; those beyond A + 1 are new, and known once they were read, if ``adaptive``."""
        led = ([] if self.edge is None else [self.edge]) + list(text)
        out, known = [], set(range(self.size))
        for t in range(len(led) - len(text), len(led)):
            context = tuple(led[max(0, t - self.order) : t])
            out.append(np.log(self.p(context, led[t], len(known))))
            if adaptive:
                self.learn(context, led[t])
                known.add(led[t])
        return np.array(out)


def texts_of(rng, size, n=4, length=40):
    return [rng.integers(0, size, length) for _ in range(n)]


def random_discounts(rng, order):
    return rng.random((order + 1, 3, 3)) * np.array([1.0, 2.0, 3.0])


def pair(order, size, edges, seed=0):
    rng = np.random.default_rng(seed)
    discounts = random_discounts(rng, order)
    texts = texts_of(rng, size)
    edge = size + 1 if edges else None
    plain = Plain(order, size, discounts, edge)
    for text in texts:
        plain.read(text.tolist())
    law = KneserNey(NgramCounts.count(Stream.of(texts, order, edge), order, size), discounts, edges)
    return law, plain, rng


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_the_law_is_that_of_the_formula(order, edges):
    law, plain, rng = pair(order, 3, edges)
    text = rng.integers(0, 4, 60)  # 3 is no known symbol
    found = law.log_prob(law.stream([text]))
    np.testing.assert_allclose(found, plain.log_prob(text.tolist(), adaptive=False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_the_adaptive_law_is_that_of_counting_as_one_reads(order, edges):
    law, plain, rng = pair(order, 3, edges, seed=1)
    text = rng.choice([0, 1, 2, 5, 6], 80)
    first = text[text >= 5][0]
    text = np.where(text >= 5, 5 + (text != first), text)  # new symbols are numbered as they come
    found = law.adaptive_log_prob(law.stream([text]))
    np.testing.assert_allclose(found, plain.log_prob(text.tolist(), adaptive=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_counts_of_two_streams_merge_to_those_of_both(order):
    rng = np.random.default_rng(order)
    first, second = texts_of(rng, 3), texts_of(rng, 3, n=5, length=15)

    def count(texts):
        return NgramCounts.count(Stream.of(texts, order, None), order, 3)

    for merged, whole in zip(
        count(first).merged(count(second)).levels, count(first + second).levels, strict=True
    ):
        for one, other in zip(merged, whole, strict=True):
            np.testing.assert_array_equal(one, other)


def test_two_texts_are_read_one_after_the_other():
    law, plain, rng = pair(3, 3, True, seed=2)
    texts = [rng.integers(0, 3, 30) for _ in range(2)]
    found = law.adaptive_log_prob(law.stream(texts))
    expected = np.concatenate([plain.log_prob(text.tolist(), adaptive=True) for text in texts])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("edges", [False, True])
def test_it_sums_to_one_after_any_context(edges):
    law, _, rng = pair(4, 5, edges, seed=3)
    for _ in range(50):
        context = rng.integers(0, 6, rng.integers(0, 7))  # 5 is no known symbol
        p = law.next(law.contexts(context))[0]
        assert p.min() > 0
        assert p.sum() == pytest.approx(1, abs=1e-12)
        alone = [law.one(law.contexts(context), np.array([x]))[0] for x in range(6)]
        np.testing.assert_allclose(p, alone, rtol=0, atol=1e-14)


def test_discounts_stand_where_likelihood_has_no_slope_and_do_better_than_the_usual():
    rng = np.random.default_rng(0)
    text = np.repeat(rng.integers(0, 6, 700), 2) + rng.integers(0, 2, 1400)
    known = NgramCounts.count(Stream.of([text[:1000]], 3, None), 3, 8)
    counted = known.counted(Stream.of([text[1000:]], 3, None))
    found = fit_discounts(counted, 8)

    def loss(d):
        return -np.log(interpolated(counted, d, 1 / 9)).sum() + 5.0 * ((d - usual(3)) ** 2).sum()

    assert loss(found) < loss(usual(3)) - 1
    for place in np.ndindex(found.shape):
        step = np.zeros_like(found)
        step[place] = 1e-5
        slope = (loss(found + step) - loss(found - step)) / 2e-5
        inside = 2e-3 < found[place] < place[2] + 1 - 1e-3
        assert not inside or abs(slope) < 0.3


def test_counts_of_nothing_leave_all_to_the_base():
    nothing = Counted(np.zeros(2, int), np.zeros(2, int), np.zeros((2, 3), int))
    assert interpolated([nothing], usual(0), 0.25).tolist() == [0.25, 0.25]


# ---------------------------------------------------------------- blanks


def enumerated(law, text, allowed=None):
    """All ways to fill the blanks of a text, and p of the text with each."""
    holes = np.flatnonzero(text == BLANK)
    ways = np.array(list(product(range(law.size), repeat=len(holes))))
    if allowed is not None:
        ways = ways[[all(a is None or a[k] for a, k in zip(allowed, way, strict=True)) for way in ways]]
    log_p = []
    for way in ways:
        whole = text.copy()
        whole[holes] = way
        log_p.append(law.log_prob(law.stream([whole])).sum())
    return ways, np.array(log_p)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("holes", [[5], [0], [11], [4, 5], [4, 5, 6], [3, 5, 9], [0, 1, 11]])
def test_blanks_are_those_of_enumeration(holes, edges):
    law, _, rng = pair(3, 3, edges, seed=4)
    text = rng.integers(0, 3, 12)
    text[2] = 3 if 2 not in holes else 0  # a symbol that is not known
    text[holes] = BLANK
    marked = mark("x", Vocabulary.of(["abc"], "char"), "_", "[...]")._replace(
        x=text, allowed=[None] * len(holes)
    )
    ways, log_p = enumerated(law, text)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    chances, joint, evidence = [], [], 0.0
    for stretch in stretches(marked, law.order, law.edge):
        found = Between(law, [stretch], 3**4, np.random.default_rng(0))
        assert found.ess[0] == np.inf
        chances.append(found.chances()[0])
        joint.append(found.best_path()[0])
        evidence += found.log_evidence[0]
    expected = [[p[ways[:, j] == k].sum() for k in range(3)] for j in range(len(holes))]
    np.testing.assert_allclose(np.concatenate(chances), expected, rtol=0, atol=1e-9)
    assert np.concatenate(joint).tolist() == ways[p.argmax()].tolist()


def test_evidence_is_the_sum_over_all_ways():
    law, _, rng = pair(2, 3, False, seed=5)
    text = rng.integers(0, 3, 9)
    text[3:6] = BLANK
    found = Between(law, [Stretch(text[1:3], text[3:8], (None,) * 3)], 81, np.random.default_rng(0))
    _, log_p = enumerated(law, text[:8])
    start = law.log_prob(law.stream([text[:3]])).sum()
    assert found.log_evidence[0] == pytest.approx(np.logaddexp.reduce(log_p) - start, abs=1e-9)


@pytest.mark.parametrize("depth", [2, 1, 0])
def test_a_few_edges_stand_for_all_without_bias(depth, monkeypatch):
    """p(seen) by eight edges of 27 and more, its mean over many samples, and how far off they are by their own account."""
    monkeypatch.setattr(lookahead, "CUBE", 1000 if depth == 2 else 0)
    monkeypatch.setattr(lookahead, "SQUARE", 1000 if depth == 1 else 0)
    law, _, rng = pair(3, 3, False, seed=6)
    text = rng.integers(0, 3, 16)
    text[4:10] = BLANK
    stretch = Stretch(text[1:4], text[4:13], (None,) * 6)
    assert lookahead.Lookahead(law, [stretch]).depth == depth
    exact = Between(law, [stretch], 3**7, rng)
    many = Between(law, [stretch] * 4000, 8, rng)
    ratio = np.exp(many.log_evidence - exact.log_evidence[0])
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))
    assert np.isfinite(many.ess).all()
    assert 0.01 < ratio.var() / np.mean(1 / many.ess) < 1.5  # cautious, not by orders of magnitude
    mean = (many.chances() * ratio[:, None, None]).mean(0) / ratio.mean()
    np.testing.assert_allclose(mean, exact.chances()[0], rtol=0, atol=0.02)


def test_draws_come_as_often_as_they_are_probable():
    law, _, rng = pair(3, 3, False, seed=7)
    text = rng.integers(0, 3, 10)
    text[[4, 5]] = BLANK
    ways, log_p = enumerated(law, text)
    p = np.exp(log_p - np.logaddexp.reduce(log_p))
    found = Between(law, [Stretch(text[1:4], text[4:9], (None,) * 2)], 100, rng)
    drawn = found.draws(20_000)[0]
    share = [(drawn == way).all(1).mean() for way in ways]
    np.testing.assert_allclose(share, p, rtol=0, atol=0.015)


def test_only_what_is_allowed_is_filled_in():
    law, _, rng = pair(2, 3, False, seed=8)
    text = rng.integers(0, 3, 9)
    text[3:5] = BLANK
    allowed = (np.array([True, False, True]), None)
    found = Between(law, [Stretch(text[1:3], text[3:7], allowed)], 100, rng)
    ways, log_p = enumerated(law, text, allowed)
    p = np.exp(log_p - np.logaddexp.reduce(log_p))
    expected = [[p[ways[:, j] == k].sum() for k in range(3)] for j in range(2)]
    np.testing.assert_allclose(found.chances()[0], expected, rtol=0, atol=1e-9)


def test_lengths_weigh_as_their_evidence():
    vocabulary = Vocabulary.of(["abc"], "char")
    texts = ["abcabcabbabcacb", "abcbcabcabcaacb"]
    law = KneserNey.fit([vocabulary.read(text)[0] for text in texts], 3, 3, edges=True)
    question = FillQuestion(law, vocabulary, ["abc#abc_c"], "_", "#", range(1, 4), 3**6)
    found = question.lengths_of(0, np.random.default_rng(0))
    log_p = []
    for length in (1, 2, 3):
        x = np.concatenate([[0, 1, 2], np.full(length, BLANK), [0, 1, 2, BLANK, 2]])
        log_p.append(np.logaddexp.reduce(enumerated(law, x)[1]))
    expected = np.exp(log_p - np.logaddexp.reduce(log_p))
    np.testing.assert_allclose([found[k] for k in (1, 2, 3)], expected, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- coding


def test_ranges_come_back_with_carries_and_lopsided_widths():
    rng = np.random.default_rng(0)
    widths = [[1, 2**24], [2**24, 1], [1] * 7, [5, 1, 2**20]]
    choices = [(widths[k], int(rng.integers(len(widths[k])))) for k in rng.integers(0, 4, 3000)]
    coder = RangeEncoder()
    for own, which in choices:
        coder.code(own, which)
        coder.uniform(1000, which)
    reader = RangeDecoder(coder.to_bytes())
    for own, which in choices:
        assert reader.code(own) == which
        assert reader.uniform(1000) == which
    assert reader.beyond < 16


def test_a_length_is_that_of_the_probabilities():
    rng = np.random.default_rng(1)
    coder = RangeEncoder()
    bits = 0.0
    for which in (rng.random(5000) < 0.1).astype(int):
        coder.code([9, 1], which)
        bits -= np.log2([0.9, 0.1][which])
    assert 8 * len(coder.to_bytes()) == pytest.approx(bits, abs=20)


@pytest.mark.parametrize("edges", [False, True])
def test_a_follower_has_the_law_of_all_positions_at_once(edges):
    """The widths that it hands to the coder, as the probability of what was chosen, against the adaptive law."""
    law, _, rng = pair(4, 4, edges, seed=9)
    texts = [rng.integers(0, 4, 50) for _ in range(2)]
    follower, log_p = Follower(law), []

    class Watching:
        def code(self, widths, which=None):
            log_p[-1] += np.log(widths[which] / sum(widths))
            return which

        def uniform(self, size, value=None):
            raise AssertionError("all symbols are known")

    for text in texts:
        follower.begin()
        for x in text.tolist():
            log_p.append(0.0)
            assert follower.code(Watching(), x) == x
            follower.learn(x)
    np.testing.assert_allclose(log_p, law.adaptive_log_prob(law.stream(texts)), rtol=0, atol=2e-6)


ODD = [
    "",
    "a",
    "\0\r\n\0\r",
    "h\u00e9llo \U0001f389\U0001f389 \ud800",
    "\u4e2d\u6587" * 5,
    PASSAGE[:150],
    "xyz" * 40,
]


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("unit", ["char", "word"])
def test_odd_texts_come_back_by_every_way_of_coding(unit, fitted, monkeypatch):
    vocabulary = Vocabulary.of([PASSAGE], unit)
    law = KneserNey.fit([vocabulary.read(PASSAGE)[0]], 3, len(vocabulary), edges=False)
    given = (law, vocabulary, b"mark") if fitted else (None, vocabulary, b"")
    for text in ODD:
        packed = coding.pack([text], True, *given, 3)
        assert coding.unpack(packed, *given) == ([text], True)
    monkeypatch.setattr(
        coding, "squeeze", lambda data: data + bytes(10_000)
    )  # the general way is never the shortest
    for text in ODD:
        packed = coding.pack([text], True, *given, 3)
        assert packed[9] in (coding.FITTED, coding.FRESH)
        assert coding.unpack(packed, *given) == ([text], True)
    assert coding.unpack(coding.pack(ODD, False, *given, 3), *given) == (ODD, False)
    assert coding.unpack(coding.pack([], False, *given, 3), *given) == ([], False)


def test_what_was_changed_or_belongs_elsewhere_is_refused():
    vocabulary = Vocabulary.of([PASSAGE], "char")
    law = KneserNey.fit([vocabulary.read(PASSAGE)[0]], 3, len(vocabulary), edges=False)
    packed = coding.pack([PASSAGE], True, law, vocabulary, b"mark", 3)
    assert packed[9] == coding.FITTED
    with pytest.raises(CompressedDataError, match="another model"):
        coding.unpack(packed, law, vocabulary, b"meek")
    for place in range(4, len(packed)):
        changed = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
        with pytest.raises(CompressedDataError):
            coding.unpack(changed, law, vocabulary, b"mark")
    for end in range(len(packed)):
        with pytest.raises(CompressedDataError):
            coding.unpack(packed[:end], law, vocabulary, b"mark")
    with pytest.raises(CompressedDataError, match="not written by"):
        coding.unpack(b"PK" + packed, law, vocabulary, b"mark")


# ---------------------------------------------------------------- symbols


@pytest.mark.parametrize("unit", ["char", "word"])
def test_symbols_side_by_side_are_the_text(unit):
    vocabulary = Vocabulary.of([PASSAGE], unit)
    for text in [PASSAGE, *ODD, "a  b\t c.d , e\n\n f"]:
        assert "".join(vocabulary.split(text)) == text
        x, others = vocabulary.read(text)
        rest = iter(others)
        assert "".join(vocabulary.symbols[k] if k < len(vocabulary) else next(rest) for k in x) == text


def test_spellings_of_words_sum_to_one():
    """Over all words of up to two letters of three, and the rest: p of each beginning that goes on."""
    spelling = Vocabulary.of(["ab ab b ba"], "word").spelling
    law, end = spelling.law, spelling.end
    begun = law.contexts(np.array([law.edge]))
    p = law.next(begun)[0]
    assert p.sum() == pytest.approx(1, abs=1e-12)
    total = p[end]
    for first in range(end):
        after = law.next(law.counts.step(begun, np.array([first])))[0]
        word = spelling.characters.symbols[first]
        assert spelling.log_prob([word])[0] == pytest.approx(np.log(p[first] * after[end]), abs=1e-12)
        total += p[first]
    assert total + p[-1] == pytest.approx(1, abs=1e-12)
