"""Sound: what goes in comes back as it came, fills are those of the truth, and bad input is one clear error."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import abduce
from abduce import Sound
from abduce.data.examples import data_folder
from abduce.data.wav import plain_wav, read_wav, write_wav
from abduce.sequences.burg import Autoregression, simulate
from abduce.sequences.sound import MEMBERS, SoundPool, holes, runs, stacked

RATE = 8000
GAPS = [(0.40, 0.42), (0.70, 0.75)]


def vowel(seconds=1.2, seed=0):
    """Harmonics of a slowly gliding pitch, loudest at two formants, and a little noise; int16."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(110 + np.sin(2 * np.pi * 0.7 * t)) / RATE
    x = 0.002 * np.random.default_rng(seed).normal(size=len(t))
    for k in range(1, 30):
        gain = sum(1 / (1 + ((110 * k - formant) / 120) ** 2) for formant in (650, 1200))
        x = x + gain * np.sin(k * phase + 0.3 * k * k)
    return (8000 * x / np.abs(x).max()).astype(np.int16)


@pytest.fixture(scope="module")
def speech():
    return vowel()


@pytest.fixture(scope="module")
def model(speech):
    return Sound(random_state=0).fit(speech, rate=RATE, gaps=GAPS)


def inside(x, gaps=GAPS):
    t = np.arange(len(x)) / RATE
    return np.any([(t >= a - 1e-9) & (t < b - 1e-9) for a, b in gaps], axis=0)


# ---------------------------------------------------------------- in and out


def test_gaps_are_filled_and_the_rest_comes_back_to_the_bit(model, speech):
    filled = model.fill(speech, GAPS)
    gone = inside(speech)
    assert filled.dtype == np.int16
    assert np.array_equal(filled[~gone], speech[~gone])
    error = (filled.astype(float) - speech)[gone]
    assert 10 * np.log10(np.sum(speech[gone].astype(float) ** 2) / np.sum(error**2)) > 10


def test_what_is_hidden_is_not_read(model, speech):
    spoilt = speech.copy()
    spoilt[inside(speech)] = 32767
    assert np.array_equal(model.fill(spoilt, GAPS), model.fill(speech, GAPS))


def test_gaps_may_be_seconds_samples_or_nan(model, speech):
    x = speech.astype(float)
    by_seconds = model.fill(x, GAPS)
    samples = [(round(a * RATE), round(b * RATE)) for a, b in GAPS]
    assert np.array_equal(model.fill(x, samples, unit="samples"), by_seconds)
    holed = np.where(inside(x), np.nan, x)
    assert np.array_equal(model.fill(holed), by_seconds)
    assert np.array_equal(model.fill(np.where(inside(x, GAPS[:1]), np.nan, x), GAPS[1:]), by_seconds)
    assert np.array_equal(model.fill(x, [GAPS[0], (0.70, 0.73), (0.72, 0.75)]), by_seconds)
    assert np.array_equal(Sound(random_state=0).fit(holed, rate=RATE).fill(holed), by_seconds)


def test_files_are_filled_as_arrays_are(model, speech, tmp_path):
    path = write_wav(tmp_path / "a.wav", plain_wav(speech, RATE))
    assert np.array_equal(model.fill(path, GAPS), model.fill(speech, GAPS))
    assert model.fill_file(path, tmp_path / "b.wav", GAPS) == inside(speech).sum()
    assert np.array_equal(read_wav(tmp_path / "b.wav").samples, model.fill(speech, GAPS))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("bits", [8, 16, 24, 32, "float"])
