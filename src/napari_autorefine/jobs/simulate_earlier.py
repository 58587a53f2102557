"""What an earlier refinement of binned particles would have left: the start of a re-extraction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler
from napari_autorefine.model.resize import fourier_resize
from napari_autorefine.model.volume import Volume

_ANGLE_SIGMA_DEG, _OFFSET_SIGMA_PX, _MAP_A, _WRONG_SCALE = 2.0, 0.35, 30.0, 3.0


def write_earlier(
    truth: pd.DataFrame, optics: pd.DataFrame, true_map: Volume, params: SimulateParams
) -> dict[str, str]:
    """Write ``PREFIX_earlier.star`` and ``PREFIX_earlier.mrc``.

    The poses are off by 2° per axis and 0.35 binned pixels, the map has the binned box and pixel size, ends at 30 Å
    and is three times too strong.

    Parameters
    ----------
    truth : particle table with true poses
    optics : optics table of the unbinned particles

    Returns
    -------
    paths by kind
    """
    rng, binning = np.random.default_rng([params.seed, 3]), params.earlier_binning
    optics = optics.assign(
        rlnImagePixelSize=optics["rlnImagePixelSize"] * binning, rlnImageSize=optics["rlnImageSize"] // binning
    )
    angles, origins = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"], ["rlnOriginXAngst", "rlnOriginYAngst"]
    error = Rotation.from_rotvec(rng.normal(0, _ANGLE_SIGMA_DEG, (len(truth), 3)), degrees=True).as_matrix()
    pixel = optics.set_index("rlnOpticsGroup").loc[truth["rlnOpticsGroup"], "rlnImagePixelSize"].to_numpy()
    table = truth.copy()
    table[angles] = matrix_to_euler(error @ euler_to_matrix(truth[angles].to_numpy()))
    table[origins] += rng.normal(0, _OFFSET_SIGMA_PX, (len(truth), 2)) * pixel[:, None]
    table["rlnClassNumber"] = 1
    outputs = {"earlier": f"{params.output}_earlier.star", "earlier_map": f"{params.output}_earlier.mrc"}
    write_star(outputs["earlier"], {"optics": optics, "particles": table})
    voxel = true_map.voxel_size_A * binning
    binned = fourier_resize(true_map.data, len(true_map.data) // binning)
    write_volume(outputs["earlier_map"], low_pass_map(binned, _MAP_A, voxel) * np.float32(_WRONG_SCALE), voxel)
    return outputs
