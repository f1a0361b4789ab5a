"""Run assign_wcs and extract_2d of the official pipeline on one empty integration, in a process of its own.

Called as ``python wcs_child.py IN.fits OUT.fits OVERRIDES.json`` by a Python that has jwst, so that its libraries
and its memory stay there. Nothing of this package is imported.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any


def main(source: str, target: str, overrides: str) -> None:
    """Write the wavelengths of the spectrum as WAVELENGTH, its empty image and its coordinate system as SCI and ASDF.

    Parameters
    ----------
    source
        Product with an empty cube and the exposure's keywords.
    target
        File to write.
    overrides
        JSON: reference type -> file, or N/A.
    """
    warnings.simplefilter("ignore")
    import jwst
    import numpy as np
    from astropy.io import fits
    from jwst.assign_wcs import AssignWcsStep
    from jwst.extract_2d import Extract2dStep
    from jwst.lib.wcs_utils import get_wavelengths
    from stdatamodels.jwst import datamodels

    given = json.loads(Path(overrides).read_text())

    def run(step: Any, model: Any) -> Any:
        # "*": what all others are, where there are no rules to choose them by
        known = {f"override_{name}": given.get(name, given.get("*")) for name in step.reference_file_types}
        known = {name: path for name, path in known.items() if path}
        return step.call(model, **known)

    model = run(AssignWcsStep, datamodels.open(source))
    if model.meta.exposure.type in ("NRS_BRIGHTOBJ", "NRC_TSGRISM"):
        model = run(Extract2dStep, model)
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus[0].header["CAL_VER"] = jwst.__version__
    order = getattr(model.meta.wcsinfo, "spectral_order", None) or 1
    image = getattr(model, "wavelength", None)
    if image is None or not np.size(image) or not np.any(np.asarray(image) > 0):
        image = get_wavelengths(model, exp_type=model.meta.exposure.type, order=order)
    hdu = fits.ImageHDU(np.array(image, np.float64), name="WAVELENGTH")
    hdu.header["BUNIT"] = "um"
    hdu.header["SPORDER"] = order
    for key, name in (("SLTSTRT1", "xstart"), ("SLTSTRT2", "ystart"), ("SRCXPOS", "source_xpos"),
                      ("SRCYPOS", "source_ypos"), ("SLTNAME", "name")):  # fmt: skip
        value = getattr(model, name, None)
        if value is not None:
            hdu.header[key] = value
    hdus.append(hdu)
    # the coordinate system itself, of the window that was cut out
    product = str(Path(target).with_name("product.fits"))
    model.save(product)
    with fits.open(product) as saved:
        hdus.append(saved["SCI"].copy())
        hdus.append(saved["ASDF"].copy())
        hdus.writeto(target, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
