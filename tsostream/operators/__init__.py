"""The steps: Numba kernels, and above them the operator that gives them parameters and references."""
