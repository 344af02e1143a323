import io
import json

import pytest
import torch

import secateurs
import secateurs.rows
import tiny
from secateurs.calibration import prepare_calibration, take_tokens
from secateurs.errors import InputError, SecateursError
from secateurs.models.loading import wrap_model
from secateurs.recipe import Recipe
from secateurs.rows import LazyBatches, StoredRows
from secateurs.texts import READ_LIMIT, default_passages, open_texts
from secateurs.token_noise import replace_tokens


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def prepare(given, case="llama", **settings):
    loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
    return prepare_calibration(given, loaded, Recipe(**settings))


SENTENCES = [f"Sentence number {n} says that roses want water, light and a sharp blade." for n in range(60)]


def test_default_text_has_two_parts_without_a_common_passage():
    calibration, test = default_passages("calibration"), default_passages("test")
    assert not set(calibration) & set(test)
    assert len(calibration) > 300
    assert len(test) > 50


def test_running_text_keeps_every_character_but_line_ends_become_one(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n\nfour")
    source = open_texts(path)
    assert "".join(source) == "one\ntwo\nthree\n\nfour"
    assert source.unread == "nothing"


def test_an_endless_line_comes_in_pieces_and_characters_across_them_survive(tmp_path):
    text = "é" * (READ_LIMIT // 2 + 10) + "x"
    source = open_texts(write(tmp_path / "a.txt", "a" + text))
    pieces = list(source)
    assert len(pieces) == 2
    assert "".join(pieces) == "a" + text


def test_rows_may_be_longer_than_what_is_read_at_a_time(tmp_path):
    row = "word " * (READ_LIMIT // 4)
    path = write(tmp_path / "a.jsonl", json.dumps({"text": row}) + "\n" + json.dumps({"text": "b"}))
    assert list(open_texts(path)) == [row, "b"]


def test_lines_that_end_in_a_bare_return_are_lines(tmp_path):
    assert list(open_texts(write(tmp_path / "a.txt", b"a\rb\r\nc"))) == ["a\n", "b\n", "c"]


def test_rows_come_from_named_columns(tmp_path):
    tsv = write(tmp_path / "a.tsv", 'label\tsentence\n0\tsaid "no\n1\tyes\n')
    assert list(open_texts(tsv, "sentence")) == ['said "no', "yes"]
    csv = write(tmp_path / "a.csv", 'text,other\n"one, two\nthree",4\n')
    assert list(open_texts(csv)) == ["one, two\nthree"]
    lines = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b", "n": 1}\n')
    assert list(open_texts(lines)) == ["a", "b"]


def test_what_is_left_is_said_in_bytes(tmp_path):
    for lines in (100, 20000):  # one block, which holds it all, and several
        source, tokenizer = open_texts(write(tmp_path / f"{lines}.txt", "line\n" * lines)), tiny.make_tokenizer()
        per_line = len(tokenizer("line\n", add_special_tokens=False)["input_ids"])
        take_tokens(source, tokenizer, 60 * per_line)
        assert source.unread == f"about {5 * (lines - 60):,} of {5 * lines:,} bytes"
        assert not source.is_finished
    source = open_texts(write(tmp_path / "whole.txt", "line\n" * 100))
    assert len(take_tokens(source, tokenizer, 100 * per_line)) == 100 * per_line
    assert source.unread == "nothing"
    found = prepare(write(tmp_path / "rows.txt", "a line\n" * 500), case="bert", calibration_tokens=256).summary
    assert found.rows < 500
    assert found.unread == f"about {7 * (500 - found.rows):,} of 3,500 bytes"


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.txt", b"good\nbad \xff\n", None, "a.txt is not UTF-8 at line 2"),
        ("a.txt", b"ends inside \xc3", None, "ends inside a character"),
        ("a.txt", b"good\n\x00\n", None, "NUL character at line 2"),
        ("a.txt", b"text", "sentence", "has no columns"),
        ("a.pdf", b"text", None, "must end in .txt, .jsonl, .tsv or .csv, got '.pdf'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', None, "line 2 is not JSON"),
        ("a.jsonl", b'{"words": "a"}\n', None, "line 1 has no field 'text' (found: words)"),
        ("a.jsonl", b'{"text": 5}\n', None, "'text' must be text, got 5"),
        ("a.jsonl", b'{"text": null}\n', None, "'text' must be text, got None"),
        ("a.tsv", b"a\tb\n1\t2\n", None, "no column 'text' (found: a, b)"),
        ("a.tsv", b"a\ttext\n1\t2\n3\n", None, "line 3 has 1 columns, the header has 2"),
        ("a.csv", b'text\n"open\n', None, "line 2 can't be read"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_line(tmp_path, name, content, column, message):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        list(open_texts(path, column))
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["", "   \n\n  \n", "too short"])
def test_empty_blank_or_short_calibration_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="calibration needs at least 256 tokens, got"):
        prepare(write(tmp_path / "a.txt", content))


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="got nothing there"):
        prepare(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="got a folder"):
        prepare(str(tmp_path))


def test_standard_input_is_read(monkeypatch):
    class Input:
        buffer = io.BytesIO("\n".join(SENTENCES).encode())

    monkeypatch.setattr("sys.stdin", Input())
    assert prepare("-").summary.source == "standard input"


def test_decoders_read_packed_windows_with_nothing_padded():
    found = prepare(SENTENCES, max_length=64, calibration_tokens=1000, batch_size=4)
    assert found.summary.tokens == 1000
    assert [batch["input_ids"].shape[1] for batch in found.batches] == [64] * 4 + [40]
    assert all(bool((batch["attention_mask"] == 1).all()) for batch in found.batches)


def test_rows_of_a_decoder_end_with_the_end_of_text_token():
    ids = take_tokens(open_texts(["one", "two"]), tiny.make_tokenizer(), 100)
    assert ids.count(tiny.make_tokenizer().eos_token_id) == 2


def test_encoders_read_rows_up_to_the_budget_sorted_by_length():
    found = prepare([*SENTENCES, "short"], case="bert", calibration_tokens=700, batch_size=8)
    assert found.summary.tokens <= 700
    assert found.summary.tokens == sum(int(batch["attention_mask"].sum()) for batch in found.batches)
    lengths = [batch["input_ids"].shape[1] for batch in found.batches]
    assert lengths == sorted(lengths)


def test_the_smallest_budget_is_enough_for_whole_rows():
    assert 200 < prepare(SENTENCES, case="bert", calibration_tokens=256).summary.tokens <= 256


def test_batches_from_python_may_leave_out_masks_and_decoder_inputs():
    ids = torch.randint(3, 300, (4, 24))
    for case in ("opt", "t5", "llama"):
        result = secateurs.prune(tiny.make_model(case), calibration=[{"input_ids": ids}], keep=0.5, round_to=1)
        assert result.calibration.tokens == 96


def test_the_decoder_of_t5_reads_the_same_text_shifted_right():
    batch = prepare(SENTENCES, case="t5", calibration_tokens=600).batches[0]
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["input_ids"][:, :-1])
    assert (batch["decoder_input_ids"][:, 0] == 0).all()
    assert "decoder_input_ids" not in prepare(SENTENCES, case="t5-encoder", calibration_tokens=600).batches[0]


class TestReplacedTokens:
    """Calibration text with random tokens in it."""

    def replace(self, case="llama", share=0.25, seed=0):
        loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
        texts = [f"{word} and some more words" for word in dir(secateurs)] * 9
        before = prepare_calibration(texts, loaded, Recipe(calibration_tokens=4096))
        return loaded, before, replace_tokens(before, loaded, share, seed)

    @pytest.mark.parametrize("case", ["llama", "bert", "t5"])
    def test_a_share_of_the_ordinary_tokens_changes_and_nothing_else(self, case):
        loaded, before, after = self.replace(case)
        special = torch.tensor(loaded.tokenizer.all_special_ids)
        changed, ordinary = 0, 0
        for old, new in zip(before.batches, after.batches, strict=True):
            moved = old["input_ids"] != new["input_ids"]
            assert not torch.isin(old["input_ids"][moved], special).any()
            assert not torch.isin(new["input_ids"][moved], special).any()
            assert all(torch.equal(old[name], new[name]) for name in old if name != "input_ids")
            changed += int(moved.sum())
            ordinary += int((~torch.isin(old["input_ids"], special)).sum())
        assert changed / ordinary == pytest.approx(0.25, abs=0.03)

    def test_they_are_drawn_from_the_whole_vocabulary_by_the_seed(self):
        drawn = [
            torch.cat([batch["input_ids"].flatten() for batch in self.replace(seed=seed)[2].batches])
            for seed in (0, 1, 0)
        ]
        before = torch.cat([batch["input_ids"].flatten() for batch in self.replace()[1].batches])
        assert len(drawn[0].unique()) > 0.9 * tiny.VOCABULARY > len(before.unique())
        assert torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], drawn[1])

    def test_the_draw_does_not_depend_on_batches_and_padding(self):
        loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
        texts = [f"{word} and " + "some more words " * (place % 5) for place, word in enumerate(dir(secateurs) * 9)]
        found = []
        for size in (1, 8):
            before = prepare_calibration(texts, loaded, Recipe(calibration_tokens=4096, batch_size=size))
            after = replace_tokens(before, loaded, 0.25, 0)
            rows = ((b["input_ids"], b["attention_mask"].bool()) for b in after.batches)
            found.append([row[real].tolist() for ids, mask in rows for row, real in zip(ids, mask, strict=True)])
        assert found[0] == found[1]

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_without_a_tokenizer_special_tokens_stay_as_far_as_they_are_known(self, case):
        loaded = wrap_model(tiny.make_model(case))
        batch = tiny.make_inputs(loaded.model, rows=8, tokens=60)
        batch["input_ids"][:, 7] = loaded.model.config.pad_token_id
        before = prepare_calibration([batch], loaded, Recipe())
        (after,) = replace_tokens(before, loaded, 0.9, 0).batches
        moved = after["input_ids"] != batch["input_ids"]
        assert moved.float().mean() > 0.6
        assert not moved[:, 7].any()
        assert not (after["input_ids"][moved] == loaded.model.config.pad_token_id).any()
        last = batch["attention_mask"].sum(dim=1) - 1
        ends = torch.cat([moved[:, 0], moved[torch.arange(8), last]])
        assert ends.any() == (case == "llama")  # a decoder's windows begin and end anywhere

    def test_ids_stay_in_the_number_format_that_they_came_in(self):
        model = tiny.make_model("llama")
        loaded = wrap_model(model, tiny.make_tokenizer())
        ids = tiny.make_inputs(model, rows=4, tokens=20)["input_ids"].int()
        before = prepare_calibration([{"input_ids": ids}], loaded, Recipe())
        (batch,) = replace_tokens(before, loaded, 0.5, 0).batches
        assert batch["input_ids"].dtype == torch.int32
        assert not torch.equal(batch["input_ids"], ids)

    def test_without_a_share_or_token_ids_the_batches_are_the_same_ones(self):
        _, before, after = self.replace(share=0.0)
        assert after is before
        vision = tiny.make_model("vit")
        given = prepare_calibration([tiny.make_inputs(vision)], wrap_model(vision), Recipe())
        assert replace_tokens(given, wrap_model(vision), 0.5, 0) is given


