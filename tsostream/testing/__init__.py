"""For tests only: random exposures with every pathology (`builders`), naive twins of the kernels (`naive`).

Nothing in the package imports this at run time.
"""
