"""Finished work of a run on disk."""

from secateurs.pieces.blocks import Blocks, has_information, keep_information
from secateurs.pieces.store import Keeper, Pieces

__all__ = ["Blocks", "Keeper", "Pieces", "has_information", "keep_information"]
