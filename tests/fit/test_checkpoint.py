"""Model folders: every way they can be damaged, and that nothing is ever half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickletools
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from abduce.data import files
from abduce.data.files import part
from abduce.fit import checkpoint
from abduce.fit.checkpoint import FORMAT, ModelFolderError, TrainingState, fingerprint, load, save

CONFIG = {"kind": "model", "numbers": [1, 2.5, None], "nested": {"name": "größe"}}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((2, 3), value), "b.c": torch.arange(4), "mask": torch.tensor([True, False])}


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "model", CONFIG, tensors())
    return tmp_path / "model"


def check(folder, value: float = 1.0) -> None:
    body, weights = load(folder)
    assert {k: body[k] for k in CONFIG} == CONFIG
    for name, tensor in tensors(value).items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype


def test_round_trip(folder):
    check(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.booleans() | st.none(),
        max_size=4,
    ),
    arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32)),
)
def test_any_configuration_and_numbers_come_back(tmp_path_factory, extra, values):
    folder = tmp_path_factory.mktemp("any") / "m"
    config = {"extra": extra}
    save(folder, config, {"w": torch.from_numpy(values)})
    body, weights = load(folder)
    assert body["extra"] == extra
    assert weights["w"].numpy().tobytes() == values.tobytes()


def test_a_missing_folder_and_missing_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        load(tmp_path / "nowhere")
    for name in ("weights.safetensors", "model.json"):
        (folder / name).rename(folder / "hidden")
        with pytest.raises(ModelFolderError, match=f"lacks the file {name}"):
            load(folder)
        (folder / "hidden").rename(folder / name)
    check(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_truncation_anywhere_is_noticed(folder, name):
    data = (folder / name).read_bytes()
    for keep in (0, 1, len(data) // 2, len(data) - 1):
        (folder / name).write_bytes(data[:keep])
        with pytest.raises(ModelFolderError, match=r"damaged|truncated|changed"):
            load(folder)


def test_any_changed_byte_of_the_weights_is_noticed(folder):
    data = bytearray((folder / "weights.safetensors").read_bytes())
    for i in range(0, len(data), 7):
        changed = bytearray(data)
        changed[i] ^= 1
        (folder / "weights.safetensors").write_bytes(changed)
        with pytest.raises(ModelFolderError, match=r"weights.safetensors is truncated or was changed"):
            load(folder)


def test_a_tampered_configuration_is_noticed(folder):
    body = json.loads((folder / "model.json").read_text())
    body["nested"]["name"] = "other"
    (folder / "model.json").write_text(json.dumps(body))
    with pytest.raises(ModelFolderError, match=r"model.json was changed after it was saved"):
        load(folder)
    for text in ("[]", "null", "{}", "3", "{"):
        (folder / "model.json").write_text(text)
        with pytest.raises(ModelFolderError, match="damaged"):
            load(folder)
    (folder / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFolderError, match="damaged"):
        load(folder)


@pytest.mark.parametrize(
    ("version", "message"),
    [(FORMAT + 1, "a newer abduce"), (FORMAT - 1, "older abduce"), ("two", "unknown or older abduce")],
)
def test_other_format_versions(folder, version, message):
    body = json.loads((folder / "model.json").read_text())
    body["format"] = version
    (folder / "model.json").write_text(json.dumps(body))
    with pytest.raises(
        ModelFolderError, match=f"format version {version}, .*reads version {FORMAT}.*{message}"
    ):
        load(folder)


def test_weights_that_are_no_safetensors(folder):
    """Even with checksums that fit, as a forger would make them."""
    junk = b"not tensors"
    (folder / "weights.safetensors").write_bytes(junk)
    body = json.loads((folder / "model.json").read_text())
    del body["sha256"]
    body["weights_sha256"] = hashlib.sha256(junk).hexdigest()
    body["sha256"] = hashlib.sha256(checkpoint._canonical(body)).hexdigest()
    (folder / "model.json").write_text(json.dumps(body))
    with pytest.raises(ModelFolderError, match="can't be read"):
        load(folder)


def test_saving_again_replaces_the_whole_model(folder):
    save(folder, CONFIG, tensors(2.0))
    check(folder, 2.0)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_what_is_no_model_is_not_overwritten(tmp_path):
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(FileExistsError, match=r"photos.* is not a model folder; it is not overwritten"):
        save(other, CONFIG, tensors())
    assert (other / "cat.jpg").read_bytes() == b"cat"
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(FileExistsError, match="not a model folder"):
        save(file, CONFIG, tensors())
    assert file.read_text() == "text"
    empty = tmp_path / "empty"
    empty.mkdir()
    save(empty, CONFIG, tensors())
    check(empty)


def full_disk(path, data):
    """Write half of the data, then say that the disk is full."""
    with open(path, "wb") as f:
        f.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize("fails_on", [1, 2])
def test_a_full_disk_leaves_what_was_there(folder, monkeypatch, fails_on):
    calls, write = [], checkpoint._write

    def sometimes(path, data):
        calls.append(path)
        (full_disk if len(calls) == fails_on else write)(path, data)

    monkeypatch.setattr(checkpoint, "_write", sometimes)
    with pytest.raises(OSError, match="No space left") as error:
        save(folder, CONFIG, tensors(2.0))
    assert error.value.errno == errno.ENOSPC
    check(folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]
    calls.clear()
    with pytest.raises(OSError, match="No space left"):
        save(folder.parent / "new", CONFIG, tensors())
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_a_failed_move_brings_the_old_model_back(folder, monkeypatch):
    replace, calls = os.replace, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "input/output error")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with pytest.raises(OSError, match="input/output"):
        save(folder, CONFIG, tensors(2.0))
    monkeypatch.undo()
    check(folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_a_folder_that_a_cut_left_aside_is_found(folder, monkeypatch):
    """Where names can't be exchanged, a writer may be killed after the old folder left its place and before the new came."""

    class Killed(BaseException):
        pass

    replace, calls = os.replace, []

    def cut(source, target):
        calls.append(target)
        if len(calls) >= 2:
            raise Killed
        return replace(source, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(files, "remove", lambda path: None)  # nor does the one that was killed tidy up
    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Killed):
        save(folder, CONFIG, tensors(2.0))
    monkeypatch.undo()
    assert not folder.exists()
    assert len(list(folder.parent.glob(".model.*.old"))) == 1
    check(folder)  # what was there before
    assert TrainingState(folder, {}).exists()
    save(folder, CONFIG, tensors(3.0))
    check(folder, 3.0)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


