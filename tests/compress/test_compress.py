"""Lossless compression: what comes back is what went in, at the rate that the model promises, or a clear
error."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from frames_for_tests import frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rates_for_tests import negative_elbo, rate
from scipy.special import ndtr
from scipy.stats import nbinom
from sklearn.datasets import load_digits

from abduce import VAE
from abduce.compress import codec as task
from abduce.compress.container import CompressedDataError, Packed, Reader, varint
from abduce.compress.latents import LatentGrid, LatentLaw
from abduce.compress.masses import count_masses, interval
from abduce.compress.stack import BitStack
from abduce.compress.symbols import DigitSymbols
from abduce.estimators.folder import state
from abduce.fit.checkpoint import fingerprint

RNG = np.random.default_rng(0)
QUICK = {"latent_dim": 2, "hidden": [16], "max_epochs": 2, "random_state": 0}
SLOW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


DATA = {
    "binary image": lambda n: (np.random.default_rng(1).random((n, 5, 5)) < 0.3).astype(np.uint8),
    "pixels with blanks": lambda n: np.where(
        np.random.default_rng(2).random((n, 4, 4)) < 0.3,
        np.nan,
        np.random.default_rng(3).integers(0, 17, (n, 4, 4)).astype(float),
    ),
    "colour": lambda n: np.random.default_rng(4).integers(0, 256, (n, 3, 4, 3)).astype(np.uint8),
    "reals": lambda n: (
        np.random.default_rng(5).integers(-(10**4), 10**4, (n, 3)) * np.array([1, 10, 100]) / 100
    ),
    "float32": lambda n: (np.random.default_rng(6).integers(-50, 50, (n, 3)) / 8).astype(np.float32),
    "frame": frame,
}


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name: str) -> tuple[VAE, object]:
        if name not in made:
            name_of_data = name.removesuffix(" by mixtures")
            X = DATA[name_of_data](150)
            likelihood = "discretized_logistic_mixture" if name.endswith("by mixtures") else "auto"
            model = VAE(**QUICK, likelihood=likelihood).fit(X)
            made[name] = model, X
        return made[name]

    return get


def assert_same(back, X):
    if isinstance(X, pd.DataFrame):
        pd.testing.assert_frame_equal(back, X)
    else:
        assert back.dtype == X.dtype
        np.testing.assert_array_equal(back, X)


def coded(model: VAE, X) -> bytes:
    """X coded with the model, whether or not general compressors take less."""
    return task.by_model(model.model_.coder(), model.schema_, X, fingerprint(*state(model)))


def assert_comes_back(model: VAE, X):
    for data in (coded(model, X), model.compress(X)):
        assert_same(model.decompress(data), X)


# ------------------------------------------------------------------ round trips

EVERY = [
    *DATA,
    "colour by mixtures",
    "pixels with blanks by mixtures",
]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("n", [0, 1, 2, 150])
def test_round_trip(models, name, n):
    model, X = models(name)
    assert isinstance(model.compress(X[:n]), bytes)
    assert_comes_back(model, X[:n])


@SLOW
@given(data=st.data(), n=st.integers(1, 40))
def test_any_pixels_come_back(models, data, n):
    model, _ = models("pixels with blanks")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    X = rng.integers(0, data.draw(st.integers(1, 17)), (n, 4, 4)).astype(float)
    X[rng.random(X.shape) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = np.nan
    assert_comes_back(model, X)


@SLOW
@given(k=st.lists(st.integers(-(10**12), 10**12), min_size=3, max_size=30))
def test_reals_far_outside_the_training_range_come_back(models, k):
    model, _ = models("reals")
    X = np.array(k[: len(k) // 3 * 3]).reshape(-1, 3) * np.array([1, 10, 100]) / 100
    assert_comes_back(model, X)


@SLOW
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60))
def test_any_frame_comes_back(models, seed, n):
    model, _ = models("frame")
    X = frame(n, seed)
    assert_comes_back(model, X)


def test_index_and_left_out_columns_come_back(models):
    model, X = models("frame")
    for index in (
        pd.RangeIndex(10, 310, 2, name="n"),
        pd.Index([f"r{i}" for i in range(150)], name="row"),
        pd.date_range("2024-01-01", periods=150),
        pd.MultiIndex.from_arrays([np.arange(150) % 7, list("abcde") * 30], names=["a", None]),
    ):
        Y = X.set_axis(index)[::-1]
        for data in (coded(model, Y), model.compress(Y)):
            pd.testing.assert_frame_equal(model.decompress(data), Y, check_freq=False)


def test_column_of_another_dtype_comes_back(models):
    model, X = models("frame")
    Y = X.astype({"visits": "int16"})
    assert_comes_back(model, Y)
    model, X = models("colour")
    assert_comes_back(model, X.astype(float))


def test_decodes_in_a_new_process_from_a_loaded_model(models, tmp_path):
    model, X = models("frame")
    model.save(tmp_path / "model")
    (tmp_path / "data").write_bytes(coded(model, X))
    X.to_pickle(tmp_path / "X")
    code = (
        "import sys, pandas, abduce\n"
        "model = abduce.load(sys.argv[1] + '/model')\n"
        "back = model.decompress(open(sys.argv[1] + '/data', 'rb').read())\n"
        "pandas.testing.assert_frame_equal(back, pandas.read_pickle(sys.argv[1] + '/X'))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_threads_and_training_mode_do_not_matter(models):
    model, X = models("colour by mixtures")
    data = coded(model, X)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert coded(model, X) == data
        assert_same(model.decompress(data), X)
        assert torch.get_num_threads() == threads % 2 + 1
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------ rates


@pytest.fixture(scope="module")
def digits():
    X = load_digits().images[np.random.default_rng(0).permutation(1797)]
    return VAE(latent_dim=10, hidden=[32], max_epochs=3, random_state=0).fit(X[:600]), X


def test_rate_is_the_models_own_bound(digits):
    model, X = digits
    found = rate(model.model_, model.schema_, X, draws=8)
    assert found.total_bytes == len(coded(model, X))
    # a symbol costs at most 24 bits, so rows that the model finds all but impossible cost less than its bound
    assert 0.95 < found.marginal_bits / found.negative_elbo_bits < 1.01
    assert found.header_bytes < 40
    assert found.first_rows <= 4
    assert found.total_bytes * 8 / X.size < 3.2  # order-0 by column takes 2.41 after a real fit; raw is 4.09


@pytest.mark.parametrize("name", EVERY)
def test_rate_of_every_kind_is_near_the_bound(models, name):
    model, X = models(name)
    found = rate(model.model_, model.schema_, X, draws=16)
    # 150 rows: allow for the noise of z on both sides
    assert found.marginal_bits - found.mask_bits == pytest.approx(found.negative_elbo_bits, rel=0.05)


def test_first_rows_are_paid_for(digits):
    model, X = digits
    one, two = len(coded(model, X[:1])), len(coded(model, X[:2]))
    assert 30 < one < two < 140
    bits = negative_elbo(model.model_, model.schema_, X[:1], draws=64)[0]
    assert 8 * (one - 26) > 0.6 * bits  # one row costs what it costs: nothing is borrowed


def test_blanks_cost_little_and_blank_rows_next_to_nothing(digits):
    model, X = digits
    Y = X[:200].copy()
    Y[:, 4:] = np.nan
    assert len(coded(model, Y)) < 0.75 * len(coded(model, X[:200]))
    blank = np.full((300, 8, 8), np.nan)
    assert len(coded(model, blank)) < 200


# ------------------------------------------------------------------ bad input


def test_other_model_is_refused(models):
    a, X = models("binary image")
    b = VAE(**{**QUICK, "random_state": 1}).fit(X)
    for data in (a.compress(X), coded(a, X)):
        with pytest.raises(CompressedDataError, match="another model"):
            b.decompress(data)


@pytest.mark.parametrize("plain", [False, True])
def test_truncated_or_changed_data_are_refused(models, plain):
    model, X = models("frame")
    data = task.by_columns(model.schema_, X, fingerprint(*state(model))) if plain else coded(model, X)
    for cut in range(0, len(data), max(1, len(data) // 97)):
        with pytest.raises(CompressedDataError, match="truncated"):
            model.decompress(data[:cut])
    for at in [*range(40), *range(40, len(data), max(1, len(data) // 97))]:
        with pytest.raises(CompressedDataError):
            model.decompress(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    with pytest.raises(CompressedDataError, match="follow its end"):
        model.decompress(data + b"\0")
    with pytest.raises(CompressedDataError, match="not written by compress"):
        model.decompress(b"PK\3\4" + data)
    with pytest.raises(CompressedDataError, match="newer format version 3"):
        model.decompress(data[:4] + b"\3" + data[5:])
    with pytest.raises(TypeError, match="must be bytes"):
        model.decompress("ABDC")


def test_payload_of_other_rows_is_refused(models):
    # a checksum of the rows stands behind that of the file
    model, X = models("binary image")
    own = fingerprint(*state(model))
    box = Packed.from_bytes(coded(model, X), own, 25)
    box.payload = Packed.from_bytes(coded(model, X[::-1].copy()), own, 25).payload
    with pytest.raises(CompressedDataError, match="does not decode"):
        model.decompress(box.to_bytes())


# ------------------------------------------------------------------ the parts


def test_digits_cover_their_interval_exactly():
    size = np.array([5, 300, 10**9])

    def masses(edges, part):
        return np.diff(edges).astype(float)

    k = np.array([4, 299, 10**9 - 1])
    model = DigitSymbols(masses, size)
    stack = BitStack()
    model.push(stack, k)
    assert stack.bits == pytest.approx(np.log2(size.astype(float)).sum(), abs=40)
    np.testing.assert_array_equal(model.pop(stack), k)
    assert stack.bits == 0


def test_masses_match_the_likelihoods():
    edges = np.arange(18)[None]
    got = count_masses(np.log([3.0]), np.log([2.0]), np.array([100]))(edges, slice(0, 1))[0]
    np.testing.assert_allclose(got, nbinom.pmf(np.arange(17), 2, 2 / 5), rtol=1e-9)
    t = np.array([-np.inf, -1.0, 0.5, 9.0, 9.1, np.inf])
    np.testing.assert_allclose(interval(ndtr, t)[:2], np.diff(ndtr(t))[:2])
    assert interval(ndtr, t)[3] == pytest.approx(ndtr(-9.0) - ndtr(-9.1))


def test_a_mixture_of_latents_costs_its_marginal_density():
    # two overlapping components: naming one would cost up to a bit a row; bits-back makes it free
    n = 2000
    log_r = np.log(np.full((n, 2), 0.5))
    mean = np.broadcast_to(np.array([[-0.1, 0.0], [0.1, 0.0]]), (n, 2, 2))
    A = np.broadcast_to(np.array([[2.0, 0.0], [1.0, 1.5]]), (1, 2, 2, 2))
    grid = LatentGrid(np.array([16, 16]), np.array([4, 4]))
    law = LatentLaw(log_r, mean, A, np.ones((n, 2)), grid, upper=False)
    stack = BitStack(RNG.bytes(2**16))
    start, words = stack.bits, stack.to_bytes()
    z = law.pop(stack)
    popped = start - stack.bits
    density = 0.0
    for m in mean[0]:
        white = (z / 16 - m) @ A[0, 0].T
        density = density + 0.5 * 3.0 * np.exp(-0.5 * (white**2).sum(1)) / (2 * np.pi)
    assert popped == pytest.approx(-np.log2(density / 16**2).sum(), rel=0.002)
    law.push(stack, z)
    assert stack.to_bytes() == words


@given(st.integers(0, 2**63))
def test_varint_round_trip(value):
    reader = Reader(varint(value))
    assert reader.varint() == value
    assert reader.rest() == b""
