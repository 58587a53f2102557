from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from napari_autorefine.errors import InputError
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.rebox import ReboxParams
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.params import JobParams, Param, describe, make_params


class Toy(JobParams):
    path: Annotated[str, Param("Path", "A file.", flags=("i",))]
    step_A: Annotated[float, Param("Step", "A step.", unit="A", minimum=0, is_above_minimum=True)] = 1.0
    order: Annotated[int | None, Param("Order", "An order.", minimum=0, maximum=3)] = None
    sizes: Annotated[tuple[int, ...], Param("Sizes", "Some sizes.", minimum=2)] = ()
    is_on: Annotated[bool, Param("On", "A switch.")] = True


def test_describe_returns_plain_records() -> None:
    records = {record.name: record for record in describe(Toy)}
    assert records["path"].is_required
    assert records["path"].flags == ("i", "path")
    assert records["step_A"].flags == ("step", "step_A")
    assert records["order"].base_type is int
    assert records["order"].is_optional
    assert records["sizes"].is_sequence
    assert records["is_on"].relion_default is False


def test_plain_pydantic_fields_are_described_too() -> None:
    class Plain(BaseModel):
        n: int = Field(3, ge=1, le=9, description="How many.")

    (record,) = describe(Plain)
    assert (record.param.minimum, record.param.maximum, record.param.help) == (1, 9, "How many.")


def test_paths_are_taken_for_names_of_files(tmp_path: Path) -> None:
    values: dict[str, Any] = {"input": [tmp_path / "a.mrc", "b.mrc"], "output": tmp_path, "new_box": 8}
    params = ReboxParams(**values)
    assert params.maps == (str(tmp_path / "a.mrc"), "b.mrc")
    assert params.output == str(tmp_path)
    assert make_params(ReboxParams, values) == params


def test_parameters_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Toy(path="x").step_A = 2.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["i is missing"]),
        ({"path": "x", "step_A": 0}, ["step must be above 0"]),
        ({"path": "x", "order": 4}, ["order must be at most 3"]),
        ({"path": "x", "step_A": 0, "order": 4}, ["step must be above 0", "order must be at most 3"]),
        ({"path": "x", "sizes": (4, 1)}, ["sizes must be at least 2"]),
        ({"path": "x", "step_A": "wide", "order": "few"}, ["step: ", "'wide'", "order: ", "'few'"]),
        ({"path": "x", "color": 1}, ["color is not a parameter"]),
        ({"path": "x", "step_A": float("nan")}, ["step: "]),
    ],
)
def test_all_that_is_wrong_is_one_sentence(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make_params(Toy, values)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(JOBS))
def test_every_parameter_of_every_job_is_explained(name: str) -> None:
    for record in describe(JOBS[name].params()):
        assert record.param.label, record.name
        assert record.param.help.endswith("."), record.name


def test_json_reproduces_refine_parameters() -> None:
    params = RefineParams(particles="p.star", reference="r.mrc", output="o/run", symmetry="D2", ini_high_A=50)
    assert RefineParams.model_validate_json(params.model_dump_json()) == params


def test_refine_defaults_are_the_tutorials() -> None:
    params = RefineParams(particles="p.star", reference="r.mrc", output="o/run")
    assert (params.ini_high_A, params.particle_diameter_A, params.low_resol_join_halves_A) == (60.0, 200.0, 40.0)
    assert (params.healpix_order, params.auto_local_healpix_order) == (2, 4)
    assert (params.offset_range_px, params.offset_step_px) == (5.0, 2.0)
    assert params.firstiter_cc and params.ctf and params.zero_mask and params.norm and params.scale


@pytest.mark.parametrize(
    "name", ["ini_high_A", "particle_diameter_A", "low_resol_join_halves_A", "strict_highres_exp_A"]
)
def test_minus_one_is_off(name: str) -> None:
    params = RefineParams(particles="p.star", reference="r.mrc", output="o/run", **{name: -1})
    assert getattr(params, name) is None
