"""Read damaged files for as long as wanted: ``python benchmarks/fuzz.py --minutes 10``.

Thousands of copies of small good files, and of those in ``--more FOLDER``, are damaged at random and read. Each must be
read or refused in one sentence, within bounds of time and memory, and without a change outside of the output folder.
What breaks these rules is kept in ``--keep`` with the rule in its name. ``--atheris`` lets coverage lead the damage,
where that package is installed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

if "--atheris" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["napari_autorefine.io"]):
        import napari_autorefine.io.tomo_inputs  # noqa: F401

from oracles.fuzzing import Rule, Target, check, damage, file_targets, targets

_LARGEST = 60_000


def main() -> int:
    """Run; return 1 when a rule was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--more", type=Path, help="folder with more STAR and MRC files")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_found"))
    parser.add_argument("--atheris", action="store_true", help="damage led by coverage, STAR and MRC readers only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = _chosen(Path(folder), options)
        if options.atheris:
            return _led_by_coverage(chosen, options)
        return _at_random(chosen, options)


def _chosen(folder: Path, options: argparse.Namespace) -> list[Target]:
    found = list(targets(folder / "own", has_runs=not options.atheris))
    if options.more:
        paths = [path for ending in ("*.star", "*.mrc*", "*.map") for path in sorted(options.more.rglob(ending))]
        found += file_targets(folder / "more", [path for path in paths if path.stat().st_size < _LARGEST])
    return [target for target in found if options.only in target.name]


def _at_random(chosen: list[Target], options: argparse.Namespace) -> int:
    dice, end = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    done, refused, broken, slowest = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    while time.monotonic() < end:
        target = dice.choice(chosen)
        path, content = damage(target, dice)
        kind = target.name.partition(":")[0]
        began = time.monotonic()
        try:
            refused[kind] += check(target, path, content)
        except Rule as rule:
            broken[_place(rule)] += 1
            if broken[_place(rule)] == 1:
                _report(rule, path, content, options.keep, sum(broken.values()))
        done[kind] += 1
        slowest[kind] = max(slowest[kind], time.monotonic() - began)
    for kind, count in sorted(done.items()):
        print(f"{kind:20} {count:7} files, {refused[kind]:7} refused, slowest {slowest[kind]:.2f} s")
    print(f"{sum(done.values())} files, {sum(refused.values())} refused; {len(broken)} places broke a rule")
    for place, count in broken.most_common():
        print(f"{count:6} {place}")
    return int(bool(broken))


def _place(rule: Rule) -> str:
    """Return where in the package an error came from."""
    cause = rule.__cause__
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "napari_autorefine" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(cause).__name__} {where} {str(rule)[:160]}" if not where else f"{type(cause).__name__} {where}"


def _report(rule: Rule, path: Path, content: bytes, keep: Path, number: int) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{number:04d}_{path.name}").write_bytes(content)
    print(f"--- {number:04d} {rule}")
    cause = rule.__cause__
    for frame in traceback.extract_tb(cause.__traceback__)[-4:] if cause is not None else ():
        print(f"      {frame.filename}:{frame.lineno} {frame.line}")
    sys.stdout.flush()


def _led_by_coverage(chosen: list[Target], options: argparse.Namespace) -> int:
    """Let libFuzzer choose the damage of the first file of one target (``--only NAME``)."""
    target = chosen[0]
    print(f"{target.name}: {target.main.name}")
    corpus = target.root.parent / "corpus"
    corpus.mkdir(exist_ok=True)
    (corpus / "0").write_bytes(target.files[0].read_bytes())

    def one(data: bytes) -> None:
        check(target, target.files[0], data)

    arguments = [sys.argv[0], f"-max_total_time={round(60 * options.minutes)}", "-max_len=20000", str(corpus)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
