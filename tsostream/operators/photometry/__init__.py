"""Kernels of photometry: apertures that are exact, centroids and Gaussian fits as the official step has them."""

from __future__ import annotations
