"""Compression never takes more bytes than general compressors or the frequencies of columns do, and refuses no table."""

import bz2
import contextlib
import decimal
import lzma
import warnings
import zlib
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from frames_for_tests import frame as every_kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from abduce import VAE
from abduce.compress import codec as task
from abduce.compress.container import CompressedDataError, Packed, Reader, varint
from abduce.compress.numbers import pack, unpack
from abduce.compress.objects import from_json, to_json
from abduce.compress.order0 import alphabet, decode_columns, encode_columns
from abduce.compress.squeeze import EXTREME, HOPE, SMALL, shortest, squeeze, unsqueeze
from abduce.compress.unlike import unlike, unlike_array
from abduce.data.schema import Schema
from abduce.gaussians.gaussian_law import GaussianMixtureLaw

NAME = b"a fitted law"
SLACK = 64  # bytes
QUICK = {"latent_dim": 2, "hidden": [16], "max_epochs": 2, "random_state": 0}
SLOW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    """A table of every kind of column, one of them on no lattice."""
    return every_kind(n, seed).assign(rough=rng(seed).normal(size=n))


# ------------------------------------------------------------------ what is compared with


def general(data: bytes) -> int:
    return min(len(lzma.compress(data, preset=EXTREME)), len(bz2.compress(data, 9)))


def order0(codes: np.ndarray, size: int, level: int = 0) -> float:
    """Bytes of a column (n,) of codes 0..size−1 under adaptive frequencies, and of its ``size`` levels of so many bytes."""
    counts = np.bincount(codes, minlength=size)
    n, total = counts.sum(), size / 2
    nats = gammaln(n + total) - gammaln(total) - (gammaln(counts + 0.5) - gammaln(0.5)).sum()
    return nats / np.log(256) + size * level


def narrow(X: np.ndarray) -> np.ndarray:
    ends = int(X.min()), int(X.max())
    fits = (
        d
        for d in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
        if all(np.array(e).astype(d) == e for e in ends)
    )
    return X.astype(next(fits))


def others(X) -> float:
    """The least that general compressors, and frequencies column by column, make of an array or a frame."""
    sizes = []
    if isinstance(X, pd.DataFrame):
        sizes.append(general(X.to_csv(index=False, header=False).encode()))
        columns, frequencies = [], 0.0
        for label in X.columns:
            column = X[label]
            codes, levels = pd.factorize(column, use_na_sentinel=False)
            texts = "\n".join(map(str, levels)).encode()
            frequencies += order0(codes, len(levels)) + min(general(texts), len(texts))
            plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufmM"
            columns.append(column.to_numpy().tobytes() if plain else narrow(codes).tobytes() + texts)
        sizes += [general(b"".join(columns)), frequencies]
    elif X.size:
        flat = X.reshape(len(X), -1)
        sizes = [general(X.tobytes()), general(np.ascontiguousarray(flat.T).tobytes())]
        if X.dtype.kind in "biu" or (np.rint(X) == X).all():
            sizes += [general(narrow(X).tobytes()), general(np.ascontiguousarray(narrow(flat).T).tobytes())]
            if X.min() >= 0 and X.max() < 2**12:
                sizes.append(sum(order0(c.astype(int), int(X.max()) + 1) for c in flat.T))
        sizes.append(
            sum(order0(np.unique(c, return_inverse=True)[1], len(np.unique(c)), X.itemsize) for c in flat.T)
        )
    else:
        sizes.append(general(X.tobytes()))
    return min(sizes)


# ------------------------------------------------------------------ the promise

