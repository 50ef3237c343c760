"""Plays the same things on the published package and on this one, and tells what differs.

    make parity                        all parts
    make parity ARGS="conversations"   one of them
    make parity ARGS="--all"           name also the differences that are meant

The published package is installed into a venv of its own and run as it is. Each part prints what a
user can notice, as JSON: names of scenes, and lines in each. Of a conversation the lines of each kind
are compared (states, history, transcripts, what a speaker is told, ...): in which order two kinds
come within a millisecond is nobody's promise. Differences that are meant are listed in meant.py, with
their reasons; the exit code tells whether there are others.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from meant import MEANT, Meant

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.append(str(ROOT / "benchmarks"))

from published import published_python  # noqa: E402  (it is in the folder named above)

PARTS = (
    "conversations",
    "turns",
    "providers",
    "functions",
    "gateway",
    "realtime",
    "spans",
    "workers",
)
ROOMS = "rooms"
"""Needs a LiveKit server: played when LIVEKIT_SERVER names one, as `make e2e` builds it."""

BY_KIND = ("conversations", "turns", "providers", "gateway", "realtime", ROOMS)
"""The parts where only lines of the same kind have an order."""

TIMEOUT = 400

Record = dict[str, list[str]]


def record(python: Path | str, part: str) -> Record:
    """What `part` notices on one of the packages.

    Raises:
        RuntimeError: It failed, or took too long.
    """
    folders = (HERE, ROOT / "upstream" / "tests", ROOT / "tests", ROOT / "tests" / "e2e")
    path = os.pathsep.join(map(str, folders))
    try:
        done = subprocess.run(
            [str(python), str(HERE / f"play_{part}.py")],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{part} did not end within {TIMEOUT} s on {python}") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"{part} failed on {python}: {''.join(said)}")
    recorded: Record = json.loads(done.stdout)
    return recorded


def differences(theirs: list[str], ours: list[str], *, by_kind: bool) -> Iterator[str]:
    """Lines that only one of the two has or has in another place; "-" theirs, "+" ours."""
    if not by_kind:
        diff = difflib.ndiff(theirs, ours)
        yield from (f"{line[0]} {line[2:]}" for line in diff if line[0] in "-+")
        return
    for kind in dict.fromkeys(map(_kind, [*theirs, *ours])):
        yield from differences(
            [line for line in theirs if _kind(line) == kind],
            [line for line in ours if _kind(line) == kind],
            by_kind=False,
        )


def _kind(line: str) -> str:
    return line.split(" ", 1)[0]


class Comparison:
    """What two records have in common."""

    def __init__(self, part: str, theirs: Record, ours: Record) -> None:
        self.part = part
        self.lines = sum(map(len, theirs.values()))
        self.scenes = len(theirs)
        self.meant: list[tuple[str, str, Meant]] = []
        self.unknown: list[tuple[str, str]] = []
        for scene in dict.fromkeys([*theirs, *ours]):
            found = differences(theirs.get(scene, []), ours.get(scene, []), by_kind=part in BY_KIND)
            for line in found:
                self._sort(scene, line)

    def _sort(self, scene: str, line: str) -> None:
        reason = next((m for m in MEANT if m.covers(self.part, scene, line)), None)
        if reason is None:
            self.unknown.append((scene, line))
        else:
            self.meant.append((scene, line, reason))


def main() -> int:
    """Compare, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = (*PARTS, ROOMS) if os.environ.get("LIVEKIT_SERVER") else PARTS
    parser.add_argument("parts", nargs="*", default=parts, help=f"of {', '.join(parts)}")
    parser.add_argument("--all", action="store_true", help="name the meant differences too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(
            f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}"
            + ("" if ROOMS in parts else f", and {ROOMS} if LIVEKIT_SERVER names a server")
        )
    published = published_python()
    failed = False
    for part in options.parts:
        found = _compare(published, part)
        print(
            f"{part:14} {found.scenes:4} scenes, {found.lines:5} lines: "
            f"{len(found.meant)} differ on purpose, {len(found.unknown)} differ"
        )
        if options.all:
            for scene, line, meant in found.meant:
                print(f"    {scene}: {line[:160]}\n        {meant.reason}")
        for scene, line in found.unknown:
            print(f"    {scene}: {line}")
        failed = failed or bool(found.unknown)
    return int(failed)


def _compare(published: Path, part: str) -> Comparison:
    """Compare twice if the first time shows a difference: a busy machine reorders things."""
    for _ in range(2):
        found = Comparison(part, record(published, part), record(sys.executable, part))
        if not found.unknown:
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
