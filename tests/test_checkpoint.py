"""What is written and what is refused: nothing lost, nothing let in."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny
from secateurs import apply, load_plan, prune, save_plan
from secateurs.checkpoint import staging
from secateurs.checkpoint.config import write_config
from secateurs.checkpoint.holding import held
from secateurs.errors import InputError, SecateursError, Stopped, UnsupportedModelError, VerificationError
from secateurs.models.families import FAMILIES
from secateurs.models.loading import load_model, wrap_model
from secateurs.models.source import find_source

FAST = {"keep": 0.5, "round_to": 1, "calibration_tokens": 600, "max_length": 64, "kernel_rows": 64}


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class TestWriting:
    def test_other_files_are_copied_byte_for_byte_and_stale_weights_are_not(self, checkpoint, tmp_path):
        extra = {
            "LICENSE": b"free",
            "chat_template.jinja": b"{{ x }}",
            "1_Pooling/config.json": b"{}",
            "generation_config.json": b'{"temperature": 0.7}',
        }
        stale = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"x", ".git/HEAD": b"ref", "tf_model.h5": b"x"}
        for name, content in {**extra, **stale, "README.md": b"---\nlicense: mit\n---\nthe original"}.items():
            (checkpoint / name).parent.mkdir(exist_ok=True)
            (checkpoint / name).write_bytes(content)
        before = files(checkpoint)
        prune(str(checkpoint), **FAST).save(tmp_path / "out")
        written = files(tmp_path / "out")
        for name in (*extra, "tokenizer.json", "tokenizer_config.json"):
            assert written[name] == before[name]
        assert not set(stale) & set(written)
        assert written["README.source.md"] == before["README.md"]
        assert b"license: mit" in written["README.md"]
        assert files(checkpoint) == before

    def test_only_the_width_changes_in_config(self, checkpoint, tmp_path):
        edit_config(checkpoint, rope_theta=12345.0, torch_dtype="float32", my_own_key={"a": [1, None]})
        (checkpoint / "config.json").write_text(
            json.dumps({k: v for k, v in json.loads((checkpoint / "config.json").read_text()).items() if k != "dtype"})
        )
        before = json.loads((checkpoint / "config.json").read_text())
        prune(str(checkpoint), **FAST).save(tmp_path / "out")
        after = json.loads((tmp_path / "out" / "config.json").read_text())
        assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} == {"intermediate_size"}
        assert list(after) == list(before)

    def test_a_model_from_memory_gets_the_rope_key_that_other_runtimes_read(self, tmp_path):
        model = tiny.make_model("llama")
        result = prune(model, tokenizer=tiny.make_tokenizer(), **FAST)
        result.save(tmp_path / "out")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
        assert "_name_or_path" not in config

    def test_scaled_rope_is_written_the_old_way_too(self, tmp_path):
        rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}
        (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
        write_config(tmp_path, original=None, family=FAMILIES["llama"], width=3, dtype="float32")
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["rope_theta"] == 5.0
        assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}

    def test_files_get_the_modes_that_umask_asks_for(self, checkpoint, tmp_path):
        before = os.umask(0o027)
        try:
            prune(str(checkpoint), **FAST).save(tmp_path / "out")
        finally:
            os.umask(before)
        modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert modes == {0o640}
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750

    def test_shards_in_shards_out(self, tmp_path):
        source = tiny.save_checkpoint(tmp_path / "sharded", max_shard_size="20KB")
        assert (source / "model.safetensors.index.json").exists()
        prune(str(source), **FAST).save(tmp_path / "out")
        assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_the_number_format_is_kept_unless_another_is_asked_for(self, tmp_path, dtype):
        model = tiny.make_model("llama").to(getattr(torch, dtype))
        model.save_pretrained(tmp_path / "model")
        tiny.make_tokenizer().save_pretrained(tmp_path / "model")
        prune(str(tmp_path / "model"), **FAST).save(tmp_path / "same")
        prune(str(tmp_path / "model"), dtype="float32", **FAST).save(tmp_path / "other")
        for folder, wanted in (("same", dtype), ("other", "float32")):
            tensors = load_file(tmp_path / folder / "model.safetensors").values()
            assert {t.dtype for t in tensors} == {getattr(torch, wanted)}
            assert json.loads((tmp_path / folder / "config.json").read_text())["dtype"] == wanted

    def test_untouched_tensors_are_byte_equal(self, checkpoint, tmp_path):
        prune(str(checkpoint), **FAST).save(tmp_path / "out")
        before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "out"))
        assert before.keys() == after.keys()
        others = [name for name in before if "mlp" not in name]
        assert others
        assert all(torch.equal(before[name], after[name]) for name in others)

    def test_manifest_and_card_name_no_folder_of_the_user(self, checkpoint, tmp_path):
        text = tmp_path / "calibration.txt"
        text.write_text("\n".join(f"Line {n} about roses and shears." for n in range(300)))
        prune(str(checkpoint), calibration=str(text), **FAST).save(tmp_path / "out")
        for name, content in files(tmp_path / "out").items():
            assert str(tmp_path).encode() not in content, name
        manifest = json.loads((tmp_path / "out/secateurs/manifest.json").read_text())
        assert manifest["command"].startswith("secateurs prune model out --keep 0.5")
        assert manifest["recipe"]["calibration"] == "calibration.txt"
        assert manifest["versions"]["torch"] == torch.__version__
        card = (tmp_path / "out/README.md").read_text()
        assert "Made from model with" in card
        assert "base_model" not in card  # a folder is no name on the hub

    def test_a_difference_after_reading_back_leaves_nothing(self, checkpoint, tmp_path, monkeypatch):
        result = prune(str(checkpoint), **FAST)
        original = type(result.model).save_pretrained

        def sabotage(model, folder, **settings):
            original(model, folder, **settings)
            edit_tensors(folder, lambda tensors: tensors["model.norm.weight"].add_(1))

        monkeypatch.setattr(type(result.model), "save_pretrained", sabotage)
        with pytest.raises(VerificationError, match="other weights"):
            result.save(tmp_path / "new" / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
    def test_a_full_disk_leaves_nothing(self, checkpoint, tmp_path, monkeypatch, error):
        result = prune(str(checkpoint), **FAST)

        def full(model, folder, **settings):
            (folder / "model.safetensors").write_bytes(b"half")
            raise error

        monkeypatch.setattr(type(result.model), "save_pretrained", full)
        with pytest.raises(SecateursError, match="was not written"):
            result.save(tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]

    def test_a_file_that_may_not_grow_leaves_nothing(self, tmp_path):
        source = tiny.save_checkpoint(tmp_path / "model")
        result = prune(str(source), **FAST)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
            with pytest.raises(SecateursError, match="was not written"):
                result.save(tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]

    def test_a_signal_between_the_two_renames_keeps_the_old_checkpoint(self, checkpoint, tmp_path, monkeypatch):
        result = prune(str(checkpoint), **FAST)
        result.save(tmp_path / "out")
        first = files(tmp_path / "out")
        rename = Path.rename

        def interrupted(path, target):
            if path.name.endswith(".partial"):
                raise Stopped(15)
            return rename(path, target)

        monkeypatch.setattr(staging, "_exchange", lambda one, two: False)
        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(Stopped):
            result.save(tmp_path / "out", overwrite=True)
        assert files(tmp_path / "out") == first
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]

    def test_a_model_with_another_attention_reads_back_too(self, tmp_path):
        model = tiny.make_model("llama", attention="eager").to(torch.bfloat16)
        prune(model, tokenizer=tiny.make_tokenizer(), **FAST).save(tmp_path / "out")
        assert (tmp_path / "out" / "model.safetensors").exists()

    def test_the_manifest_names_threads_and_back_end(self, checkpoint, tmp_path):
        prune(str(checkpoint), method="redundancy", threads=1, alpha=2.0, **FAST).save(tmp_path / "out")
        manifest = json.loads((tmp_path / "out/secateurs/manifest.json").read_text())
        assert manifest["threads"] == 1
        assert manifest["information_backends"] == ["product"]

    def test_a_broken_card_of_the_original_costs_nothing(self, checkpoint, tmp_path):
        (checkpoint / "README.md").write_text("---\nlicense: [mit\n---\n")
        prune(str(checkpoint), **FAST).save(tmp_path / "out")
        assert (tmp_path / "out/README.source.md").exists()

    def test_overwrite_replaces_what_secateurs_wrote_or_keeps_it_if_that_fails(self, checkpoint, tmp_path, monkeypatch):
        result = prune(str(checkpoint), **FAST)
        result.save(tmp_path / "out")
        first = files(tmp_path / "out")
        with pytest.raises(InputError, match="OUT must not exist yet"):
            result.save(tmp_path / "out")
        monkeypatch.setattr(staging, "settle", lambda folder: (_ for _ in ()).throw(OSError(5, "broken disk")))
        with pytest.raises(SecateursError, match="broken disk"):
            result.save(tmp_path / "out", overwrite=True)
        assert files(tmp_path / "out") == first
        monkeypatch.undo()
        prune(str(checkpoint), **{**FAST, "keep": 0.25}).save(tmp_path / "out", overwrite=True)
        assert json.loads((tmp_path / "out/config.json").read_text())["intermediate_size"] == 6
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]

    def test_without_room_nothing_is_written_and_both_figures_are_told(self, checkpoint, tmp_path, monkeypatch):
        result = prune(str(checkpoint), **FAST)
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(SecateursError, match=r"needs [\d,]+ bytes, and 1,000 are free in "):
            result.save(tmp_path / "new" / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]

    @pytest.mark.parametrize("with_report", [False, True])
    def test_what_is_written_is_no_more_than_was_asked_for(self, with_report, checkpoint, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr("secateurs.checkpoint.writing.require_space", lambda out, needed: asked.append(needed))
        prune(str(checkpoint), with_report=with_report, **FAST).save(tmp_path / "out")
        assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) < asked[0]


class TestExchange:
    """What happens between an old OUT and a new one."""

    def fill(self, folder, text):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
        return folder

    def write(self, out):
        with staging.staged(out) as stage:
            (stage / "file").write_text("new")

    @pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is of Linux")
    def test_it_is_one_step_where_the_system_can(self, tmp_path, monkeypatch):
        out = self.fill(tmp_path / "out", "old")
        monkeypatch.setattr(Path, "rename", lambda path, target: pytest.fail("a second step"))
        self.write(out)
        assert (out / "file").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_elsewhere_it_is_two_renames(self, tmp_path, monkeypatch):
        out = self.fill(tmp_path / "out", "old")
        monkeypatch.setattr(staging, "_exchange", lambda one, two: False)
        self.write(out)
        assert (out / "file").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_an_exchange_that_fails_leaves_the_old_one(self, tmp_path, monkeypatch):
        out = self.fill(tmp_path / "out", "old")

        def fail(one, two):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(staging, "_exchange", fail)
        with pytest.raises(SecateursError, match="Input/output error"):
            self.write(out)
        assert (out / "file").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_after_a_kill_between_two_renames_the_old_one_is_put_back_at_the_next_start(self, tmp_path):
        out = self.fill(tmp_path / "a [name]*", "old")
        code = f"""
