"""Every preset still answers what it answered when its digest was taken, up to another machine's rounding."""

from __future__ import annotations

import pytest
from golden import collect
from golden_cases import CASES
from golden_digest import differences, digest, read_digest

import abduce

KEPT = read_digest()


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_answers_are_what_they_were(name):
    now = digest(collect(name, quick=True)[0])[name]
    assert not differences(name, KEPT[name], now)


def test_every_preset_has_a_case_and_every_case_a_digest():
    faces = {name: getattr(abduce, name) for name in abduce.__all__}
    presets = {
        name for name, face in faces.items() if hasattr(face, "fill_interval") and hasattr(face, "upscale")
    }
    assert {case.preset for case in CASES.values()} == presets
    assert set(KEPT) == set(CASES)
