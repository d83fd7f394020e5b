"""Odd images: −log p less what a plain coder needs, so that plain images are not usual whatever they show."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import abduce
from abduce import PCA, VAE, OutlierDetector
from abduce.compress.image_length import image_length
from abduce.data.examples import load_digits_images


def lengths(k, levels=256):
    return image_length(k[..., None], np.ones((*k.shape, 1), bool), levels)


def textures(rng, n, width):
    """Grey images of smoothed noise, the same spread of pixels at any width."""
    x = gaussian_filter(rng.normal(size=(n, 12, 12)), (0, width, width), mode="wrap")
    x /= x.std((1, 2), keepdims=True)
    return np.clip(np.rint(128 + 30 * x), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vae():
    images = load_digits_images()[0].astype(np.uint8)
    return VAE(max_epochs=2, random_state=0).fit(images[:300]), images[300:320]


def test_of_levels_it_is_log_p_less_the_plain_length(vae):
    model, new = vae
    assert model.schema_.fields[0].kind == "pixel"
    assert model.model_.lattice_mass
    np.testing.assert_allclose(
        model.anomaly_score(new), -model.score_samples(new) - lengths(new, 17), rtol=1e-12
    )
    np.testing.assert_array_equal(model._flags(new)["anomaly_score"], model.anomaly_score(new))
    same = OutlierDetector(VAE(max_epochs=2, random_state=0)).fit(
        load_digits_images()[0][:300].astype(np.uint8)
    )
    np.testing.assert_array_equal(same.anomaly_score(new), model.anomaly_score(new))


def test_blank_pixels_count_in_neither(vae):
    model, new = vae
    gaps = new.astype(float)
    gaps[:, 2:5, 3:] = np.nan
    plain = image_length(np.nan_to_num(gaps).astype(int)[..., None], ~np.isnan(gaps)[..., None], 17)
    np.testing.assert_allclose(model.anomaly_score(gaps), -model.score_samples(gaps) - plain, rtol=1e-12)
    np.testing.assert_array_equal(model.anomaly_score(np.full((1, 8, 8), np.nan)), [0.0])


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_of_densities_it_counts_the_width_of_a_level(scale):
    rng = np.random.default_rng(0)
    images, new = textures(rng, 200, 1.0), textures(rng, 10, 1.0)
    images[0, 0, :2] = 0, 255
    model = PCA(components=5, random_state=0).fit(images * scale)
    expected = -model.score_samples(new * scale) - 144 * np.log(scale) - lengths(new.astype(int))
    np.testing.assert_allclose(model.anomaly_score(new * scale), expected, rtol=1e-9)


def test_smooth_images_are_usual_by_log_p_and_odd_beyond_the_plain_length():
    rng = np.random.default_rng(0)
    model = PCA(components=20, random_state=0).fit(textures(rng, 1500, 0.7))
    usual, smooth = textures(rng, 200, 0.7), textures(rng, 200, 3.0)
    both, truth = np.concatenate([usual, smooth]), np.repeat([0, 1], 200)
    assert roc_auc_score(truth, -model.score_samples(both)) < 0.3
    assert roc_auc_score(truth, model.anomaly_score(both)) > 0.95
    assert model.flag(both, alpha=0.1)[200:].mean() > 0.8
    assert model.flag(both, alpha=0.1)[:200].mean() < 0.15


def test_p_values_of_images_are_shares_of_training_images():
    rng = np.random.default_rng(1)
    train, new = textures(rng, 8000, 0.7), textures(rng, 1500, 0.7)
    model = PCA(components=20, random_state=0).fit(train)
    known = np.array(model.usual_)
    assert len(known) == 2000
    assert np.isin(known.round(6), model.anomaly_score(train).round(6)).all()
    p = model.p_values(new)
    odd = model.anomaly_score(new)
    np.testing.assert_allclose(p, (1 + (known >= odd[:, None] - 1e-9).sum(1)) / 2001, atol=1e-3)
    np.testing.assert_allclose([(p <= t).mean() for t in (0.1, 0.5, 0.9)], [0.1, 0.5, 0.9], atol=0.04)
    # with blanks, by the model's own samples, as rows of tables
    gaps = new[:20].astype(float)
    gaps[:10, :4] = np.nan
    both = model.p_values(gaps)
    np.testing.assert_array_equal(both[10:], p[10:20])
    assert ((both[:10] > 0) & (both[:10] <= 1)).all()


def test_tables_have_none_of_it():
    X = np.random.default_rng(0).normal(size=(200, 3))
    model = PCA(components=1, random_state=0).fit(X)
    assert model.usual_ == []
    np.testing.assert_array_equal(model.anomaly_score(X), -model.score_samples(X))


def test_it_survives_a_folder(vae, tmp_path):
    model, new = vae
    model.save(tmp_path / "m")
    again = abduce.load(tmp_path / "m")
    np.testing.assert_array_equal(again.anomaly_score(new), model.anomaly_score(new))
    np.testing.assert_array_equal(again.p_values(new), model.p_values(new))
