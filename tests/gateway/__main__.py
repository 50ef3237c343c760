"""Run the gateway emulator by hand, for an agent that is pointed at it.

    python -m tests.gateway
    python -m tests.gateway --fault stt:drop:how=1011,after_audio=5 --fault tts:refuse:status=503
    python -m tests.gateway --standing stt:idle_recycle:after=180 --ears tones --voice tone
    python -m tests.gateway --reply "Good day" --reply "I see"

A fault is ROUTE:NAME[:OPTION=VALUE,...], with the names and options of the functions in
tests/gateway/faults.py. Each ``--fault`` is for one connection, in the order given; ``--standing``
is for all the others. A realtime model says each ``--reply`` in turn, then repeats what it hears. It
prints the variables that an agent needs, then what it sees.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import shlex
from typing import Any

from . import faults
from .realtime_route import ScriptedReply
from .recognizers import Emit, PocketSphinxRecognizer, Recognizer, ToneRecognizer
from .records import ConnectionRecord
from .server import KEY, SECRET, GatewayEmulator
from .voices import PiperVoice, ToneVoice, Voice

ROUTES = ("stt", "tts", "llm", "realtime", "live/sessions", "bargein", "eot")

_FAULTS = {
    name: make
    for name, make in vars(faults).items()
    if inspect.isfunction(make) and make.__module__ == faults.__name__
}


def parse_fault(text: str) -> tuple[str, faults.Fault]:
    """Read ROUTE:NAME[:OPTION=VALUE,...].

    Raises:
        ValueError: It is none; the message says why.
    """
    route, _, rest = text.partition(":")
    name, _, options = rest.partition(":")
    make = _FAULTS.get(name)
    if route not in ROUTES:
        raise ValueError(f"{text!r}: there is no route {route!r}, only {', '.join(ROUTES)}")
    if make is None:
        raise ValueError(f"{text!r}: there is no fault {name!r}, only {', '.join(_FAULTS)}")
    arguments: dict[str, Any] = {}
    for pair in filter(None, options.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {pair!r} should be OPTION=VALUE")
        arguments[key] = _value(value)
    try:
        fault: faults.Fault = make(**arguments)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return route, fault


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fault_option(text: str) -> tuple[str, faults.Fault]:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _make_ears(name: str) -> Any:
    if name == "tones":
        return lambda emit, rate, endpointing: ToneRecognizer(emit, rate, endpointing=endpointing)
    from livekit.plugins import pocketsphinx

    stt = pocketsphinx.STT()
    stt.prewarm()

    def make(emit: Emit, sample_rate: int, endpointing: bool) -> Recognizer:
        return PocketSphinxRecognizer(emit, sample_rate, stt)

    return make


def _describe(record: ConnectionRecord) -> str:
    if record.refused is not None:
        return f"{record.route}: refused with {record.refused}"
    lasted = (record.closed_at or 0.0) - record.opened_at
    return (
        f"{record.route}: ended by {record.closed_by or 'the server'} after {lasted:.1f} s, "
        f"{record.audio_seconds:.1f} s of audio, {record.bytes_in} bytes in, "
        f"{record.bytes_out} bytes out"
    )


async def serve(options: argparse.Namespace) -> None:
    """Run until cancelled."""
    voice: Voice = ToneVoice() if options.voice == "tone" else PiperVoice()
    emulator = GatewayEmulator(
        port=options.port, make_recognizer=_make_ears(options.ears), voice=voice, keep_audio=False
    )
    emulator.on_record = lambda record: print(_describe(record), flush=True)
    for route, fault in options.fault:
        emulator.inject(route, fault)
    emulator.standing.update(options.standing)
    emulator.realtime.pace = 1.5
    emulator.realtime.script.extend(ScriptedReply(text) for text in options.reply)
    async with emulator:
        print("An agent with these variables talks to this gateway:\n")
        for name, value in (
            ("LIVEKIT_INFERENCE_URL", emulator.base_url),
            ("LIVEKIT_INFERENCE_API_KEY", KEY),
            ("LIVEKIT_INFERENCE_API_SECRET", SECRET),
        ):
            print(f"export {name}={shlex.quote(value)}")
        print("\nCtrl-C ends it.\n", flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="to listen on; default: a free one")
    parser.add_argument("--ears", choices=("pocketsphinx", "tones"), default="pocketsphinx")
    parser.add_argument("--voice", choices=("piper", "tone"), default="piper")
    parser.add_argument("--fault", type=_fault_option, action="append", default=[])
    parser.add_argument("--reply", action="append", default=[], help="of a realtime model")
    parser.add_argument("--standing", type=_fault_option, action="append", default=[])
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
