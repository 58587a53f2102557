"""Parameters of the particle simulator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator, model_validator

from napari_autorefine.params import JobParams, Param, describe

INPUT, PARTICLES, OPTICS, NOISE = "Input and output", "Particles", "Optics", "Signal and noise"
MICROGRAPHS, TOMOGRAPHY = "Micrographs", "Tomography"
MicrographType = Literal["float32", "float16", "int16", "uint16", "int8"]
TomoForm = Literal["none", "2d", "3d"]
Arrangement = Literal["random", "sphere"]
_LARGEST_COUNT = {"int16": 32767, "uint16": 65535, "int8": 127}


class SimulateParams(JobParams):
    """Everything that decides what a simulated particle set is."""

    model: Annotated[str, Param("Atomic model", "PDB or mmCIF file, gzipped or not.", INPUT, file_kind="read")] = ""
    output: Annotated[
        str, Param("Output", "Folder and first part of the output names.", INPUT, flags=("o",), file_kind="write")
    ] = ""
    symmetry: Annotated[
        str,
        Param("Symmetry", "Point group; the model is rotated to RELION's axes if it is off.", INPUT, flags=("sym",)),
    ] = "C1"
    assembly: Annotated[
        str, Param("Assembly", "Biological assembly of the file to build, such as 1; empty: atoms as they are.", INPUT)
    ] = ""
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier set of the same name.", INPUT)] = False

    n_particle: Annotated[int, Param("Particles", "Number of particles.", PARTICLES, flags=("n",), minimum=2)] = 1000
    box_size: Annotated[int, Param("Box", "Box size, even.", PARTICLES, unit="px", flags=("box",), minimum=16)] = 128
    pixel_size_A: Annotated[
        float,
        Param("Pixel size", "Pixel size.", PARTICLES, unit="A", flags=("angpix",), minimum=0, is_above_minimum=True),
    ] = 1.8
    particle_diameter_A: Annotated[
        float,
        Param(
            "Particle circle",
            "Diameter of the circle that holds the signal; 0: from the atoms.",
            PARTICLES,
            unit="A",
            minimum=0,
        ),
    ] = 0.0
    offset_sigma_A: Annotated[
        float,
        Param("Offset spread", "Standard deviation of the origin offsets, per axis.", PARTICLES, unit="A", minimum=0),
    ] = 3.0
    seed: Annotated[
        int,
        Param("Random seed", "The same seed gives the same set.", PARTICLES, flags=("seed", "random_seed"), minimum=0),
    ] = 1

    optics_groups: Annotated[
        int,
        Param("Optics groups", "Number of optics groups: 300, 200, 300 and 120 kV.", OPTICS, minimum=1, maximum=4),
    ] = 1
    group_pixel_size_A: Annotated[
        tuple[float, ...],
        Param(
            "Pixel sizes",
            "Pixel size of each optics group, when they differ.",
            OPTICS,
            unit="A",
            flags=("group_angpix",),
            minimum=0,
            is_above_minimum=True,
            is_advanced=True,
        ),
    ] = ()
    group_box_size: Annotated[
        tuple[int, ...],
        Param(
            "Boxes",
            "Box size of each optics group, when they differ.",
            OPTICS,
            unit="px",
            flags=("group_box",),
            minimum=16,
            is_advanced=True,
        ),
    ] = ()
    groups: Annotated[
        int,
        Param("Groups", "Number of particle stacks: each has its own defocus and is a scale group.", OPTICS, minimum=1),
    ] = 10
    defocus_min_A: Annotated[float, Param("Smallest defocus", "Smallest defocus.", OPTICS, unit="A")] = 8000.0
    defocus_max_A: Annotated[float, Param("Largest defocus", "Largest defocus.", OPTICS, unit="A")] = 22000.0
    astigmatism_A: Annotated[
        float, Param("Astigmatism", "Largest difference of defocus U and V.", OPTICS, unit="A", minimum=0)
    ] = 300.0

    snr: Annotated[
        float,
        Param(
            "Signal to noise",
            "Variance of the signal (CTF applied) inside the particle circle divided by the "
            "variance of the noise; 0 makes noise-free images.",
            NOISE,
            minimum=0,
        ),
    ] = 0.08
    bfactor_A2: Annotated[
        float,
        Param(
            "B-factor",
            "Blurring of all atoms, exp(-B u^2 / 4); the B-factors of the file are not used.",
            NOISE,
            unit="A^2",
            flags=("bfactor",),
            minimum=0,
        ),
    ] = 60.0
    scale_sigma: Annotated[
        float,
        Param("Scale spread", "Relative spread of the signal over micrographs.", NOISE, minimum=0, maximum=0.5),
    ] = 0.1
    noise_length_A: Annotated[
        float,
        Param(
            "Noise length",
            "0: white noise; L > 0: noise power falls as 1 / (1 + (L u)^2) with the frequency u.",
            NOISE,
            unit="A",
            minimum=0,
            is_advanced=True,
        ),
    ] = 0.0
    micrographs: Annotated[
        int,
        Param("Micrographs", "Make this many whole micrographs instead of particle stacks.", MICROGRAPHS, minimum=0),
    ] = 0
    micrograph_size: Annotated[
        tuple[int, ...],
        Param(
            "Size",
            "Columns and rows, or one number for both; by default as many as the particles need.",
            MICROGRAPHS,
            unit="px",
            minimum=32,
        ),
    ] = ()
    spacing_A: Annotated[
        float,
        Param(
            "Spacing",
            "Smallest distance between the centers of particles; 0: the particle circle.",
            MICROGRAPHS,
            unit="A",
            minimum=0,
        ),
    ] = 0.0
    edge_A: Annotated[
        float | None,
        Param(
            "Edge",
            "Smallest distance of a center from the edge of the micrograph; by default the radius of the circle.",
            MICROGRAPHS,
            unit="A",
            minimum=0,
        ),
    ] = None
    dose_e_A2: Annotated[
        float,
        Param(
            "Dose",
            "Electrons; they make the counts of a pixel and its shot noise.",
            MICROGRAPHS,
            unit="e/A^2",
            flags=("dose",),
            minimum=0,
            is_above_minimum=True,
        ),
    ] = 40.0
    ice: Annotated[
        float,
        Param(
            "Ice",
            "Share of the noise variance that comes from the ice: it falls with frequency and has the micrograph's "
            "CTF. The rest is shot noise.",
            MICROGRAPHS,
            minimum=0,
            maximum=0.9,
        ),
    ] = 0.3
    gradient: Annotated[
        float,
        Param("Gradient", "Relative change of the background across a micrograph.", MICROGRAPHS, minimum=0, maximum=1),
    ] = 0.1
    micrograph_type: Annotated[
        MicrographType,
        Param("Type of values", "How micrographs are stored; integers are counts.", MICROGRAPHS, is_advanced=True),
    ] = "float32"
    earlier_binning: Annotated[
        int,
        Param(
            "Earlier binning",
            "Also write particles and map as an earlier refinement of particles binned this much leaves them; 0: none.",
            MICROGRAPHS,
            minimum=0,
            maximum=8,
        ),
    ] = 0
    tomo: Annotated[
        TomoForm,
        Param(
            "Particles of tomograms",
            "Make tilt series and cut particles: 2d are stacks of tilt images (RELION 5), 3d are volumes with "
            "CTF and multiplicity (RELION 4).",
            TOMOGRAPHY,
            bare_value="2d",
        ),
    ] = "none"
    tilt_series: Annotated[
        int, Param("Tilt series", "Number of tilt series; each is a scale group.", TOMOGRAPHY, minimum=1)
    ] = 2
    arrangement: Annotated[
        Arrangement,
        Param(
            "Arrangement",
            "How particles lie: random, or sphere: on a closed lattice with their z axis outwards, known as a prior.",
            TOMOGRAPHY,
        ),
    ] = "random"
    tilt_max_deg: Annotated[
        float, Param("Largest tilt", "Tilts go from minus to plus this.", TOMOGRAPHY, unit="deg", minimum=0, maximum=80)
    ] = 60.0
    tilt_step_deg: Annotated[
        float,
        Param("Tilt step", "Step between tilts.", TOMOGRAPHY, unit="deg", minimum=0, is_above_minimum=True),
    ] = 3.0
    tilt_dose_e_A2: Annotated[
        float,
        Param(
            "Dose per tilt",
            "Electrons of each image, in dose-symmetric order: they damage the later ones.",
            TOMOGRAPHY,
            unit="e/A^2",
            flags=("tilt_dose",),
            minimum=0,
        ),
    ] = 3.0
    max_dose_e_A2: Annotated[
        float | None,
        Param(
            "Maximum dose",
            "Later images are not used for particles; 0 or less: all are.",
            TOMOGRAPHY,
            unit="e/A^2",
            flags=("max_dose",),
        ),
    ] = None
    binning: Annotated[
        float,
        Param(
            "Binning",
            "Particles are resampled by this factor; --box counts binned pixels, --angpix unbinned ones.",
            TOMOGRAPHY,
            flags=("bin",),
            minimum=1,
        ),
    ] = 1.0
    cut_box_size: Annotated[
        int,
        Param(
            "Box for CTF",
            "Box in which the CTF is applied before the image is cropped to --box; 0: 4/3 of that.",
            TOMOGRAPHY,
            unit="px",
            flags=("cut_box",),
            minimum=0,
            is_advanced=True,
        ),
    ] = 0
    relion_version: Annotated[
        Literal["5", "4"],
        Param("Layout of", "RELION version whose STAR files are written; 4 only for 3d.", TOMOGRAPHY, is_advanced=True),
    ] = "5"
    float16: Annotated[
        bool, Param("Write particles in float16?", "Half-precision particles take half the space.", TOMOGRAPHY)
    ] = True
    reference_low_pass_A: Annotated[
        float,
        Param(
            "Filter of the reference",
            "Resolution of the starting reference PREFIX_reference.mrc.",
            TOMOGRAPHY,
            unit="A",
            minimum=0,
            is_above_minimum=True,
        ),
    ] = 30.0
    reference_shift_px: Annotated[
        float,
        Param(
            "Shift of the reference",
            "The starting reference is moved this far along z, as an initial model is.",
            TOMOGRAPHY,
            unit="px",
        ),
    ] = 0.0
    threads: Annotated[int, Param("Threads", "Threads; 0 is all cores.", "Compute", flags=("j",), minimum=0)] = 0

    @field_validator("max_dose_e_A2", mode="after")
    @classmethod
    def _no_limit_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @model_validator(mode="after")
    def _check(self) -> SimulateParams:
        for name, count in (("group_angpix", len(self.group_pixel_size_A)), ("group_box", len(self.group_box_size))):
            if count not in {0, self.optics_groups}:
                raise ValueError(f"{name} needs one value per optics group ({self.optics_groups}), not {count}")
        odd = [size for size in (self.box_size, *self.group_box_size) if size % 2]
        if odd:
            raise ValueError(f"box sizes must be even, {odd[0]} is odd")
        if self.defocus_min_A > self.defocus_max_A:
            raise ValueError("defocus_min is larger than defocus_max")
        if self.micrographs:
            self._check_micrographs()
        if self.tomo != "none":
            self._check_tomo()
        shared = {"spacing_A"} if self.tomo != "none" else set()
        if not self.micrographs:
            self._refuse_group(MICROGRAPHS, "for micrographs; give --micrographs", shared)
        if self.tomo == "none":
            self._refuse_group(TOMOGRAPHY, "for particles of tomograms; give --tomo", set())
        return self

    def _refuse_group(self, group: str, purpose: str, shared: set[str]) -> None:
        records = (record for record in describe(type(self)) if record.param.group == group)
        given = [r.flags[0] for r in records if r.name not in shared and getattr(self, r.name) != r.default]
        if given:
            raise ValueError(f"{given[0]} is {purpose}, or leave it out")

    def _check_tomo(self) -> None:
        if self.micrographs:
            raise ValueError("micrographs and tomo exclude each other")
        if self.groups != type(self).model_fields["groups"].default:
            raise ValueError("groups is for particle stacks; with --tomo give --tilt_series")
        if self.tilt_series > self.n_particle:
            raise ValueError(f"{self.n_particle} particles are too few for {self.tilt_series} tilt series")
        if self.relion_version == "4" and self.tomo == "2d":
            raise ValueError("tilt stacks came with RELION 5; relion_version 4 is for --tomo 3d")
        if self.cut_box_size and (self.cut_box_size < self.box_size or self.cut_box_size % 2):
            raise ValueError(f"cut_box must be even and not below the box of {self.box_size}")

    def _check_micrographs(self) -> None:
        if self.micrographs > self.n_particle:
            raise ValueError(f"{self.n_particle} particles are too few for {self.micrographs} micrographs")
        if len(self.micrograph_size) > 2:
            raise ValueError(f"micrograph_size takes columns and rows, not {len(self.micrograph_size)} numbers")
        if self.groups != type(self).model_fields["groups"].default:
            raise ValueError("groups is for particle stacks; with --micrographs leave it out")
        if self.noise_length_A:
            raise ValueError("noise_length is for particle stacks; the noise of micrographs is shaped by --ice")
        if self.earlier_binning and self.box_size % (2 * self.earlier_binning):
            raise ValueError(f"box {self.box_size} binned by {self.earlier_binning} is not a whole, even number")
        largest = _LARGEST_COUNT.get(self.micrograph_type)
        if largest is None:
            return
        if self.snr == 0:
            raise ValueError(f"noise-free micrographs are not counts: micrograph_type cannot be {self.micrograph_type}")
        mean = self.dose_e_A2 * max((self.pixel_size_A, *self.group_pixel_size_A)) ** 2
        brightest = mean * (1 + self.gradient) + 8 * (mean / (1 - self.ice)) ** 0.5
        if brightest > largest:
            text = f"pixels of up to {brightest:.0f} counts do not fit {self.micrograph_type} (at most {largest})"
            raise ValueError(f"{text}; give a smaller --dose or another --micrograph_type")
