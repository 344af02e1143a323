"""Information between neurons: kernels, widths, Renyi entropies and the pairwise matrix. Tensors only."""

from secateurs.information.estimator import find_widths, mutual_information, use_threads

__all__ = ["find_widths", "mutual_information", "use_threads"]
