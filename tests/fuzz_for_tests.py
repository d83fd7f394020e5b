"""Damaged files put to everything that reads: the right answer, or a ValueError or an OSError, in bounded time and memory.

    tests/test_fuzz.py      some of them, chosen by hypothesis
    tests/fuzz_many.py      10,000 for each reader, chosen by atheris (libFuzzer)

Each target has seeds, which are files that are whole, and a check of any bytes put in the place of one.  What was read is
right where another way to read it comes to the same, and writing it and reading it again does.  Bytes with a checksum are
tried as they are and with one that is right, which they then have from nobody but an attacker.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import resource
import signal
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import folders_for_tests as folders
import numpy as np
import pandas as pd
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

import abduce
from abduce.compress.container import MAGIC, VERSION, Reader, varint
from abduce.data import readers, streams
from abduce.data.wav import plain_wav, read_wav, write_wav
from abduce.fit import checkpoint

SECONDS, MEMORY = 20, 2**31  # most that an input may take, the memory beside what the process has
NUMBERS = (0, 1, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


class Defect(AssertionError):
    """An answer that is wrong, or one that takes too long."""


class Target(NamedTuple):
    """Something that reads: files that are whole, what is asked of any bytes (``check`` raises what reading does), and how
    they are damaged."""

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes, Path], None]
    damage: Callable[[bytes, random.Random], bytes] | None = None


# ---------------------------------------------------------------- readers


def _frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "whole": pd.array([1, None, -3, 4], dtype="Int64"),
            "number": pd.array([0.5, 1e-7, None, -2.25], dtype="Float64"),
            "text": pd.array(["a,b", None, 'say "x"', "ü\ny"], dtype="string"),
            "flag": pd.array([True, None, False, True], dtype="boolean"),
        }
    )


def _written(name: str, data: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return readers.write(Path(folder) / name, data).read_bytes()


def _same(one: Any, other: Any, how: str) -> None:
    if isinstance(one, pd.DataFrame):
        alike = (
            one.astype(object)
            .where(one.notna(), None)
            .equals(other.astype(object).where(other.notna(), None))
        )
        alike = alike and list(one.columns) == list(other.columns)
    else:
        alike = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if not alike:
        raise Defect(f"{how}:\n{one}\n{other}")


def _table(suffix: str) -> Target:
    def seeds() -> list[bytes]:
        frames = [_frame(), pd.DataFrame({"x": [1.5], "y": ["z"]})]
        if suffix in (".parquet", ".arrow"):
            days = pd.Timestamp("2020-01-01") + pd.to_timedelta(range(3), unit="D")
            frames.append(
                pd.DataFrame({"day": days, "class": pd.Categorical(["p", "q", "p"]), "k": [1, 2, 3]})
            )
        more = [b"a;b\r\n1,5;x\r\n2,5;\r\n", b"a\n1\n\n2\n"] if suffix == ".csv" else []
        return [*(_written(f"a{suffix}", frame) for frame in frames), *more]

    def check(data: bytes, folder: Path) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        whole = readers.read(path)
        chunks = [chunk.frame for chunk in streams.TableFile(path).chunks(2)]
        _same(whole, pd.concat(chunks, ignore_index=True), "by chunks it differs")
        again = readers.write(folder / f"b{suffix}", whole, like=path)
        _same(whole, readers.read(again), "written and read again it differs")

    return Target(seeds, check)


def _arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(4, 3)),
        rng.integers(0, 9, (3, 2, 2)).astype(np.uint8),
        np.arange(6)[:, None] > 2,
    ]


def _array(suffix: str) -> Target:
    def check(data: bytes, folder: Path) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        array: Any = readers.read(path)
        found = np.load(io.BytesIO(data), allow_pickle=False)
        _same(array, found if suffix == ".npy" else found[found.files[0]], "NumPy reads another array")

    return Target(lambda: [_written(f"a{suffix}", array) for array in _arrays()], check)


def _images() -> Target:
    def seeds() -> list[bytes]:
        rng, found = np.random.default_rng(0), []
        grey, colour = (
            rng.integers(0, 256, (5, 4)).astype(np.uint8),
            rng.integers(0, 256, (5, 4, 3)).astype(np.uint8),
        )
        for form, pixels in (
            ("PNG", grey),
            ("PNG", colour),
            ("BMP", colour),
            ("TIFF", grey),
            ("JPEG", colour),
            ("GIF", grey),
        ):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, form)
            found.append(file.getvalue())
        file = io.BytesIO()
        Image.fromarray(grey.astype(np.uint16) * 257).save(file, "PNG")
        return [*found, file.getvalue()]

    def check(data: bytes, folder: Path) -> None:
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / "a.png").write_bytes(data)
        pixels: Any = readers.read(folder / "in")
        if pixels.dtype in (np.uint8, np.uint16) and pixels.size:
            _same(
                pixels,
                readers.read(readers.write(folder / "back", pixels)),
                "written and read again it differs",
            )

    return Target(seeds, check)


def _sounds() -> Target:
    def seeds() -> list[bytes]:
        rng, found = np.random.default_rng(0), []
        with tempfile.TemporaryDirectory() as folder:
            for kind, bits in (("u1", 8), ("i2", 16), ("i4", 24), ("f4", 32)):
                samples = (100 + 20 * rng.normal(size=(9, 2))).astype(kind)
                found.append(write_wav(Path(folder) / "a.wav", plain_wav(samples, 8000, bits)).read_bytes())
        return found

    def check(data: bytes, folder: Path) -> None:
        path = folder / "a.wav"
        path.write_bytes(data)
        wav = read_wav(path)
        if wav.samples.size and write_wav(folder / "b.wav", wav).read_bytes() != data:
            raise Defect("written again it is another file")

    return Target(seeds, check)


# ---------------------------------------------------------------- models and what they pack

KINDS = (
    *("PCA", "GaussianMixture", "LatentClasses", "Text", "Steps", "WorldModel", "Sound", "VAE"),
    *("MixtureOfFactorAnalyzers", "Series", "Auto"),
)


@cache
def _model(kind: str) -> tuple[bytes, type, Callable[[Any], list[Any]], list[np.ndarray]]:
    model, ask = folders.MAKERS[kind]()
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        text, weights = ((Path(folder) / name).read_bytes() for name in ("model.json", "weights.safetensors"))
    body = json.dumps(json.loads(text)).encode()
    return _one(KINDS.index(kind), body, weights), type(model), ask, _numbers(ask(model))


def _one(kind: int, text: bytes, weights: bytes) -> bytes:
    """The two files of a folder as one."""
    return struct.pack("<BI", kind, len(text)) + text + weights


def _files(data: bytes) -> tuple[int, bytes, bytes]:
    kind, size = struct.unpack("<BI", data[:5])
    return kind, data[5 : 5 + size], data[5 + size :]


def _reworked(data: bytes, chance: random.Random) -> bytes:
    """A folder that can be read, with other values in places of its JSON and other tensors."""
    try:
        kind, text, weights = _files(data)
        body, tensors = json.loads(text), load_tensors(weights)
    except (ValueError, struct.error, SafetensorError, RecursionError):
        return mutated(data, chance)
    if not isinstance(body, dict) or chance.random() < 0.3:
        return mutated(data, chance)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if tensors and chance.random() < 0.4:
            name = chance.choice(sorted(tensors))
            other = folders.CHANGES[chance.choice(sorted(folders.CHANGES))](
                tensors.pop(name), chance.randrange(999)
            )
            if other is not None:
                tensors[chance.choice((name, name, name, *tensors))] = other.contiguous()
        elif spots := list(folders.places(body)):
            spot = chance.choice(spots)
            old = _within(body, spot)
            if isinstance(old, int | float) and not isinstance(old, bool) and chance.random() < 0.5:
                new = chance.choice((old + 1, old - 1, -old, 2 * old, old / 2, old * 1e6, float(old)))
            else:
                new = chance.choice((*folders.VALUES, _within(body, chance.choice(spots))))
            body = folders.with_change(body, spot, new)
    return _one(kind, json.dumps(body).encode(), checkpoint.save_tensors(tensors))


def _within(body: Any, spot: tuple) -> Any:
    for key in spot:
        body = body[key]
    return body


def _numbers(answers: list[Any]) -> list[np.ndarray]:
    return [np.asarray(answer, float) for answer in answers]


def _models() -> Target:
    def check(data: bytes, folder: Path) -> None:
        if len(data) < 5:
            return
        kind, text, weights = _files(data)
        _, made, ask, known = _model(KINDS[kind % len(KINDS)])
        (folder / "m").mkdir(exist_ok=True)
        (folder / "m" / "weights.safetensors").write_bytes(weights)
        (folder / "m" / "model.json").write_bytes(text)
        try:
            model = abduce.load(folder / "m")
        except checkpoint.ModelFolderError:
            pass
        else:
            if type(model) is made and not all(
                np.allclose(a, b, rtol=1e-4, atol=1e-4)
                for a, b in zip(_numbers(ask(model)), known, strict=True)
            ):
                raise Defect("what passes its checksums answers otherwise")
        body = json.loads(text)  # the same with checksums that are right
        if not isinstance(body, dict):
            return
        body["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        body.pop("sha256", None)
        body["sha256"] = checkpoint._digest(checkpoint._canonical(body))
        (folder / "m" / "model.json").write_text(json.dumps(body))
        model = abduce.load(folder / "m")
        if type(model) is made and not all(np.isfinite(answer).all() for answer in _numbers(ask(model))):
            raise Defect("answers that are no numbers")

    return Target(lambda: [_model(kind)[0] for kind in KINDS], check, _reworked)


@cache
def _packers() -> list[tuple[Any, Any, bytes]]:
    rng = np.random.default_rng(0)
    table = folders._frame()[:12]
    numbers = rng.normal(size=(20, 3)).round(1)
    whole = (numbers * 10).astype(np.int64)
    found = []
    for model, X in (
        (abduce.GaussianMixture(components=1, random_state=0).fit(numbers), numbers[:6]),
        (abduce.GaussianMixture(components=1, random_state=0).fit(whole), whole),
        (
            abduce.VAE(latent_dim=2, hidden=[4], max_epochs=1, samples=5, random_state=0).fit(
                folders._frame()
            ),
            table,
        ),
    ):
        found.append((model, X, model.compress(X)))
    return found


def _packed() -> Target:
    def check(data: bytes, folder: Path) -> None:
        if not data:
            return
        model, X, _ = _packers()[data[0] % 3]
        packed = data[1:]
        try:
            found = model.decompress(packed)
        except ValueError:
            pass
        else:
            _same(X, found, "what passes its checksum is another table")
        if _rows(repaired := _with_checksum(packed)) <= 50 * len(
            X
        ):  # more take their time: it grows with them
            model.decompress(repaired)

    return Target(lambda: [bytes([k]) + data for k, (_, _, data) in enumerate(_packers())], check)


def _rows(packed: bytes) -> int:
    """How many rows packed bytes say that they hold."""
    reader = Reader(packed[len(MAGIC) + 1 :])
    reader.varint()
    reader.take(4 + 8)
    return reader.varint()


def _with_checksum(packed: bytes) -> bytes:
    """The same with its length and checksum put right, so that what comes behind them is read."""
    place = len(MAGIC) + 1
    while place < len(packed) and packed[place] & 128:
        place += 1
    body = packed[place + 5 :]
    body = struct.pack("<I", zlib.crc32(body)) + body
    return MAGIC + bytes([VERSION]) + varint(len(body)) + body


TARGETS = {
    "csv": _table(".csv"),
    "csv.gz": _table(".csv.gz"),
    "parquet": _table(".parquet"),
    "arrow": _table(".arrow"),
    "npy": _array(".npy"),
    "npz": _array(".npz"),
    "images": _images(),
    "wav": _sounds(),
    "models": _models(),
    "packed": _packed(),
}

# ---------------------------------------------------------------- inputs


def damaged(name: str, data: bytes, chance: random.Random) -> bytes:
    """A file of a target with something changed."""
    return (TARGETS[name].damage or mutated)(data, chance)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, gone, put in, repeated or cut off."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        place, size = chance.randrange(len(out) + 1), chance.choice((1, 1, 2, 4, 16, 64))
        match chance.randrange(7):
            case 0:
                out[place : place + 1] = bytes([chance.randrange(256)])
            case 1 if place < len(out):
                out[place] ^= 1 << chance.randrange(8)
            case 2:
                out[place : place + 4] = struct.pack("<I", chance.choice(NUMBERS))
            case 3:
                del out[place : place + size]
            case 4:
                out[place:place] = bytes(chance.randrange(256) for _ in range(size))
            case 5:
                start = chance.randrange(len(out) + 1)
                out[place:place] = out[start : start + size]
            case 6 if chance.random() < 0.3:
                del out[place:]
    return bytes(out)


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise Defect after so many seconds, and refuse more memory; in the main thread."""

    def late(*_: Any) -> None:
        raise Defect(f"took more than {SECONDS} seconds")

    usual = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def put(name: str, data: bytes) -> bool:
    """Put bytes to a target: whether they were read; what else is raised is a defect."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _bounded():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name].check(data, Path(folder))
        except (ValueError, OSError):
            return False
    return True
