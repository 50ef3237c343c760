"""How sessions close when something hangs: this tree beside the published package, in one run.

    make bench-closing                   all scenarios, then 1 to 1000 sessions at once
    make bench-closing ARGS="tool sink"  some scenarios only
    make bench-closing ARGS=--keep       also put the table and the plot into docs/

Each run is a process of its own that sees public API only (`hangs.py`). The published package lives
in a venv of its own and is run as it is; so does matplotlib. A session that has not closed after
the patience of the run, 12 s (32 s for a thousand), counts as never closed. Writes table.md,
results.json, plot.png and plot.svg to out/bench-closing/.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hangs import HANGS, MIXED_TITLE, PATIENCE
from published import PUBLISHED
from run import HERE, measure as measure_scenario, published_or_none

ROOT = HERE.parent
OUT = ROOT / "out" / "bench-closing"
PLOT_VENV = ROOT / ".bench" / "plot"
DOCS = ROOT / "docs"

OURS, THEIRS = "this tree", PUBLISHED.replace("==", " ")
COUNTS = [1, 10, 100, 1000]
CROWDS = {"clean": COUNTS, "tool": COUNTS, "playout": COUNTS, "mixed": [100, 1000]}
"""Scenarios that are also tried with many sessions in one process."""

SIDE_BY_SIDE = 5
"""Scenarios with one session that are measured at the same time: nearly all of it is waiting."""

Run = dict[str, Any]
Results = dict[str, Any]


def measure(python: Path | str, name: str, count: int = 1) -> Run:
    """One run in a fresh process; what is missing when it failed reads as "never"."""
    lost = {"closed": 0, "of": count, "orphaned_streams": None, "median_s": None, "last_s": None}
    try:
        done = subprocess.run(
            [str(python), str(HERE / "hangs.py"), name, str(count), str(PATIENCE + count // 50)],
            capture_output=True,
            text=True,
            timeout=60 + PATIENCE + count * 0.5,
            check=False,
        )
        result: Run = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return {**lost, "failed": True}
    return result


def main() -> int:
    """Measure, then write and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="some scenarios, without the crowds")
    parser.add_argument("--no-published", action="store_true", help="measure this tree only")
    parser.add_argument("--keep", action="store_true", help="update docs/ as well")
    options = parser.parse_args()
    pythons: dict[str, Path | str] = {OURS: sys.executable}
    if not options.no_published and (published := published_or_none()):
        pythons[THEIRS] = published
    wanted = options.scenarios or list(HANGS)
    results: Results = {"patience_s": PATIENCE, "scenarios": {}, "crowds": {}, "clean_close": {}}
    jobs = [(name, package) for name in wanted for package in pythons]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        runs = pool.map(lambda job: measure(pythons[job[1]], job[0]), jobs)
        for (name, package), run in zip(jobs, runs, strict=True):
            results["scenarios"].setdefault(name, {})[package] = run
            print(f"{package}: {HANGS[name].title}: {verdict(run)}", file=sys.stderr)
    if not options.scenarios:
        measure_crowds(pythons, results)
    OUT.mkdir(parents=True, exist_ok=True)
    text = table(results, list(pythons))
    print(text)
    (OUT / "table.md").write_text(text)
    (OUT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if not options.scenarios:
        plot()
        if options.keep:
            keep()
    return 0


def measure_crowds(pythons: dict[str, Path | str], results: Results) -> None:
    """Many sessions in one process, one process at a time."""
    for package, python in pythons.items():
        results["clean_close"][package] = measure_scenario(python, "clean_close")
    for name in CROWDS:
        for count in CROWDS[name]:
            for package, python in pythons.items():
                run = measure(python, name, count)
                results["crowds"].setdefault(name, {}).setdefault(package, []).append(run)
                print(f"{package}: {count} x {name_of(name)}: {verdict(run)}", file=sys.stderr)


# -- the table -------------------------------------------------------------------------------------


def seconds(value: float | None) -> str:
    """Three digits, in the unit that reads best."""
    if value is None or math.isnan(value):
        return "–"
    if value < 0.1:
        return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.1f} ms"
    return f"{value:.2f} s"