import os
from pathlib import Path
from secateurs.checkpoint import staging

rename = Path.rename

def killed(path, target):
    if path.name.endswith(".partial"):
        os.kill(os.getpid(), 9)
    return rename(path, target)

Path.rename = killed
staging._exchange = lambda one, two: False
with staging.staged(Path({str(out)!r})) as stage:
    (stage / "file").write_text("new")
"""
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
        assert not out.exists()
        with pytest.raises(InputError, match="OUT must not exist yet"), held(out, source=None, overwrite=False):
            pass
        assert (out / "file").read_text() == "old"
        assert not list(tmp_path.glob(".*.old"))


class TestTarget:
    def test_other_peoples_folders_are_not_overwritten(self, checkpoint, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="was not written by Secateurs"):
            staging.check_target(tmp_path / "mine", source=checkpoint, overwrite=True)

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("model", "must lie outside the model's own folder"),
            ("model/inside", "must lie outside the model's own folder"),
            ("link/inside", "must lie outside the model's own folder"),
            (".", "must not contain the model's own folder"),
            ("file", "must be a folder, got the file"),
            ("file/inside", "is a file"),
            ("x" * 220, "name of at most 200 bytes"),
        ],
    )
    def test_bad_targets_are_refused(self, checkpoint, tmp_path, out, message):
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to(checkpoint)
        with pytest.raises(InputError, match=message):
            staging.check_target(tmp_path / out, source=checkpoint, overwrite=True)


class TestReading:
    """Checkpoints that transformers would take, and Secateurs does not."""

    def expect_refusal(self, folder, message, kind=InputError):
        with pytest.raises(kind) as error:
            load_model(str(folder))
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("key", ["auto_map", "_attn_implementation", "quantization_config", "configuration_files"])
    def test_config_keys_that_run_or_replace_code(self, checkpoint, key):
        edit_config(checkpoint, **{key: {"AutoModel": "evil.Model"}})
        self.expect_refusal(checkpoint, f"has '{key}'")

    def test_broken_config(self, checkpoint):
        (checkpoint / "config.json").write_text("{")
        self.expect_refusal(checkpoint, "can't be read")
        (checkpoint / "config.json").write_text("[]")
        self.expect_refusal(checkpoint, "must hold a JSON object")

    def test_an_adapter(self, checkpoint):
        (checkpoint / "adapter_config.json").write_text("{}")
        self.expect_refusal(checkpoint, "merge it", UnsupportedModelError)

    def test_an_index_that_leads_out_of_the_folder(self, tmp_path):
        source = tiny.save_checkpoint(tmp_path / "sharded", max_shard_size="20KB")
        index = json.loads((source / "model.safetensors.index.json").read_text())
        first = next(iter(index["weight_map"]))
        index["weight_map"][first] = "../elsewhere.safetensors"
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        self.expect_refusal(source, "points outside the folder")
        index["weight_map"][first] = "model-99999-of-00004.safetensors"
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        self.expect_refusal(source, "lacks the shard")

    def test_pickled_weights(self, checkpoint):
        (checkpoint / "model.safetensors").unlink()
        self.expect_refusal(checkpoint, "has no weights")
        torch.save({}, checkpoint / "pytorch_model.bin")
        self.expect_refusal(checkpoint, "only as a pickle")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, checkpoint, value):
        edit_tensors(checkpoint, lambda t: t["model.layers.0.mlp.up_proj.weight"].view(-1)[5:6].fill_(value))
        self.expect_refusal(checkpoint, "model.layers.0.mlp.up_proj.weight holds NaN or infinite values")

    def test_missing_weights(self, checkpoint):
        edit_tensors(checkpoint, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
        self.expect_refusal(checkpoint, "has no weights for model.layers.1.mlp.up_proj.weight")

    def test_misshaped_weights(self, checkpoint):
        def change(tensors):
            tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(23, 16)

        edit_tensors(checkpoint, change)
        with pytest.raises(InputError, match="up_proj"):
            load_model(str(checkpoint))

    def test_an_encoder_whose_config_names_no_class_is_read_without_a_head(self, tmp_path):
        folder = tiny.save_checkpoint(tmp_path / "model", "bert")
        edit_config(folder, architectures=None)
        loaded = load_model(str(folder))
        assert type(loaded.model).__name__ == "BertModel"
        assert "stored tensors are not part of BertModel" in loaded.warnings[0]

    def test_architectures_that_are_missing_or_unknown(self, checkpoint):
        edit_config(checkpoint, architectures=None)
        self.expect_refusal(checkpoint, "must name one class under 'architectures', got None")
        edit_config(checkpoint, architectures=["LlamaForTelepathy"])
        self.expect_refusal(checkpoint, "LlamaForTelepathy")
        edit_config(checkpoint, architectures=["is_torch_available"])
        self.expect_refusal(checkpoint, "is_torch_available")

    @pytest.mark.parametrize(
        "changes",
        [
            {"hidden_size": "abc"},
            {"num_attention_heads": 0},
            {"num_hidden_layers": None},
            {"hidden_act": "zork"},
            {"intermediate_size": -1},
            {"intermediate_size": 10**15},
            {"vocab_size": "many"},
        ],
    )
    def test_nonsense_in_config(self, checkpoint, changes):
        edit_config(checkpoint, **changes)
        self.expect_refusal(checkpoint, "")

    def test_a_broken_tokenizer(self, checkpoint):
        for content in ("{", '{"model": {"type": "Nothing"}}', "[]"):
            (checkpoint / "tokenizer.json").write_text(content)
            self.expect_refusal(checkpoint, "transformers can't read")

    def test_a_broken_gguf(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        self.expect_refusal(tmp_path / "m.gguf", "m.gguf has a broken header")

    @pytest.mark.parametrize(("processor", "is_slow"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False)])
    def test_a_processor_that_is_slow_in_bfloat16_is_told_of(self, tmp_path, monkeypatch, processor, is_slow):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
        model = tiny.make_model("llama").to(torch.bfloat16)
        model.save_pretrained(tmp_path / "model")
        loaded = load_model(str(tmp_path / "model"), device="cpu")
        assert any("--dtype float32 goes faster" in warning for warning in loaded.warnings) == is_slow
        assert load_model(str(tmp_path / "model"), device="cpu", dtype="float32").warnings == ()

    def test_several_number_formats_are_mentioned_and_in_memory_refused(self, checkpoint):
        def change(tensors):
            for name in tensors:
                if "norm" not in name:
                    tensors[name] = tensors[name].bfloat16()

        edit_tensors(checkpoint, change)
        loaded = load_model(str(checkpoint))
        assert any("stored as bfloat16, float32" in warning for warning in loaded.warnings)
        loaded.model.model.norm.float()
        with pytest.raises(InputError, match="one number format, got bfloat16, float32"):
            wrap_model(loaded.model)

    def test_a_stale_index_beside_a_single_file_does_not_matter(self, checkpoint):
        (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
        assert load_model(str(checkpoint)).warnings == ()

    def test_names_that_no_file_system_holds(self):
        with pytest.raises(InputError, match="can't be a path"):
            find_source("x/" * 3000)
        with pytest.raises(InputError, match="can't be a path"):
            staging.check_target(Path("y" * 5000), source=None, overwrite=False)

    def test_an_unsupported_family(self, checkpoint):
        edit_config(checkpoint, model_type="bloom")
        self.expect_refusal(checkpoint, "supported families", UnsupportedModelError)

    def test_tensors_that_the_class_does_not_use_are_mentioned(self, checkpoint):
        edit_tensors(checkpoint, lambda tensors: tensors.update({"extra.weight": torch.zeros(2)}))
        assert "1 stored tensors are not part of LlamaForCausalLM: extra.weight" in load_model(str(checkpoint)).warnings

    def test_names_with_nothing_behind_them(self, tmp_path, monkeypatch):
        with pytest.raises(InputError, match="did you mean 'smollm2'"):
            find_source("smolm2")
        with pytest.raises(InputError, match="no file or folder at"):
            find_source(str(tmp_path / "nothing"))
        with pytest.raises(InputError, match=r"no config.json"):
            find_source(str(tmp_path))
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(InputError, match="is a file"):
            find_source(str(tmp_path / "a.txt"))
        with pytest.raises(InputError, match="can't be had from the hub"):
            find_source("nobody/nothing")

    @pytest.mark.parametrize("is_transport", [True, False])
    def test_a_hub_that_can_not_be_reached_is_one_line(self, monkeypatch, is_transport):
        transport_error = HfHubHTTPError.__bases__[0]

        def fail(name, **settings):
            raise transport_error("proxy says no") if is_transport else ConnectionError("proxy says no")

        monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
        with pytest.raises(InputError, match="can't be had from the hub: proxy says no"):
            find_source("someone/model")

    def test_a_hub_id_is_downloaded_without_pickles(self, checkpoint, monkeypatch):
        asked = {}

        def download(name, **settings):
            asked.update(settings, name=name)
            return str(checkpoint)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        source = find_source("someone/model", "v1")
        assert (asked["name"], asked["revision"]) == ("someone/model", "v1")
        assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
        assert (source.folder, source.base_model) == (checkpoint, "someone/model")

    def test_links_out_of_the_folder_are_not_copied(self, checkpoint, tmp_path):
        (tmp_path / "secret.txt").write_text("secret")
        (checkpoint / "notes.txt").symlink_to(tmp_path / "secret.txt")
        prune(str(checkpoint), **FAST).save(tmp_path / "out")
        assert not (tmp_path / "out" / "notes.txt").exists()


class TestPlans:
    def test_a_plan_survives_the_disk(self, tmp_path):
        model = tiny.make_model("bert")
        result = prune(model, tokenizer=tiny.make_tokenizer(), **FAST)
        save_plan(result.plan, tmp_path / "plan")
        again = load_plan(tmp_path / "plan")
        assert (again.method, again.keep, again.settings) == (result.plan.method, 0.5, result.plan.settings)
        for a, b in zip(again.layers, result.plan.layers, strict=True):
            assert a.kept.tolist() == b.kept.tolist()
            assert torch.equal(a.update.weight, b.update.weight)
            assert torch.equal(a.update.bias, b.update.bias)
        pruned = apply(again, model)
        assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), result.model.parameters(), strict=True))

    def test_what_is_no_plan_is_refused(self, checkpoint):
        with pytest.raises(InputError, match=r"plan must be what secateurs.load_plan\(folder\) gives, got str"):
            apply("some/folder", checkpoint)

    def test_a_plan_as_format_1_wrote_it_is_read(self, tmp_path):
        layer = {"path": "encoder.0", "original_width": 4, "width": 2, "figures": {"saturated": 0.0}}
        content = {"format": 1, "method": "flap", "family": "bert", "keep": 0.5, "weights_sha256": "ab", "settings": {}}
        (tmp_path / "plan.json").write_text(json.dumps({**content, "layers": [layer]}))
        tensors = {"encoder.0:kept": torch.tensor([1, 3]), "encoder.0:weight": torch.ones(2, 3)}
        save_file({**tensors, "encoder.0:bias": torch.zeros(3)}, tmp_path / "plan.safetensors")
        (found,) = load_plan(tmp_path).layers
        assert (found.path, found.original_width, found.kept.tolist()) == ("encoder.0", 4, [1, 3])
        assert (found.update.weight.shape, found.update.bias.shape) == ((2, 3), (3,))

    def test_damaged_and_newer_plans_are_refused(self, tmp_path):
        save_plan(tiny.random_plan(tiny.make_model("llama"), 5), tmp_path)
        path = tmp_path / "plan.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "format": 99}))
        with pytest.raises(InputError, match="has format 99, this Secateurs reads up to 1"):
            load_plan(tmp_path)
        path.write_text("{}")
        with pytest.raises(InputError, match="can't be read"):
            load_plan(tmp_path)
        with pytest.raises(InputError, match="there is no plan in"):
            load_plan(tmp_path / "nowhere")


def test_weights_that_were_read_back_are_held_once_while_outputs_are_compared(checkpoint, tmp_path, monkeypatch):
    result = prune(checkpoint, keep=0.5, round_to=1, calibration_tokens=600, max_length=64)
    kind, seen = type(result.model), []
    read = kind.from_pretrained

    def keep(*given, **named):
        found = read(*given, **named)
        seen.append(found[0])
        return found

    monkeypatch.setattr(kind, "from_pretrained", keep)
    result.save(tmp_path / "out")
    (again,) = seen
    for name, parameter in result.model.named_parameters():
        assert again.get_parameter(name).data_ptr() == parameter.data_ptr()