@pytest.fixture
def all_on_disk(monkeypatch):
    """Not a byte of token ids stays in memory."""
    monkeypatch.setattr(secateurs.rows, "HELD_BYTES", 1)


def test_rows_come_back_from_disk_as_they_went_in_or_shortest_first(all_on_disk):
    rows = [[5, 6, 7], [2**31 - 1], [], [8, 9], [10, 11]]
    stored = StoredRows(iter(rows))
    assert list(stored) == rows
    assert [stored[place] for place in (4, 1, 4)] == [rows[4], rows[1], rows[4]]
    by_length = StoredRows(iter(rows), by_length=True)
    assert list(by_length) == [[], [2**31 - 1], [8, 9], [10, 11], [5, 6, 7]]  # the first of equals stays first
    assert by_length.lengths.tolist() == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("case", ["llama", "bert", "t5"])
@pytest.mark.parametrize("settings", [{}, {"calibration_share": 0.5}])
def test_text_on_disk_gives_the_batches_that_text_in_memory_gives(case, settings, monkeypatch):
    def read():
        found = prepare(SENTENCES, case=case, batch_size=7, **settings)
        noised = replace_tokens(found, wrap_model(tiny.make_model(case), tiny.make_tokenizer()), 0.3, 0)
        return found.summary, [*found.batches, *noised.batches, *noised.sample_rows(9, 0).batches]

    summary, held = read()
    monkeypatch.setattr(secateurs.rows, "HELD_BYTES", 1)
    again, stored = read()
    assert again == summary
    assert len(held) == len(stored) > 8
    for one, other in zip(held, stored, strict=True):
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_temporary_file_goes_with_the_calibration(all_on_disk, monkeypatch, tmp_path):
    opened = []

    def open_file(*given, **settings):
        opened.append(spooled(*given, **settings))
        return opened[-1]

    spooled = secateurs.rows.tempfile.SpooledTemporaryFile
    monkeypatch.setattr(secateurs.rows.tempfile, "SpooledTemporaryFile", open_file)
    monkeypatch.setattr(secateurs.rows.tempfile, "tempdir", str(tmp_path))
    found = prepare(SENTENCES)
    batches = found.take_rows(torch.ones(found.rows, dtype=torch.bool).numpy()).batches
    del found
    assert [file.closed for file in opened] == [False]
    assert len(batches[0]) == 2
    del batches
    assert [file.closed for file in opened] == [True]
    assert not list(tmp_path.iterdir())


