"""Files with anything in them: they are read, or refused by Secateurs' own kind of error, and nothing else."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from faults.hostile import CONFIG, INDEX, WEIGHTS, read_header, write_header
from records import make_compare_record, make_prune_record
from secateurs import prune
from secateurs.checkpoint.plans import JSON_NAME, TENSORS_NAME, load_plan, save_plan
from secateurs.errors import InputError
from secateurs.models.safety import check_weights, read_config
from secateurs.recipe import load_recipe, make_recipe
from secateurs.report.stored import read_record, write_record

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def spoil(content, path, value):
    """The JSON value with what lies at a path of numbers replaced; a number counts round a container."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    first, *rest = path
    if isinstance(content, list):
        place = first % len(content)
        return [spoil(entry, rest, value) if number == place else entry for number, entry in enumerate(content)]
    name = sorted(content)[first % len(content)]
    return {key: spoil(entry, rest, value) if key == name else entry for key, entry in content.items()}


PATHS = st.lists(st.integers(0, 50), min_size=1, max_size=4)


def check_only_our_errors(read):
    """Whatever happens, it is a result or an InputError on one line."""
    said = ""
    try:
        read()
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return tiny.save_checkpoint(tmp_path_factory.mktemp("good") / "model")


@MANY
@given(raw=st.binary(max_size=200), has_length=st.booleans())
def test_weights_of_any_bytes(raw, has_length, good):
    (folder := good / "bytes").mkdir(exist_ok=True)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw if has_length else raw)
    check_only_our_errors(lambda: check_weights(folder, {}))


@MANY
@given(path=PATHS, value=VALUES)
def test_headers_with_anything_in_them(path, value, good):
    header, data = read_header(good / WEIGHTS)
    (folder := good / "header").mkdir(exist_ok=True)
    write_header(folder / WEIGHTS, json.dumps(spoil(header, path, value)).encode(), data)
    check_only_our_errors(lambda: check_weights(folder, {}))


@MANY
@given(value=VALUES, path=PATHS)
def test_indexes_with_anything_in_them(value, path, good):
    (folder := good / "index").mkdir(exist_ok=True)
    content = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / INDEX).write_text(json.dumps(spoil(content, path, value)))
    check_only_our_errors(lambda: check_weights(folder, {}))


@MANY
@given(value=VALUES, path=PATHS)
def test_configs_with_anything_in_them(value, path, good):
    (folder := good / "config").mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(spoil(json.loads((good / CONFIG).read_text()), path, value)))
    check_only_our_errors(lambda: check_weights(good, read_config(folder)))


@MANY
@given(
    settings_=st.dictionaries(st.sampled_from(["keep", "method", "layers", "seed", "kernel_width"]) | st.text(), VALUES)
)
def test_recipes_with_anything_in_them(settings_, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(json.dumps(settings_), encoding="utf-8")
    check_only_our_errors(lambda: make_recipe(load_recipe(path)))


@MANY
@given(text=st.text(max_size=60))
def test_recipe_files_of_any_text(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    check_only_our_errors(lambda: load_recipe(path))


@pytest.fixture(scope="module")
def plan_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    result = prune(tiny.make_model("llama"), tokenizer=tiny.make_tokenizer(), keep=0.5, calibration_tokens=600)
    save_plan(result.plan, folder)
    (folder / "good.json").write_bytes((folder / JSON_NAME).read_bytes())
    return folder


@MANY
@given(path=PATHS, value=VALUES)
def test_plans_with_anything_in_them(path, value, plan_folder):
    content = json.loads((plan_folder / "good.json").read_text())
    (plan_folder / JSON_NAME).write_text(json.dumps(spoil(content, path, value)))
    check_only_our_errors(lambda: load_plan(plan_folder))


@MANY
@given(raw=st.binary(max_size=100))
def test_plan_tensors_of_any_bytes(raw, plan_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / JSON_NAME).write_bytes((plan_folder / "good.json").read_bytes())
    (folder / TENSORS_NAME).write_bytes(raw)
    check_only_our_errors(lambda: load_plan(folder))


@pytest.mark.parametrize("record", [make_prune_record(networks=1), make_compare_record()], ids=["prune", "compare"])
@MANY
@given(path=PATHS, value=VALUES)
def test_reports_with_anything_in_them(record, path, value, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.json"
    write_record(record, file)
    file.write_text(json.dumps(spoil(json.loads(file.read_text()), path, value)))
    check_only_our_errors(lambda: read_record(file))
