"""The pruning methods: one file each, one entry here each."""

from collections.abc import Mapping

from secateur.errors import unknown_name
from secateur.methods.algorithm1 import ALGORITHM1
from secateur.methods.clusters import CLUSTERS, PAPER, PAPER_SCALED
from secateur.methods.contract import Method, PruningContext
from secateur.methods.magnitude import MAGNITUDE
from secateur.methods.medoids import MEDOIDS
from secateur.methods.random import RANDOM
from secateur.methods.redundancy import REDUNDANCY

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (REDUNDANCY, MEDOIDS, CLUSTERS, ALGORITHM1, PAPER, PAPER_SCALED, MAGNITUDE, RANDOM)
}


def find_method(name: str) -> Method:
    """The method of a name; an unknown one is an InputError that suggests the nearest."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


__all__ = ["METHODS", "Method", "PruningContext", "find_method"]
