"""A disk that fills up while a checkpoint is written: one line, and everything as it was before.

The runs take place in a process of their own (this module, as a command), which has mounts of its own: small file
systems in memory, of which each has room for a part of what a run writes.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

import tiny
from faults.runs import FAST, STATE, Outcomes, hash_files, tell_outcome
from secateurs import cli

pytestmark = pytest.mark.faults

PAGE, PLENTY = 4096, (256 << 20, 10_000)
PERCENT = (5, 18, 31, 44, 57, 70, 83, 95)
FILES_TOO_FEW = (1, 2, 3, 4, 6, 8, 10, 12)
CASES = {
    f"{'a report too' if report else 'no report'}, {'an old OUT' if old else 'no OUT'}, {room}": (report, old, room)
    for report in (False, True)
    for old in (False, True)
    for room in (
        *(f"{percent} % of the room" for percent in PERCENT[:: 3 if report or old else 1]),
        *(f"{few} files too few" for few in FILES_TOO_FEW[:: 3 if old else 2 if report else 1]),
    )
}
"""Each with whether a report is written, whether there is an OUT already, and how much room there is."""


def in_own_mounts(*words):
    """A command that runs where it may mount, and where nobody else sees what it mounted."""
    return ["unshare", "--user", "--map-root-user", "--mount", *words]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    tiny.save_checkpoint(folder / "model")
    (folder / "disk").mkdir()
    return folder


@pytest.fixture(scope="module")
def outcomes(place):
    """What came of each case, and of runs that had room."""
    try:
        probe = subprocess.run(
            in_own_mounts("mount", "-t", "tmpfs", "tmpfs", str(place / "disk")), capture_output=True, text=True
        )
    except FileNotFoundError as error:
        pytest.skip(f"needs {error.filename}")
    if probe.returncode != 0:
        pytest.skip(f"this system does not let us mount: {probe.stderr.strip()}")
    words = in_own_mounts(sys.executable, "-m", "faults.test_full_disk", str(place))
    with Outcomes(words, place / "log") as found:
        yield found


def test_a_disk_that_is_too_small_is_told_with_both_figures_before_anything_is_written(outcomes):
    outcome = outcomes["not blind"]
    assert outcome["code"] == 1
    (error,) = (line for line in outcome["told"] if line.startswith("error: "))
    assert f"error: {outcome['out']} was not written: it needs " in error
    needed, free = (int(found.replace(",", "")) for found in re.findall(r"([\d,]+) (?:bytes|are free)", error))
    assert 0 < free <= outcome["free"] < needed
    assert outcome["failed at"] is None
    assert set(outcome["beside"]) <= {STATE}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_and_where_in_one_line_and_leaves_everything_as_it_was(name, outcomes):
    outcome = outcomes[name]
    assert outcome["code"] == 1, outcome
    errors = [line for line in outcome["told"] if line.startswith("error: ")]
    assert len(errors) == 1, outcome["told"]
    assert "No space left on device" in errors[0]
    assert outcome["out"] in errors[0]
    assert not any("Traceback" in line for line in outcome["told"])
    assert outcome["files"] == outcome["files before"]
    assert set(outcome["beside"]) <= {"out", STATE}
    assert ("out" in outcome["beside"]) == CASES[name][1]


def test_every_kind_of_file_was_the_one_that_did_not_fit(outcomes):
    kinds = {"config.json", "model.safetensors", "tokenizer.json", "report.html", "README.md"}
    kinds |= {f"secateurs/{name}" for name in ("manifest.json", "plan.json", "plan.safetensors", "figures/sizes.png")}
    assert kinds <= {outcomes[name]["failed at"] for name in CASES}


def test_the_source_is_as_it_was(outcomes):
    before, after = outcomes["source"]
    assert before == after


@pytest.mark.parametrize("old", ["no OUT", "an old OUT"])
@pytest.mark.parametrize("report", ["no report", "a report too"])
def test_with_just_enough_room_it_is_written(report, old, outcomes):
    outcome = outcomes[f"{report}, {old}, room"]
    assert outcome["code"] == 0, outcome
    assert set(outcome["beside"]) == {"out"}


class Disk:
    """A small file system in memory, while the block runs."""

    def __init__(self, folder, room):
        self.folder, self.options = folder, "size={},nr_inodes={}".format(*room)

    def __enter__(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", self.folder], check=True)
        return self

    def __exit__(self, *error):
        subprocess.run(["umount", self.folder], check=True)

    def use(self):
        """Bytes and inodes in use."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_bsize, found.f_files - found.f_ffree


