"""An MCP server as a program. Its arguments are the ways in which it misbehaves.

`deaf`: never answers `initialize`. `clingy`: doesn't exit when its input ends. `stubborn`: ignores
SIGTERM as well. `env:NAME`: `echo` returns that variable.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from mcp_peer import Hangup, Peer


def main(*options: str) -> None:
    peer = Peer()
    if "deaf" in options:
        peer.silent.add("initialize")
    if "stubborn" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        message = json.loads(line)
        for option in options:
            if option.startswith("env:") and message.get("method") == "tools/call":
                message["params"]["arguments"] = {"text": os.environ.get(option[4:])}
        try:
            answers = peer.handle(message)
        except Hangup:
            return
        for answer in answers:
            print(json.dumps(answer), flush=True)
    while "clingy" in options or "stubborn" in options:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