TABLES = {
    "whole numbers": rng(0).poisson(3, (300, 6)),
    "whole numbers far apart": rng(1).integers(-(2**62), 2**62, (60, 3)),
    "narrow": rng(2).integers(-5, 9, (200, 4)).astype(np.int8),
    "bytes": rng(3).integers(0, 256, (100, 9)).astype(np.uint8),
    "rare": (rng(4).random((500, 8)) < 0.01).astype(np.uint8),
    "bits": rng(5).random((200, 10)) < 0.3,
    "noise": rng(6).normal(size=(200, 5)),
    "noise in 32 bits": rng(7).normal(size=(200, 5)).astype(np.float32),
    "noise in 16 bits": rng(8).normal(size=(200, 5)).astype(np.float16),
    "hundredths": np.round(rng(9).normal(size=(200, 5)), 2),
    "blanks": np.where(rng(10).random((200, 5)) < 0.3, np.nan, np.round(rng(11).normal(size=(200, 5)), 1)),
    "repeated rows": np.tile(rng(12).normal(size=(20, 7)), (12, 1)),
    "one row many times": np.repeat(rng(13).integers(0, 256, (1, 40)), 300, 0),
    "constant": np.full((400, 3), 7.5),
    "sorted": np.sort(rng(14).integers(0, 10**9, (400, 1)), 0),
    "one after another": np.arange(1000, 3000)[:, None],
    "few values": rng(15).choice(rng(16).normal(size=5), (300, 4)),
    "one row": rng(17).integers(0, 9, (1, 30)),
    "two rows": rng(18).normal(size=(2, 3)),
    "images": np.cumsum(rng(19).integers(-1, 2, (60, 8, 8)), 2).clip(0, 15).astype(np.uint8),
    "colour": rng(20).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8),
    "frame": frame(120),
    "frame of one row": frame(1),
    "frame of numbers": pd.DataFrame(np.round(rng(21).normal(size=(200, 4)), 2)),
    "text": pd.DataFrame(
        {"t": [f"{a:x}" for a in rng(22).integers(0, 2**40, 300)], "x": rng(23).integers(0, 9, 300)}
    ),
    "text of few words": pd.DataFrame(
        {"t": rng(24).choice(["yes", "no", "maybe, perhaps\n"], 300), "x": np.arange(300)}
    ),
    "columns that say the same": pd.DataFrame(
        {"a": (c := rng(25).choice(list("abcdef"), 300)), "b": c, "x": np.arange(300)}
    ),
    "sorted frame": frame(120).sort_values("since", ignore_index=True),
}


@cache
def fitted(name: str):
    """A law that has looked at a table a little, its schema, and the table."""
    X = TABLES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = Schema.infer(X)
    x, d = torch.from_numpy(schema.encode(X)[0]), schema.n_cells
    covariance = torch.cov(x.T, correction=0).reshape(d, d) + 0.05 * torch.eye(d, dtype=x.dtype)
    return GaussianMixtureLaw.gaussian(x.mean(0), covariance), schema, X


def assert_same(back, X):
    if isinstance(X, pd.DataFrame):
        pd.testing.assert_frame_equal(back, X, check_freq=False)
        assert not any(
            unlike(a, b).any() for a, b in zip((back[c] for c in X), (X[c] for c in X), strict=True)
        )
    else:
        assert back.shape == X.shape
        assert not unlike_array(back, X).any()


def assert_comes_back(law, schema, X):
    """By the model, and without it."""
    for data in (task.by_model(law, schema, X, NAME), task.by_columns(schema, X, NAME)):
        assert_same(task.decompress(law, schema, data, NAME), X)


@pytest.mark.parametrize("name", TABLES)
def test_no_table_takes_more_than_others_make_of_it(name):
    law, schema, X = fitted(name)
    data = task.compress(law, schema, X, NAME)
    least = others(X) + SLACK
    assert len(data) <= least
    assert len(task.by_columns(schema, X, NAME)) <= least
    assert_same(task.decompress(law, schema, data, NAME), X)


@pytest.mark.parametrize("name", ["noise", "bits", "images", "frame"])
def test_no_rows_take_a_few_bytes(name):
    law, schema, X = fitted(name)
    assert len(task.compress(law, schema, X[:0], NAME)) <= general(b"") + SLACK
    assert_comes_back(law, schema, X[:0])


def test_a_model_that_knows_better_is_used():
    law, schema, _ = fitted("frame")
    X = frame(120, 1)
    by_model, plain = len(task.by_model(law, schema, X, NAME)), len(task.by_columns(schema, X, NAME))
    assert len(task.compress(law, schema, X, NAME)) == min(by_model, plain)
    x = rng(0).normal(size=(400, 1))
    X = np.round(100 * (x + 0.1 * rng(1).normal(size=(400, 6))))
    schema = Schema.infer(X, "real")
    values = torch.from_numpy(schema.encode(X)[0])
    law = GaussianMixtureLaw.gaussian(values.mean(0), torch.cov(values.T))
    data = task.compress(law, schema, X, NAME)
    assert data == task.by_model(law, schema, X, NAME)
    assert len(data) < 0.8 * others(X)


# ------------------------------------------------------------------ nothing is refused


def spoilt(X: np.ndarray, **cells: float) -> np.ndarray:
    out = X.copy()
    for row, value in enumerate(cells.values()):
        out[row, row % out.shape[1]] = value
    return out


