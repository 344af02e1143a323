"""The experiments of "Large Language Model Pruning" (arXiv 2406.00030), on real data, cell by cell."""
