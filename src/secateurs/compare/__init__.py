"""Pruning methods compared on one model: the same activations, the same widths, the same score."""
