"""Markov chains of classes under blanks: all ways to fill them summed, draws, counts of moves, the law they settle to."""

import itertools

import pytest
import torch
from torch import Generator

from abduce.data.seen import Seen
from abduce.sequences.classes import ClassColumn
from abduce.sequences.markov import Chains, drawn, inferred, moves, settled
from abduce.sequences.pool import DISTANCES

LEVELS, PERIOD = 3, 2


def chains(seed=0, members=4):
    """Of random moves by phase; the second falls back to frequencies, the third stays or does."""
    g = Generator().manual_seed(seed)
    table = torch.rand(members, PERIOD, LEVELS, LEVELS, generator=g, dtype=torch.float64) + 0.05
    table = table / table.sum(3, keepdim=True)
    stay, own = torch.zeros(members).double(), torch.zeros(members).double()
    table[1:3], own[1], own[2], stay[2] = 0.0, 1.0, 0.3, 0.7
    usual = torch.rand(2, LEVELS, generator=g, dtype=torch.float64) + 0.1
    return Chains(stay, own, usual / usual.sum(1, keepdim=True), table, settled(table))


CODES = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
MASK = torch.tensor([[False, True, False, False, True], [True, False, False, True, False]])
PHASE = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]])


def law_of(chain, m, n, path):
    """log p of one whole series."""
    whole = chain.table[m] + chain.stay[m] * torch.eye(LEVELS) + chain.own[m] * chain.usual[n]
    start = chain.start[m, PHASE[n, 0]] + (chain.usual[n] if chain.own[m] > 0 else 0.0)
    out = start[path[0]].log()
    for t in range(1, len(path)):
        out = out + whole[PHASE[n, t], path[t - 1], path[t]].log()
    return out


def enumerated(chain, m, n, mask):
    """All series that agree with what was seen, and their log p."""
    ways = [w for w in itertools.product(range(LEVELS), repeat=5)
            if all(not mask[t] or w[t] == CODES[n, t] for t in range(5))]  # fmt: skip
    return torch.tensor(ways), torch.stack([law_of(chain, m, n, w) for w in ways])


@pytest.mark.parametrize("m", range(4))
@pytest.mark.parametrize("n", range(2))
def test_blanks_against_enumeration(m, n):
    chain = chains()
    found = inferred(chain, CODES, MASK, PHASE)
    ways, log_p = enumerated(chain, m, n, MASK[n])
    assert float(found.log_prob[m, n].sum()) == pytest.approx(float(torch.logsumexp(log_p, 0)))
    for t in range(5):
        others = MASK[n].clone()
        others[t] = False  # a cell that was seen is inferred from the others alone
        ways, log_p = enumerated(chain, m, n, others)
        share = torch.softmax(log_p, 0)
        expected = torch.stack([share[ways[:, t] == k].sum() for k in range(LEVELS)])
        torch.testing.assert_close(found.chances[m, n, t], expected)


def test_draws_have_the_law_of_whole_series():
    chain = chains()
    found = inferred(chain, CODES, MASK, PHASE)
    sample = drawn(chain, found.filtered, CODES, MASK, PHASE, 20_000, Generator().manual_seed(0))
    assert bool((sample[..., MASK] == CODES[MASK]).all())
    for m in range(4):
        ways, log_p = enumerated(chain, m, 0, MASK[0])
        share = torch.softmax(log_p, 0)
        for way, p in zip(ways, share, strict=True):
            often = (sample[:, m, 0] == way).all(1).double().mean()
            assert float(often) == pytest.approx(float(p), abs=5 * (float(p) / 20_000) ** 0.5 + 1e-4)


def test_expected_moves_against_enumeration():
    chain = chains()
    found = moves(chain, CODES, MASK, PHASE)
    for m in (0, 2, 3):
        expected = torch.zeros(PERIOD, LEVELS, LEVELS, dtype=torch.float64)
        for n in range(2):
            ways, log_p = enumerated(chain, m, n, MASK[n])
            for way, p in zip(ways, torch.softmax(log_p, 0), strict=True):
                for t in range(1, 5):
                    expected[PHASE[n, t], way[t - 1], way[t]] += p
        torch.testing.assert_close(found[m], expected)


def test_it_settles_to_the_law_that_its_moves_leave_as_it_is():
    table = chains().table
    law = settled(table)
    for phase in range(PERIOD):
        before = law[0, phase - 1]
        torch.testing.assert_close(before @ table[0, phase], law[0, phase])
    assert float(law[0].sum()) == pytest.approx(PERIOD)
    assert float(law[1].sum()) == 0  # no moves of its own


MOVES = torch.tensor([[0.90, 0.08, 0.02], [0.10, 0.80, 0.10], [0.05, 0.15, 0.80]]).double()


def walk(steps, rows=1, seed=0):
    g = Generator().manual_seed(seed)
    x = torch.zeros(rows, steps, dtype=torch.long)
    for t in range(1, steps):
        x[:, t] = torch.multinomial(MOVES[x[:, t - 1]], 1, generator=g)[:, 0]
    return x


def test_the_moves_are_recovered_through_blanks():
    x = walk(4000, 4)
    mask = torch.rand(x.shape, generator=Generator().manual_seed(1)) > 0.3
    column = ClassColumn(3, 1).fit(Seen(x.unsqueeze(2).double(), mask.unsqueeze(2)))
    assert float((column.moves - MOVES).abs().max()) < 0.02
    stationary = settled(MOVES[None, None])[0, 0]
    assert float((column.frequency - stationary).abs().max()) < 0.03


def test_what_is_far_ahead_settles():
    column = ClassColumn(3, 1).fit(Seen(walk(4000).unsqueeze(2).double(), torch.ones(1, 4000, 1).bool()))
    chain = column.members.index("chain")
    column.shares.zero_()[:, chain] = 1.0
    mask = torch.zeros(1, 300, 1, dtype=torch.bool)
    mask[0, 0] = True
    ahead = column.chances(Seen(torch.full((1, 300, 1), 2.0).double(), mask), None)[0]
    torch.testing.assert_close(ahead[1], column.moves[2])
    torch.testing.assert_close(ahead[-1], settled(column.moves[None, None])[0, 0])


def test_seasons_are_followed():
    """A class that comes every seventh step, whatever the last one was: its chain by phase foretells it."""
    x = torch.zeros(1, 700, 1, dtype=torch.float64)
    x[0, 5::7] = 1.0
    seen = Seen(x, torch.ones_like(x).bool(), time=torch.arange(700.0)[None])
    column = ClassColumn(2, 7).fit(seen)
    asked = seen._replace(mask=torch.arange(700)[None, :, None] < 690)
    for member in ("season", "seasonal chain"):
        column.shares.zero_()[:, column.members.index(member)] = 1.0
        ahead = column.chances(asked, None)[0, 690:, 1]
        assert bool(((ahead > 0.5) == (x[0, 690:, 0] > 0)).all()), member


def test_weights_go_to_who_foretells():
    x = walk(3000)
    seen = Seen(x.unsqueeze(2).double(), torch.ones(1, 3000, 1).bool())
    column = ClassColumn(3, 1).fit(seen)
    hidden = torch.rand(1, 3000, 1, generator=Generator().manual_seed(2)) < 0.2
    column.weigh([(seen._replace(mask=~hidden), seen.y, hidden, None)], [column])
    shares = column.shares.view(3, DISTANCES, -1)[0, 0]
    assert column.members[int(shares.argmax())] in ("chain", "last value")
    assert float(shares[column.members.index("usual")]) < 0.1
