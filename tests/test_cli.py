from __future__ import annotations

import errno
import os
import shlex
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from napari_autorefine import __version__, cli
from napari_autorefine.cli import main, make_parser, parse
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.params import command_line

REFINE = JOBS["refine"]
BASE = ["--i", "p.star", "--ref", "r.mrc", "--o", "Refine3D/job019/run"]

# As RELION's window makes it for the tutorial (options of its jobs Refine3D/job019 and job025).
FROM_RELION = shlex.split(
    "--o Refine3D/job019/run --auto_refine --split_random_halves --i Extract/job018/particles.star"
    " --ref Class3D/job016/run_it025_class004_box256.mrc --firstiter_cc --ini_high 50 --dont_combine_weights_via_disc"
    " --scratch_dir /tmp/scratch --pool 30 --pad 2 --skip_gridding --ctf --ctf_corrected_ref --particle_diameter 200"
    " --flatten_solvent --zero_mask --oversampling 1 --healpix_order 2 --auto_local_healpix_order 4 --offset_range 5"
    " --offset_step 2 --sym D2 --low_resol_join_halves 40 --norm --scale --j 6 --gpu 0:1"
    " --pipeline_control Refine3D/job019/"
)


def refine_params(words: list[str]) -> tuple[RefineParams, list[str]]:
    params, notices = parse(REFINE, words)
    assert isinstance(params, RefineParams)
    return params, notices


def test_a_line_copied_from_relion() -> None:
    params, notices = refine_params(FROM_RELION)
    assert (params.output, params.symmetry, params.ini_high_A) == ("Refine3D/job019/run", "D2", 50.0)
    assert (params.gpu, params.threads, params.scratch_dir) == ("0:1", 6, "/tmp/scratch")
    assert params.ctf and params.norm and params.scale and params.zero_mask and params.firstiter_cc
    assert not params.auto_ignore_angles and not params.auto_resol_angles
    assert params.particle_scale
    ignored = "auto_refine split_random_halves dont_combine_weights_via_disc pool ctf_corrected_ref pipeline_control"
    for name in ignored.split():
        assert sum(notice.startswith(f"--{name} ") for notice in notices) == 1, name
    (notice,) = [text for text in notices if "made for RELION" in text]
    assert "auto_ignore_angles" in notice


