"""WAV files in every format come back to the bit, with all else that they hold; what is none is refused in words."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import wavfile

from abduce.data.recordings import Recording, recordings, stretches
from abduce.data.wav import Wav, plain_wav, read_wav, write_wav

FORMATS = {
    "8": (np.uint8, 8),
    "16": (np.int16, 16),
    "24": (np.int32, 24),
    "32": (np.int32, 32),
    "float": (np.float32, 32),
    "double": (np.float64, 64),
}


def samples_of(name, channels=1, n=501):
    kind, bits = FORMATS[name]
    rng = np.random.default_rng(0)
    shape = (n,) if channels == 1 else (n, channels)
    if kind in (np.float32, np.float64):
        return rng.normal(0, 0.1, shape).astype(kind)
    low, high = (0, 256) if bits == 8 else (-(1 << (bits - 1)), 1 << (bits - 1))
    return rng.integers(low, high, shape).astype(kind)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_by_us_and_by_scipy(tmp_path, name, channels):
    x, bits = samples_of(name, channels), FORMATS[name][1]
    path = write_wav(tmp_path / "a.wav", plain_wav(x, 11025, bits))
    back = read_wav(path)
    assert (back.rate, back.bits, back.samples.dtype) == (11025, bits, x.dtype)
    assert np.array_equal(back.samples, x)
    rate, theirs = wavfile.read(path)
    assert rate == 11025
    assert np.array_equal(theirs, x << 8 if bits == 24 else x)


@pytest.mark.parametrize("name", ["8", "16", "32", "float", "double"])
def test_scipys_files_are_read_and_written_back_byte_by_byte(tmp_path, name):
    x = samples_of(name, 2)
    wavfile.write(tmp_path / "a.wav", 8000, x)
    wav = read_wav(tmp_path / "a.wav")
    assert np.array_equal(wav.samples, x)
    write_wav(tmp_path / "b.wav", wav)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(*chunks):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def form(kind=1, channels=1, bits=16, rate=8000, more=b""):
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits) + more)


def test_titles_and_marks_stay_when_samples_change(tmp_path):
    x = samples_of("16", n=101)
    content = riff(chunk(b"LIST", b"INFOodd"), form(), chunk(b"data", x.tobytes()), chunk(b"cue ", b"mark!"))
    (tmp_path / "a.wav").write_bytes(content)
    wav = read_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav", replace(wav, samples=x[::-1]))
    assert (tmp_path / "b.wav").read_bytes() == content.replace(x.tobytes(), x[::-1].tobytes())


def test_extensible_formats_and_unfinished_files_are_read(tmp_path):
    x = samples_of("16", n=100)
    guid = struct.pack("<HHIH", 22, 16, 4, 1) + b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    content = riff(form(0xFFFE, more=guid), b"data\xff\xff\xff\xff" + x.tobytes())
    (tmp_path / "a.wav").write_bytes(content)
    assert np.array_equal(read_wav(tmp_path / "a.wav").samples, x)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ID3\x04 and so on, as an MP3 would", "is no WAV file"),
        (b"", "is no WAV file"),
        (riff(form()), "without samples"),
        (riff(chunk(b"data", b"1234")), "before a format"),
        (riff(form(7, bits=8), chunk(b"data", b"1234")), "mu-law"),
        (riff(form(1, bits=12), chunk(b"data", b"1234")), "12 bits"),
        (riff(form(1, channels=0), chunk(b"data", b"1234")), "0 channels"),
    ],
)
def test_what_is_no_wav_is_refused(tmp_path, content, words):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_wav(tmp_path / "a.wav")


def test_writing_is_refused_where_it_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_wav(tmp_path / "no" / "a.wav", plain_wav(samples_of("16"), 8000))
    with pytest.raises(ValueError, match="do not fit in a WAV file"):
        write_wav(tmp_path / "a.wav", Wav(np.zeros(4, np.int64), 8000, 64))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- gaps


def test_gaps_are_sorted_and_merged():
    assert stretches([(0.5, 0.6), (0.1, 0.2), (0.55, 0.7), (0.7, 0.8)], 1000, 1000, "seconds") == [
        (100, 200),
        (500, 800),
    ]
    assert stretches((3, 5), 10, 1000, "samples") == [(3, 5)]
    assert stretches(np.array([[3, 5]]), 10, 1000, "samples") == [(3, 5)]


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([(0.5, 0.4)], "starts after its end"),
        ([(0.5, 0.5)], "length zero"),
        ([(0.5, 0.50001)], "length zero"),
        ([(-0.1, 0.5)], "outside of the recording"),
        ([(0.5, 1.1)], "outside of the recording, which has 0:1"),
        ([0.5], "pairs"),
        ([(0.1, 0.2, 0.3)], "pairs"),
        ([("a", "b")], "pairs"),
        ([(0.1, float("nan"))], "finite"),
    ],
)
def test_gaps_that_are_none_are_refused(gaps, words):
    with pytest.raises(ValueError, match=words):
        Recording(np.ones(1000), 1000, gaps)


def test_recordings_that_are_none_are_refused():
    with pytest.raises(ValueError, match="nothing of the recording was seen"):
        Recording(np.full(100, np.nan), 1000)
    with pytest.raises(ValueError, match="in channel 1"):
        Recording(np.stack([np.ones(50), np.full(50, np.nan)], 1), 1000)
    with pytest.raises(ValueError, match="nothing of"):
        Recording(np.ones(1000), 1000, [(0, 1)])
    with pytest.raises(ValueError, match="rate must be"):
        Recording(np.ones(100))
    with pytest.raises(ValueError, match="infinite sample at 7"):
        Recording(np.r_[np.ones(7), np.inf, 1.0], 1000)
    with pytest.raises(TypeError, match="int64"):
        Recording(np.ones(100, int), 1000)
    with pytest.raises(ValueError, match="shape"):
        Recording(np.ones((3, 4, 5)), 1000)
    with pytest.raises(ValueError, match="transpose"):
        Recording(np.ones((2, 800)), 1000)
    with pytest.raises(ValueError, match="unit"):
        Recording(np.ones(100), 1000, [(1, 2)], unit="minutes")
    with pytest.raises(ValueError, match="gaps go with one recording"):
        recordings([np.ones(100), np.ones(50)], 1000, [(0, 0.01)], "seconds")
    with pytest.raises(FileNotFoundError):
        Recording("nowhere.wav")


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_put_in_the_type_of_the_samples(name):
    x, bits = samples_of(name), FORMATS[name][1]
    recording = Recording(x, 1000, [(10, 20)], unit="samples", bits=bits)
    filled = recording.put(np.where(np.arange(len(x)) < 15, 1e30, 3.4)[:, None])
    kept = np.r_[0:10, 20 : len(x)]
    assert filled.dtype == x.dtype
    assert np.array_equal(filled[kept], x[kept])
    top = {"8": 255, "16": 32767, "24": (1 << 23) - 1, "32": 2**31 - 1}.get(name)
    if top is not None:
        assert set(filled[10:20].tolist()) == {top, 3}
