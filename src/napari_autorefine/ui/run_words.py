"""What is said of a refinement and its iterations, in the headline and in the log."""

from __future__ import annotations

import math
from pathlib import Path

from napari_autorefine.ui.run_steps import Step


def run_name(prefix: Path) -> str:
    """Return the last parts of a run's name: ``Refine3D/job012/run``."""
    return "/".join(prefix.parts[-3:])


def step_words(step: Step) -> list[str]:
    """Return the numbers of an iteration for one line."""
    words = [step.title]
    if math.isfinite(step.resolution_A):
        words.append(f"<b>{step.resolution_A:.2f} Å</b>")
    if math.isfinite(step.angular_step_deg):
        words.append(f"step {step.angular_step_deg:.3g}° {'local' if step.is_local else 'global'}")
    if math.isfinite(step.accuracy_rot_deg):
        words.append(f"accuracy {step.accuracy_rot_deg:.2g}° / {step.accuracy_trans_A:.2g} Å")
    if math.isfinite(step.change_rot_deg):
        words.append(f"changes {step.change_rot_deg:.2g}° / {step.change_trans_A:.2g} Å")
    return words


def step_text(step: Step) -> str:
    """Return one line on an iteration, for the log."""
    title = "Last iteration" if step.is_final else f"Iteration {step.number}"
    parts = [f"{step.resolution_A:.2f} Å" if step.resolution_A > 0 else "no resolution yet"]
    if step.angular_step_deg > 0:
        parts.append(f"step {step.angular_step_deg:.3g}° {'local' if step.is_local else 'global'}")
    if step.accuracy_rot_deg > 0:
        parts.append(f"accuracy {step.accuracy_rot_deg:.2g}° / {step.accuracy_trans_A:.2g} Å")
    if step.change_rot_deg > 0:
        parts.append(f"changes {step.change_rot_deg:.2g}° / {step.change_trans_A:.2g} Å")
    return f"{title}: {', '.join(parts)}."
