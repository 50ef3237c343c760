"""Measures this tree beside the published package, both in one run.

    make bench                 all scenarios
    make bench ARGS=churn      one of them

The published package is installed into a venv of its own and run as it is. Each figure is the
median of several processes; the two packages take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from published import PUBLISHED, published_python

HERE = Path(__file__).parent
TIMEOUT = 180

# Bytecode is cached, as in any installation: an import compiles nothing but the first time.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["GATEWAY_PEER_PYTHON"] = sys.executable  # both talk to the same emulator


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    scenario: str
    key: str
    title: str
    budget: str
    digits: int = 1


FIGURES = [
    Figure("floor", "seconds", "floor: rtc + aiohttp + pydantic, s", "", 2),
    Figure("floor", "resident_mb", "floor, MB", "", 0),
    Figure("package", "seconds", "import livekit.agents, s", "<= 0.1", 3),
    Figure("agent_file", "seconds", "what an agent file imports, s", "<= 0.8", 2),
    Figure("agent_file", "resident_mb", "what an agent file imports, MB", "<= 70", 0),
    Figure("clean_close", "median_ms", "clean close, ms", "<= 20", 1),
    Figure("wedged_close", "closed", "wedged tools: sessions closed of 100", "100", 0),
    Figure("wedged_close", "last_s", "wedged tools: last close, s", "<= 5.5", 2),
    Figure("wedged_close", "orphaned_streams", "wedged tools: STT streams left open", "0", 0),
    Figure("first_frame", "median_ms", "user text to first audio frame, ms", "<= 1.9", 2),
    Figure("idle_cpu", "percent_per_session", "idle listening session, % of a core", "<= 0.4", 2),
    Figure("idle_cpu_plain", "percent_per_session", "the same without a turn detector", "", 2),
    Figure("listening_memory", "process_mb", "process with a listening session, MB", "", 0),
    Figure("listening_memory", "mb_per_session", "each further one, MB", "<= 1", 2),
    Figure("listening_memory_plain", "process_mb", "process without a turn detector, MB", "", 0),
    Figure("listening_memory_plain", "mb_per_session", "each further session, MB", "<= 1", 2),
    Figure("memory", "mb_per_session", "memory per session, MB", "<= 1", 2),
    Figure("churn", "tasks_left", "200 sessions in a row: tasks left", "0", 0),
    Figure("churn", "fds_left", "200 sessions in a row: descriptors left", "0", 0),
    Figure("churn", "mb_grown", "200 sessions in a row: MB grown", "flat", 1),
    Figure("gateway_audio", "us_per_frame", "20 ms of audio to the gateway, µs of CPU", "", 1),
    Figure("gateway_transcripts", "us_per_transcript", "a transcript from it, µs of CPU", "", 1),
]

ROUNDS = {
    "floor": 5,
    "package": 5,
    "agent_file": 5,
    "first_frame": 3,
    "gateway_audio": 5,
    "gateway_transcripts": 3,
}


def published_or_none() -> Path | None:
    """An interpreter with the published package; None if it can't be installed."""
    try:
        return published_python()
    except subprocess.CalledProcessError:
        print(f"could not install {PUBLISHED}; measuring this tree only", file=sys.stderr)
        return None


def measure(python: Path | str, scenario: str) -> dict[str, Any]:
    """Run one scenario in a fresh process; empty when it failed or took too long."""
    try:
        done = subprocess.run(
            [str(python), str(HERE / "scenarios.py"), scenario],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=TIMEOUT,
            check=False,
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return {}
    return result


def main() -> int:
    """Measure, print the table, write benchmarks/results.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="scenarios to measure; all by default")
    parser.add_argument("--no-published", action="store_true", help="measure this tree only")
    options = parser.parse_args()
    pythons: dict[str, Path | str] = {"this tree": sys.executable}
    if not options.no_published and (published := published_or_none()):
        pythons["published 1.8.9"] = published
    wanted = options.scenarios or list(dict.fromkeys(figure.scenario for figure in FIGURES))
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for scenario in wanted:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        if ROUNDS.get(scenario, 1) > 1:
            for python in pythons.values():
                measure(python, scenario)  # not counted: fills caches
        for _ in range(ROUNDS.get(scenario, 1)):
            for name, python in pythons.items():
                runs[name].append(measure(python, scenario))
        results[scenario] = runs
        print(f"measured {scenario}", file=sys.stderr)
    print_table(results, list(pythons))
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


def print_table(results: dict[str, dict[str, list[dict[str, Any]]]], names: list[str]) -> None:
    """A table of medians."""
    print(f"\n| what | {' | '.join(names)} | budget |")
    print(f"|---|{'---:|' * len(names)}---|")
    for figure in FIGURES:
        if figure.scenario not in results:
            continue
        cells = []
        for name in names:
            values = [
                run[figure.key]
                for run in results[figure.scenario][name]
                if run.get(figure.key) is not None and not math.isnan(run[figure.key])
            ]
            cells.append(f"{statistics.median(values):.{figure.digits}f}" if values else "–")
        print(f"| {figure.title} | {' | '.join(cells)} | {figure.budget} |")


if __name__ == "__main__":
    sys.exit(main())
