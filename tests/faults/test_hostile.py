"""Hostile checkpoints: one line each, no code of theirs runs, nothing is written."""

import shutil

import pytest

import tiny
from faults.hostile import CASES
from secateurs.cli import run


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return tiny.save_checkpoint(tmp_path_factory.mktemp("good") / "model")


def hash_folder(folder):
    return {
        path.relative_to(folder): (path.read_bytes() if path.is_file() else None) for path in sorted(folder.rglob("*"))
    }


def test_there_are_many():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: "y")  # whatever a library asks
    spoil, words = CASES[name]
    place = tmp_path / "place"
    folder = shutil.copytree(good, place / "model")
    canary = tmp_path / "canary"
    spoil(folder, canary)
    before = hash_folder(place)
    code = run(["prune", str(folder), str(place / "out"), "--keep", "0.5", "--calibration-tokens", "600"])
    told = capsys.readouterr().err.strip().splitlines()
    assert code == 2, told
    errors = [line for line in told if line.startswith("error: ")]
    assert len(errors) == 1, told
    assert words in errors[0]
    assert len(errors[0]) < 600
    assert not any("Traceback" in line for line in told)
    assert not canary.exists()
    assert hash_folder(place) == before
    assert {path.name for path in tmp_path.iterdir()} == {"place"}
