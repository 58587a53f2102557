"""Good files, what reads them, and the rules that reading a damaged one must keep."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import write_particle_set
from oracles.micrographs import make_micrographs
from oracles.mutations import mutated
from oracles.report_folders import postprocessing
from oracles.tomo_files import write_tomo_files

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, Message, Progress
from napari_autorefine.io.atoms import read_model
from napari_autorefine.io.micrograph_tables import read_coordinate_file, read_micrographs
from napari_autorefine.io.micrographs import open_micrograph
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.mtf import read_mtf
from napari_autorefine.io.runs import read_run
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tomo_inputs import gather_files, read_tomo_inputs
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.continuing import resumed, saved_state
from napari_autorefine.jobs.info import describe_file
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, StateChanged, TimedEvent, from_line, to_line
from napari_autorefine.jobs.job_folder import JobFolder, JobInfo, JobStatus
from napari_autorefine.jobs.record import output_of, read_record
from napari_autorefine.jobs.report_read import read_run as read_run_of_report
from napari_autorefine.jobs.report_read import runs_of
from napari_autorefine.jobs.saved_params import load_parameters
from napari_autorefine.params import make_params

MEMORY_BYTES = 1 << 30
SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that reads files.

    ``read`` gets ``main``; ``files`` are those that are damaged, one at a time; ``writes`` is the one folder, relative
    to ``root``, that may change.
    """

    name: str
    root: Path
    main: Path
    files: tuple[Path, ...]
    read: Callable[[Path], Any]
    writes: str = ""


class Rule(AssertionError):
    """A damaged file broke a rule."""


def kind_of(path: Path) -> str:
    """Return how a file is damaged."""
    if path.suffix in {".mrc", ".mrcs", ".map"}:
        return "mrc"
    return "json" if path.suffix in {".json", ".jsonl"} else "text"


def damage(target: Target, dice: random.Random) -> tuple[Path, bytes]:
    """Choose one of the files of a target and return it with damaged content."""
    path = dice.choice(target.files)
    return path, mutated(path.read_bytes(), kind_of(path), dice)


