"""The package's front: public names that are fetched when first asked for."""

import subprocess
import sys

import pytest

import abduce


def test_every_public_name_is_there():
    assert set(abduce.__all__) <= set(dir(abduce))
    for name in abduce.__all__:
        assert getattr(abduce, name) is getattr(abduce, name)
    from abduce.estimators.vae import VAE

    assert abduce.VAE is VAE


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'abduce' has no attribute 'VAD'"):
        abduce.VAD


@pytest.mark.parametrize("module", ["abduce", "abduce.cli", "abduce.data.readers"])
def test_light_modules_do_not_import_the_heavy_packages(module):
    code = f"import {module}, sys; print(*sorted({{'torch', 'sklearn', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
