"""Hostile GGUF files: one line each that names the file, no code of theirs runs, nothing is written or allocated."""

import json
import os
import struct
import time
import tracemalloc
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faults.hostile_gguf import CASES, STRING, File, make_good
from faults.test_hostile import hash_folder
from secateurs import prune
from secateurs.cli import run
from secateurs.errors import InputError
from secateurs.models import gguf
from secateurs.models.gguf import check_gguf
from secateurs.models.loading import load_model
from secateurs.models.source import find_source

MANY = settings(
    max_examples=200, deadline=timedelta(seconds=2), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD = make_good()
RAW = GOOD.encode()
HEADER_BYTES = len(RAW) - len(GOOD.data)
EXTREMES = st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


def write_case(name, path, canary):
    """Write a case's file."""
    spoiled = CASES[name][0](GOOD, canary)
    path.write_bytes(spoiled.encode() if isinstance(spoiled, File) else spoiled)


def check_only_our_errors(path, read=check_gguf):
    """Whatever happens, it is a result or an InputError on one line that names the file; gives back the result."""
    result, said = None, str(path)
    try:
        result = read(path)
    except InputError as error:
        said = str(error)
    assert said.isprintable()
    assert str(path) in said
    return result


def put_code(folder, canary, config):
    """A folder with code that would write the canary, named in a config."""
    folder.mkdir()
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (folder / config).write_text(json.dumps({"auto_map": names, "model_type": "llama"}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


class TestGoodFiles:
    def test_one_passes_and_is_read_and_pruned(self, tmp_path):
        path = tmp_path / "m.gguf"
        path.write_bytes(RAW)
        stored = sum(parameter.numel() for parameter in load_model(str(path)).model.parameters())
        result = prune(str(path), keep=0.5, round_to=1, calibration_tokens=600)
        assert check_gguf(path) == stored
        assert {len(layer.kept) for layer in result.plan.layers} == {12}
        assert path.read_bytes() == RAW

    def test_version_2_and_a_folder_of_one_file_pass(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(RAW[:4] + struct.pack("<I", 2) + RAW[8:])
        assert load_model(str(tmp_path)).source.gguf_file == "m.gguf"

    def test_the_real_one_passes_in_under_two_seconds(self):
        try:
            source = find_source("smollm2")
        except InputError as error:
            pytest.skip(f"needs the demo model: {error}")
        start = time.perf_counter()
        weights = check_gguf(source.folder / source.gguf_file)
        assert time.perf_counter() - start < 2
        assert weights == 134_515_008

    def test_block_sizes_are_those_of_the_reader(self):
        constants = pytest.importorskip("gguf.constants")
        assert {int(kind): sizes for kind, sizes in constants.GGML_QUANT_SIZES.items()} == gguf.BLOCKS


class TestHostileFiles:
    def test_there_are_many(self):
        assert len(CASES) >= 100

    @pytest.mark.parametrize("name", CASES)
    def test_it_is_refused_in_one_line_that_names_the_file(self, name, tmp_path, capsys):
        (place := tmp_path / "place").mkdir()
        write_case(name, place / "m.gguf", tmp_path / "canary")
        before = hash_folder(place)
        code = run(["prune", str(place / "m.gguf"), str(place / "out"), "--keep", "0.5", "--calibration-tokens", "600"])
        told = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in told if line.startswith("error: ")]
        assert code == 2, told
        assert len(errors) == 1, told
        assert CASES[name][1] in errors[0]
        assert str(place / "m.gguf") in errors[0] or "holds NaN" in errors[0]
        assert len(errors[0]) < 600
        assert not any("Traceback" in line for line in told)
        assert hash_folder(place) == before
        assert {path.name for path in tmp_path.iterdir()} == {"place"}

    def test_checking_one_takes_little_time_and_memory(self, tmp_path):
        for name in CASES:
            write_case(name, tmp_path / "m.gguf", tmp_path / "canary")
            start = time.perf_counter()
            tracemalloc.start()
            check_only_our_errors(tmp_path / "m.gguf")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 << 20, name
            assert time.perf_counter() - start < 2, name

    def test_what_is_no_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.gguf")
        (tmp_path / "folder.gguf").mkdir()
        (tmp_path / "nowhere.gguf").symlink_to(tmp_path / "nothing")
        for path in tmp_path.iterdir():
            with pytest.raises(InputError, match=f"{path.name} is no file"):
                check_gguf(path)

    def test_a_folder_whose_only_gguf_is_a_pipe_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(InputError, match=r"pipe\.gguf is no file"):
            load_model(str(tmp_path))

    def test_code_in_its_template_and_in_a_config_beside_it_does_not_run(self, tmp_path):
        canary, folder = tmp_path / "canary", tmp_path / "model"
        put_code(folder, canary, "config.json")
        template = "{{ cycler.__init__.__globals__.os.mkdir('%s') }}" % canary  # noqa: UP031
        (folder / "m.gguf").write_bytes(GOOD.with_key("tokenizer.chat_template", STRING, template).encode())
        before = hash_folder(folder)
        loaded = load_model(str(folder / "m.gguf"))
        assert type(loaded.model).__module__.startswith("transformers.models.llama")
        assert hash_folder(folder) == before
        assert not canary.exists()

    def test_a_tokenizer_s_code_is_refused_without_a_question(self, tmp_path, monkeypatch):
        canary, folder = tmp_path / "canary", tmp_path / "model"
        put_code(folder, canary, "tokenizer_config.json")
        (folder / "m.gguf").write_bytes(RAW)
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        with pytest.raises(InputError, match=r"m\.gguf: The repository .* contains custom code"):
            load_model(str(folder / "m.gguf"))
        assert not canary.exists()


class TestAnyFiles:
    @MANY
    @given(raw=st.binary(max_size=300), has_start=st.booleans())
    @example(raw=b"", has_start=False)
    def test_any_bytes_raise_only_our_errors(self, raw, has_start, place):
        (path := place / "bytes.gguf").write_bytes(RAW[:24] + raw if has_start else raw)
        assert check_only_our_errors(path) is None

    @MANY
    @given(flips=st.dictionaries(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255), min_size=1, max_size=6))
    def test_flipped_bytes_raise_only_our_errors(self, flips, place):
        raw = bytearray(RAW)
        for position, change in flips.items():
            raw[position] ^= change
        (path := place / "flipped.gguf").write_bytes(raw)
        check_as_the_reader_does(path)

    @MANY
    @given(position=st.integers(4, HEADER_BYTES - 8), value=EXTREMES, is_long=st.booleans())
    def test_extreme_numbers_anywhere_raise_only_our_errors(self, position, value, is_long, place):
        number = struct.pack("<Q", value)[: 8 if is_long else 4]
        raw = RAW[:position] + number + RAW[position + len(number) :]
        (path := place / "extreme.gguf").write_bytes(raw)
        check_as_the_reader_does(path)

    @MANY
    @given(start=st.integers(0, len(RAW)), length=st.integers(0, 5000), filler=st.binary(max_size=40))
    def test_pieces_cut_out_or_put_in_raise_only_our_errors(self, start, length, filler, place):
        (path := place / "pieces.gguf").write_bytes(RAW[:start] + filler + RAW[start + length :])
        check_as_the_reader_does(path)

    @settings(MANY, max_examples=25, deadline=timedelta(seconds=10))
    @given(flips=st.dictionaries(st.integers(0, len(RAW) - 1), st.integers(1, 255), min_size=1, max_size=3))
    def test_flipped_bytes_load_or_raise_only_our_errors(self, flips, place):
        raw = bytearray(RAW)
        for position, change in flips.items():
            raw[position] ^= change
        (path := place / "loaded.gguf").write_bytes(raw)
        said = ""
        try:
            load_model(str(path))
        except InputError as error:
            said = str(error)
        assert "\n" not in said


def check_as_the_reader_does(path):
    """What passes is read by gguf's own reader too, with as many weights."""
    reader = pytest.importorskip("gguf").GGUFReader
    weights = check_only_our_errors(path)
    assert weights is None or weights == sum(int(tensor.n_elements) for tensor in reader(path).tensors)
