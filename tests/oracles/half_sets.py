"""A tiny half-set that goes through the engine's expectation step and, particle by particle, through the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from unittest import mock

import numpy as np
from oracles import imaging, phantoms, posterior, tomo_sets

from napari_autorefine.engine import half_job
from napari_autorefine.engine.context import SearchGrid
from napari_autorefine.engine.grids import local_neighborhoods, make_orientation_grid
from napari_autorefine.engine.iteration import HalfJob, IterationPlan, half_context, run_half
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions, TomogramData
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.setup import Setup, group_geometry, prepare_setup
from napari_autorefine.engine.source import BlockSource
from napari_autorefine.engine.start import initial_poses
from napari_autorefine.engine.state import HalfModel, Poses, Sampling
from napari_autorefine.engine.sums import HalfStatistics, PoseTable
from napari_autorefine.engine.workers import Workers
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Form, Particles

BOX, VOXEL_A, DIAMETER_A = 16, 5.0, 56.0
STEP_DEG, STEP_A = 60.0, 6.0
N_SHELL = BOX // 2 + 1
SIGMA2 = {"image": 1 / 300, "volume": 1 / 250000, "tilt_stack": 1 / 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What differs between the tiny half-sets.

    ``is_flat``: offsets along z are only those of children. ``most_representatives``: orientations that stand for a
    posterior, here all of them.
    """

    is_premultiplied: bool = False
    is_cc: bool = False
    is_local: bool = False
    has_prior: bool = False
    threads: int = 1
    image_gain: float = 1.0
    screen_size: int = 8
    is_aberrated: bool = False
    is_plain: bool = False
    memory_bytes: int = 4 << 30
    devices: tuple[int, ...] = ()
    tf32: bool = False
    n_particle: int = 8
    form: Form = "image"
    files: tomo_sets.Files = field(default_factory=tomo_sets.Files)
    zero_mask: bool = True
    healpix_order: int = 0
    offset_step_A: float = STEP_A
    sigma_tilt_deg: float = -1.0
    perturbation: float = 0.27
    has_norm: bool = True
    is_odd: bool = False
    is_flat: bool = False
    diameter_A: float = DIAMETER_A
    signal: float = 1.0
    fraction: float = 1.0
    most_representatives: int = 100_000

    @property
    def offset_dim(self) -> int:
        """Coordinates of an offset."""
        return 2 if self.form == "image" else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Results of the engine and what the oracle needs to repeat them."""

    case: Case
    setup: Setup
    job: HalfJob
    images: list[np.ndarray]
    members: np.ndarray
    statistics: HalfStatistics
    accumulators: Accumulators
    poses: Poses
    events: list[object]


def _optics(case: Case) -> tuple[OpticsGroup, OpticsGroup]:
    aberrations: dict[str, object] = {}
    if case.is_aberrated:
        aberrations = {"beam_tilt_mrad": (4.0, -7.0), "magnification": (1.03, 0.02, -0.01, 0.97)}
    first = phantoms.optics_group(1, box_size=BOX + case.is_odd, pixel_size_A=VOXEL_A, voltage_kV=300.0, **aberrations)
    second = phantoms.optics_group(
        2,
        box_size=20 + case.is_odd,
        pixel_size_A=3.6,
        voltage_kV=200.0,
        cs_mm=1.4,
        is_premultiplied=case.is_premultiplied,
    )
    return first, second


def tiny_particles(case: Case, n: int = 8) -> Particles:
    """Two optics groups, three scale groups, old origins, norms, astigmatism, phase shifts, B-factors."""
    rng = np.random.default_rng(8)
    found = phantoms.particles(_optics(case), np.arange(n) // 2 % 2)
    found = replace(
        found,
        group_name=np.array([f"m{i % 3}" for i in range(n)], dtype=object),
        euler_deg=rng.uniform([-180, 10, -180], [180, 170, 180], (n, 3)),
        origin_A=rng.normal(0, 5.0, (n, 2)),
        phase_shift_deg=rng.uniform(0, 60, n),
        ctf_bfactor_A2=rng.uniform(0, 200, n),
        ctf_scale=rng.uniform(0.7, 1.0, n),
        norm_correction=rng.uniform(0.8, 1.2, n),
        origin_prior_A=rng.normal(0, 3.0, (n, 2)) if case.has_prior else None,
    )
    if case.form == "image":
        return found
    return tomo_sets.with_subtomograms(found, case.form, has_prior=case.has_prior)


def tiny_images(particles: Particles, gain: float) -> list[np.ndarray]:
    """Noisy projections of the phantom."""
    rng = np.random.default_rng(9)
    images = []
    for i, group in enumerate(particles.optics_index):
        optics = particles.optics[group]
        image = phantoms.ASYMMETRIC.image(
            imaging.rotation(particles.euler_deg[i]), particles.origin_A[i], optics.box_size, optics.pixel_size_A
        )
        image = imaging.with_ctf(image, particles, i) + rng.standard_normal(image.shape)
        images.append((gain * image).astype(np.float32))
    return images


Data = tuple[RefinementProblem, list[np.ndarray]]


def tiny_problem(case: Case) -> Data:
    """A refinement's data, and the images one by one."""
    particles, data = tiny_particles(case, case.n_particle), None
    if case.form == "image":
        images = tiny_images(particles, case.image_gain)
    else:
        data = tomo_sets.data_of(particles, case.files)
        images = []
        for i in range(case.n_particle):
            if case.form == "volume":
                image = tomo_sets.volume(particles, i, data, case.files, signal=case.signal, seed=100 + i)
            else:
                image = tomo_sets.tilt_stack(particles, i, data, signal=case.signal, seed=100 + i)
            images.append((case.image_gain * image).astype(np.float32))

    return problem_of(particles, images, data), images


