"""What a report costs: seconds that it adds to a pruning, bytes of the page, seconds until a browser shows it.

    secateurs prune smollm2 OUT ...        # any pruning; its manifest says what looking took
    python benchmarks/report/run.py OUT RESULTS.json

Pages of other sizes are made from copies of the networks in OUT. Needs chromium and the extras report and browser.
"""

import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from secateurs.checkpoint.manifest import find_versions
from secateurs.report.page import render
from secateurs.report.stored import read_record
from secateurs.reporting import find_record, write_checkpoint_report

REPETITIONS = 5
SIZES = {"as pruned": None, "80 networks of 28,672": (80, 28672)}


def grow(record, networks, width):
    """The same with more and wider networks, whose neurons' numbers are spread over the width."""
    views = [
        replace(view, path=f"{view.path}.{place}", width_before=width, width_after=width * 4 // 5)
        for place, view in zip(range(networks), itertools.cycle(record.networks), strict=False)
    ]
    numbers = np.linspace(0, width - 1, len(views[0].neurons)).astype("<i4")
    return replace(record, networks=tuple(replace(view, neurons=numbers) for view in views))


def seconds_to_open(browser, path):
    """Until all figures in the page are drawn, by the page's own clock; errors and requests must be none."""
    found = []
    for _ in range(REPETITIONS):
        page, said = browser.new_page(), []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(path.as_uri())
        page.wait_for_function("() => [...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))")
        found.append(page.evaluate("performance.now()") / 1000)
        assert said == [], said
        page.close()
    return found


def describe(values):
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


def main(out, results):
    """Measure, write and print."""
    manifest, record = json.loads((out / "secateurs" / "manifest.json").read_text()), read_record(find_record(out))
    content = {
        "model": record.model,
        "versions": {**find_versions(), "chromium": None},
        "threads": manifest["threads"],
        "seconds_of_the_run": manifest["seconds"],
        "pages": {},
    }
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        content["versions"]["chromium"] = browser.version
        for name, size in SIZES.items():
            shown, times = record if size is None else grow(record, *size), []
            for number in range(REPETITIONS):
                (place := Path(folder) / f"{name}-{number}" / "secateurs").mkdir(parents=True)
                begun = time.perf_counter()
                write_checkpoint_report(shown, place.parent)
                times.append(time.perf_counter() - begun)
            page = place.parent / "report.html"
            assert page.read_text() == render(shown)
            content["pages"][name] = {
                "networks": len(shown.networks),
                "page_mb": round(page.stat().st_size / 1e6, 2),
                "json_mb": round((place / "report.json").stat().st_size / 1e6, 2),
                "seconds_to_write": describe(times),
                "seconds_to_open": describe(seconds_to_open(browser, page)),
            }
        browser.close()
    results.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content["pages"], indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
