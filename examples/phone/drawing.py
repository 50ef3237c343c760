"""The drawing of a call: lanes for both voices, states, tools and the close, over one time axis."""

from __future__ import annotations

import array
import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .call_log import CallLog, Entry
from .line import SAMPLE_RATE, PhoneLine

LEFT = 92
"""Pixels for the names of the lanes."""

WIDTH = 1180
"""Pixels the drawing is meant to fill; a long call is wider, and scrolls."""

SLOWEST = 27
"""Pixels that a second takes at least, so that labels stay legible."""

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


class Drawing:
    """One call as an SVG.

    Args:
        line: The call as it was heard.
        log: What happened in it, the close included.
    """

    def __init__(self, line: PhoneLine, log: CallLog) -> None:
        self._line = line
        self._log = log
        self._end = max([line.seconds, *(entry.at for entry in log.entries)])
        self.px_per_second = max(SLOWEST, (WIDTH - LEFT - 40) / max(self._end, 1.0))

    def svg(self) -> str:
        """The drawing, with a playhead of the id `playhead`."""
        line, log, end = self._line, self._log, self._end
        lanes: list[str] = []
        y = 34.0
        said = [e for e in log.entries if e.kind == "said"]
        heard = [e for e in log.entries if e.kind == "heard"]
        for name, pcm, css, labels, state in (
            ("caller", line.caller_pcm, "caller", heard, "user_state"),
            ("agent", line.agent_pcm, "agent", said, "agent_state"),
        ):
            onsets = [e.at for e in log.entries if e.kind == state and e.text == "speaking"]
            notes, height = self._labels(labels, onsets, y, css, right=self._x(end))
            lanes.append(notes)
            y += height
            lanes.append(_lane_name(name, y + WAVE_HEIGHT / 2))
            lanes.append(self._wave(pcm, y, css))
            y += WAVE_HEIGHT + 14
        for name, kind in (("caller is", "user_state"), ("agent is", "agent_state")):
            lanes.append(_lane_name(name, y + 10))
            lanes.extend(self._bar(bar, y) for bar in _states(log.entries, kind, end))
            y += 28
        lanes.append(_lane_name("tools", y + 10))
        rows = _rows(_tools(log.entries, end))
        for row in rows:
            lanes.extend(self._bar(bar, y) for bar in row)
            y += 26
        y += 0 if rows else 26
        lanes.append(_lane_name("closing", y + 10))
        lanes.extend(self._bar(bar, y) for bar in _closing(log))
        y += 26
        height = y + 12
        width = LEFT + end * self.px_per_second + 40
        return (
            f"<svg viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' height='{height:.0f}' "
            f"role='img' aria-label='Timeline of the call'>"
            f"{self._axis(end, height)}{''.join(lanes)}{self._hang_up(log, height)}"
            f"<line id='playhead' class='playhead' x1='{LEFT}' x2='{LEFT}' y1='20' y2='{height:.0f}'/>"
            "</svg>"
        )

    def _x(self, seconds: float) -> float:
        return LEFT + seconds * self.px_per_second

    def _axis(self, end: float, height: float) -> str:
        parts = []
        for second in range(int(end) + 1):
            major = second % 5 == 0
            css = "tick major" if major else "tick"
            parts.append(
                f"<line class='{css}' x1='{self._x(second):.1f}' x2='{self._x(second):.1f}' "
                f"y1='{20 if major else 24}' y2='{height:.0f}'/>"
            )
            if major:
                parts.append(
                    f"<text class='time' x='{self._x(second):.1f}' y='14'>{second} s</text>"
                )
        return "".join(parts)

    def _hang_up(self, log: CallLog, height: float) -> str:
        if log.hung_up_at is None:
            return ""
        x = self._x(log.hung_up_at)
        return (
            f"<line class='hangup' x1='{x:.1f}' x2='{x:.1f}' y1='20' y2='{height:.0f}'/>"
            f"<text class='hangup' x='{x - 6:.1f}' y='30'>hangs up</text>"
        )

    def _wave(self, pcm: bytearray, y: float, css: str) -> str:
        """The envelope of a voice, two points per pixel."""
        samples = array.array("h")
        samples.frombytes(bytes(pcm))
        step = max(1, int(SAMPLE_RATE / (2 * self.px_per_second)))
        middle = y + WAVE_HEIGHT / 2
        top: list[str] = []
        bottom: list[str] = []
        for start in range(0, len(samples), step):
            chunk = samples[start : start + step]
            loudness = min(1.0, max(max(chunk), -min(chunk)) / 20000)
            x = self._x(start / SAMPLE_RATE)
            half = max(0.4, loudness**0.7 * WAVE_HEIGHT / 2)
            top.append(f"{x:.1f},{middle - half:.1f}")
            bottom.append(f"{x:.1f},{middle + half:.1f}")
        points = " ".join([*top, *reversed(bottom)])
        return f"<polygon class='wave {css}' points='{points}'/>"

    def _labels(
        self, entries: list[Entry], onsets: list[float], y: float, css: str, *, right: float
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
            start = self._x(max((at for at in onsets if at <= entry.at), default=entry.at))
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

    def _bar(self, bar: Bar, y: float) -> str:
        width = max(2.0, (bar.end - bar.start) * self.px_per_second - 1)
        label = bar.name if len(bar.name) * TEXT_WIDTH + 8 < width else ""
        seconds = f"{bar.end - bar.start:.2f} s"
        return (
            f"<g><title>{html.escape(bar.name)}: {seconds}</title>"
            f"<rect class='bar {bar.kind}' x='{self._x(bar.start):.1f}' y='{y:.1f}' "
            f"width='{width:.1f}' height='20' rx='3'/>"
            f"<text class='bar' x='{self._x(bar.start) + 6:.1f}' y='{y + 14:.1f}'>"
            f"{html.escape(label)}</text></g>"
        )


def _lane_name(name: str, y: float) -> str:
    return f"<text class='lane' x='{LEFT - 12}' y='{y + 4:.1f}'>{name}</text>"


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


def _closing(log: CallLog) -> Iterator[Bar]:
    """From the hang-up to the end of the session."""
    closed = next((entry.at for entry in log.entries if entry.kind == "close"), None)
    if log.hung_up_at is not None and closed is not None:
        name = f"closed in {closed - log.hung_up_at:.2f} s"
        yield Bar(log.hung_up_at, closed, name, "closing")


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
