"""Shows the change at work on the published package, and that it can be taken out again.

    make port

For each release: a virtual environment with the published package; the tests, which fail; ordinary
conversations, recorded; the change put in; the tests, which pass; the same conversations, which
must come out the same; the change taken out, after which the package must be what it was, byte for
byte. Then the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from port import Tree

HERE = Path(__file__).parent
NEEDED = ("pytest>=8.2", "pytest-asyncio>=0.24")
PATIENCE = 240.0
"""Seconds for one run of the tests or of the conversations."""

SLOWEST = 7.0
"""Seconds within which every session must have closed."""

FLAWS = {
    "1.8.4": (
        # It adds an empty message after the user's last sentence, and warns about it.
        "conversation_item_added message role=user interrupted=False",
        "history: message role=user interrupted=False",
        "WARNING skipping user input, speech scheduling is paused",
    )
}
"""What a release does on its own account, and is left out where recordings are compared."""


@dataclass
class Outcome:
    """What was seen of one release."""

    release: str
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    failed_before: int = 0
    failed_after: int = 0
    events: int = 0
    conversations: int = 0
    added: int = 0
    removed: int = 0
    module: int = 0
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)


class Release:
    """One published release, in an environment of its own.

    Args:
        version: Its version.
        folder: Where the environment goes. One that is there is used again.
    """

    def __init__(self, version: str, folder: Path) -> None:
        self.outcome = Outcome(version)
        self._folder = folder / f"livekit-agents-{version}"
        self._python = self._folder / "bin" / "python"

    def prove(self) -> Outcome:
        """Do all of it."""
        self._install()
        tree, outcome = Tree(self._folder), self.outcome
        tree.revert()
        original = _digests(tree.package)
        with ThreadPoolExecutor() as beside:
            recording = beside.submit(self._record)
            outcome.failed_before, outcome.before = self._test("before")
            talk = recording.result()
        self._change(tree)
        with ThreadPoolExecutor() as beside:
            recording = beside.submit(self._record)
            outcome.failed_after, outcome.after = self._test("after")
            talk_after = recording.result()
        talks, talks_after = [talk], [talk_after]
        if (
            talk != talk_after
        ):  # a busy machine reorders what happens at one moment: once more, alone
            talks_after.append(self._record())
        tree.revert()
        if talk != talk_after:
            talks.append(self._record())
        self._compare(talks, talks_after)
        if _digests(tree.package) != original:
            outcome.complaints.append("the package is not what it was before")
        self._judge()
        return outcome

    def _install(self) -> None:
        package = f"livekit-agents=={self.outcome.release}"
        if not self._python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self._folder)], check=True)
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        install = [str(self._python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        if Path(uv).exists():
            install = [uv, "pip", "install", "-q", "--python", str(self._python)]
        subprocess.run([*install, package, *NEEDED], check=True)

    def _run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._python), "-B", *arguments],
            cwd=HERE / "tests",
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _test(self, when: str) -> tuple[int, list[dict[str, Any]]]:
        """How many tests fail, and how the closes went."""
        path = self._folder / f"{when}.json"
        path.unlink(missing_ok=True)
        options = ("-q", "-p", "no:cacheprovider", "--tb=no" if when == "before" else "--tb=short")
        done = self._run("-m", "pytest", *options, CLOSE_RESULTS=str(path))
        if done.returncode not in (0, 1) or not path.exists():
            raise RuntimeError(f"the tests could not be run:\n{done.stdout}\n{done.stderr}")
        (self._folder / f"{when}.log").write_text(done.stdout + done.stderr)
        closes: list[dict[str, Any]] = json.loads(path.read_text())
        failed = sum(line.startswith("FAILED") for line in done.stdout.splitlines())
        return failed, closes

    def _record(self) -> dict[str, list[str]]:
        done = self._run("conversations.py")
        if done.returncode != 0:
            raise RuntimeError(f"the conversations could not be recorded:\n{done.stderr}")
        recorded: dict[str, list[str]] = json.loads(done.stdout)
        flaws = FLAWS.get(self.outcome.release, ())
        return {
            name: [line for line in lines if line not in flaws] for name, lines in recorded.items()
        }

    def _change(self, tree: Tree) -> None:
        module = (HERE / "forced_close.py").read_text().splitlines()
        lines = tree.diff().splitlines()
        self.outcome.module = len(module)
        self.outcome.added = _starting(lines, "+", "+++") - len(module)
        self.outcome.removed = _starting(lines, "-", "---")
        timed = "import port, sys, time; port.main(sys.argv[1:]); print(time.process_time())"
        done = subprocess.run(
            [sys.executable, "-c", timed, str(self._folder)],
            cwd=HERE,
            check=True,
            capture_output=True,
            text=True,
        )
        self.outcome.seconds = float(done.stdout.split()[-1])
        if tree.apply():
            self.outcome.complaints.append("applied twice, it changed something")

    def _compare(
        self, before: list[dict[str, list[str]]], after: list[dict[str, list[str]]]
    ) -> None:
        """A conversation is the same if one recording from before equals one from after."""
        self.outcome.conversations = len(before[0]) - 1
        self.outcome.events = sum(map(len, before[0].values()))
        for name in before[0]:
            lines, lines_after = [r[name] for r in before], [r.get(name) for r in after]
            if not any(each in lines_after for each in lines):
                self.outcome.complaints.append(f"the conversation `{name}` came out different")
                both = json.dumps({"before": lines, "after": lines_after}, indent=1)
                (self._folder / f"different-{name}.json").write_text(both)

    def _judge(self) -> None:
        outcome = self.outcome
        titles = [close["title"] for close in outcome.before if close["closed"]]
        outcome.complaints += [f"closes without the change: {title}" for title in titles]
        if outcome.failed_after:
            outcome.complaints.append(f"{outcome.failed_after} tests fail with the change")
        slow = [c["title"] for c in outcome.after if c["seconds"] > SLOWEST or not c["closed"]]
        outcome.complaints += [f"does not close in time: {title}" for title in slow]


def _digests(package: Path) -> dict[str, str]:
    return {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _starting(lines: Sequence[str], sign: str, header: str) -> int:
    return sum(line.startswith(sign) and not line.startswith(header) for line in lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """Before and after, in Markdown."""
    columns = [f"{o.release} {when}" for o in outcomes for when in ("before", "after")]
    lines = [f"| the call | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in zip(*(o.before for o in outcomes), *(o.after for o in outcomes), strict=True):
        befores, afters = row[: len(outcomes)], row[len(outcomes) :]
        cells = [_cell(c) for pair in zip(befores, afters, strict=True) for c in pair]
        lines.append(f"| {row[0]['title']} | {' | '.join(cells)} |")
    for o in outcomes:
        slowest = max(close["seconds"] for close in o.after)
        lines += [
            "",
            f"{o.release}: {len(o.before)} scenarios, {sum(not c['closed'] for c in o.before)} of "
            f"them fail before, {sum(not c['closed'] for c in o.after)} after; slowest after "
            f"{slowest:.2f} s. Tests failing before {o.failed_before}, after {o.failed_after}. "
            f"{o.conversations} ordinary conversations, {o.events} events and log lines. "
            f"Edits +{o.added} -{o.removed} lines, module {o.module} lines; "
            f"patched in {o.seconds:.1f} s of CPU time.",
        ]
    return "\n".join(lines)


def _cell(close: dict[str, Any]) -> str:
    if close["closed"]:
        return f"{close['seconds']:.2f} s"
    if close["remark"] == "late":
        return f"late: {close['seconds']:.2f} s"
    return close["remark"] or "fails"


def _update(path: Path, text: str) -> None:
    marked = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)
    path.write_text(marked.sub(lambda m: f"{m[1]}{text}\n{m[2]}", path.read_text()))


def main() -> int:
    """Prove it for each release; 0 if all went as it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("releases", nargs="*", default=["1.8.9", "1.8.4"])
    parser.add_argument("--update", action="store_true", help="put the table into the text")
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".venv-port")
    options = parser.parse_args()
    releases = [Release(version, options.folder) for version in options.releases]
    with ThreadPoolExecutor() as beside:
        outcomes = list(beside.map(Release.prove, releases))
    print(table(outcomes))
    if options.update:
        _update(HERE / "PULL_REQUEST.md", table(outcomes))
    complaints = [f"{o.release}: {line}" for o in outcomes for line in o.complaints]
    print("\n".join(["", *complaints]) if complaints else "\nreverted; byte for byte what it was")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