ARRAYS = {
    "a negative zero": lambda X: spoilt(X, a=-0.0),
    "values of every size": lambda X: spoilt(X, a=1e300, b=-np.inf, c=5e-324, d=np.inf, e=np.nan, f=2.0**60),
    "a finer column": lambda X: np.column_stack([X[:, :2], rng(1).normal(size=len(X)), X[:, 3:]]),
    "some finer cells": lambda X: np.where(rng(2).random(X.shape) < 0.05, np.pi, X),
    "all finer": lambda X: X + np.pi,
    "far outside": lambda X: X * 1e9,
    "whole": lambda X: X.astype(int),
    "whole and huge": lambda X: np.vstack(
        [X.astype(int), np.full((2, X.shape[1]), [[2**63 - 1], [-(2**63)]])]
    ),
    "unsigned and huge": lambda X: np.full(X.shape, 2**64 - 1, np.uint64),
    "bits": lambda X: X > 0,
    "single": lambda X: X.astype(np.float32),
    "half": lambda X: X.astype(np.float16),
    "the other byte order": lambda X: X.astype(">f8"),
    "all blank": lambda X: np.full(X.shape, np.nan),
}


@pytest.mark.parametrize("how", ARRAYS)
def test_any_numbers_come_back(how):
    law, schema, X = fitted("hundredths")
    assert_comes_back(law, schema, ARRAYS[how](X))


def test_arrays_of_objects_and_text_come_back():
    law, schema, X = fitted("hundredths")
    for odd in (X.astype(object), X.astype(str)):
        back = task.decompress(law, schema, task.compress(law, schema, odd, NAME), NAME)
        assert back.dtype == odd.dtype
        assert (back == odd).all()


