"""Calibration text of every kind: a defined result, or one line that says what is wrong and where."""

import json

import pytest

import tiny
from secateurs import prune
from secateurs.calibration import prepare_calibration
from secateurs.errors import InputError
from secateurs.models.loading import wrap_model
from secateurs.recipe import make_recipe

WORDS = "the quick brown fox jumps over the lazy dog and runs away from it all "
LONG = WORDS * 60


def rows(*values):
    """A .jsonl file of some values under "text"."""
    return "".join(json.dumps({"text": value}) + "\n" for value in values).encode()


REFUSED = {
    "empty": ("t.txt", b"", "at least 256 tokens, got 0"),
    "blank": ("t.txt", b" \n\n \t \n", "at least 256 tokens, got 0"),
    "one token": ("t.txt", b"the", "at least 256 tokens"),
    "NUL": ("t.txt", WORDS.encode() + b"\nab\0cd\n", "NUL character at line 2"),
    "latin-1": ("t.txt", WORDS.encode() + b"\ncaf\xe9\n", "not UTF-8 at line 2"),
    "ends inside a character": ("t.txt", LONG.encode() + b"\xe2\x82", "not UTF-8 at line 1"),
    "UTF-16": ("t.txt", LONG.encode("utf-16"), "not UTF-8 at line 1"),
    "broken JSON": ("t.jsonl", rows(WORDS) + b'{"text": "half\n', "line 2"),
    "JSON that is no object": ("t.jsonl", rows(WORDS) + b"[1]\n", "line 2"),
    "JSON with a number": ("t.jsonl", rows(WORDS, 5), "line 2"),
    "JSON with null": ("t.jsonl", rows(WORDS, None), "line 2"),
    "JSON with a list": ("t.jsonl", rows(WORDS, ["a"]), "line 2"),
    "JSON without the column": ("t.jsonl", rows(WORDS) + b'{"txt": "a"}\n', "line 2"),
    "JSON deeply nested": ("t.jsonl", b"[" * 100_000 + b"\n", "line 1"),
    "table without the column": ("t.tsv", b"sentence\tlabel\na\tb\n", "text"),
    "table with a short row": ("t.tsv", b"label\ttext\n1\tone\n2\n", "line 3"),
    "empty table": ("t.csv", b"", "text"),
    "unknown ending": ("t.parquet", b"PAR1", "must end in .txt, .jsonl, .tsv or .csv"),
}
READ = {
    "one sample": ("t.txt", LONG.encode()),
    "all identical": ("t.txt", (WORDS + "\n").encode() * 60),
    "longer than the context": ("t.txt", LONG.replace(" ", "_").encode()),
    "byte order mark": ("t.txt", b"\xef\xbb\xbf" + LONG.encode()),
    "CRLF": ("t.txt", (WORDS + "\r\n").encode() * 60),
    "no line end": ("t.txt", LONG.encode().rstrip()),
    "30 MB in one line": ("t.txt", LONG.encode() * 7500),
    "JSON with blank rows": ("t.jsonl", rows(LONG, "", "  ", LONG)),
    "table with CRLF": ("t.csv", b'text\r\n"' + LONG.encode() + b'"\r\n'),
}


ONE_ROW = {"one sample", "longer than the context", "byte order mark", "no line end", "table with CRLF"}
"""Of these an encoder reads one row, cut to 128 tokens."""


@pytest.fixture(scope="module")
def models():
    return {case: wrap_model(tiny.make_model(case), tiny.make_tokenizer()) for case in ("llama", "bert")}


def prepare(model, path):
    return prepare_calibration(None, model, make_recipe({"calibration": str(path), "calibration_tokens": 2000}))


@pytest.mark.parametrize("case", ["llama", "bert"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_line(name, case, models, tmp_path):
    file, content, words = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as error:
        prepare(models[case], tmp_path / file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["llama", "bert"])
@pytest.mark.parametrize("name", READ)
def test_it_is_read_and_rows_and_tokens_are_told(name, case, models, tmp_path):
    file, content = READ[name]
    (tmp_path / file).write_bytes(content)
    if case == "bert" and name in ONE_ROW:
        with pytest.raises(InputError, match="at least 256 tokens, got 128"):
            prepare(models[case], tmp_path / file)
        return
    found = prepare(models[case], tmp_path / file)
    summary = found.summary
    assert summary.rows == sum(len(batch["input_ids"]) for batch in found.batches) > 0
    assert summary.tokens == sum(int(batch["attention_mask"].sum()) for batch in found.batches) <= 2000
    longest = 160  # the models' positions
    assert all(batch["input_ids"].shape[1] <= longest for batch in found.batches)
    assert summary.unread


def test_text_that_is_all_the_same_prunes_by_index(models, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("a a " * 2000)
    settings = {"calibration": str(path), "keep": 0.5, "round_to": 1, "max_length": 32}
    one, two = (prune(tiny.make_model("llama"), tokenizer=tiny.make_tokenizer(), **settings) for _ in range(2))
    assert [layer.kept.tolist() for layer in one.plan.layers] == [layer.kept.tolist() for layer in two.plan.layers]


def test_missing_files_are_told_before_the_model_is_read(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        prune("no/such/model", calibration=tmp_path / "nowhere.txt")
