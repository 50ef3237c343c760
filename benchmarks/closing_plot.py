"""Draws the results of `closing.py`:  python closing_plot.py DIRECTORY

Left: each scenario with one session. Right: many sessions at once, time to close and orphans.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "closing"  # the same figures give the same file
from matplotlib import pyplot as plt  # noqa: E402 (after the choice of what draws)

OURS, THEIRS = "#1f6f8b", "#c8553d"
MARKS = {"tool": "o", "clean": "s"}
LABELS = {"tool": "a tool that sleeps", "clean": "nothing hangs"}


def draw(directory: Path) -> None:
    """Write plot.png and plot.svg beside results.json."""
    results = json.loads((directory / "results.json").read_text())
    packages = list(next(iter(results["scenarios"].values())))
    colours = dict(zip(packages, (OURS, THEIRS), strict=False))
    figure = plt.figure(figsize=(13, 10.5))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), wspace=0.22, hspace=0.28)
    scenarios(figure.add_subplot(grid[:, 0]), results, colours)
    crowds_time(figure.add_subplot(grid[0, 1]), results, colours)
    crowds_orphans(figure.add_subplot(grid[1, 1]), results, colours)
    figure.savefig(directory / "plot.svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(directory / "plot.png", bbox_inches="tight", dpi=110)


def plain(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.1f} s"


def scenarios(axes: Any, results: Any, colours: dict[str, str]) -> None:
    """One row per scenario: when the session closed, or that it never did."""
    patience = results["patience_s"]
    rows = list(results["scenarios"].values())
    for index, runs in enumerate(rows):
        for offset, (package, colour) in enumerate(colours.items()):
            run = runs[package]
            y = index + (offset - 0.5) * 0.36
            if run["closed"] == run["of"]:
                width = max(run["last_s"], 0.04)
                axes.barh(y, width, 0.32, color=colour)
                axes.text(
                    width + 0.08, y, seconds(run["last_s"]), fontsize=7, color=colour, va="center"
                )
            else:
                axes.barh(y, patience, 0.32, color=colour, alpha=0.18)
                axes.plot(patience, y, marker=">", color=colour, markersize=5, clip_on=False)
    axes.set_yticks(range(len(rows)), [runs[next(iter(colours))]["title"] for runs in rows])
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, patience)
    axes.set_xlabel(f"seconds until closed; an arrow: not within {patience:.0f} s")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    plain(axes, "One session, something hangs")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    axes.legend(
        handles,
        list(colours),
        loc="lower center",
        bbox_to_anchor=(0.3, 1.03),
        ncol=2,
        frameon=False,
    )


def crowds_time(axes: Any, results: Any, colours: dict[str, str]) -> None:
    """Time until the last session closed."""
    never = results["patience_s"] * 2.2
    for name, marker in MARKS.items():
        for package, colour in colours.items():
            runs = results["crowds"][name][package]
            counts = [run["of"] for run in runs]
            times = [run["last_s"] if run["closed"] == run["of"] else never for run in runs]
            line = "-" if name == "tool" else "--"
            axes.plot(counts, times, line, marker=marker, color=colour)
            axes.annotate(
                LABELS[name],
                (counts[0], times[0]),
                (4, 7) if name == "tool" else (8, -13),
                textcoords="offset points",
                color=colour,
                fontsize=9,
            )
    axes.axhline(never, color="grey", linewidth=0.6, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.002, never * 2.2)
    axes.set_yticks([0.01, 0.1, 1, 10, never], ["10 ms", "100 ms", "1 s", "10 s", "never"])
    axes.minorticks_off()
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    axes.set_xlabel("sessions closed at once in one process")
    plain(axes, "Time until the last one is closed")


def crowds_orphans(axes: Any, results: Any, colours: dict[str, str]) -> None:
    """Streams of models that nobody will ever close."""
    width = 0.36
    for offset, (package, colour) in enumerate(colours.items()):
        runs = results["crowds"]["tool"][package]
        for index, run in enumerate(runs):
            orphans = run["orphaned_streams"] or 0
            x = index + (offset - 0.5) * width
            axes.bar(x, max(orphans, 0.12), width * 0.9, color=colour)
            axes.annotate(
                str(orphans),
                (x, max(orphans, 0.12)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=colour,
            )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 4000)
    axes.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
    axes.minorticks_off()
    axes.set_xticks(range(4), ["1", "10", "100", "1000"])
    axes.set_xlabel("sessions with a tool that sleeps")
    plain(axes, "Streams of models left open")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
