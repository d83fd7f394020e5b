"""Damaged files give the right answer or a clear error: a few of those that `make fuzz` tries by the ten thousand."""

from __future__ import annotations

import struct

import pytest
from fuzz_for_tests import TARGETS, damaged, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = {"models": 25, "packed": 25}


def test_a_length_beyond_all_memory_is_an_error():
    """Of a chunk of a PNG, which Pillow reads with its length alone."""
    png = TARGETS["images"].seeds()[0]
    place = png.index(b"IDAT") - 4
    assert not put("images", png[:place] + struct.pack(">I", 2**32 - 1) + png[place + 4 :])


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_gives_the_right_answer_or_a_clear_error(name):
    seeds = TARGETS[name].seeds()
    assert all(put(name, seed) for seed in seeds), "what is whole is read"

    @settings(max_examples=EXAMPLES.get(name, 60), database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def check(seed, chance):
        put(name, damaged(name, seed, chance))

    check()