@pytest.mark.parametrize("channels", [1, 2])
def test_observed_samples_stay_to_the_bit_in_every_format(model, speech, tmp_path, bits, channels):
    x = speech.astype(float) / 32768
    if channels == 2:
        x = np.stack([x, -0.5 * x], 1)
    if bits == "float":
        samples, width = x.astype(np.float32), 32
    else:
        scale = 1 << (bits - 1)
        kind = {8: np.uint8, 16: np.int16}.get(bits, np.int32)
        samples, width = np.rint(x * (scale - 1) + (128 if bits == 8 else 0)).astype(kind), bits
    path = write_wav(tmp_path / "a.wav", plain_wav(samples, RATE, width))
    model.fill_file(path, tmp_path / "b.wav", GAPS)
    before, after = read_wav(path), read_wav(tmp_path / "b.wav")
    gone = inside(x)
    assert (after.bits, after.before, after.samples.dtype) == (width, before.before, samples.dtype)
    assert np.array_equal(after.samples[~gone], samples[~gone])
    error = after.samples[gone].astype(float) - samples[gone]
    assert np.std(error) < 0.4 * np.std(samples[gone].astype(float))


def test_a_gap_of_one_channel_leaves_the_other(model, speech):
    stereo = np.stack([speech, speech[::-1]], 1).astype(float)
    stereo[3200:3300, 0] = np.nan
    filled = model.fill(stereo)
    assert np.array_equal(filled[:, 1], stereo[:, 1])
    assert np.isfinite(filled).all()
    assert np.std(filled[3200:3300, 0] - speech[3200:3300]) < 0.5 * speech.std()


def test_a_channel_twice_is_filled_twice_alike(model, speech):
    both = model.fill(np.stack([speech, speech], 1), GAPS)
    assert np.array_equal(both[:, 0], both[:, 1])


def test_time_may_run_backwards(model, speech):
    length = len(speech) / RATE
    back = model.fill(speech[::-1].astype(float), [(length - b, length - a) for a, b in GAPS])[::-1]
    gone = inside(speech)
    there = model.fill(speech.astype(float), GAPS)
    assert np.abs(back - there)[gone].max() < 0.02 * np.abs(speech).max()


def test_many_gaps_close_together_are_filled(model, speech):
    lost = [(0.1 + 0.03 * k, 0.11 + 0.03 * k) for k in range(30)]
    filled = model.fill(speech, lost)
    gone = inside(speech, lost)
    error = (filled.astype(float) - speech)[gone]
    assert np.sum(error**2) < 0.1 * np.sum(speech[gone].astype(float) ** 2)


def test_gaps_at_the_ends_and_silence_around_a_gap(model, speech):
    x = speech.astype(float)
    assert np.isfinite(model.fill(x, [(0, 0.02), (1.18, 1.2)])).all()
    quiet = np.concatenate([np.full(4000, 7.0), x, np.full(4000, 7.0)])
    assert np.isfinite(model.fill(quiet, [(0.1, 0.12)])).all()


# ---------------------------------------------------------------- how sure


def test_draws_and_intervals_are_those_of_one_distribution(model, speech):
    x = speech.astype(float)
    gone = inside(x, GAPS[:1])
    draws = np.stack(model.fill_draws(x, GAPS[:1], 400, random_state=1))[:, gone]
    low, high = (end[gone] for end in model.fill_interval(x, GAPS[:1], level=0.8))
    mean = model.fill(x, GAPS[:1])[gone]
    assert (low < mean).all()
    assert (mean < high).all()
    assert ((low <= draws) & (draws <= high)).mean() == pytest.approx(0.8, abs=0.03)
    assert np.abs(draws.mean(0) - mean).max() < 0.35 * (high - low).max()
    assert len(model.fill(x, GAPS, draws=3)) == 3


def test_intervals_hold_on_an_autoregression():
    truth = Autoregression(np.array([1.0, -1.7, 0.9]), 1.0)
    rng = np.random.default_rng(5)
    x = 100 * simulate(truth, 60_000, rng)
    model = Sound(random_state=0, cells=30).fit(x[:40_000], rate=RATE)
    gaps = [(5.2 + 0.3 * k, 5.23 + 0.3 * k) for k in range(7)]
    low, high = model.fill_interval(x, gaps)
    gone = inside(x, gaps)
    assert ((low <= x) & (x <= high))[gone].mean() == pytest.approx(0.9, abs=0.06)


