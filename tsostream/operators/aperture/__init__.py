"""What spectral extraction and aperture photometry share.

An image is measured as a spectrum with one column: a list of pixels that belong to each column's aperture, a list that
belongs to its background, and a template whose derivatives give position and width.

`geometry` finds traces and sources and makes the lists (once per exposure); `measure` holds the kernel.
"""
