"""Information between neurons: kernels, widths, Renyi entropies and the pairwise matrix. Tensors only."""

from secateur.information.estimator import mutual_information, use_threads

__all__ = ["mutual_information", "use_threads"]
