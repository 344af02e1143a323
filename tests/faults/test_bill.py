"""The bill of what Secateurs brings along: what is listed, what counts as fitting, what counts as checked."""

import json
import sys
from email.message import Message
from importlib import metadata
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "bill"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="a source distribution comes without .ci")


@pytest.fixture(scope="module")
def bill():
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader = SourceFileLoader("bill", str(SCRIPT))
    module = module_from_spec(spec_from_loader("bill", loader))
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def tell(**lines):
    """A package's metadata."""
    told = Message()
    for name, values in lines.items():
        for value in [values] if isinstance(values, str) else values:
            told[name.replace("_", "-")] = value
    return told


def finder(**requirements):
    """Installed packages, each with what it asks for."""

    def find(name):
        if name not in requirements:
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="1.0", requires=requirements[name], metadata=tell(License="MIT"))

    return find


def test_what_is_asked_for_is_listed_through_every_level_and_each_extra(bill):
    find = finder(
        top=["one>=1", 'two[fast]; extra == "gguf"', 'tool; extra == "test"'],
        one=["Three.x", 'never; sys_platform == "nowhere"'],
        two=['fast; extra == "fast"', 'slow; extra == "slow"', "top"],
        fast=[],
        tool=[],
    )
    found, missing = bill.walk("Top", ("gguf",), find)
    assert set(found) == {"top", "one", "two", "fast"}
    assert missing == {"three-x"}


def test_a_package_of_which_no_requirement_is_told_asks_for_nothing(bill):
    assert set(bill.walk("top", (), finder(top=None))[0]) == {"top"}


def test_secateurs_own_bill_holds_what_it_imports_and_no_test_tool(bill):
    found, missing = bill.walk("secateurs", bill.EXTRAS)
    assert not missing
    assert {"secateurs", "torch", "transformers", "numpy", "plotly", "matplotlib", "gguf", "markupsafe"} <= set(found)
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & set(found)


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ({"License_Expression": "MIT AND PSF-2.0", "License": "MIT"}, "MIT AND PSF-2.0"),
        ({"License": "BSD-3-Clause", "Classifier": "License :: OSI Approved :: MIT License"}, "BSD-3-Clause"),
        ({"License": "Copyright\n\nAll rights", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "UNKNOWN", "Classifier": ["License :: A :: B", "Topic :: C", "License :: D"]}, "B AND D"),
        ({"License": "Copyright\n\nAll rights"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_licence_is_found_where_a_package_tells_it(lines, licence, bill):
    assert bill.find_licence(tell(**lines)) == licence


@pytest.mark.parametrize(
    "licence",
    ["MIT", "Apache 2.0 License", "Mozilla Public License 2.0 (MPL 2.0)", "GPL-2.0-only OR MIT", "MIT AND 0BSD"],
)
def test_it_fits(licence, bill):
    assert bill.is_fitting(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-or-later",
        "AGPL-3.0-only",
        "GNU General Public License v3 (GPLv3)",
        "GNU Lesser General Public License",
        "MIT AND GPL-2.0-only",
        "(MIT OR Apache-2.0) AND GPL-2.0-only",
        "LicenseRef-Proprietary",
        "OSI Approved",
        "PERMITTED",
        "unknown",
    ],
)
def test_it_does_not_fit(licence, bill):
    assert not bill.is_fitting(licence)


def test_whatever_is_allowed_all_the_same_has_its_reason(bill):
    assert all(len(reason) > 5 for reason in bill.ALLOWED.values())
    assert bill.find_reason("nvidia-cublas") is not None
    assert bill.find_reason("torch") is None


def test_the_bill_names_each_package_as_cyclonedx_does(bill):
    find = finder(top=["one"], one=[])
    document = bill.as_cyclonedx(find("top"), {"one": find("one")})
    (part,) = document["components"]
    assert (part["name"], part["version"], part["purl"]) == ("one", "1.0", "pkg:pypi/one@1.0")
    assert part["licenses"] == [{"license": {"name": "MIT"}}]


def audit(*packages):
    return json.dumps({"dependencies": list(packages), "fixes": []})


GOOD = {"name": "one", "version": "1.0", "vulns": []}
BAD = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "three", "skip_reason": "not found"}


def test_known_holes_are_told_with_what_mends_them(bill):
    holes, line = bill.judge(audit(GOOD, BAD), "", 2)
    assert holes == ["two 2.0: CVE-1, mended in 2.1"]
    assert line == "1 known for 2 packages"


def test_packages_that_nothing_was_learnt_about_do_not_count_as_checked(bill):
    holes, line = bill.judge(audit(GOOD, SKIPPED), "No known vulnerabilities found", 2)
    assert holes == []
    assert "not checked for 1 of 2: three" in line


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ("Traceback ...\nrequests.exceptions.ConnectionError: Failed to resolve", "could not reach https://"),
        ("Traceback ...\nKeyError: 'x'", "KeyError: 'x'"),
        ("", "pip-audit said nothing"),
    ],
)
def test_a_check_that_failed_says_not_checked_in_one_line(errors, words, bill):
    holes, line = bill.judge("", errors, 2)
    assert holes == []
    assert line.startswith("not checked (")
    assert words in line
    assert "\n" not in line
