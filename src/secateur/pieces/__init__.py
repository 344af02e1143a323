"""Finished work of a run on disk."""

from secateur.pieces.blocks import Blocks, has_information, keep_information
from secateur.pieces.store import Keeper, Pieces

__all__ = ["Blocks", "Keeper", "Pieces", "has_information", "keep_information"]
