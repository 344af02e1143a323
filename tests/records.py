"""Made-up records for the tests of reports: of any size, with any names."""

import numpy as np

from secateurs.results import ModelSize
from secateurs.results.comparison import Point, Row
from secateurs.results.record import (
    CompareRecord,
    Example,
    InformationSummary,
    Look,
    NetworkView,
    Provenance,
    PruneRecord,
    Reading,
)

HOSTILE = "</script><img src=x onerror=window.hacked=1><b>bold</b> %{x} {{ 7 * 7 }} \u2028 <!-- $x$"
PROVENANCE = {
    "settings": {"keep": 0.5, "layers": None},
    "versions": {"python": "3.11"},
    "machine": {"device": "cpu", "threads": 2},
    "seconds": {"choosing": 1.5},
}


def make_view(path="model.layers.0.mlp", neurons=24, width=24, seed=0):
    """A network of which some neurons were looked at."""
    random = np.random.default_rng(seed)
    shared = random.random((neurons, neurons))
    edges = np.linspace(0, 2, 41)
    return NetworkView(
        path=path,
        width_before=width,
        width_after=width // 2,
        neurons=np.sort(random.permutation(width)[:neurons]).astype("<i4"),
        is_kept=np.arange(neurons) % 2 == 0,
        cluster=(np.arange(neurons) * 8 // neurons + 1).astype("<i4"),
        importance=random.random(neurons).astype("<f4") + 0.01,
        redundancy=random.random(neurons).astype("<f4"),
        nearest=np.zeros(neurons, "<i4"),
        entropy_nats=random.random(neurons).astype("<f4"),
        width_over_std=random.random(neurons).astype("<f4"),
        position=random.random((neurons, 2)).astype("<f4"),
        information=(shared + shared.T).astype("<f2"),
        edges=edges.astype("<f4"),
        pairs=random.dirichlet(np.ones(40)).astype("<f4"),
        baseline=(np.arange(40) == 3).astype("<f4"),
        baseline_mean=0.05,
        constant=1,
        is_saturated=False,
        error_cut=0.3 + seed / 100,
        error_refit=0.1,
    )


def make_prune_record(networks=3, neurons=24, width=24, text="plain"):
    """The record of a pruning, in which every text is `text`."""
    before, after = (ModelSize(n, (width,) * networks, 128, n, 2 * n) for n in (2_000_000, 1_000_000))
    views = tuple(make_view(f"{text}.{place}", neurons, width, place) for place in range(networks))
    readings = (Reading("perplexity", 20.0, 22.5, note=text), Reading("latency", 10.0, 8.0, "ms", text))
    return PruneRecord(
        model=text,
        method=text,
        keep=0.5,
        kept_fraction=0.5,
        before=before,
        after=after,
        bytes_before=8_000_000,
        bytes_after=4_000_000,
        bytes_note=text,
        calibration=text,
        look=Look(text, readings, "How the text goes on", (Example(text, text, text),)),
        information=InformationSummary(text, "nats", 100, text, 512),
        networks=views,
        warnings=(text,),
        provenance=Provenance(command=text, hashes={"weights before": text}, **PROVENANCE),
    )


def make_compare_record(methods=("secateurs", "random", "osscar"), keeps=(0.4, 0.8), text="plain"):
    """The record of a comparison by perplexity."""

    def point(place, keep):
        gap = (place + 1) * (1.1 - keep)
        mark = "best" if place == 0 else ""
        return Point(keep, 20 * np.exp(gap), None, gap, 0.01, None, keep, 0.5 + keep / 2, 1e6, 2.5 - place, 30.0, mark)

    rows = tuple(
        Row(
            method,
            "uniform",
            "refit" if place % 2 == 0 else "none",
            True,
            ("weights",),
            tuple(point(place, k) for k in keeps),
        )
        for place, method in enumerate(methods)
    )
    return CompareRecord(
        model=text,
        metric="perplexity",
        is_loss=True,
        dense=20.0,
        keeps=keeps,
        rows=rows,
        notes=(text,),
        warnings=(text,),
        provenance=Provenance(command=text, hashes={"weights": text}, **PROVENANCE),
    )
