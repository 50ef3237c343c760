"""Draws a call as one self-contained page: both voices, states, turns, tools, and the close."""

from __future__ import annotations

import array
import base64
import html
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from livekit.agents.voice import CloseReport

from .call_log import CallLog, Entry
from .line import SAMPLE_RATE, PhoneLine

PX_PER_SECOND = 27
LEFT = 92
"""Pixels for the names of the lanes."""

WAVE_HEIGHT = 56
TEXT_WIDTH = 6.4
"""Pixels an average character of a label takes."""


@dataclass(frozen=True)
class Bar:
    """Something that lasts."""

    start: float
    end: float
    name: str
    kind: str


def write_timeline(path: Path, line: PhoneLine, log: CallLog, *, bound: float) -> None:
    """Write the page.

    Args:
        path: Where to.
        line: The call as it was heard.
        log: What happened in it.
        bound: Seconds within which the session had to close.
    """
    report = log.report or CloseReport()
    took = (report.finished_at or report.requested_at) - report.requested_at
    page = Template((Path(__file__).parent / "timeline.html").read_text(encoding="utf-8"))
    path.write_text(
        page.substitute(
            summary=_summary(line, log, took),
            drawing=_drawing(line, log),
            conversation=_conversation(log.entries),
            close=_close(report, took, bound),
            audio=_audio(line),
            left=LEFT,
            px_per_second=PX_PER_SECOND,
        ),
        encoding="utf-8",
    )


# -- the figures at the top -----------------------------------------------------------------------


def _summary(line: PhoneLine, log: CallLog, took: float) -> str:
    count = {kind: sum(e.kind == kind for e in log.entries) for kind in ("heard", "said", "tool")}
    figures = [
        (f"{line.seconds:.0f} s", "call"),
        (str(count["heard"]), "utterances heard"),
        (str(count["said"]), "replies"),
        (str(log.interruptions), "interrupted"),
        (str(count["tool"]), "tool calls"),
        (f"{took:.2f} s", "to close"),
    ]
    return "".join(
        f"<div class='figure'><b>{value}</b><span>{name}</span></div>" for value, name in figures
    )


# -- the drawing ----------------------------------------------------------------------------------


def _drawing(line: PhoneLine, log: CallLog) -> str:
    end = max(line.seconds, max((entry.at for entry in log.entries), default=0.0))
    lanes: list[str] = []
    y = 34.0
    said = [e for e in log.entries if e.kind == "said"]
    heard = [e for e in log.entries if e.kind == "heard"]
    for name, pcm, css, labels, state in (
        ("caller", line.caller_pcm, "caller", heard, "user_state"),
        ("agent", line.agent_pcm, "agent", said, "agent_state"),
    ):
        onsets = [e.at for e in log.entries if e.kind == state and e.text == "speaking"]
        notes, height = _labels(labels, onsets, y, css, right=_x(end))
        lanes.append(notes)
        y += height
        lanes.append(_lane_name(name, y + WAVE_HEIGHT / 2))
        lanes.append(_wave(pcm, y, css))
        y += WAVE_HEIGHT + 14
    for name, kind in (("caller is", "user_state"), ("agent is", "agent_state")):
        lanes.append(_lane_name(name, y + 10))
        lanes.extend(_bar(bar, y) for bar in _states(log.entries, kind, end))
        y += 28
    lanes.append(_lane_name("tools", y + 10))
    rows = _rows(_tools(log.entries, end))
    for row in rows:
        lanes.extend(_bar(bar, y) for bar in row)
        y += 26
    y += 0 if rows else 26
    height = y + 12
    width = LEFT + end * PX_PER_SECOND + 40
    return (
        f"<svg viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' height='{height:.0f}' "
        f"role='img' aria-label='Timeline of the call'>"
        f"{_axis(end, height)}{''.join(lanes)}{_hang_up(log, height)}"
        f"<line id='playhead' class='playhead' x1='{LEFT}' x2='{LEFT}' y1='20' y2='{height:.0f}'/>"
        "</svg>"
    )


def _x(seconds: float) -> float:
    return LEFT + seconds * PX_PER_SECOND