class Watch:
    """Notes what is opened for writing on a disk, and the most that is in use there."""

    def __init__(self):
        self.disk, self.written, self.peak = None, [], (0, 0)
        sys.addaudithook(self.note)
        self.write_tensors = safetensors.torch.serialize_file
        safetensors.torch.serialize_file = self.note_tensors

    def start(self, disk):
        self.disk, self.written, self.peak = disk, [], disk.use()

    def note(self, event, arguments):
        if self.disk is None or event not in ("open", "os.rename"):
            return
        self.peak = tuple(map(max, self.peak, self.disk.use()))
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.written.append(str(arguments[0]))

    def note_tensors(self, tensors, path, *more, **settings):
        self.written.append(str(path))
        self.write_tensors(tensors, path, *more, **settings)

    def last(self):
        """The last file of the checkpoint that was written, or was to be."""
        beside = [Path(name).relative_to(self.disk.folder).parts for name in self.written if is_under(name, self.disk)]
        inside = ["/".join(parts[1:]) for parts in beside if parts[0].startswith(".out.") and parts[0] != STATE]
        return inside[-1] if inside else None


def is_under(name, disk):
    return name.startswith(f"{disk.folder}/")


def run_secateurs(*words):
    """The exit code, and what was told."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as left:
            return left.code, told.getvalue().strip().splitlines()


def attempt(watch, place, room, *, report, old=None):
    """Prune once on a disk with so much room; `old` is copied to OUT before."""
    with Disk(place / "disk", room) as disk:
        out = disk.folder / "out"
        if old is not None:
            shutil.copytree(old, out)
        before, free, use = hash_files(out), shutil.disk_usage(disk.folder).free, disk.use()
        watch.start(disk)
        flags = [*([] if report else ["--no-report"]), *(["--overwrite"] if old else [])]
        code, told = run_secateurs("prune", place / "model", out, *FAST, *flags)
        outcome = {"code": code, "told": told, "out": str(out), "free": free, "failed at": watch.last()}
        outcome |= {"files before": before, "files": hash_files(out), "use before": use, "peak": watch.peak}
        outcome |= {"beside": sorted(path.name for path in disk.folder.iterdir())}
        watch.disk = None
        return outcome


def find_room(words, probe):
    """Bytes and inodes that a disk is to have, given what a run with plenty took."""
    number = int(words.split()[0])
    (bytes_, inodes), (bytes_before, _) = probe["peak"], probe["use before"]
    if "%" in words:
        return bytes_before + (bytes_ - bytes_before) * number // 100, inodes + 100
    return bytes_ + PAGE, inodes - number


def main(place):
    """Run all cases on disks mounted at `place`/disk, and tell what came of them."""
    source = hash_files(place / "model")
    watch, probes = Watch(), {}
    tell_outcome("not blind", attempt(watch, place, (1 << 20, 1000), report=False))
    usage = shutil.disk_usage(place)
    shutil.disk_usage = lambda path: usage._replace(free=1 << 50)
    old = place / "old"
    run_secateurs("prune", place / "model", old, *FAST)
    for name, (report, has_old, room) in CASES.items():
        settings = {"report": report, "old": old if has_old else None}
        if (report, has_old) not in probes:
            probe = probes[report, has_old] = attempt(watch, place, PLENTY, **settings)
            tell_outcome(f"{name.rsplit(', ', 1)[0]}, room", attempt(watch, place, probe["peak"], **settings))
        tell_outcome(name, attempt(watch, place, find_room(room, probes[report, has_old]), **settings))
    tell_outcome("source", [source, hash_files(place / "model")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