def test_a_folder_for_temporary_files_without_room_is_an_error_in_a_line(all_on_disk, monkeypatch):
    def refuse(*given, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secateurs.rows.tempfile, "TemporaryFile", refuse)
    with pytest.raises(SecateursError, match="No space left on device; TMPDIR=FOLDER") as error:
        prepare(SENTENCES)
    assert not isinstance(error.value, InputError)


def test_lazy_batches_are_a_sequence_and_hide_no_error():
    batches = LazyBatches(5, lambda number: {"input_ids": torch.tensor([number])})
    numbers = [int(batch["input_ids"]) for batch in batches]
    assert numbers == list(range(5))
    assert int(batches[-1]["input_ids"]) == 4
    assert [int(batch["input_ids"]) for batch in batches[1:4][1:]] == [2, 3]
    with pytest.raises(IndexError):
        batches[5]

    def fail(number):
        raise IndexError("from within")

    with pytest.raises(IndexError, match="from within"):
        list(LazyBatches(5, fail))


def test_same_text_same_hash_other_text_other_hash():
    first, second = prepare(SENTENCES), prepare(SENTENCES)
    assert first.summary.sha256 == second.summary.sha256
    assert prepare(SENTENCES[1:]).summary.sha256 != first.summary.sha256


def test_batches_are_copied_to_the_cpu():
    model = tiny.make_model("bert")
    given = {**tiny.make_inputs(model), "labels": torch.zeros(3, dtype=torch.int64)}
    elsewhere = {name: _Elsewhere(value) for name, value in given.items()}
    found = prepare_calibration([elsewhere], wrap_model(model), Recipe())
    (batch,), (labels,) = found.batches, found.labels
    assert not any(isinstance(value, _Elsewhere) for value in (*batch.values(), labels))


