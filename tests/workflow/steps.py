"""The seeds' path as command lines that RELION's programs and ours both understand, and what to compare afterwards."""

from __future__ import annotations

import contextlib
import io
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from skimage.registration import phase_cross_correlation

from napari_autorefine import cli
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs.extracted_truth import extracted_truth
from napari_autorefine.jobs.measures import PoseErrors, pose_errors
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.symmetry import point_group

OURS, THEIRS = "ours", "theirs"
PROGRAMS = {
    "extract": "relion_preprocess",
    "rebox": "relion_image_handler",
    "refine": "relion_refine",
    "auto-refine": "mpirun --allow-run-as-root --oversubscribe -n 3 relion_refine_mpi",
    "recenter": "relion_star_handler",
    "reconstruct": "relion_reconstruct",
    "mask": "relion_mask_create",
    "postprocess": "relion_postprocess",
}
SYMMETRY, DIAMETER_A, MOVE_PX = "D2", 190.0, (1.5, -2.25, 2.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the particle set is, in pixels of the micrographs; particles are extracted and scaled."""

    n_particle: int
    micrographs: int
    pixel_size_A: float
    box: int
    scaled: int
    snr: float
    threads: int = 2

    @property
    def scaled_A(self) -> float:
        return self.pixel_size_A * self.box / self.scaled


TINY = Sizes(n_particle=120, micrographs=2, pixel_size_A=4.0, box=56, scaled=44, snr=0.6)
SMALL = Sizes(n_particle=240, micrographs=4, pixel_size_A=3.0, box=80, scaled=60, snr=0.3)
THOUSAND = Sizes(n_particle=1000, micrographs=10, pixel_size_A=2.0, box=120, scaled=96, snr=0.03)


@dataclass(slots=True, kw_only=True)
class Site:
    """A folder in which jobs of both sides run; remembers their times in seconds and never repeats a job."""

    folder: Path
    sizes: Sizes
    seconds: dict[str, float] = field(default_factory=dict)

    def simulate(self) -> None:
        """Make micrographs of two optics groups, with the particles and the map of an earlier refinement."""
        params = SimulateParams(
            output="set/bgal",
            symmetry=SYMMETRY,
            n_particle=self.sizes.n_particle,
            micrographs=self.sizes.micrographs,
            box_size=self.sizes.box,
            pixel_size_A=self.sizes.pixel_size_A,
            particle_diameter_A=DIAMETER_A,
            optics_groups=2,
            snr=self.sizes.snr,
            earlier_binning=2,
            threads=self.sizes.threads,
            seed=3,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(self.folder):
            list(simulate_atoms(demo_molecule(), params))

    def run(self, side: str, job: str, name: str, words: list[str]) -> None:
        """Run one job of one side unless ``name`` exists; outputs go to the folder of ``name``."""
        target = self.folder / name
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        text = self._ours(job, words) if side == OURS else self._theirs(job, words)
        self.seconds[f"{side} {job} {name}"] = time.monotonic() - started
        assert target.exists(), f"{side} {job} left no {name}:\n{text}"

    def _ours(self, job: str, words: list[str]) -> str:
        text = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            status = cli.main([job, *words])
        assert status == 0, f"autorefine {job} {' '.join(words)}\n{text.getvalue()}"
        return text.getvalue()

    def _theirs(self, job: str, words: list[str]) -> str:
        command = [*PROGRAMS[job].split(), *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    # Each job: side, tag of its output folder, inputs; returns its main output.

    def extract(self, side: str) -> str:
        folder, sizes = f"extract_{side}", self.sizes
        radius = int(0.5 * 0.95 * DIAMETER_A / sizes.scaled_A)
        words = (
            "--i set/bgal_micrographs.star --reextract_data_star set/bgal_earlier.star --recenter --recenter_x 0"
            f" --recenter_y 0 --recenter_z 0 --part_star {folder}/particles.star --part_dir {folder}/ --extract"
            f" --extract_size {sizes.box} --scale {sizes.scaled} --norm --bg_radius {radius} --white_dust -1"
            " --black_dust -1 --invert_contrast"
        )
        self.run(side, "extract", f"{folder}/particles.star", words.split())
        return f"{folder}/particles.star"

    def pick(self, side: str) -> str:
        """Extract from the picks, without poses."""
        folder = f"pick_{side}"
        words = (
            "--i set/bgal_micrographs.star --coord_dir ./ --coord_suffix _pick.star"
            f" --part_star {folder}/particles.star --part_dir {folder}/ --extract --extract_size {self.sizes.box}"
            f" --norm --bg_radius {int(0.375 * self.sizes.box)} --white_dust -1 --black_dust -1 --invert_contrast"
        )
        self.run(side, "extract", f"{folder}/particles.star", words.split())
        return f"{folder}/particles.star"

    def rebox(self, side: str) -> str:
        output, pixel = f"rebox_{side}/reference.mrc", f"{self.sizes.scaled_A:.6g}"
        words = f"--i set/bgal_earlier.mrc --o {output} --rescale_angpix {pixel} --new_box {self.sizes.scaled}"
        self.run(side, "rebox", output, [*words.split(), "--force_header_angpix", pixel])
        return output

    def refine(self, particles: str, reference: str, tag: str, side: str = OURS) -> str:
        """Refine to convergence, by RELION with two workers; returns the prefix of its files."""
        prefix = f"refine_{tag}/run"
        words = (
            f"--i {particles} --ref {reference} --o {prefix} --auto_refine --split_random_halves --firstiter_cc"
            f" --ini_high 30 --sym {SYMMETRY} --ctf --particle_diameter {DIAMETER_A:g} --zero_mask --flatten_solvent"
            " --norm --scale --oversampling 1 --healpix_order 2 --auto_local_healpix_order 4 --offset_range 5"
            " --offset_step 2 --auto_ignore_angles --auto_resol_angles --low_resol_join_halves 40 --pad 2 --pool 3"
            " --random_seed 1"
        ).split()
        if side == OURS:
            self.run(OURS, "refine", f"{prefix}_class001.mrc", [*words, "--cpu", "--j", str(self.sizes.threads)])
        else:
            more = ["--skip_gridding", "--dont_combine_weights_via_disc"]
            self.run(THEIRS, "auto-refine", f"{prefix}_class001.mrc", [*words, *more])
        return prefix

    def classify(self, particles: str, reference: str, tag: str, *more: str) -> str:
        """Let relion_refine make one iteration of one class; returns the prefix of that iteration."""
        prefix = f"refine_{tag}/run"
        words = (
            f"--i {particles} --ref {reference} --o {prefix} --iter 1 --K 1 --ctf --firstiter_cc --ini_high 30"
            f" --sym {SYMMETRY} --particle_diameter {DIAMETER_A:g} --zero_mask --flatten_solvent --norm --scale"
            " --oversampling 1 --healpix_order 2 --offset_range 3 --offset_step 2 --pad 1 --tau2_fudge 4 --pool 10"
            f" --random_seed 1 --dont_combine_weights_via_disc --j {self.sizes.threads}"
        )
        self.run(THEIRS, "refine", f"{prefix}_it001_data.star", [*words.split(), *more])
        return f"{prefix}_it001"

    def recenter(self, side: str, particles: str, tag: str, move_px: tuple[float, ...] = MOVE_PX) -> str:
        output = f"recenter_{tag}_{side}/particles.star"
        words = [f"--center_{axis} {value:g}" for axis, value in zip("XYZ", move_px, strict=True)]
        self.run(side, "recenter", output, f"--i {particles} --o {output} --center {' '.join(words)}".split())
        return output

    def reconstruct(self, side: str, particles: str, tag: str, *, symmetry: str = "C1", half: int = 0) -> str:
        """Reconstruct all particles or a half-set; about another center D2 does not hold."""
        name = f"run_half{half}_class001_unfil" if half else "map"
        output = f"reconstruct_{tag}_{side}/{name}.mrc"
        words = f"--i {particles} --o {output} --sym {symmetry} --ctf --skip_gridding".split()
        self.run(side, "reconstruct", output, words + (["--subset", str(half)] if half else []))
        return output

    def halves(self, side: str, particles: str, tag: str) -> str:
        """Reconstruct both half-sets with the symmetry; returns the first map."""
        return [self.reconstruct(side, particles, tag, symmetry=SYMMETRY, half=half) for half in (2, 1)][-1]

    def mask(self, side: str, density: str, tag: str) -> str:
        output = f"mask_{tag}_{side}/mask.mrc"
        threshold = f"{0.15 * read_volume(self.folder / density).data.max():.4g}"
        words = f"--i {density} --o {output} --lowpass 15 --ini_threshold {threshold}"
        self.run(side, "mask", output, [*words.split(), "--extend_inimask", "2", "--width_soft_edge", "4"])
        return output

    def postprocess(self, side: str, half: str, mask: str, tag: str) -> str:
        prefix = f"postprocess_{tag}_{side}/postprocess"
        words = f"--i {half} --mask {mask} --o {prefix} --angpix {self.sizes.scaled_A:.6g} --auto_bfac"
        words += f" --autob_lowres {3.2 * self.sizes.scaled_A:.3g}"
        self.run(side, "postprocess", f"{prefix}.star", words.split())
        return f"{prefix}.star"

    # What to compare.

    def images(self, particles: str) -> np.ndarray:
        """Read all images of a particle file in the order of its rows."""
        stacks: dict[str, np.ndarray] = {}
        found = []
        for name in read_particles(self.folder / particles, project_dir=self.folder).image_name:
            number, _, path = str(name).partition("@")
            if path not in stacks:
                stacks[path] = read_data(self.folder / path)[0]
            found.append(stacks[path][int(number) - 1])
        return np.stack(found)

    def image_difference(self, one: str, other: str) -> float:
        """Return the largest difference of pixels in standard deviations of the particles."""
        first, second = self.images(one), self.images(other)
        return float(np.abs(first - second).max() / second.std())

    def column_difference(self, one: str, other: str) -> float:
        """Return the largest difference of numeric columns that the second particle file holds."""
        first, second = (read_star(self.folder / path).loop("particles") for path in (one, other))
        assert first is not None
        assert second is not None
        numeric = [name for name in second.columns if second[name].dtype.kind in "fi"]
        assert set(numeric) <= set(first.columns), set(numeric) - set(first.columns)
        return float(np.abs(first[numeric].to_numpy(float) - second[numeric].to_numpy(float)).max())

    def map_difference(self, one: str, other: str) -> float:
        """Root mean square difference of two maps of one header, relative to the second."""
        first, second = (read_volume(self.folder / path) for path in (one, other))
        assert first.data.shape == second.data.shape
        assert abs(first.voxel_size_A - second.voxel_size_A) < 1e-4
        return float(np.linalg.norm(first.data - second.data) / np.linalg.norm(second.data))

    def correlation(self, one: str, other: str) -> np.ndarray:
        """FSC of two maps."""
        return fsc(*(read_volume(self.folder / path).data for path in (one, other)))

    def agreement(self, one: str, other: str) -> float:
        """Return the lowest FSC of two maps up to 0.9 of the Nyquist frequency.

        Two builds of one program differ beyond: samples on the outermost sphere are kept or lost by rounding.
        """
        curve = self.correlation(one, other)
        return float(curve[: int(0.9 * (len(curve) - 1)) + 1].min())

    def errors(self, particles: str) -> PoseErrors:
        """Errors of poses against the truth."""
        found, truth = (read_particles(self.folder / path, project_dir=self.folder) for path in (particles, self.truth))
        return pose_errors(found, extracted_truth(found, truth), point_group(SYMMETRY))

    @property
    def truth(self) -> str:
        return "set/bgal_truth.star"

    def shift_px(self, moved: str, fixed: str) -> np.ndarray:
        """Shift (x, y, z) of the content of ``moved`` against ``fixed``, to a tenth of a voxel."""
        first, second = (np.fft.fftn(read_volume(self.folder / path).data) for path in (moved, fixed))
        found = phase_cross_correlation(second, first, space="fourier", upsample_factor=20, normalization=None)[0]
        return -np.asarray(found)[::-1]

    def post_processed(self, path: str) -> tuple[float, dict[str, np.ndarray]]:
        """Final resolution in Å and the FSC curves of a post-processing."""
        star = read_star(self.folder / path)
        general, curves = star.pairs("general"), star.loop("fsc")
        assert general is not None
        assert curves is not None
        return float(general["rlnFinalResolution"]), {str(name): curves[name].to_numpy(float) for name in curves}