WRITER = """
import itertools, sys, torch
from abduce.data import files
from abduce.fit.checkpoint import save
if sys.argv[2] == "renames":
    files._exchange = lambda one, other: False
for k in itertools.count(1):
    save(sys.argv[1], {"kind": "model", "k": k}, {"w": torch.full((20_000,), float(k))})
    print(k, flush=True)
"""


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_killed_writer_leaves_a_whole_model(tmp_path, how):
    """SIGKILL at seeded moments while a process writes a folder over and over."""
    rng, last = random.Random(how), 0
    if how == "exchange":
        with part(tmp_path / "probe", Path.mkdir) as one, part(tmp_path / "probe", Path.mkdir) as other:
            if not files._exchange(one, other):
                pytest.skip("this system can't exchange two names at once")
    for _ in range(5):
        run = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "m", how], stdout=subprocess.PIPE, text=True
        )
        assert run.stdout.readline() == "1\n"
        time.sleep(rng.uniform(0, 0.03))
        run.kill()
        last = int(([*run.communicate()[0].split()] or ["1"])[-1])
        body, weights = load(tmp_path / "m")
        assert body["k"] in (last, last + 1)
        assert torch.equal(weights["w"], torch.full((20_000,), float(body["k"])))
        if how == "exchange":
            assert (tmp_path / "m").is_dir()
    save(tmp_path / "m", CONFIG, tensors())
    check(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_what_a_living_writer_writes_is_left_alone(folder):
    with part(folder, Path.mkdir) as theirs:
        save(folder, CONFIG, tensors(2.0))
        assert theirs.is_dir()
    dead = folder.parent / ".model.0123abcd.part"
    dead.mkdir()
    (dead / "model.json").write_text("half")
    another = folder.parent / ".another.0123abcd.part"
    another.touch()
    save(folder, CONFIG, tensors(3.0))
    check(folder, 3.0)
    assert sorted(p.name for p in folder.parent.iterdir()) == [another.name, "model"]


def test_not_a_number_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "model", {"x": float("nan")}, tensors())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_pickled(folder, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, forbidden)
    import pickle

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    save(folder, CONFIG, tensors(3.0))
    check(folder, 3.0)
    for path in folder.iterdir():
        assert not zipfile.is_zipfile(path)
        with pytest.raises((ValueError, IndexError)):
            list(pickletools.genops(path.read_bytes()))


def test_a_fingerprint_tells_models_apart():
    mark = fingerprint(CONFIG, tensors())
    assert len(mark) == 16
    assert mark == fingerprint(dict(reversed(CONFIG.items())), dict(reversed(tensors().items())))
    assert mark != fingerprint(CONFIG, tensors(1.0000001))
    assert mark != fingerprint({**CONFIG, "kind": "other"}, tensors())


def test_training_states_keep_their_groups(tmp_path):
    state = TrainingState(tmp_path / "s", {"run": 1})
    assert not state.exists()
    state.save({"epoch": 3, "best": -1.5}, model=tensors(), moments={"0.step": torch.tensor(4.0)})
    assert state.exists()
    progress, groups = state.load()
    assert progress == {"epoch": 3, "best": -1.5}
    assert torch.equal(groups["model"]["b.c"], torch.arange(4))
    assert groups["moments"]["0.step"].item() == 4.0
    with pytest.raises(ModelFolderError, match="belongs to another run"):
        TrainingState(tmp_path / "s", {"run": 2}).load()
