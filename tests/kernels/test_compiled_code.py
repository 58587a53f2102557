"""Compiled code is kept on disc by the content of the file it stands in: it must change with what goes into it."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import napari_autorefine

ROOT = Path(napari_autorefine.__file__).parent
N_DIGIT = 12


def compiled_names(tree: ast.Module) -> set[str]:
    """Names of a module that are compiled by numba, or go into compiled code."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if any("jit" in ast.unparse(d) or "intrinsic" in ast.unparse(d) for d in node.decorator_list):
                names.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(("_interpolation(", "intrinsic(")):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def needed_marks() -> list[tuple[Path, Path]]:
    """Files with compiled code, and the files that they take compiled functions from."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
    found = []
    for path, tree in trees.items():
        if not compiled_names(tree):
            continue
        for node in tree.body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("napari_autorefine."):
                continue
            source = ROOT.joinpath(*(node.module or "").split(".")[1:]).with_suffix(".py")
            if source in trees and compiled_names(trees[source]) & {alias.name for alias in node.names}:
                found.append((path, source))
    return found


def test_files_bear_the_mark_of_what_goes_into_their_compiled_code() -> None:
    marks = needed_marks()
    assert {path.name for path, _ in marks} >= {"project.py", "backproject.py"}
    for path, source in marks:
        mark = hashlib.sha256(source.read_bytes()).hexdigest()[:N_DIGIT]
        assert f'"{mark}"' in path.read_text(encoding="utf-8"), f'{path.name}: the mark of {source.name} is "{mark}"'
