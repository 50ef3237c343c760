"""Runs the published plugins, as they are, on this tree's `livekit-agents`.

    make plugins                         all of them
    make plugins ARGS="deepgram openai"  some
    make plugins ARGS=--write            and keep the table in docs/plugins.md
    make plugins ARGS=--newest           with the newest releases of what the plugins need
    make plugins ARGS=--record           write those down in constraints.txt, for all other runs

They are installed from the package index into a virtual environment of their own (.venv-plugins),
with this tree as their `livekit-agents`. Each is imported, all its models are built, and each model
takes part in three calls through a real session: its provider can't be reached, turns it away, or
takes the connection and says nothing while a tool hangs and the caller hangs up. No line of a
plugin is read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environment import HERE, ROOT, Plugin, install, read_list, record
from known import KNOWN

DOCUMENT = ROOT / "docs" / "plugins.md"
TIMEOUT = 150.0
"""Seconds for one plugin."""

CLOSED_WITHIN = 7.5
"""Seconds in which a forced close promises its event."""

RELEASED_WITHIN = 5.5
"""Seconds after a hang-up in which no connection may be left."""


@dataclass
class Line:
    """A line of the table."""

    plugin: Plugin
    model: str
    cells: list[str]
    problems: list[str] = field(default_factory=list)
    """What is wrong and not known."""
    notes: list[str] = field(default_factory=list)
    """What is wrong and known, with the reason."""


def probe(python: Path, plugin: Plugin) -> dict[str, Any]:
    """Run one plugin in a process of its own."""
    command = [str(python), str(HERE / "probe.py"), plugin.module]
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False
        )
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failure": f"did not end within {TIMEOUT:g} s"}
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        return {"failure": f"the process ended with {done.returncode}: {last[0]}"}
    return report


def run(python: Path, plugins: list[Plugin], jobs: int) -> list[Line]:
    """The lines of all, side by side.

    Time is real here, and a busy machine misses moments: what fails gets one more chance, alone.
    """
    with ThreadPoolExecutor(jobs) as side_by_side:
        lines = [
            list(judge(plugin, report))
            for plugin, report in zip(
                plugins,
                side_by_side.map(lambda plugin: probe(python, plugin), plugins),
                strict=True,
            )
        ]
    for number, plugin in enumerate(plugins):
        if any(line.problems for line in lines[number]):
            print(f"once more, alone: {plugin.package}", file=sys.stderr)
            lines[number] = list(judge(plugin, probe(python, plugin)))
    return [line for of_plugin in lines for line in of_plugin]


CONVERSE = ("openai", "groq", "perplexity")
"""Whose LLMs take part in a spoken conversation: they can be given another address."""

HEARD = ("opening hours", "book a table for two people tomorrow evening", "my reservation")
CALLED = ["opening_hours", "book_table", "find_reservation"]


def converse(python: Path, plugin: Plugin) -> tuple[str, list[str]]:
    """A spoken conversation: what came of it, and what is wrong with that."""
    command = [str(python), str(HERE / "conversation.py"), plugin.module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "", [f"did not end within {TIMEOUT:g} s"]
    except (IndexError, ValueError):
        return "", [(done.stderr.strip().splitlines() or ["no output"])[-1]]
    expected = {
        "words": all(any(part in text for text in seen["heard"]) for part in HEARD),
        "tools": seen["tools"] == CALLED,
        "one interruption": seen["interrupted"] == 1,
        "one close event": seen["closes"] == 1,
        "a close in time": seen["seconds"] <= CLOSED_WITHIN,
        "the slow tool cut off": seen["cancelled"] == CALLED[-1:],
        "no task left": not seen["survivors"],
        "no connection left": seen["connections"] == 0,
    }
    said = f"{len(seen['heard'])} sentences heard, {len(seen['tools'])} tools called"
    problems = [f"expected {what}: {seen}" for what, true in expected.items() if not true]
    return f"{said}, closed in {seen['seconds']:.1f} s", problems


def run_conversations(python: Path, plugins: list[Plugin]) -> int:
    """Those that can converse do, two at a time. Prints; returns how many failed."""
    wanted = [plugin for plugin in plugins if plugin.package in CONVERSE]
    with ThreadPoolExecutor(2) as side_by_side:
        outcomes = list(side_by_side.map(lambda plugin: converse(python, plugin), wanted))
    failed = 0
    for plugin, (said, problems) in zip(wanted, outcomes, strict=True):
        if problems:  # once more, alone
            said, problems = converse(python, plugin)
        failed += bool(problems)
        print(f"conversation with {plugin.package}: {said or 'none'}")
        for problem in problems:
            print(f"FAILED {plugin.package} conversation: {problem}")
    return failed


def judge(plugin: Plugin, report: dict[str, Any]) -> Iterator[Line]:
    """One line for each model, or one for a plugin that has none."""
    if report["failure"]:
        yield Line(plugin, "–", ["no"], [report["failure"]])
        return
    lines = [_judge_model(plugin, row) for row in report["rows"]]
    lines = lines or [Line(plugin, "–", ["imports"])]
    if report["tasks_left"]:
        _note(lines[0], plugin.module, "tasks", f"still running: {report['tasks_left']}")
    yield from lines


def _judge_model(plugin: Plugin, row: dict[str, Any]) -> Line:
    name = f"{plugin.module}.{row['name']}"
    line = Line(plugin, f"{row['name']} ({row['kind']})", ["built" if row["built"] else "no"])
    if not row["built"]:
        _note(line, name, "built", row["complaint"])
        return line
    if not row["calls"]:
        return line
    for behaviour in ("unreachable", "unauthorized"):
        line.cells.append(_failing(line, name, behaviour, row["calls"][behaviour]))
    line.cells += _hanging(line, name, row["calls"]["silent"])
    return line


def _failing(line: Line, name: str, behaviour: str, call: dict[str, Any]) -> str:
    """What came of a call whose model fails."""
    if call["failure"]:
        _note(line, name, behaviour, call["failure"])
        return "no"
    if call["by_itself"]:
        return f"`{call['errors'][-1]}`, closes after {call['seconds']:.1f} s"
    if call["seconds"] > CLOSED_WITHIN:
        _note(line, name, behaviour, f"the close took {call['seconds']:.1f} s")
    else:
        _note(
            line, name, behaviour, f"no final error in 10 s, then closes in {call['seconds']:.1f} s"
        )
    return "closes when asked"


def _hanging(line: Line, name: str, call: dict[str, Any]) -> list[str]:
    """What came of a call whose provider is silent: connections, close, release."""
    if call["failure"]:
        _note(line, name, "silent", call["failure"])
    if call["seconds"] > CLOSED_WITHIN or not call["reason"]:
        _note(line, name, "close", f"the close took {call['seconds']:.1f} s")
    kind = "websocket" if call["websockets"] else "HTTP" if call["connected"] else "none"
    tool = " + tool" if call["wedged"] else ""
    if not call["connected"]:
        _note(line, name, "connected", "no connection was seen at the provider")
        return [f"{kind}{tool}", f"{call['seconds']:.1f} s", "–"]
    released = call["released"]
    if not 0 <= released <= RELEASED_WITHIN:
        late = f"after {released:.1f} s" if released >= 0 else "not within 11 s"
        _note(line, name, "released", f"its connection ended {late}")
        return [f"{kind}{tool}", f"{call['seconds']:.1f} s", late]
    return [f"{kind}{tool}", f"{call['seconds']:.1f} s", f"{released:.1f} s"]


def _note(line: Line, name: str, aspect: str, what: str) -> None:
    reason = KNOWN.get((name, aspect))
    if reason is None:
        line.problems.append(f"{aspect}: {what}")
    else:
        line.notes.append(reason)


HEAD = (
    "| plugin | version | model | built | unreachable | turned away | silent: connected by "
    "| close event | connections gone |\n|---|---|---|---|---|---|---|---:|---:|"
)


def table(lines: list[Line]) -> str:
    """Markdown, with numbered notes under it."""
    notes: dict[str, int] = {}
    rows = [HEAD]
    before = ""
    for line in lines:
        marks = ""
        for note in line.notes:
            marks += f" [{notes.setdefault(note, len(notes) + 1)}]"
        package = line.plugin.package
        first = [package, line.plugin.version] if package != before else ["", ""]
        before = package
        cells = [*first, line.model + marks, *line.cells]
        rows.append("| " + " | ".join(cells + [""] * (9 - len(cells))) + " |")
    rows.append("")
    rows += [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join(rows) + "\n"


def write(text: str) -> None:
    """Put the table into the document, between its two marks."""
    document = DOCUMENT.read_text()
    begin, end = "<!-- table -->\n", "<!-- end of the table -->\n"
    head, rest = document.split(begin)
    DOCUMENT.write_text(head + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def main() -> int:
    """Install, run, print; 1 if anything is wrong that is not known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plugins", nargs="*", help="names such as deepgram; all by default")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {DOCUMENT.name}")
    parser.add_argument("--jobs", type=int, default=6, help="plugins at a time; they mostly wait")
    parser.add_argument("--newest", action="store_true", help="use the newest of what they need")
    parser.add_argument("--record", action="store_true", help="write those versions down, and end")
    options = parser.parse_args()
    if options.record:
        record()
        return 0
    began = time.monotonic()
    python = install(newest=options.newest)
    installed = time.monotonic()
    wanted = [p for p in read_list() if not options.plugins or p.package in options.plugins]
    lines = run(python, wanted, options.jobs)
    failed = run_conversations(python, wanted)
    text = table(lines)
    print(text)
    bad = [(line, problem) for line in lines for problem in line.problems]
    for line, problem in bad:
        print(f"FAILED {line.plugin.package} {line.model}: {problem}")
    if options.write and not options.plugins:
        write(text)
    good = len(lines) - len({id(line) for line, _ in bad})
    print(
        f"{len(wanted)} plugins, {len(lines)} models: installed in {installed - began:.0f} s, "
        f"run in {time.monotonic() - installed:.0f} s"
    )
    print(f"{good} passed, {len(lines) - good} failed")
    return 1 if bad or failed else 0


if __name__ == "__main__":
    sys.exit(main())