class _Elsewhere(torch.Tensor):
    """Stands for a tensor on another device: what it gives back of itself on the CPU is a plain one."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize(("case", "name"), [("bert", "attention_mask"), ("t5", "decoder_attention_mask")])
def test_a_row_of_padding_alone_is_refused(case, name):
    model = tiny.make_model(case)
    good, bad = tiny.make_inputs(model), tiny.make_inputs(model)
    bad[name] = bad[name].clone()
    bad[name][1] = 0
    with pytest.raises(InputError, match="calibration batch 1: a row is nothing but padding"):
        prepare_calibration([good, bad], wrap_model(model), Recipe())


def test_rows_of_a_classifier_do_not_begin_with_padding():
    for case in ("bert", "roberta"):
        model = tiny.make_model(case)
        batch = tiny.make_inputs(model)
        batch["attention_mask"][1, 0] = 0
        if case == "roberta":
            prepare_calibration([batch], wrap_model(model), Recipe())
            continue
        with pytest.raises(InputError, match="calibration batch 0: a row begins with padding"):
            prepare_calibration([batch], wrap_model(model), Recipe())


def test_wrong_calibration_from_python_is_named():
    with pytest.raises(InputError, match="calibration text 1 must be a string, got int"):
        prepare(["a", 1])
    with pytest.raises(InputError, match="batch 0 must be a mapping"):
        prepare([5])
    ids = torch.ones(3, 5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"for each row first, got input_ids \(3, 5\), position_ids \(1, 5\)"):
        prepare([{"input_ids": ids, "position_ids": ids[:1]}])
    with pytest.raises(InputError, match="batch 0 is empty"):
        prepare([{}])
    with pytest.raises(InputError, match="can't be a path"):
        prepare("a long text " * 500)
    with pytest.raises(InputError, match="reads no text"):
        prepare(SENTENCES, case="vit")
    with pytest.raises(InputError, match="must have at most 160 tokens"):
        prepare(SENTENCES, max_length=1000)


def test_jsonl_and_txt_of_the_same_rows_give_encoders_the_same_batches(tmp_path):
    txt = write(tmp_path / "a.txt", "\n".join(SENTENCES))
    jsonl = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": row}) for row in SENTENCES))
    assert prepare(txt, case="bert").summary.sha256 == prepare(jsonl, case="bert").summary.sha256