def test_the_same_seed_gives_the_same_numbers(model, speech):
    again = clone(model).fit(speech, rate=RATE, gaps=GAPS)
    assert np.array_equal(again.fill(speech, GAPS), model.fill(speech, GAPS))
    a, b = again.fill_draws(speech, GAPS, 2), model.fill_draws(speech, GAPS, 2)
    assert np.array_equal(a, b)
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, model.fill_draws(speech, GAPS, 2, random_state=7))


# ---------------------------------------------------------------- before, after, anew, odd


def test_what_comes_next_and_came_before(model, speech):
    ahead, before = model.forecast(0.02), model.backcast(0.02)
    assert (ahead.shape, ahead.dtype) == ((160,), np.int16)
    later = model.forecast(0.01, speech[:4000])
    assert np.std(later.astype(float) - speech[4000:4080]) < 0.7 * speech[3000:5000].std()
    turned = model.backcast(0.01, speech[4000:].astype(float))
    same = model.forecast(0.01, speech[4000:][::-1].astype(float))[::-1]
    assert np.allclose(turned, same, atol=0.02 * speech.max())
    assert before.shape == (160,)
    paths = model.sample_paths(0.02, 3)
    assert [p.shape for p in paths] == [(160,)] * 3
    assert np.array_equal(paths, model.sample_paths(0.02, 3))


def test_new_sounds_have_the_level_of_the_old(model, speech):
    (new,) = model.sample(4.0, random_state=3)
    assert new.dtype == np.int16
    assert 0.5 < new.std() / speech.std() < 2


def test_a_click_is_the_oddest_sample(model, speech):
    x = speech.astype(float)
    x[5000] += 0.2 * speech.std() * 5
    odd = model.anomaly_score(x)
    assert odd.shape == x.shape
    assert int(np.argmax(odd)) == 5000
    assert model.score(speech) > model.score(np.random.default_rng(0).permutation(speech))
    holed = x.copy()
    holed[100:120] = np.nan
    assert np.isnan(model.anomaly_score(holed)).sum() == 20
    assert model.score_samples(np.stack([x, x], 1)).shape == (len(x), 2)


# ---------------------------------------------------------------- keep


def test_a_saved_model_gives_the_same_numbers(model, speech, tmp_path):
    model.save(tmp_path / "m")
    back = abduce.load(tmp_path / "m")
    assert isinstance(back, Sound)
    assert np.array_equal(back.fill(speech, GAPS), model.fill(speech, GAPS))
    assert np.array_equal(back.fill_draws(speech, GAPS, 2), model.fill_draws(speech, GAPS, 2))
    assert np.array_equal(back.forecast(0.05), model.forecast(0.05))
    assert np.array_equal(back.sample(0.1), model.sample(0.1))
    assert back.members().equals(model.members())
    assert model.members()["weight"].sum() == pytest.approx(1)


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_is_refused_in_words(model, speech, tmp_path):
    with pytest.raises(NotFittedError):
        Sound().fill(speech, GAPS)
    with pytest.raises(ValueError, match="nothing of the recording is missing"):
        model.fill(speech)
    with pytest.raises(ValueError, match="outside of the recording"):
        model.fill(speech, [(1.1, 1.3)])
    with pytest.raises(ValueError, match="length zero"):
        model.fill(speech, [(0.5, 0.5)])
    with pytest.raises(ValueError, match="starts after its end"):
        model.fill(speech, [(0.6, 0.5)])
    with pytest.raises(ValueError, match="nothing of the recording was seen"):
        model.fill(speech, [(0, 1.2)])
    with pytest.raises(ValueError, match="longer than can be filled"):
        model.fill(np.zeros(100_000), [(2, 11)])
    with pytest.raises(ValueError, match="is silent"):
        Sound().fit(np.zeros(1000), rate=RATE)
    with pytest.raises(ValueError, match="rate must be"):
        Sound().fit(speech)
    with pytest.raises(ValueError, match="level must be"):
        model.fill_interval(speech, GAPS, level=1)
    with pytest.raises(ValueError, match="cells must be"):
        Sound(cells=0).fit(speech, rate=RATE)
    with pytest.raises(ValueError, match="seconds must be"):
        model.forecast(0)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(ValueError, match="is no WAV file"):
        model.fill(tmp_path / "a.wav", GAPS)


