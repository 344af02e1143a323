"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "secateurs"
# lowest first; a module may import what stands before it
ORDER = [
    "errors",
    "former_name",
    "files",
    "memory",
    "results",
    "recipe",
    "tables",
    "information",
    "selection",
    "models",
    "texts",
    "tasks",
    "encoding",
    "rows",
    "calibration",
    "token_noise",
    "capture",
    "pieces",
    "walking",
    "probing",
    "refit",
    "rescaling",
    "refitting",
    "methods",
    "evaluation",
    "surveying",
    "checkpoint",
    "cells",
    "plots",
    "report",
    "reporting",
    "pruned",
    "pipeline",
    "finetuning",
    "scoring",
    "paper",
    "compare",
    "demo",
    "cli",
]
TENSOR_LEVEL = {"information", "selection"}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _home(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_point_down_only():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        home = _home(path)
        if home in ("__init__", "__main__"):
            continue
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] != "secateurs" or len(parts) == 1 or parts[1] == home:
                continue
            if ORDER.index(parts[1]) > ORDER.index(home):
                wrong.append(f"{path.name} imports {module}")
    assert wrong == []


def test_tensor_level_knows_neither_transformers_nor_each_other():
    wrong = [
        f"{path.name} imports {module}"
        for home in TENSOR_LEVEL
        for path in (SOURCE / home).rglob("*.py")
        for module in _imports(path)
        if module.split(".")[0] in ("transformers", "huggingface_hub", "pathlib")
        or (module.startswith("secateurs.") and module.split(".")[1] in TENSOR_LEVEL - {home})
    ]
    assert wrong == []


def test_reports_know_results_only():
    seen = {module for path in (SOURCE / "report").rglob("*.py") for module in _imports(path)}
    ours = {module.split(".")[1] for module in seen if module.startswith("secateurs.")}
    assert ours == {"errors", "report", "results"}
    assert not {module.split(".")[0] for module in seen} & {"torch", "transformers", "safetensors", "huggingface_hub"}


def test_every_module_has_its_place_in_the_order():
    assert {_home(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"} == set(ORDER)


def test_importing_secateurs_brings_in_nothing_heavy():
    code = "import secateurs, sys; print([m for m in ('torch', 'transformers', 'numpy', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    import secateurs

    assert all(getattr(secateurs, name) is not None for name in secateurs.__all__)
