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
    """The folder that SECATEUR_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("SECATEUR_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SECATEUR_DATA names no folder with data")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm():
    """A real encoder: all-MiniLM-L6-v2, from PyPI."""
    pytest.importorskip("importlib.util")
    from secateur.errors import InputError
    from secateur.models.loading import load_model

    try:
        return load_model("minilm")
    except InputError as error:
        pytest.skip(f"needs the demo model: {error}")