def test_short_recordings_are_fitted_all_the_same():
    x = vowel(0.05)
    model = Sound(random_state=0).fit(x, rate=RATE)
    assert np.isfinite(model.fill(x.astype(float), [(0.02, 0.025)])).all()
    tiny = np.array([1.0, 2.0, 4.0, 3.0])
    filled = Sound(random_state=0).fit(tiny, rate=RATE).fill(tiny, [(1, 2)], unit="samples")
    assert np.isfinite(filled).all()


# ---------------------------------------------------------------- parts


def test_holes_are_gathered_and_told_apart():
    missing = np.zeros((20_000, 2), bool)
    missing[100:200], missing[250:300] = True, True
    missing[15_000:15_100, 1] = True
    found = holes(missing, 100)
    assert [(h.start, h.stop, h.channels) for h in found] == [(100, 300, (0, 1)), (15_000, 15_100, (1,))]
    assert runs(np.zeros(5, bool)).shape == (0, 2)


def test_stacked_weights_are_least_where_errors_are():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(20, 3, 50)) * np.array([1.0, 2.0, 9.0])[:, None]
    weights = stacked(errors @ errors.swapaxes(1, 2), ridge=0.0)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > weights[1] > weights[2]
    assert weights[0] == pytest.approx(0.8, abs=0.05)


def test_one_member_says_what_its_autoregression_does():
    x = (
        50
        * simulate(Autoregression(np.array([1.0, -1.2, 0.6]), 1.0), 6000, np.random.default_rng(0))[:, None]
    )
    missing = np.zeros(x.shape, bool)
    missing[3000:3003] = True
    alone = SoundPool(MEMBERS[:1], np.ones(1))
    (found,) = alone.ask(x, missing, RATE)
    assert found.quantile(0.5) == pytest.approx(found.mean(), abs=1e-6)
    assert found.spread() == pytest.approx(found.deviations[0])


# ---------------------------------------------------------------- the command line, real recordings


def test_the_command_line_fills_a_file(speech, tmp_path):
    path = write_wav(tmp_path / "a.wav", plain_wav(np.stack([speech, speech], 1), RATE))
    run = [sys.executable, "-m", "abduce", "fill", str(path), "-o", str(tmp_path / "b.wav")]
    gaps = ["--gap", "0.40:0.42", "--gap", "0.70:0.75"]
    done = subprocess.run([*run, *gaps, "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        0,
        f'{{"filled": 1120, "copies": 1, "output": "{tmp_path / "b.wav"}"}}\n',
    )
    filled, gone = read_wav(tmp_path / "b.wav").samples, inside(speech)
    assert np.array_equal(filled[~gone], np.stack([speech, speech], 1)[~gone])
    assert not np.array_equal(filled[gone], np.stack([speech, speech], 1)[gone])
    for wrong, status, words in (
        (["--gap", "0.40"], 2, "START:STOP"),
        (["--gap", "0.4:9"], 1, "outside of the recording"),
        ([], 1, "is missing"),
    ):
        done = subprocess.run([*run, *wrong], capture_output=True, text=True)
        assert done.returncode == status
        assert words in done.stderr


def test_real_music_is_filled_better_than_published():
    """A clarinet's 50 ms gaps: Janssen's method reached 20.9 dB over ten."""
    try:
        folder = data_folder() / "series" / "audio"
    except FileNotFoundError:
        pytest.skip("ABDUCE_DATA names no folder of recordings")
    path = folder / "a16_clarinet.wav"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    gaps = [(28676, 30881), (71304, 73509), (247332, 249537)]  # 26.96, 26.60, 32.80 dB as published
    x = read_wav(path).samples.astype(float)
    model = Sound(random_state=0, cells=6).fit(path, gaps=gaps, unit="samples")
    filled = model.fill(path, gaps, unit="samples")
    found = [10 * np.log10(np.sum(x[a:b] ** 2) / np.sum((x - filled)[a:b] ** 2)) for a, b in gaps]
    assert np.mean(found) > np.mean([26.96, 26.60, 32.80])
