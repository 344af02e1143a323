"""Paths with anything in them: they work, or are refused in one line before anything is written."""

import json
import os
import shlex
import shutil
import stat

import pytest
import yaml
from transformers import AutoModelForCausalLM

import tiny
from secateurs.cli import run

FAST = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "600", "--max-length", "64", "--no-refit"]
PLAIN = [*FAST, "--method", "magnitude", "--no-report"]
NAMES = {
    "spaces": "a b  c ",
    "other scripts": "modèle-日本語-Ω-😀",
    "decomposed": "e\u0301",
    "right to left": "שלום\u202e",
    "quotes": 'it\'s "q" `x`',
    "shell": "$HOME;&|<>",
    "patterns": "[bold]*?[!a]",
    "backslash": "a\\b\\n",
    "percent": "%s{x}%d",
    "comment": "#a: b",
    "brackets": "{a: [b",
    "tab": "a\tb",
    "newline": "a\nb",
    "escape": "a\x1b[31mb",
    "dots": "...a..b...",
    "hidden": ".a",
    "dash": "-a",
    "double dash": "--keep",
    "tilde": "~a",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return tiny.save_checkpoint(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def call(capsys):
    """The exit code, and what was said on standard error, progress left out."""

    def run_words(*words):
        code = run([str(word) for word in words])
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return code, told[told.index("error: ") :] if "error: " in told else ""

    return run_words


def expect_refusal(found, words):
    code, told = found
    assert code == 2
    assert told.count("\n") == 1, told
    assert words in told


def read_width(folder):
    return AutoModelForCausalLM.from_pretrained(folder).config.intermediate_size


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_model_text_and_out_may_be_called_anything(name, good, tmp_path, call):
    model, text, out = tmp_path / "from" / name, tmp_path / f"{name}.txt", tmp_path / "to" / name
    shutil.copytree(good, model)
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    assert call("prune", model, out, "--calibration", text, *FAST, "--method", "magnitude") == (0, "")
    assert read_width(out) == 12
    assert {path.name for path in tmp_path.iterdir()} == {"from", "to", text.name}
    assert [path.name for path in out.parent.iterdir()] == [name]
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    manifest = json.loads((out / "secateurs" / "manifest.json").read_text())
    words = shlex.split(manifest["command"])
    place = words.index("--") + 1 if "--" in words else 2
    assert [*words[place : place + 2], words[words.index("--calibration") + 1]] == [name, name, text.name]


@pytest.mark.parametrize("words", [["--", "-out"], ["./-out"]], ids=["after --", "behind ./"])
def test_out_may_begin_with_a_dash(words, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("prune", *PLAIN, good, *words) == (0, "")
    assert read_width(tmp_path / "-out") == 12


def test_a_dash_alone_reads_as_an_option(good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expect_refusal(call("prune", good, "-out", *PLAIN), "No such option: -o")
    assert list(tmp_path.iterdir()) == []


def test_models_and_texts_may_begin_with_a_dash_too(good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, "-model")
    (tmp_path / "-text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    assert call("prune", *PLAIN, "--calibration", "-text.txt", "--", "-model", "out") == (0, "")
    assert read_width(tmp_path / "out") == 12


def test_a_long_path_of_several_folders_is_made(good, tmp_path, call):
    out = tmp_path.joinpath("a" * 100, "ü" * 100, "c" * 100, "d" * 200)
    assert len(str(out)) > 500
    assert call("prune", good, out, *PLAIN) == (0, "")
    assert read_width(out) == 12


@pytest.mark.parametrize("name", ["a" * 300, "a" * 201, "ü" * 101, "a" * 300 + "/out", "/".join(["a" * 150] * 30)])
def test_a_name_that_no_file_system_holds_is_refused(name, good, tmp_path, call):
    expect_refusal(call("prune", good, tmp_path / name, *PLAIN), "name")
    assert list(tmp_path.iterdir()) == []


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        [LONG, "out"],
        ["model", "out", "--calibration", f"{LONG}.txt"],
        ["model", "out", "--recipe", f"{LONG}.yaml"],
    ],
    ids=["model", "text", "recipe"],
)
def test_nor_is_one_that_is_read(words, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(good)
    expect_refusal(call("prune", *words, *PLAIN), "File name too long")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


NO_TEXT = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "words",
    [[NO_TEXT, "out"], ["model", NO_TEXT], ["model", "out", "--calibration", f"{NO_TEXT}.txt"]],
    ids=["model", "out", "text"],
)
def test_a_name_that_is_no_utf_8_is_refused(words, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(good)
    shutil.copytree(good, NO_TEXT)
    (tmp_path / f"{NO_TEXT}.txt").write_text("the quick brown fox\n" * 400)
    before = sorted(tmp_path.iterdir())
    expect_refusal(call("prune", *words, *PLAIN), "it is not UTF-8")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("words", [["a\0b", "out"], ["model", "a\0b"], ["model", "out", "--calibration", "a\0b.txt"]])
def test_a_name_with_a_nul_is_refused(words, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(good)
    expect_refusal(call("prune", *words, *PLAIN), "embedded null byte")


@pytest.mark.parametrize("words", [["a\nb", "out"], ["model", "c\nd"], ["model", "out", "--calibration", "a\nb.txt"]])
def test_a_message_that_names_a_path_of_two_lines_has_one(words, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(good)
    (tmp_path / "c\nd").mkdir()
    expect_refusal(call("prune", *words, *PLAIN), "error: ")


@pytest.mark.parametrize("out", ["", ".", "..", "/", "model", "model/inside", "file", "file/out", "folder", "loop"])
def test_a_place_that_is_taken_or_can_not_be_is_refused(out, good, tmp_path, call, monkeypatch):
    (work := tmp_path / "work").mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(good, "model")
    (work / "file").write_text("mine")
    (work / "folder").mkdir()
    (work / "folder" / "mine").touch()
    (work / "loop").symlink_to("loop")
    for words in ([], ["--overwrite"]):
        expect_refusal(call("prune", "model", out, *PLAIN, *words), "error: ")
    assert {path.name for path in work.iterdir()} == {"model", "file", "folder", "loop"}
    assert {path.name for path in (work / "model").iterdir()} == {path.name for path in good.iterdir()}
    assert (work / "file").read_text() == "mine"


def test_out_may_lie_behind_a_link_to_a_folder(good, tmp_path, call):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert call("prune", good, tmp_path / "link" / "out", *PLAIN) == (0, "")
    assert read_width(tmp_path / "real" / "out") == 12
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["out"]


def test_a_link_to_what_secateurs_wrote_stays_a_link_when_that_is_replaced(good, tmp_path, call):
    (tmp_path / "link").symlink_to("real")
    assert call("prune", good, tmp_path / "link", *PLAIN) == (0, "")
    expect_refusal(call("prune", good, tmp_path / "link", *PLAIN), "must not exist yet")
    assert call("prune", good, tmp_path / "link", *PLAIN, "--keep", "0.25", "--overwrite") == (0, "")
    assert (tmp_path / "link").is_symlink()
    assert read_width(tmp_path / "real") == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_link_into_the_model_is_refused(good, tmp_path, call):
    (tmp_path / "link").symlink_to(good)
    for out in ("link", "link/inside"):
        expect_refusal(call("prune", good, tmp_path / out, *PLAIN, "--overwrite"), "outside the model's own folder")


@pytest.mark.parametrize("out", ["~/out", "nowhere/../out"])
def test_out_may_be_written_down_in_a_roundabout_way(out, good, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("prune", good, out, *PLAIN) == (0, "")
    assert read_width(tmp_path / "out") == 12


def test_a_folder_that_is_read_only_is_told_before_anything_is_done(good, tmp_path, call):
    (tmp_path / "shut").mkdir(mode=0o555)
    if os.access(tmp_path / "shut", os.W_OK):
        pytest.skip("nothing is read-only to root")
    for out in ("shut/out", "shut/deeper/out"):
        expect_refusal(call("prune", good, tmp_path / out, *PLAIN), "no permission to write in")
    assert list((tmp_path / "shut").iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes_are_those_that_the_umask_asks_for(umask, good, tmp_path, call):
    before = os.umask(umask)
    try:
        assert call("prune", good, tmp_path / "parent" / "out", *FAST, "--method", "magnitude") == (0, "")
    finally:
        os.umask(before)
    written = [tmp_path / "parent", *(tmp_path / "parent").rglob("*")]
    assert len(written) > 8
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
