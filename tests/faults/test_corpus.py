"""What fuzzing found before: every input is accepted, or refused on one short line; faults/fuzz/ finds more."""

from pathlib import Path

import pytest

from faults.fuzz.mutations import mutate
from faults.fuzz.seeds import make_found, make_good
from faults.fuzz.targets import FORMS, check
from secateurs.errors import InputError

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_every_input_is_accepted_or_refused(path, tmp_path):
    said = check(path.read_bytes(), tmp_path)  # anything but one short line raises
    assert said is None or said
    assert list(tmp_path.iterdir()) == []


def test_the_corpus_is_small_and_of_every_form():
    assert len(CORPUS) >= 50
    assert sum(path.stat().st_size for path in CORPUS) < 300_000
    assert {(path.read_bytes() or b"0")[0] % len(FORMS) for path in CORPUS} == set(range(len(FORMS)))


@pytest.mark.parametrize("name", make_good())
def test_good_inputs_are_accepted_and_cut_off_refused(name, tmp_path):
    raw = make_good()[name]
    assert check(raw, tmp_path) is None
    assert check(raw[: len(raw) // 2], tmp_path)


@pytest.mark.parametrize("name", make_found())
def test_what_once_made_trouble_is_refused(name, tmp_path):
    assert check(make_found()[name], tmp_path)


def test_changed_inputs_are_accepted_or_refused(tmp_path):
    outcomes = set()
    for seed in range(500):
        raw = list(make_good().values())[seed % 4]
        outcomes.add(check(mutate(raw, 16_384, seed), tmp_path) is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize("error", [InputError("two\nlines"), InputError("long" * 200), OSError("no error of ours")])
def test_any_other_error_would_be_told(error, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("faults.fuzz.targets.check_weights", fail)
    with pytest.raises((ValueError, OSError)):
        check(make_good()["file"], tmp_path)
    assert list(tmp_path.iterdir()) == []