def test_absent_flags_are_off_in_a_line_of_relion_only() -> None:
    bare, _ = refine_params([*BASE, "--auto_refine"])
    assert not (bare.ctf or bare.norm or bare.zero_mask or bare.flatten_solvent or bare.firstiter_cc)
    assert (bare.offset_range_px, bare.ini_high_A, bare.particle_diameter_A) == (6.0, None, None)
    assert bare.skip_gridding
    ours, notices = refine_params(BASE)
    assert ours.ctf and ours.norm and ours.zero_mask and ours.flatten_solvent and ours.firstiter_cc
    assert (ours.offset_range_px, ours.ini_high_A, ours.particle_diameter_A) == (5.0, 60.0, 200.0)
    assert notices == []


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--ini-high", "50"], "ini_high_A", 50.0),
        (["--ini_high=50"], "ini_high_A", 50.0),
        (["--ini-high=-1"], "ini_high_A", None),
        (["--ini_high", "-1"], "ini_high_A", None),
        (["--no-ctf"], "ctf", False),
        (["--no_norm"], "norm", False),
        (["--dont_skip_gridding"], "skip_gridding", False),
        (["--gpu"], "gpu", ""),
        (["--gpu", ""], "gpu", ""),
        (["--gpu", "0,1"], "gpu", "0,1"),
        (["--cpu"], "cpu", True),
        (["--j", "4"], "threads", 4),
        (["--solvent_mask", "None"], "mask", None),
        (["--maskedge", "7"], "mask_edge_px", 7.0),
        (["--offset_range", "5."], "offset_range_px", 5.0),
        (["--symmetry", "O"], "symmetry", "O"),
        (["--particle-diameter-A", "180"], "particle_diameter_A", 180.0),
    ],
)
def test_ways_to_write_an_option(words: list[str], name: str, value: object) -> None:
    params, _ = refine_params([*BASE, *words])
    assert getattr(params, name) == value


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--K", "3"], "--K: More than one class is not supported"),
        (["--helix"], "Helical"),
        (["--ini_hihg", "40"], "did you mean --ini_high?"),
        (["stray"], "'stray' belongs to no option"),
        (["--ini_high"], "expected one argument"),
        (["--ini_high", "low"], "ini_high: "),
        (["--pad", "3"], "pad must be at most 2"),
        (["--cpu", "--gpu", "0"], "exclude each other"),
        (["--oversampling", "2"], "not supported"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refine", *BASE, *words]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_harmless_values_of_unsupported_options_are_accepted() -> None:
    _, notices = refine_params([*BASE, "--K", "1", "--oversampling", "1", "--relax_sym", ""])
    assert len(notices) == 3
    assert all("is without effect" in notice for notice in notices)


def test_every_option_of_the_program_is_known() -> None:
    """Options printed by relion_refine --help (3.1.3) that an auto-refinement of particles can be given."""
    program = shlex.split("""
        i o iter tau2_fudge K particle_diameter zero_mask flatten_solvent solvent_mask solvent_mask2
        lowpass_mask lowpass tau local_symmetry split_random_halves low_resol_join_halves ref denovo_3dref
        offset firstiter_cc ini_high oversampling healpix_order psi_step limit_tilt sym relax_sym offset_range
        offset_step perturb auto_refine auto_local_healpix_order sigma_ang sigma_rot sigma_tilt sigma_psi
        skip_align skip_rotate bimodal_psi helix fourier_mask ctf pad_ctf ctf_intact_first_peak
        ctf_corrected_ref ctf_phase_flipped only_flip_phases norm scale no_norm no_scale sgd stochastic_em pool
        j dont_combine_weights_via_disc onthefly_shifts no_parallel_disc_io preread_images scratch_dir
        keep_free_scratch reuse_scratch keep_scratch fast_subsets gpu free_gpu_memory pad ref_angpix NN r_min_nn
        verb random_seed coarse_size adaptive_fraction maskedge fix_sigma_noise fix_sigma_offset incr_size
        strict_highres_exp strict_lowres_exp dont_check_norm always_cc solvent_correct_fsc skip_maximize
        failsafe_threshold external_reconstruct auto_iter_max auto_ignore_angles auto_resol_angles
        allow_coarser_sampling trust_ref_size maxsig skip_gridding continue mu sgd_ini_iter sgd_skip_anneal
        helical_nstart helical_outer_diameter helical_symmetry_search
    """)
    known = make_parser(REFINE)._option_string_actions
    assert [name for name in program if f"--{name}" not in known] == []


@pytest.mark.parametrize("name", list(JOBS))
def test_help_of_every_job(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"autorefine {name}" in capsys.readouterr().out


def test_help_names_the_field_of_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["postprocess", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--filter_edge_width N Edge of that filter. Shells." in text
    assert "--mtf FILE MTF of the detector. STAR file; empty: none." in text
    assert "--j N, --threads N Threads; 0: all cores." in text


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in JOBS)
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main([]) == 2
    assert main(["refin"]) == 2
    assert "did you mean refine" in capsys.readouterr().err


def test_a_command_line_reads_back_as_the_same_parameters() -> None:
    params, _ = refine_params([*FROM_RELION, "--no-firstiter-cc", "--solvent_mask", "my mask.mrc"])
    again, _ = refine_params(shlex.split(command_line("refine", params))[2:])
    assert again == params


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("The map is odd."), 2, "autorefine: The map is odd.\n"),
        (KeyboardInterrupt(), 130, "autorefine: Interrupted.\n"),
        (KeyboardInterrupt("Go on."), 130, "autorefine: Interrupted. Go on.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out/run"), 2, "No space is left"),
        (PermissionError(errno.EACCES, "Permission denied", "out/run"), 2, "No permission"),
        (OSError(errno.EIO, "Input/output error", "a.mrcs"), 2, "Input/output error (a.mrcs)"),
        (MemoryError("Unable to allocate 29 TiB"), 2, "too little memory for this job"),
    ],
)
def test_exit_status(
    error: BaseException, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(params: object) -> Iterator[Event]:
        yield Message(text="began")
        raise error

    fake = SimpleNamespace(
        name="refine",
        title="Fake",
        positional="",
        params=lambda: RefineParams,
        function=lambda: job,
        foreign_options=dict,
    )
    monkeypatch.setitem(cli.JOBS, "refine", fake)
    assert main(["refine", *BASE]) == status
    captured = capsys.readouterr()
    assert captured.out == "began\n"
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_a_request_to_end_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(_: object) -> Iterator[Event]:
        yield Message(text="begun")
        os.kill(os.getpid(), signal.SIGTERM)
        yield Message(text="not reached")

    job = SimpleNamespace(function=lambda: terminated)
    monkeypatch.setitem(cli.JOBS, "refine", job)
    monkeypatch.setattr(cli, "parse", lambda *_: (None, []))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["refine"]) == 130
    assert capsys.readouterr().err == "autorefine: Interrupted.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_parameter_without_a_flag_may_have_one() -> None:
    """As the command lines in records of jobs have it."""
    words = ["--folder", "refine", "--o", "report.html"]
    params, _ = parse(JOBS["report"], words)
    assert params == parse(JOBS["report"], ["refine", "--o", "report.html"])[0]
    assert params == parse(JOBS["report"], ["--o", "report.html", "--folder=refine"])[0]
    line = command_line("report", params).split()
    assert parse(JOBS["report"], line[2:])[0] == params