def name_of(name: str) -> str:
    """What a scenario is called."""
    return HANGS[name].title if name in HANGS else MIXED_TITLE


def verdict(run: Run) -> str:
    """When it closed, and what is wrong with that."""
    if run.get("failed"):
        return "failed"
    notes = []
    if run["orphaned_streams"] and unstoppable(run):
        notes.append("left behind")
    elif run["orphaned_streams"]:
        notes.append(f"{run['orphaned_streams']} orphaned")
    if run["closed"] < run["of"]:
        missing = run["of"] - run["closed"]
        head = "**never**" if run["of"] == 1 else f"**{missing} of {run['of']} never**"
        return ", ".join([head, *notes])
    if run.get("never_returned"):
        notes.append("aclose() never returned")
    if run["close_events"] != run["of"]:
        notes.append(f"{run['close_events']} close events")
    if run["of"] == 1 and not run["restarts"]:
        notes.append("can't start again")
    if run["of"] >= 100 and run.get("cpu_s") is not None:
        notes.insert(0, f"CPU {run['cpu_s']:.1f} s")
    return ", ".join([seconds(run["last_s"]), *notes])


def table(results: Results, packages: list[str]) -> str:
    """Everything as Markdown."""
    head = f"| | {' | '.join(packages)} |\n|---|{'---:|' * len(packages)}\n"
    lines = [f"### What hangs, and when the session closes\n\n{head}"]
    for runs in results["scenarios"].values():
        title = runs[OURS].get("title", "?")
        lines.append(f"| {title} | {' | '.join(verdict(runs[p]) for p in packages)} |\n")
    total = [
        f"{sum(good(runs[p]) for runs in results['scenarios'].values())} of "
        f"{len(results['scenarios'])}"
        for p in packages
    ]
    lines.append(f"| **closed, nothing orphaned, starts again** | {' | '.join(total)} |\n")
    if not results["crowds"]:
        return "".join(lines)
    clean = [seconds(results["clean_close"][p].get("median_ms", math.nan) / 1000) for p in packages]
    lines.append(f"| *clean close, median of 20 in a row* | {' | '.join(clean)} |\n")
    lines.append(f"\n### Many sessions in one process: when the last one closes\n\n{head}")
    for name, by_package in results["crowds"].items():
        for index, count in enumerate(CROWDS[name]):
            cells = " | ".join(verdict(by_package[p][index]) for p in packages)
            lines.append(f"| {count} x {name_of(name)} | {cells} |\n")
    return "".join(lines)


def unstoppable(run: Run) -> bool:
    """Code that ignores its cancellation can be left behind, but not ended by anyone."""
    return bool(run["how"] == "ignores" and run["closed"] == run["of"])


def good(run: Run) -> bool:
    """Closed, once, with all calls back, nothing orphaned, and able to start again."""
    return (
        not run.get("failed")
        and run["closed"] == run["close_events"] == run["of"]
        and not run["never_returned"]
        and (not run["orphaned_streams"] or unstoppable(run))
        and run["restarts"]
    )


# -- the plot --------------------------------------------------------------------------------------


def plot() -> None:
    """Draw results.json, with matplotlib from a venv of its own."""
    python = PLOT_VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLOT_VENV)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "matplotlib>=3.9,<4"], check=True
        )
    subprocess.run([str(python), str(HERE / "closing_plot.py"), str(OUT)], check=True)


def keep() -> None:
    """Put table and plot where docs/closing.md shows them."""
    (DOCS / "images").mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        shutil.copyfile(OUT / f"plot.{kind}", DOCS / "images" / f"closing-benchmark.{kind}")
    title = "# How sessions close when something hangs\n\n"
    note = (
        "Written by `make bench-closing ARGS=--keep`. See [closing.md](closing.md). A session that "
        f"has not closed after {PATIENCE:.0f} s (a thousand: 32 s) counts as never closed. "
        "CPU is the processor time from the request to the last close; on a busy machine it says more "
        "than the time on the clock.\n\n"
        "![time to close and orphans](images/closing-benchmark.svg)\n\n"
    )
    (DOCS / "closing-benchmark.md").write_text(title + note + (OUT / "table.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