def _axis(end: float, height: float) -> str:
    parts = []
    for second in range(int(end) + 1):
        major = second % 5 == 0
        css = "tick major" if major else "tick"
        parts.append(
            f"<line class='{css}' x1='{_x(second):.1f}' x2='{_x(second):.1f}' "
            f"y1='{20 if major else 24}' y2='{height:.0f}'/>"
        )
        if major:
            parts.append(f"<text class='time' x='{_x(second):.1f}' y='14'>{second} s</text>")
    return "".join(parts)


def _lane_name(name: str, y: float) -> str:
    return f"<text class='lane' x='{LEFT - 12}' y='{y + 4:.1f}'>{name}</text>"


def _hang_up(log: CallLog, height: float) -> str:
    if log.hung_up_at is None:
        return ""
    x = _x(log.hung_up_at)
    return (
        f"<line class='hangup' x1='{x:.1f}' x2='{x:.1f}' y1='20' y2='{height:.0f}'/>"
        f"<text class='hangup' x='{x - 6:.1f}' y='30'>hangs up</text>"
    )


def _wave(pcm: bytearray, y: float, css: str) -> str:
    """The envelope of a voice, two points per pixel."""
    samples = array.array("h")
    samples.frombytes(bytes(pcm))
    step = max(1, SAMPLE_RATE // (2 * PX_PER_SECOND))
    middle = y + WAVE_HEIGHT / 2
    top: list[str] = []
    bottom: list[str] = []
    for start in range(0, len(samples), step):
        chunk = samples[start : start + step]
        loudness = min(1.0, max(max(chunk), -min(chunk)) / 20000)
        x = _x(start / SAMPLE_RATE)
        half = max(0.4, loudness**0.7 * WAVE_HEIGHT / 2)
        top.append(f"{x:.1f},{middle - half:.1f}")
        bottom.append(f"{x:.1f},{middle + half:.1f}")
    points = " ".join([*top, *reversed(bottom)])
    return f"<polygon class='wave {css}' points='{points}'/>"


def _labels(
    entries: list[Entry], onsets: list[float], y: float, css: str, *, right: float
) -> tuple[str, float]:
    """What was said, where it began, in as many rows as keep the labels apart.

    Returns:
        The labels and their height.
    """
    rows: list[float] = []
    parts: list[str] = []
    for entry in entries:
        text = entry.text if len(entry.text) <= 64 else entry.text[:62].rstrip() + "…"
        width = len(text) * TEXT_WIDTH + 12
        # transcripts and replies are known at their end; their label stands where they began
        start = _x(max((at for at in onsets if at <= entry.at), default=entry.at))
        start = max(LEFT, min(start, right - width))
        row = next((i for i, free in enumerate(rows) if free <= start), len(rows))
        if row == len(rows):
            rows.append(0.0)
        rows[row] = start + width + 6
        top = y + row * 24
        parts.append(
            f"<g><title>{html.escape(entry.text)}\n{html.escape(entry.detail)}</title>"
            f"<rect class='label {css}' x='{start:.1f}' y='{top:.1f}' width='{width:.1f}' "
            f"height='19' rx='4'/>"
            f"<text class='label' x='{start + 6:.1f}' y='{top + 13.5:.1f}'>"
            f"{html.escape(text)}</text></g>"
        )
    return "".join(parts), len(rows) * 24 + 6


def _bar(bar: Bar, y: float) -> str:
    width = max(2.0, (bar.end - bar.start) * PX_PER_SECOND - 1)
    label = bar.name if len(bar.name) * TEXT_WIDTH + 8 < width else ""
    seconds = f"{bar.end - bar.start:.2f} s"
    return (
        f"<g><title>{html.escape(bar.name)}: {seconds}</title>"
        f"<rect class='bar {bar.kind}' x='{_x(bar.start):.1f}' y='{y:.1f}' "
        f"width='{width:.1f}' height='20' rx='3'/>"
        f"<text class='bar' x='{_x(bar.start) + 6:.1f}' y='{y + 14:.1f}'>"
        f"{html.escape(label)}</text></g>"
    )


def _states(entries: Iterable[Entry], kind: str, end: float) -> Iterator[Bar]:
    name, since = "listening", 0.0
    for entry in entries:
        if entry.kind == kind:
            if entry.at > since:
                yield Bar(since, entry.at, name, f"state-{name}")
            name, since = entry.text, entry.at
    if end > since:
        yield Bar(since, end, name, f"state-{name}")


def _tools(entries: Iterable[Entry], end: float) -> list[Bar]:
    open_calls: dict[str, float] = {}
    bars: list[Bar] = []
    for entry in entries:
        if entry.kind == "tool":
            open_calls[entry.text] = entry.at
        elif entry.kind == "tool_end":
            status = entry.detail.split(":")[0]
            start = open_calls.pop(entry.text, entry.at)
            bars.append(Bar(start, entry.at, entry.text, f"tool-{status}"))
    bars += [Bar(start, end, name, "tool-running") for name, start in open_calls.items()]
    return sorted(bars, key=lambda bar: bar.start)


def _rows(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Bars in as few rows as keep those of one row apart."""
    rows: list[list[Bar]] = []
    for bar in bars:
        row = next((row for row in rows if row[-1].end <= bar.start), None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return rows


# -- the tables -----------------------------------------------------------------------------------


def _conversation(entries: Iterable[Entry]) -> str:
    who = {"heard": "caller", "said": "agent", "tool": "tool", "tool_end": "tool", "note": "call"}
    rows = []
    for entry in entries:
        if entry.kind not in who:
            continue
        text = html.escape(entry.text)
        if entry.kind == "tool":
            text = f"calls <code>{text}</code>"
        elif entry.kind == "tool_end":
            text = f"<code>{text}</code> ended"
        rows.append(
            f"<tr class='{who[entry.kind]}'><td class='at'>{entry.at:.2f}</td>"
            f"<td class='who'>{who[entry.kind]}</td><td>{text}"
            f"<span class='detail'>{html.escape(entry.detail)}</span></td></tr>"
        )
    return "".join(rows)


def _close(report: CloseReport, took: float, bound: float) -> str:
    longest = max([step.seconds for step in report.steps] + [0.001])
    rows = "".join(
        f"<tr class='{step.outcome}'><td>{html.escape(step.name)}</td>"
        f"<td class='at'>{step.seconds * 1000:.1f} ms</td>"
        f"<td class='meter'><i style='width:{max(1.0, step.seconds / longest * 100):.1f}%'></i></td>"
        f"<td>{step.outcome}<span class='detail'>{html.escape(step.detail or '')}</span></td></tr>"
        for step in report.steps
    )
    cut_off = ", ".join(report.cut_off) or "nothing"
    survivors = ", ".join(f"{s.name} ({s.owner})" for s in report.survivors) or "nothing"
    verdict = "within" if took <= bound else "beyond"
    return (
        f"<p>Closed in <b>{took:.2f} s</b>, {verdict} its bound of {bound:.1f} s. "
        f"Cut off: <b>{html.escape(cut_off)}</b>. Left behind: <b>{html.escape(survivors)}</b>.</p>"
        f"<table class='steps'>{rows}</table>"
    )


def _audio(line: PhoneLine) -> str:
    """The call as Ogg/Opus in a data URI, so that the page needs no other file."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="stereo")
        stream.bit_rate = 48_000
        left, right = array.array("h"), array.array("h")
        left.frombytes(bytes(line.caller_pcm))
        right.frombytes(bytes(line.agent_pcm))
        both = array.array("h", bytes(4 * len(left)))
        both[0::2], both[1::2] = left, right
        resampler = av.AudioResampler(format="s16", layout="stereo", rate=48_000)
        step = 2 * SAMPLE_RATE
        for start in range(0, len(both), step):
            piece = both[start : start + step].tobytes()
            frame = av.AudioFrame(format="s16", layout="stereo", samples=len(piece) // 4)
            frame.planes[0].update(piece)
            frame.sample_rate = SAMPLE_RATE
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:audio/ogg;base64,{encoded}"
