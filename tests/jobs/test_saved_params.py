"""Parameters from RELION's job.star and from records of our own jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.rebox import ReboxParams
from napari_autorefine.jobs.record import write_record
from napari_autorefine.jobs.saved_params import load_parameters

SEED = """
# version 30001

data_job

_rlnJobTypeLabel             relion.refine3d
_rlnJobIsContinue                       0

data_joboptions_values

loop_
_rlnJobOptionVariable #1
_rlnJobOptionValue #2
auto_faster        Yes
auto_local_sampling "1.8 degrees"
do_blush        Yes
do_combine_thru_disc         Yes
do_ctf_correction        Yes
  do_helix         No
do_pad1         No
    fn_img Extract/job017/particles.star
   fn_mask         ""
    fn_ref ReboxRescale/job018/selected_class_reboxed_rescaled.mrc
   gpu_ids    0:1
  ini_high         50
    new_key        one
   nr_pool         30
nr_threads          6
offset_step          1
particle_diameter        200
ref_correct_greyscale         No
  sampling 7.5__degrees
scratch_dir $NOT_SET_ANYWHERE
  sym_name         D2
   use_gpu         No

data_joboptions_full_definition

loop_
_rlnJobOptionVariable #1
auto_faster this table	breaks "the rules
"""


def test_a_job_of_the_tutorial_becomes_parameters(tmp_path: Path) -> None:
    path = tmp_path / "job.star"
    path.write_text(SEED)
    saved = load_parameters(path)
    assert saved.job == "refine"
    assert saved.values == {
        "auto_ignore_angles": True,
        "auto_resol_angles": True,
        "auto_local_healpix_order": 4,
        "ctf": True,
        "pad": 2,
        "particles": "Extract/job017/particles.star",
        "mask": None,
        "reference": "ReboxRescale/job018/selected_class_reboxed_rescaled.mrc",
        "ini_high_A": 50.0,
        "offset_step_px": 2.0,
        "particle_diameter_A": 200.0,
        "firstiter_cc": True,
        "healpix_order": 2,
        "symmetry": "D2",
        "cpu": True,
    }
    assert [note.split(" = ")[0] for note in saved.notes] == ["do_blush", "new_key", "scratch_dir"]


def test_records_and_other_files(tmp_path: Path) -> None:
    params = ReboxParams(input="a.mrc", output="b.mrc", new_box=12)
    saved = load_parameters(write_record(tmp_path / "b", "rebox", params, {}))
    assert saved.job == "rebox" and saved.values["new_box"] == 12 and not saved.notes
    for text, said in [
        (SEED.replace("refine3d", "class2d"), "type relion.class2d"),
        ("data_\n", "not a job.star"),
        ("{}", "not the record"),
    ]:
        (tmp_path / "other").write_text(text)
        with pytest.raises(InputError, match=said):
            load_parameters(tmp_path / "other")


def test_jobs_of_every_relion_are_read(shared_data: Path) -> None:
    cases = {
        "star/relion3.1_tutorial/Refine3D/job019/job.star": ("refine", 0),
        "jobs/relion5_tutorial_Job019_Refine3D_first.star": ("refine", 1),
        "jobs/ccpem_default_relion_refine3d_job.star": ("refine", 0),
        "star/relion3.1_tutorial/MaskCreate/job020/job.star": ("mask", 0),
        "star/relion5_tomo_HIV/Refine3D/job023/job.star": ("refine", None),
    }
    for name, (job, n_note) in cases.items():
        saved = load_parameters(shared_data / name)
        assert saved.job == job
        assert n_note is None or len(saved.notes) == n_note, saved.notes
    tutorial = load_parameters(shared_data / "jobs/relion5_tutorial_Job019_Refine3D_first.star").values
    assert tutorial["scratch_dir"] == "/scratch" and tutorial["symmetry"] == "D2" and tutorial["ini_high_A"] == 50.0