def problem_of(particles: Particles, images: list[np.ndarray], data: TomogramData | None) -> RefinementProblem:
    """A refinement of these images from a phantom."""

    def read(index: np.ndarray) -> np.ndarray | list[np.ndarray]:
        own = [images[i] for i in index]
        return own if particles.form == "tilt_stack" else np.stack(own)

    return RefinementProblem(
        particles=particles,
        read_images=read,
        reference=phantoms.ASYMMETRIC.map(BOX, VOXEL_A),
        voxel_size_A=VOXEL_A,
        tomogram_data=data,
    )


def tiny_model(n_direction: int, form: Form = "image") -> HalfModel:
    """Spectra, scales and priors drawn at random, the reference a blurred phantom."""
    rng = np.random.default_rng(10)
    pdf = rng.uniform(0.5, 1.5, n_direction)
    zeros = np.zeros(N_SHELL)
    return HalfModel(
        map=phantoms.ASYMMETRIC.map(BOX, VOXEL_A),
        tau2=np.ones(N_SHELL),  # promises so much that screening drops nothing
        ssnr=np.where(np.arange(N_SHELL) < 5, 4.0, 2.0),
        sigma2_map=zeros,
        completeness=zeros,
        sigma2_noise=rng.uniform(0.5, 1.5, (2, N_SHELL)) * SIGMA2[form],
        scale=np.array([0.8, 1.0, 1.3]),
        norm_average=1.1,
        sigma_offset_A=7.0,
        pdf_direction=pdf / pdf.sum(),
        mean_p_max=0.0,
        log_likelihood=0.0,
        accuracy_rot_deg=999.0,
        accuracy_trans_A=999.0,
        orientability=zeros,
    )


