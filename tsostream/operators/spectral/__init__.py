"""Spectral extraction beyond the shared measuring kernel.

===============  ====================================================================================
`definition`     an EXTRACT1D aperture: limits, polynomials, background, and the weights they mean
`official`       box extraction of one integration as the official pipeline computes it
`correction`     aperture correction (APCORR)
`fitting`        optimal extraction and the joint fit of profile and background
`columns`        sums over columns: white light and wavelength bins
===============  ====================================================================================

What an extraction leaves in ``Measurement.spectra`` beyond the columns of the rows, for products:
``background_var_poisson, background_var_rnoise, background_var_flat``, and in the segment scope also ``surf_bright,
sb_error, sb_var_poisson, sb_var_rnoise, sb_var_flat``: the names of the official x1dints table in our spelling.
"""
