"""FITS products in the layout of the official pipeline, written block by block while a run goes on."""

from __future__ import annotations

from tsostream.sinks.products.average import MeanRate, RateSums, sums_bytes
from tsostream.sinks.products.ecsv import read_table
from tsostream.sinks.products.files import Products, Resumed, kept_integrations
from tsostream.sinks.products.measured import EXPOSURE_PRODUCTS, MeasuredProducts, MeasuredSpec
from tsostream.sinks.products.slabs import CHUNK_BYTES, Kept, ProductFile, part_path
from tsostream.sinks.products.spec import ProductKind, ProductSpec, Source, product_bytes
from tsostream.sinks.products.spectra import ExposureHeader, spectra_bytes

__all__ = [
    "CHUNK_BYTES",
    "EXPOSURE_PRODUCTS",
    "ExposureHeader",
    "Kept",
    "MeanRate",
    "MeasuredProducts",
    "MeasuredSpec",
    "ProductFile",
    "ProductKind",
    "ProductSpec",
    "Products",
    "RateSums",
    "Resumed",
    "Source",
    "kept_integrations",
    "part_path",
    "product_bytes",
    "read_table",
    "spectra_bytes",
    "sums_bytes",
]