def run(case: Case, data: Data | None = None) -> Found:
    """Take half-set 1 of the tiny set, or of other data, through the engine's expectation step."""
    options = RefineOptions(
        symmetry="D2",
        particle_diameter_A=case.diameter_A,
        adaptive_fraction=case.fraction,
        mask_edge_px=3.0,
        threads=case.threads,
        ctf=not case.is_plain,
        norm=case.has_norm and not case.is_plain,
        memory_bytes=case.memory_bytes,
        devices=case.devices,
        tf32=case.tf32,
        zero_mask=case.zero_mask,
        sigma_tilt_deg=case.sigma_tilt_deg,
    )
    problem, images = tiny_problem(case) if data is None else data
    setup = prepare_setup(problem, options)
    orientations = make_orientation_grid(case.healpix_order, setup.group)
    sampling = Sampling(
        symmetry="D2", healpix_order=case.healpix_order, psi_step_deg=STEP_DEG / 2**case.healpix_order,
        offset_range_A=STEP_A, offset_step_A=case.offset_step_A, perturbation=case.perturbation,
        is_local=case.is_local, sigma_angle_deg=25.0, is_3d_translation=setup.is_of_tomograms,
    )  # fmt: skip
    plan = IterationPlan(
        iteration=1, is_cc=case.is_cc, is_final=False, current_size=13, sizes=((case.screen_size, 8, 12),) * 2
    )
    grid = SearchGrid.from_sampling(sampling, orientations)
    if case.is_flat:
        flat = grid.shifts_A[:, 2] == 0
        grid = replace(
            grid,
            shifts_A=grid.shifts_A[flat],
            trial_shifts_A=grid.trial_shifts_A[flat],
            fine_shifts_A=grid.fine_shifts_A[flat],
        )
    geometries = tuple(group_geometry(setup, i, grid, plan.sizes[i]) for i in range(2))
    poses = initial_poses(setup)
    job = HalfJob(
        setup=setup,
        source=BlockSource.of(setup, poses),
        plan=plan,
        grid=grid,
        geometries=geometries,
        context=half_context(setup, tiny_model(orientations.n_dir, case.form), 1, plan, geometries, 1),
        is_local=case.is_local,
        sigma_angle_deg=sampling.sigma_angle_deg,
    )
    table = PoseTable.like(poses)
    names = ("_MOST_REPRESENTATIVES", "_MOST_LOCAL_REPRESENTATIVES")
    few = mock.patch.multiple(half_job, **dict.fromkeys(names, case.most_representatives))
    with few, Workers(case.threads) as workers:
        steps, events = run_half(job, table, workers, 0), []
        while True:
            try:
                events.append(next(steps))
            except StopIteration as stop:
                statistics, accumulators = stop.value
                break
    return Found(
        case=case, setup=setup, job=job, images=images, members=setup.members(1), statistics=statistics,
        accumulators=accumulators, poses=table.frozen(), events=events,
    )  # fmt: skip


def oracle_model(found: Found) -> posterior.Model:
    context, options = found.job.context, found.setup.options
    return posterior.Model(
        volume=context.reference,
        pad=options.pad,
        r2_max=context.r2_max,
        box_size=BOX,
        voxel_size_A=VOXEL_A,
        sigma2_noise=context.sigma2_noise,
        scale=context.scale,
        norm_average=context.norm_average,
        sigma_offset_A=context.sigma_offset_A,
        use_for_scale=context.use_for_scale,
        diameter_A=options.particle_diameter_A,
        mask_edge_px=options.mask_edge_px,
        has_ctf=options.ctf,
        has_norm=options.norm,
    )


def _rotations(found: Found, euler_deg: np.ndarray) -> np.ndarray:
    grid = found.job.grid
    turn = imaging.rotation(np.full(3, grid.orientations.step_deg * grid.perturbation))
    return np.array([imaging.rotation(e) @ turn for e in euler_deg.reshape(-1, 3)])


