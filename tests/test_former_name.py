"""What was written while the package was called `secateur` is still read."""

import json
import shutil

import pytest

import secateurs
from secateurs.cells import Cell, read_cell, write_cell
from secateurs.checkpoint.plans import load_plan
from secateurs.checkpoint.staging import MANIFEST_NAME
from secateurs.checkpoint.state import RUN, open_state
from secateurs.cli import run
from secateurs.compare.settings import make_settings
from secateurs.former_name import FORMER_NAME, NAME, rename
from secateurs.methods import METHODS
from secateurs.pieces import Pieces
from secateurs.recipe import make_recipe

FAST = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "600", "--max-length", "64"]


@pytest.fixture
def written(checkpoint, tmp_path):
    """A checkpoint as it was written under the former name."""
    out = tmp_path / "out"
    assert run(["prune", str(checkpoint), str(out), *FAST]) == 0
    (out / NAME).rename(out / FORMER_NAME)
    for name in ("plan.json", MANIFEST_NAME):
        path = out / FORMER_NAME / name
        path.write_text(path.read_text().replace(f'"{NAME}"', f'"{FORMER_NAME}"'))
    return out


class TestCheckpoints:
    def test_plans_are_read_and_carried_out(self, written, checkpoint):
        plan = load_plan(written)
        assert plan.method == plan.settings["method"] == NAME
        assert secateurs.apply(plan, str(checkpoint)) is not None

    def test_they_may_be_replaced(self, written, checkpoint):
        assert run(["prune", str(checkpoint), str(written), *FAST, "--overwrite"]) == 0
        assert not (written / FORMER_NAME).exists()

    def test_reports_are_made_again(self, written):
        (written / "report.html").unlink()
        assert run(["report", str(written)]) == 0
        assert (written / "report.html").is_file()

    def test_what_lies_there_is_not_carried_over_into_a_model_pruned_from_them(self, written, tmp_path):
        assert run(["prune", str(written), str(tmp_path / "again"), *FAST]) == 0
        assert not (tmp_path / "again" / FORMER_NAME).exists()


class TestSettings:
    def test_the_default_method_is_known_by_both_names(self, tmp_path):
        assert make_recipe({"method": FORMER_NAME}).method == NAME
        given = {"keep": "0.5", "refit": "both", "allocation": "uniform", "model": "minilm", "folder": tmp_path}
        assert make_settings(methods=f"{FORMER_NAME},{NAME},flap", **given).methods == (NAME, "flap")

    def test_no_method_is_called_by_the_former_name(self):
        assert FORMER_NAME not in METHODS
        assert NAME in METHODS


def test_a_stopped_run_goes_on(checkpoint, tmp_path):
    out = tmp_path / "out"
    words = ["prune", str(checkpoint), str(out), *FAST, "--keep-state"]
    assert run(words) == 0
    state = tmp_path / ".out.state"
    pieces = Pieces(state)
    described = rename(pieces.recall(RUN), NAME, FORMER_NAME)
    assert FORMER_NAME in described
    pieces.drop(RUN)
    pieces.keep(RUN, described)
    shutil.rmtree(out)
    with open_state(out, resume=True) as opened:
        secateurs.prune(checkpoint, state=opened, keep=0.5, round_to=1, calibration_tokens=600, max_length=64)
        assert opened.describe_reuse().startswith("took over")


def test_finished_cells_are_found(tmp_path):
    settings = {"recipe": {"method": NAME, "keep": 0.5}, "variants": [NAME]}
    cell = Cell(f"trial-0-{NAME}-uniform", settings)
    write_cell(tmp_path, Cell("trial-0-secateur-uniform", rename(settings, NAME, FORMER_NAME)), {"method": FORMER_NAME})
    assert read_cell(tmp_path, cell) == {"method": NAME}
    assert json.loads(next(tmp_path.iterdir()).read_text())["settings"]["recipe"]["method"] == FORMER_NAME
