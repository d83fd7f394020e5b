"""Model folders whose checksums are right and whose content is not: a clear error, or answers that are numbers."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from folders_for_tests import CHANGES, GONE, MAKERS, VALUES, places, with_change, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import abduce
from abduce.fit import checkpoint
from abduce.fit.checkpoint import ModelFolderError

SLOW = {"VAE": 8, "Series": 10, "Auto": 15}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Contents of the folder of a small model of a kind, and how to ask it; fitted once."""
    folder, known = tmp_path_factory.mktemp("kept"), {}

    def contents(name, known_answers=False):
        if name not in known:
            model, ask = MAKERS[name]()
            model.save(folder / name)
            known[name] = (*checkpoint.load(folder / name), ask), ask(model)
        return known[name][known_answers]

    return contents


def opened(folder, body, tensors):
    write(folder, body, tensors)
    return abduce.load(folder)


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_saved_gives_the_same_answers(kept, name, tmp_path):
    body, tensors, ask = kept(name)
    answers = kept(name, known_answers=True)
    for one, other in zip(ask(opened(tmp_path / "m", body, tensors)), answers, strict=True):
        assert np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_any_change_is_refused_or_gives_numbers(kept, name, tmp_path):
    body, tensors, ask = kept(name)
    change = st.one_of(
        st.tuples(st.just("json"), st.sampled_from(list(places(body))), st.sampled_from(VALUES)),
        st.tuples(st.sampled_from(sorted(tensors)), st.sampled_from(sorted(CHANGES)), st.integers(0, 999)),
    )

    @settings(
        max_examples=SLOW.get(name, 40),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(change)
    def check(changed):
        what, where, value = changed
        new, weights = body, dict(tensors)
        if what == "json":
            new = with_change(body, where, value)
        elif (other := CHANGES[where](weights.pop(what), value)) is not None:
            weights[what] = other
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = ask(opened(tmp_path / "m", new, weights))
        except (ValueError, OSError):
            return
        assert all(np.isfinite(np.asarray(answer, float)).all() for answer in answers), changed

    check()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("fitted",), GONE, "model.json lacks 'fitted'"),
        (("model", "config", "beta"), "1", "model.json.model.config.beta must be a float, got '1'"),
        (("model", "config", "energy", "config", "components"), GONE, "config lacks 'components'"),
        (("model", "family"), "Popen", "model.json.model.family must be one of"),
        (
            ("schema", "fields", 0, "scale"),
            -1.0,
            r"model.json.schema.fields\[0\].scale must be above 0, got -1.0",
        ),
        (("schema", "fields", 1, "kind"), "unreal", r"schema.fields\[1\].kind must be one of"),
        (("schema", "fields", 0, "loc"), 1e200, r"schema.fields\[0\]: loc 1e\+200 .* do not go with a range"),
        (("arguments", "colour"), 1, "model.json.arguments holds 'colour'"),
        (
            ("model", "config", "energy", "config", "n_cells"),
            10**12,
            "must be a size that the weights can have",
        ),
        (("kind",), {"a": 1}, "holds {'a': 1} 'PCA', expected one of"),
    ],
)
def test_the_error_names_file_and_key(kept, place, value, message, tmp_path):
    body, tensors, _ = kept("PCA")
    with pytest.raises(ModelFolderError, match=message) as caught:
        opened(tmp_path / "m", with_change(body, place, value), tensors)
    assert str(tmp_path / "m") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gone", "weights.safetensors lacks 'energy.mean'"),
        ("NaN", "weights.safetensors: 'energy.mean' has NaN or infinity"),
        (
            "an axis more",
            r"'energy.mean' must be a?.*float64 of shape \(3,\), got .*float64 of shape \(1, 3\)",
        ),
        ("another type", r"'energy.mean' must be .*float64 of shape \(3,\), got .*float16"),
    ],
)
def test_the_error_names_the_tensor(kept, change, message, tmp_path):
    body, tensors, _ = kept("PCA")
    other = CHANGES[change](tensors["energy.mean"], 1)
    weights = {k: v for k, v in tensors.items() if k != "energy.mean"}
    with pytest.raises(ModelFolderError, match=message):
        opened(tmp_path / "m", body, weights | ({} if other is None else {"energy.mean": other}))


@pytest.mark.parametrize("part", ["model", "linear"])
def test_a_world_whose_steps_overflow_is_found_by_asking(kept, tmp_path, part):
    body, tensors, _ = kept("WorldModel")
    with pytest.raises(ModelFolderError, match="asked about a row, the model gives"):
        opened(tmp_path / "m", body, tensors | {f"{part}.a": 1e100 * tensors[f"{part}.a"]})


def test_a_covariance_that_is_none_is_found_by_asking(kept, tmp_path):
    body, tensors, _ = kept("PCA")
    with pytest.raises(ModelFolderError, match="asked about a row, the model gives"):
        opened(tmp_path / "m", body, tensors | {"energy.noise": -tensors["energy.noise"]})


def test_tensors_that_nobody_knows_are_refused(kept, tmp_path):
    for name in ("PCA", "WorldModel", "Text", "Steps", "Series", "Sound"):
        body, tensors, _ = kept(name)
        with pytest.raises(ModelFolderError, match=r"'other\.one', which is not known"):
            opened(tmp_path / name, body, tensors | {"other.one": torch.zeros(1)})


def test_numbers_that_json_has_not(kept, tmp_path):
    body, tensors, _ = kept("PCA")
    write(tmp_path / "m", body, tensors)
    text = (tmp_path / "m" / "model.json").read_text()
    number = json.dumps(body["schema"]["fields"][0]["scale"])
    for wrong in ("NaN", "Infinity", "1e999"):
        (tmp_path / "m" / "model.json").write_text(text.replace(number, wrong))
        with pytest.raises(ModelFolderError, match=r"model.json is damaged"):
            abduce.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("points", "far away"),
        ("root", "far away"),
        ("span", "negative"),
        ("span", "zero"),
        ("tail", "zero"),
        ("judges", "huge"),
        ("judges", "negative"),
        ("far", "negated"),
        ("known", "negated"),
    ],
)
def test_what_tells_odd_rows_is_asked_too(kept, tmp_path, name, change):
    body, tensors, _ = kept("Auto")
    key = f"oddness.{name}"
    other = 1e200 * tensors[key] if change == "far away" else CHANGES[change](tensors[key], 1)
    with pytest.raises(ModelFolderError, match=f"'{name}' holds numbers that no rows give"):
        opened(tmp_path / "m", body, tensors | {key: other})


def test_a_class_beyond_those_that_odd_rows_are_coded_by_is_found_by_asking(kept, tmp_path):
    body, tensors, _ = kept("Auto")
    place = ("model", "config", "odd", "gaussian", "config", "arrays")
    arrays = dict(body["model"]["config"]["odd"]["gaussian"]["config"]["arrays"])
    arrays["class.5"] = arrays.pop("class.1")
    with pytest.raises(ModelFolderError, match="asked about a row, the model gives an error"):
        opened(tmp_path / "m", with_change(body, place, arrays), tensors)


def test_no_member_of_a_pool_of_series_has_a_length_of_zero(kept, tmp_path):
    body, tensors, _ = kept("Series")
    lengths = {"period", "lags", "steps", "stride", "horizon"}
    found = [path for path in places(body["model"]) if path[-1] in lengths]
    assert {path[-1] for path in found} >= {"period", "lags"}
    for path in found:
        with pytest.raises(ModelFolderError, match=f"{path[-1]} must be an int >= 1, got 0"):
            opened(tmp_path / "m", with_change(body, ("model", *path), 0), tensors)
