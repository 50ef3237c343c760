"""Draws a call as one self-contained page: both voices, states, turns, tools, and the close."""

from __future__ import annotations

import array
import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from string import Template

from livekit.agents.voice import CloseReport

from .call_log import CallLog, Entry
from .drawing import LEFT, Drawing
from .line import SAMPLE_RATE, PhoneLine


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
    drawing = Drawing(line, log)
    path.write_text(
        page.substitute(
            summary=_summary(line, log, took),
            drawing=drawing.svg(),
            conversation=_conversation(log.entries),
            close=_close(report, took, bound),
            audio=_audio(line),
            left=LEFT,
            px_per_second=drawing.px_per_second,
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