FRAMES = {
    "a new level": lambda X: X.assign(city=["Paris", *X.city[1:]]),
    "new levels only": lambda X: X.assign(city="Paris"),
    "wider categories": lambda X: X.assign(size=X["size"].cat.add_categories(["xl"])),
    "other categories": lambda X: X.assign(size=pd.Categorical(["xl"] * len(X))),
    "text for numbers": lambda X: X.assign(visits="many"),
    "numbers for text": lambda X: X.assign(city=1.5),
    "objects": lambda X: X.assign(city=[1, "a", None, 2.5, True] * (len(X) // 5)),
    "lists": lambda X: X.assign(
        id=[[1, (2, {"a": b"x"})], "a", decimal.Decimal("1.0"), np.float32(2.5), None] * (len(X) // 5)
    ),
    "negative counts": lambda X: X.assign(visits=-X.visits),
    "huge counts": lambda X: X.assign(visits=[2**60, *X.visits[1:]]),
    "unsigned": lambda X: X.assign(visits=np.array([2**64 - 1, *X.visits[1:]], np.uint64)),
    "odd floats": lambda X: X.assign(height=[-0.0, np.inf, -np.inf, 1e300, np.pi, *X.height[5:]]),
    "finer dates": lambda X: X.assign(since=[pd.Timestamp("2020-01-01 00:00:00.123456"), *X.since[1:]]),
    "no dates": lambda X: X.assign(since="2020"),
    "dates in a zone": lambda X: X.assign(since=X.since.dt.tz_localize("UTC")),
    "periods": lambda X: X.assign(since=pd.period_range("2020", periods=len(X))),
    "nullable": lambda X: X.convert_dtypes(),
    "arrow": lambda X: X.assign(
        visits=X.visits.astype("int64[pyarrow]"), rough=X.rough.astype("double[pyarrow]")
    ),
    "other dtypes": lambda X: X.astype(
        {"visits": "int16", "height": "float32", "member": "int8", "city": "category"}
    ),
    "empty text beside blanks": lambda X: X.assign(city=["", *X.city[1:]]),
    "lines in text": lambda X: X.assign(city=["a\nb\r", '"', ",", "'", "\x00", *X.city[5:]]),
    "columns in another order": lambda X: X[X.columns[::-1]],
    "an index": lambda X: X.set_axis(pd.Index([f"r{i}" for i in range(len(X))], name="row")),
    "an index of dates": lambda X: X.set_axis(pd.date_range("2024-01-01", periods=len(X))),
    "an index of levels": lambda X: X.set_axis(
        pd.MultiIndex.from_arrays([np.arange(len(X)), X.city], names=["a", None])
    ),
    "names of columns": lambda X: X.rename_axis(columns="what"),
}


@pytest.mark.parametrize("how", FRAMES)
def test_any_column_comes_back(how):
    law, schema, X = fitted("frame")
    assert_comes_back(law, schema, FRAMES[how](X))


@pytest.mark.parametrize("name", ["images", "colour"])
def test_pixels_out_of_range_come_back(name):
    law, schema, X = fitted(name)
    odd = X.astype(float)
    odd[0, 0, 0], odd[1, 1, 1] = 300, -0.5
    for Y in (odd, X.astype(np.int16) + 500, X * 0.5):
        assert_comes_back(law, schema, Y)


@SLOW
@given(st.data())
def test_any_floats_come_back(data):
    law, schema, _ = fitted("two rows")
    cells = st.floats(width=64) | st.sampled_from([0.0, -0.0, 0.5, 1e-300])
    rows = data.draw(st.lists(st.tuples(cells, cells, cells), max_size=20))
    assert_comes_back(law, schema, np.array(rows, float).reshape(-1, 3))


@pytest.mark.filterwarnings("ignore:invalid value")
@SLOW
@given(
    st.lists(st.none() | st.integers() | st.text() | st.floats() | st.booleans() | st.binary(), max_size=12)
)
def test_any_objects_come_back(values):
    law, schema, _ = fitted("text")
    X = pd.DataFrame({"t": pd.Series(values, dtype=object), "x": np.arange(len(values))})
    assert_same(task.decompress(law, schema, task.compress(law, schema, X, NAME), NAME), X)


def test_few_cells_without_a_code_cost_what_they_are():
    law, schema, _ = fitted("hundredths")
    X = TABLES["hundredths"] + 0.0  # no negative zero
    before = len(task.by_model(law, schema, X, NAME))
    odd = spoilt(X, a=-0.0, b=np.pi, c=np.inf)
    assert len(task.by_model(law, schema, odd, NAME)) < before + 100


def test_estimators_take_what_they_never_saw():
    X = frame(60).drop(columns="rough")
    model = VAE(**QUICK).fit(X)
    odd = X.assign(height=np.pi, city=["Paris", *X.city[1:]])
    assert_same(model.decompress(model.compress(odd)), odd)
    numbers = np.round(rng(0).normal(size=(60, 3)), 1)
    odd = spoilt(numbers, a=np.inf, b=-0.0, c=1e300)
    model = VAE(**QUICK).fit(numbers)
    assert_same(model.decompress(model.compress(odd)), odd)
    rough = rng(0).normal(size=(50, 2))
    model = VAE(**QUICK).fit(rough)
    assert_same(model.decompress(model.compress(rough)), rough)


def test_other_columns_are_refused():
    law, schema, X = fitted("frame")
    for odd, message in (
        (X.drop(columns="city"), "is missing 'city'"),
        (X.assign(more=1), "has unknown 'more'"),
    ):
        with pytest.raises(ValueError, match=message):
            task.compress(law, schema, odd, NAME)
    law, schema, X = fitted("hundredths")
    with pytest.raises(ValueError, match="X has 4 features, but 5 features are expected"):
        task.compress(law, schema, X[:, :4], NAME)
    with pytest.raises(ValueError, match="Complex data not supported"):
        task.compress(law, schema, X + 0j, NAME)


def test_objects_without_a_form_are_named():
    law, schema, X = fitted("frame")
    with pytest.raises(ValueError, match=r"column 'city' \(dtype object\) can't be stored"):
        task.compress(law, schema, X.assign(city=[object() for _ in range(len(X))]), NAME)


# ------------------------------------------------------------------ bad data


def hostile(extras: bytes, rows: int) -> bytes:
    return Packed(NAME, rows, extras=extras, plain=True).to_bytes()


def test_what_claims_too_much_is_refused_before_memory_is_taken():
    law, schema, X = fitted("hundredths")
    extras = Packed.from_bytes(task.by_columns(schema, X, NAME), NAME, schema.n_cells).extras
    claims = varint(4 * 2**50 + 3) + varint(2) + b"ab"  # LZMA2 of 2**50 bytes
    for odd in (claims, varint(0) + extras[1:6], b"", bytes(200)):
        with pytest.raises(CompressedDataError):
            task.decompress(law, schema, hostile(odd, len(X)), NAME)
    with pytest.raises(CompressedDataError, match="does not decode"):
        task.decompress(law, schema, hostile(extras, len(X) - 1), NAME)
    for data in (task.by_columns(schema, X, NAME), task.by_model(law, schema, X, NAME)):
        body = bytearray(data[len(data) - data[5] :] if data[5] < 128 else data[7:])
        body[12:14] = varint(2**40)  # rows
        body[:4] = zlib.crc32(bytes(body[4:])).to_bytes(4, "little")
        with pytest.raises(CompressedDataError, match="bytes cannot hold 1099511627776 rows"):
            task.decompress(law, schema, data[:5] + varint(len(body)) + bytes(body), NAME)


def test_shares_of_blanks_that_do_not_unpack_are_refused():
    data = Packed(NAME, 1, rates=bytes([1, 2, 3])).to_bytes()
    body = bytearray(data[6:])
    place = body.index(zlib.compress(bytes([1, 2, 3]), 9))
    body[place] = 0
    body[:4] = zlib.crc32(bytes(body[4:])).to_bytes(4, "little")
    assert Packed.from_bytes(data, NAME, 3).rates == bytes([1, 2, 3])
    with pytest.raises(CompressedDataError, match="does not decode"):
        Packed.from_bytes(data[:6] + bytes(body), NAME, 3)


def test_rows_of_nothing_new_are_counted_by_the_byte():
    X = np.full((2_000_000, 1), 3, np.uint8)
    schema = Schema.infer(np.full((9, 1), 3, np.uint8), "real")
    data = task.by_columns(schema, X, NAME)
    assert len(data) <= general(X.tobytes()) + SLACK
    assert_same(task.decompress(None, schema, data, NAME), X)


@SLOW
@given(st.data())
def test_any_bytes_decode_or_are_refused(data):
    name = data.draw(st.sampled_from(["hundredths", "frame"]))
    law, schema, X = fitted(name)
    extras = bytearray(Packed.from_bytes(task.by_columns(schema, X, NAME), NAME, schema.n_cells).extras)
    for _ in range(data.draw(st.integers(1, 3))):
        extras[data.draw(st.integers(0, len(extras) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(CompressedDataError):
            task.decompress(law, schema, hostile(bytes(extras), len(X)), NAME)


# ------------------------------------------------------------------ the parts


def test_frequencies_cost_what_they_are_said_to():
    columns = [rng(0).poisson(3, 2000), rng(1).choice([5, 7, 10**12], 2000), np.full(2000, -4)]
    symbols, bits = zip(*(alphabet(c) for c in columns), strict=True)
    data = encode_columns(columns, symbols)
    assert 8 * len(data) == pytest.approx(sum(bits), abs=400)
    for a, b in zip(decode_columns(Reader(data), [2000] * 3), columns, strict=True):
        np.testing.assert_array_equal(a, b)
    adaptive = order0(columns[0], int(columns[0].max()) + 1)
    assert len(encode_columns(columns[:1], symbols[:1])) < adaptive + 12


@SLOW
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=30), max_size=4))
def test_any_whole_numbers_come_back(lists):
    columns = [np.array(values, np.int64) for values in lists]
    data = pack(columns)
    for a, b in zip(unpack(Reader(data), [len(c) for c in columns]), columns, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_extreme_setting_runs_where_it_may_win():
    r = rng(0)
    words = np.array([r.bytes(8) for _ in range(60)])
    data = b"".join(words[r.integers(0, 60, 60_000)].tolist())
    assert len(data) > SMALL
    extreme = len(lzma.compress(data, preset=EXTREME))
    assert len(squeeze(data)) <= min(extreme, len(bz2.compress(data, 9))) + 8
    assert unsqueeze(Reader(squeeze(data))) == data
    noise = r.bytes(SMALL + 1)
    assert (
        shortest([lambda: data, lambda: noise], beat=extreme / HOPE / 4)[0] == 0
    )  # no hope: not tried, and still right
    with pytest.raises(CompressedDataError, match="longer than it can be"):
        unsqueeze(Reader(squeeze(data)), most=100)


@pytest.mark.parametrize(
    "value", [1, 1.0, True, "1", b"1", [1, [2]], (1, {"a": None}), decimal.Decimal("1.50"), np.float32(0.1)]
)
def test_objects_keep_their_type(value):
    back = from_json(to_json(value))
    assert type(back) is type(value)
    assert back == value
    with pytest.raises(CompressedDataError):
        from_json('["no such type", "00"]')
