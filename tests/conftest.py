import os
from pathlib import Path

import pytest

import tiny

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny Llama checkpoint on disk."""
    return tiny.save_checkpoint(tmp_path / "model")


@pytest.fixture
def shared_data():
    """The folder that SECATEURS_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("SECATEURS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SECATEURS_DATA names no folder with data")
    return Path(folder)


def load_demo(name, **settings):
    """A demo model from PyPI; the test is skipped where it is not installed."""
    from secateurs.errors import InputError
    from secateurs.models.loading import load_model

    try:
        return load_model(name, **settings)
    except InputError as error:
        pytest.skip(f"needs the demo model: {error}")


@pytest.fixture(scope="session")
def minilm():
    """A real encoder: all-MiniLM-L6-v2."""
    return load_demo("minilm")


@pytest.fixture(scope="session")
def smollm2():
    """A real language model: SmolLM2-135M-Instruct, in float32."""
    return load_demo("smollm2", dtype="float32")