def check(target: Target, path: Path, content: bytes) -> bool:
    """Read a target with one damaged file; return whether it was refused.

    Raises
    ------
    Rule
        Reading ended by anything but an InputError of one sentence, took too long or too much memory, or changed a
        file outside of the output folder.
    """
    good = path.read_bytes()
    before = _seen(target)
    path.write_bytes(content)
    began = time.monotonic()
    try:
        with _bounds():
            warnings.simplefilter("error")
            target.read(target.main)
        return False
    except InputError as error:
        if not str(error).isprintable() or not 10 < len(str(error)) < 12_000:
            raise Rule(f"{target.name}: not a sentence: {str(error)[:300]!r}") from error
        return True
    except Exception as error:
        raise Rule(f"{target.name}, {path.name}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        seconds = time.monotonic() - began
        path.write_bytes(good)
        if target.writes:
            shutil.rmtree(target.root / target.writes, ignore_errors=True)
        if _seen(target) != before:
            raise Rule(f"{target.name}, {path.name}: files outside of the output folder have changed")
        if seconds > SECONDS:
            raise Rule(f"{target.name}, {path.name}: took {seconds:.1f} s")


def _seen(target: Target) -> list[tuple[str, int]]:
    """Return all files of and around a target's folder that it must leave alone."""
    if not target.writes:
        return []
    around = target.root.parent
    inside = target.root / target.writes
    return sorted(
        (str(path), path.stat().st_size)
        for path in around.rglob("*")
        if path != inside and inside not in path.parents and path.is_file()
    )


@contextlib.contextmanager
def _bounds() -> Iterator[None]:
    """Limit time and, where the system can, memory."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        with contextlib.suppress(ImportError):
            import resource

            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_AS, (soft, hard))
        if hasattr(signal, "setitimer"):
            earlier = signal.signal(signal.SIGALRM, _too_long)
            stack.callback(signal.signal, signal.SIGALRM, earlier)
            signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        yield


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done after {2 * SECONDS:.0f} s")


def targets(root: Path, *, has_runs: bool = True) -> tuple[Target, ...]:
    """Write good files of every kind below ``root`` and return what reads them; those of a refinement on request."""
    runs = _run(root) if has_runs else ()
    return (*_spa(root), *_tomo(root), *_micrographs(root), *runs, *_records(root), *_other(root))


def file_targets(root: Path, files: Iterable[Path]) -> tuple[Target, ...]:
    """Return targets for copies of single files from elsewhere."""
    found = []
    for number, path in enumerate(files):
        copy = root / f"copy{number:03d}" / path.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
        read = _any_map if kind_of(copy) == "mrc" else _any_star
        found.append(Target(name=f"file:{path.name}", root=copy.parent, main=copy, files=(copy,), read=read))
    return tuple(found)


def _any_map(path: Path) -> None:
    _all(lambda: describe_file(str(path)), lambda: read_data(path), lambda: read_volume(path))


def _any_star(path: Path) -> None:
    _all(
        lambda: describe_file(str(path)),
        lambda: read_star(path),
        lambda: read_particles(path, project_dir=path.parent),
        lambda: load_parameters(path),
        lambda: read_micrographs(path),
        lambda: read_coordinate_file(path),
        lambda: gather_files(path, {}),
    )


def _all(*readers: Callable[[], Any]) -> None:
    """Call all readers; those for other kinds of files may refuse."""
    for reader in readers:
        with contextlib.suppress(InputError):
            reader()


def _spa(root: Path) -> tuple[Target, ...]:
    folder = root / "spa" / "in"
    folder.mkdir(parents=True)
    made = write_particle_set(folder)

    def images(path: Path) -> None:
        particles = read_particles(path, project_dir=folder)
        ParticleStack(particles, star_path=path, project_dir=folder).read(range(min(len(particles), 12)))

    refine = {"particles": str(made.star), "reference": str(made.reference), "output": str(root / "spa/in/out/run")}
    return (
        Target(
            name="particles",
            root=folder,
            main=made.star,
            files=(made.star, made.star, made.star, made.stacks[0]),
            read=images,
        ),
        Target(name="map", root=folder, main=made.reference, files=(made.reference,), read=_any_map),
        Target(
            name="refine, inputs",
            root=folder,
            main=made.star,
            files=(made.star, made.reference, made.stacks[1]),
            read=lambda path: _load_refine(refine | {"particle_diameter_A": 30.0}, path),
        ),
    )


def _load_refine(values: dict[str, Any], path: Path) -> None:
    from napari_autorefine.jobs.refine_inputs import load_inputs
    from napari_autorefine.jobs.refine_params import RefineParams

    load_inputs(make_params(RefineParams, values | {"particles": str(path)}), None)


def _tomo(root: Path) -> tuple[Target, ...]:
    found = []
    for form in ("2d", "3d"):
        folder = root / f"tomo_{form}"
        folder.mkdir(parents=True)
        made = write_tomo_files(folder, form)

        def read(path: Path, folder: Path = folder) -> None:
            inputs = read_tomo_inputs(gather_files(path, {}), project_dir=folder)
            inputs.images.read(0 if inputs.particles.form == "tilt_stack" else [0])  # type: ignore[arg-type]

        stars = (made.star, made.star, made.tomograms, made.optimisation_set, folder / "tilts" / "TS_1.star")
        image = folder / ("0.mrcs" if form == "2d" else "0_w.mrc")
        found.append(
            Target(name=f"tomo {form}", root=folder, main=made.optimisation_set, files=(*stars, image), read=read)
        )
    return (*found, _subtomo(root))


def _subtomo(root: Path) -> Target:
    """The whole job, on tilt images of noise."""
    from napari_autorefine.io.mrc import write_stack

    folder = root / "subtomo" / "in"
    folder.mkdir(parents=True)
    made = write_tomo_files(folder, "2d")
    noise = np.random.default_rng(1).standard_normal((5, 40, 40)).astype(np.float32)
    for name in ("TS_1", "TS_2"):
        write_stack(folder / f"{name}.mrcs", noise, 4.0)
    values = {"particles": str(made.star), "tomograms": str(made.tomograms), "output": str(folder / "out")}
    more = {"box_size_px": 16, "threads": 1, "overwrite": True}
    return Target(
        name="subtomo",
        root=folder,
        main=made.star,
        files=(made.star, made.tomograms, folder / "tilts" / "TS_1.star"),
        read=lambda _: run_job("subtomo", values | more, folder),
        writes="out",
    )


def run_job(name: str, values: dict[str, Any], folder: Path) -> None:
    """Run a job to its end with ``folder`` as working directory."""
    job = JOBS[name]
    with contextlib.chdir(folder):
        for _event in job.function()(make_params(job.params(), values)):
            pass


def _micrographs(root: Path) -> tuple[Target, ...]:
    folder = root / "extract" / "in"
    folder.mkdir(parents=True)
    made = make_micrographs(folder)
    micrograph = folder / "Motion" / "job002" / "Movies" / "a.mrc"
    first = {
        "micrographs": made.star,
        "coord_dir": str(folder / "picks"),
        "coord_suffix": "_pick.star",
        "output": str(folder / "out"),
        "box_size_px": 32,
        "threads": 1,
    }
    again = {name: value for name, value in first.items() if not name.startswith("coord")}
    star, picks = Path(made.star), folder / "picks" / "Movies" / "a_pick.star"
    return (
        Target(
            name="extract",
            root=folder,
            main=star,
            files=(star, star, picks, micrograph),
            read=lambda _: run_job("extract", first, folder),
            writes="out",
        ),
        Target(
            name="re-extract",
            root=folder,
            main=star,
            files=(star, Path(made.refined)),
            read=lambda _: run_job("extract", again | {"refined_particles": made.refined}, folder),
            writes="out",
        ),
        Target(
            name="micrograph",
            root=folder,
            main=micrograph,
            files=(micrograph,),
            read=lambda path: open_micrograph(path).read(),
        ),
    )


def _run(root: Path) -> tuple[Target, ...]:
    """Two iterations of a refinement, its folder as a report and a continuation read it."""
    folder = root / "run" / "in"
    folder.mkdir(parents=True)
    made = write_particle_set(folder)
    values = {
        "particles": str(made.star),
        "reference": str(made.reference),
        "output": "run",
        "particle_diameter_A": 30.0,
        "max_iterations": 1,
        "threads": 1,
        "random_seed": 1,
        "cpu": True,
    }
    run_job("refine", values, folder)
    begin = str(folder / "run_it001_")
    optimiser = Path(f"{begin}optimiser.star")
    files = [optimiser, *(Path(f"{begin}{name}.star") for name in ("half1_model", "half2_model", "sampling", "data"))]

    def resume(path: Path) -> None:
        from napari_autorefine.jobs.refine_params import RefineParams

        with contextlib.chdir(folder):
            saved_state(read_run(path))
            resumed(RefineParams(continue_from=str(path)))

    def report(_path: Path) -> None:
        for one in runs_of(folder):
            for _ in read_run_of_report(one):
                pass
        output_of(folder, "particles")

    record = folder / "run_params.json"
    return (
        Target(
            name="resume",
            root=folder,
            main=optimiser,
            files=(*files, record, Path(f"{begin}half1_class001.mrc")),
            read=resume,
        ),
        Target(name="report", root=folder, main=optimiser, files=(*files, record), read=report),
        Target(name="record", root=folder, main=record, files=(record,), read=_parameters),
    )


def _parameters(path: Path) -> None:
    saved = load_parameters(path)
    make_params(JOBS[saved.job].params(), {"output": "run", **saved.values})


def _records(root: Path) -> tuple[Target, ...]:
    folder = root / "records"
    folder.mkdir()
    job = folder / "job.star"
    options = {"fn_img": "p.star", "fn_ref": "r.mrc", "sym_name": "C1", "ini_high": "50", "particle_diameter": "200"}
    options |= {"sampling": '"7.5 degrees"', "offset_range": "5", "do_pad1": "No", "use_gpu": "No", "gpu_ids": ""}
    rows = "\n".join(f"{name} {value or chr(34) * 2}" for name, value in options.items())
    job.write_text(
        "# version 50001\n\ndata_job\n\n_rlnJobTypeLabel relion.refine3d\n_rlnJobIsContinue 0\n\n"
        f"data_joboptions_values\n\nloop_\n_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n{rows}\n"
    )
    lines = folder / "events.jsonl"
    progress = Progress(stage="expectation", done=3, total=9, iteration=2, seconds_left=4.5)
    numbers = {name: 1.0 for name in IterationWritten.__dataclass_fields__ if name.endswith(("_A", "_deg", "seconds"))}
    iteration = IterationWritten(
        **numbers,
        **{"iteration": 2, "is_final": False, "fsc": (1.0, 0.5), "healpix_order": 2, "is_local": False},  # type: ignore[arg-type]
        **{"mean_p_max": 0.5, "current_size": 12, "files": {"half1": "a.mrc"}},  # type: ignore[arg-type]
    )
    events = (progress, Message(text="So."), StateChanged(state="paused"), iteration, Finished(text="x"))
    ended = JobEnded(state="finished", text="Done.")
    lines.write_text("".join(to_line(TimedEvent(time=1.5, event=event)) + "\n" for event in (*events, ended)))
    state = JobFolder(folder / ".run_job")
    state.clear()
    state.write_info(
        JobInfo(job="refine", output="run", parameters={}, command="x", workdir=".", version="1", started=1.0, pid=1)
    )
    state.write_state(JobStatus(state="running"))
    info, written = state.path / "job.json", state.path / "state.json"
    return (
        Target(name="job.star", root=folder, main=job, files=(job,), read=_parameters),
        Target(name="event lines", root=folder, main=lines, files=(lines,), read=_events),
        Target(name="job folder", root=folder, main=info, files=(info, written), read=lambda _: state.status()),
    )


def _events(path: Path) -> None:
    """Events that are understood can be shown."""
    from napari_autorefine.terminal import iteration_block, progress_line

    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        timed = from_line(line)
        if timed is None:
            continue
        if isinstance(timed.event, Progress):
            progress_line(timed.event, 1.0)
        if isinstance(timed.event, IterationWritten):
            iteration_block(timed.event)  # type: ignore[arg-type]
        json.loads(to_line(timed))


def _other(root: Path) -> tuple[Target, ...]:
    folder = root / "other"
    mtf = folder / "mtf.star"
    postprocess = postprocessing(folder)
    mtf.write_text(
        "data_mtf\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n0 1\n0.25 0.8\n0.5 0.4\n", encoding="utf-8"
    )
    atoms = folder / "model.pdb"
    atoms.write_text(
        "".join(
            f"ATOM  {n:5d}  CA  ALA A{n:4d}    {n:8.3f}{0.0:8.3f}{1.0:8.3f}  1.00 10.00           C  \n"
            for n in range(1, 20)
        )
    )
    star = postprocess / "postprocess.star"
    return (
        Target(name="mtf", root=folder, main=mtf, files=(mtf,), read=read_mtf),
        Target(name="atoms", root=folder, main=atoms, files=(atoms,), read=read_model),
        Target(name="postprocess", root=folder, main=star, files=(star,), read=lambda path: describe_file(str(path))),
        Target(name="output of folder", root=folder, main=star, files=(star,), read=lambda _: _folder(folder)),
    )


def _folder(folder: Path) -> None:
    for path in folder.glob("*_params.json"):
        read_record(path)
