"""The ways to prune that the experiments compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secateurs.methods import METHODS
from secateurs.paper.bench import LEAST_ROWS, Variant
from secateurs.paper.study import Study
from secateurs.recipe import PRESETS, Recipe

RANDOM_DRAWS = 10
LITERAL = Variant("paper", {"method": "paper"}, least_rows=int(PRESETS["paper"]["min_rows"]))
SCALED = Variant("paper-scaled", {"method": "paper-scaled"}, least_rows=int(PRESETS["paper-scaled"]["min_rows"]))
RANDOM = Variant("random", {"method": "random"}, draws=RANDOM_DRAWS)
MAGNITUDE = Variant("magnitude", {"method": "magnitude"})
IMPORTANCE = Variant("importance", {"method": "redundancy", "information": False})
GRADIENT_ROWS = 2048
"""Rows that methods with gradients are measured on, as mask-tuning and KCM were published; the 1 % are few for them."""
OTHERS = tuple(
    Variant(name, {"method": name}, least_rows=GRADIENT_ROWS if "gradients" in method.needs else LEAST_ROWS)
    for name, method in METHODS.items()
    if name not in (RANDOM.label, MAGNITUDE.label, LITERAL.label, SCALED.label)
)
TABLE_VARIANTS = (RANDOM, MAGNITUDE, LITERAL, SCALED, IMPORTANCE, *OTHERS)
"""Every method there is."""
CURVE_VARIANTS = (
    replace(RANDOM, draws=3),
    MAGNITUDE,
    LITERAL,
    SCALED,
    Variant("clusters", {"method": "clusters"}),
    Variant("redundancy", {"method": "redundancy"}),
)
SENSITIVITY_VARIANTS = (
    replace(RANDOM, draws=3),
    MAGNITUDE,
    IMPORTANCE,
    Variant("redundancy, aligned", {"method": "redundancy", "kernel_width": "scott-scaled"}),
    Variant("medoids, aligned", {"method": "medoids", "kernel_width": "scott-scaled"}),
    Variant("clusters, aligned", {"method": "clusters", "kernel_width": "scott-scaled"}),
)
WIDE = {"method": "clusters", "kernels": 5, "samples": 500}
"""Clusters over 500 rows in kernels of 100, for what differs in how information is measured."""
MEASURE_VARIANTS = (
    Variant("aligned, scaled", {**WIDE, "kernel_width": "scott-scaled"}, least_rows=500),
    Variant("aligned, literal", {**WIDE, "kernel_width": "scott"}, least_rows=500),
    Variant("layer's width", {**WIDE, "kernel_width": "scott-layer"}, least_rows=500),
    Variant("binned", {**WIDE, "measure": "binned"}, least_rows=500),
    Variant("KSG, 100 rows", {"method": "clusters", "measure": "ksg"}),
    Variant("HSIC", {**WIDE, "measure": "hsic", "kernel_width": "scott-scaled"}, least_rows=500),
)
CORRELATION_VARIANTS = (
    Variant("mutual information", {**WIDE, "kernel_width": "scott-scaled"}, least_rows=500),
    Variant("Pearson", {**WIDE, "measure": "pearson"}, least_rows=500),
)
SHARES = (0.01, 0.1, 0.5, 1.0)
SHARE_VARIANTS = tuple(
    Variant(
        f"{share:.0%}",
        {"method": "clusters", "kernel_width": "scott-scaled", "kernels": 10_000, "samples": 1_000_000},
        share=share,
        least_rows=int(PRESETS["paper"]["min_rows"]),
    )
    for share in SHARES
)
ALPHAS = (0.5, 1.01, 1.5, 2.0, 3.0, 5.0)
ALPHA_VARIANTS = tuple(
    Variant(f"alpha {alpha:g}", {"method": "clusters", "kernel_width": "scott-scaled", "alpha": alpha})
    for alpha in ALPHAS
)


def find_variants(variants: Sequence[Variant], study: Study) -> list[Variant]:
    """The variants with as many random starts as the study asks the presets for."""
    return [
        replace(variant, settings={**variant.settings, "seeds": study.candidates}) if _is_preset(variant) else variant
        for variant in variants
    ]


def _is_preset(variant: Variant) -> bool:
    return variant.settings.get("method", Recipe().method) in PRESETS
