"""Objectives by name, and what a file says of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from abduce.fit.registry import BOUNDS, ENERGY_OBJECTIVES, OBJECTIVES, from_json, is_objective, named, to_json

ALPHAS = (-math.inf, -2.0, 0.0, 0.5, 1.0, 2.0, math.inf)


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(
            beta=4.0,
            free_bits=0.1,
            warmup=0.2,
            samples=3,
            gradient="plain",
            total_correlation=1.0,
            mmd=2.0,
            dip=3.0,
        ),
        ELBO(gradient="stl"),
        IWAE(7, "plain"),
        *[Renyi(alpha, 3) for alpha in ALPHAS],
        Renyi(float(np.float64(-2.5)), 3, "stl", "one"),
        MIWAE(3, 4, "plain"),
        PIWAE(3, 4, "stl"),
        CIWAE(0.25, 6),
    ],
    ids=str,
)
def test_an_objective_comes_back_from_json(objective):
    text = json.dumps(to_json(objective), allow_nan=False)
    again = from_json(json.loads(text))
    assert again == objective
    assert type(again) is type(objective)


def test_json_of_names_of_numpys_infinity_and_of_what_is_not_ours():
    assert from_json(to_json("elbo")) == "elbo"
    assert from_json(to_json(Renyi(np.float64(-np.inf)))) == Renyi(-math.inf)

    class IWAE(CIWAE):  # the name alone does not make it one of the family
        pass

    for foreign in (lambda *arguments: None, IWAE(), ELBO):
        assert to_json(foreign) == "auto"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_with_its_defaults_survives_a_file(name):
    objective = named(name)
    assert is_objective(objective)
    assert type(objective) is OBJECTIVES[name]
    assert from_json(to_json(objective)) == objective


def test_a_name_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of ELBO, IWAE.*got 'Guess'"):
        from_json({"name": "Guess"})
    with pytest.raises(ValueError, match=r"objective must be one of MeanEnergy.*got 'elbo'"):
        named("elbo", ENERGY_OBJECTIVES)
    assert named("elbo", BOUNDS) == ELBO()