def candidates(found: Found, i: int) -> posterior.Candidates:
    """All fine orientations and shifts of particle ``i``: children of the grid, or of its neighborhood."""
    job, orientations, dim = found.job, found.job.grid.orientations, found.case.offset_dim
    dir_idx, psi_idx = np.divmod(np.arange(orientations.n_orientation), orientations.n_psi)
    if job.is_local:
        near = local_neighborhoods(orientations, found.setup.problem.particles.euler_deg[[i]], job.sigma_angle_deg)
        dir_idx, psi_idx, log_prior = near.dir_idx, near.psi_idx, near.log_prior
    elif found.case.sigma_tilt_deg > 0:
        weight = tilt_prior(found, i)[dir_idx]
        dir_idx, psi_idx, log_prior = dir_idx[weight > 0], psi_idx[weight > 0], np.log(weight[weight > 0])
    else:
        log_prior = np.log(tiny_model(orientations.n_dir).pdf_direction)[dir_idx]
    step_A = found.case.offset_step_A
    axis = np.arange(-STEP_A, STEP_A + 1e-6, step_A)
    coarse_A = np.array([p[::-1] for p in product(axis, repeat=dim) if np.linalg.norm(p) < STEP_A + 0.1])
    part = np.array([p[::-1] for p in product((-step_A / 4, step_A / 4), repeat=dim)])
    fine_A = coarse_A[:, None] + part + job.grid.perturbation * step_A
    return posterior.Candidates(
        rotations=_rotations(found, orientations.child_eulers(dir_idx, psi_idx)),
        directions=np.repeat(dir_idx, 8),
        log_prior=np.repeat(log_prior, 8),
        shifts_A=fine_A.reshape(-1, dim),
        prior_shifts_A=np.repeat(coarse_A, 2**dim, axis=0),
    )


def tilt_prior(found: Found, i: int) -> np.ndarray:
    """Weight (n_dir,) of every direction by the tilt of its mate nearest to the particle's, or the nearest of all."""
    orientations, sigma = found.job.grid.orientations, found.case.sigma_tilt_deg
    tilts = np.degrees(np.arccos(np.clip(orientations.vectors @ orientations.group.operators[:, :, 2].T, -1, 1)))
    distance = np.abs(tilts - found.setup.problem.particles.euler_deg[i, 1]).min(axis=1)
    nearest = distance.min()
    weight = np.exp((nearest**2 - distance**2) / (2 * sigma**2)) * (distance <= max(3 * sigma, nearest))
    return weight / weight.sum()


def winner(found: Found, seen: posterior.View, projections: np.ndarray, options: posterior.Candidates) -> np.ndarray:
    """Weights of a correlation iteration: best coarse pair, then the best of its children."""
    job, model, n_child = found.job, oracle_model(found), 2**found.case.offset_dim
    orientations = job.grid.orientations
    dir_idx, psi_idx = np.divmod(np.arange(orientations.n_orientation), orientations.n_psi)
    rotations = _rotations(found, orientations.coarse_eulers(dir_idx, psi_idx))
    trial_A = options.prior_shifts_A[::n_child] + job.grid.perturbation * found.case.offset_step_A
    coarse = posterior.correlation(seen, posterior.slices_of(seen, model, rotations), trial_A, 8)
    o, t = divmod(int(coarse.argmax()), coarse.shape[1])
    fine = np.full((len(projections), len(options.shifts_A)), -np.inf)
    rows, columns = slice(8 * o, 8 * o + 8), slice(n_child * t, n_child * (t + 1))
    fine[rows, columns] = posterior.correlation(seen, projections[rows], options.shifts_A[columns], 12)
    weights = np.zeros_like(fine)
    weights.reshape(-1)[fine.argmax()] = 1.0
    return weights


def outcome(found: Found, i: int) -> tuple[posterior.View, posterior.Candidates, posterior.Outcome]:
    """What the oracle makes of particle ``i``."""
    particles, model = found.setup.problem.particles, oracle_model(found)
    seen = posterior.view(found.images[i], particles, i, model, 12, found.setup.problem.tomogram_data)
    options = candidates(found, i)
    projections = posterior.slices_of(seen, model, options.rotations)
    scale = float(model.scale[found.setup.scale_group[i]])
    prior_A = np.zeros(found.case.offset_dim) if particles.origin_prior_A is None else particles.origin_prior_A[i]
    if found.case.is_cc:
        weights, log_evidence = winner(found, seen, projections, options), 0.0
    else:
        weights, log_evidence = posterior.posterior(seen, projections, options, model, scale, prior_A)
    sums = posterior.outcome(
        seen, projections, options, model, weights, scale=scale, prior_A=prior_A, log_evidence=log_evidence
    )
    return seen, options, sums
