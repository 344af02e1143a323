"""Choosing which neurons stay, from tensors alone."""
