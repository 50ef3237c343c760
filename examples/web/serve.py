"""Serves the page that calls an agent, and lets it into rooms of a LiveKit server.

    npm ci && npm run build              in this folder, once
    python examples/web/serve.py         LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET are set

Every call gets a room of its own. An agent without a name (`python examples/basic_agent.py dev`)
is sent to each new room by the server; one with a name when it is given with --agent.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

from aiohttp import web
from livekit import api

from livekit.agents.utils import shortuuid

HERE = Path(__file__).parent
CALL_LENGTH = timedelta(minutes=15)
"""How long a caller's token lets them join."""


class Switchboard:
    """Hands out tokens, and tells whether an agent is in a room.

    Args:
        url: The LiveKit server, ws:// or wss://.
        key: Its API key.
        secret: The key's secret.
        agent: Name of the agent to send to each call; empty for agents without a name.
    """

    def __init__(self, url: str, key: str, secret: str, agent: str) -> None:
        self._url, self._key, self._secret, self._agent = url, key, secret, agent

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/style.css", lambda _: web.FileResponse(HERE / "style.css"))
        app.router.add_get("/main.js", lambda _: web.FileResponse(HERE / "dist" / "main.js"))
        app.router.add_post("/calls", self._new_call)
        app.router.add_get("/calls/{room}", self._call)
        return app

    async def _page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(HERE / "index.html")

    async def _new_call(self, _: web.Request) -> web.Response:
        room = shortuuid("call_")
        token = (
            api.AccessToken(self._key, self._secret)
            .with_identity(shortuuid("caller_"))
            .with_ttl(CALL_LENGTH)
            .with_grants(api.VideoGrants(room_join=True, room=room))
        )
        if self._agent:
            dispatch = api.RoomAgentDispatch(agent_name=self._agent)
            token = token.with_room_config(api.RoomConfiguration(agents=[dispatch]))
        return web.json_response({"url": self._url, "token": token.to_jwt(), "room": room})

    async def _call(self, request: web.Request) -> web.Response:
        """Whether an agent is in the room. A room that is gone has none."""
        wanted = api.ListParticipantsRequest(room=request.match_info["room"])
        async with api.LiveKitAPI(self._url, self._key, self._secret) as client:
            try:
                listed = await client.room.list_participants(wanted)
            except api.TwirpError as error:
                if error.code != api.TwirpErrorCode.NOT_FOUND:
                    raise
                return web.json_response({"agent": False})
        agent = any(
            who.kind == api.ParticipantInfo.Kind.AGENT
            and who.state != api.ParticipantInfo.State.DISCONNECTED
            for who in listed.participants
        )
        return web.json_response({"agent": agent})


def main() -> int:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8090, help="where to listen (8090)")
    parser.add_argument("--agent", default="", help="name of the agent to call")
    options = parser.parse_args()
    names = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        print(f"set {', '.join(missing)}: the LiveKit server to call through", file=sys.stderr)
        return 2
    if not (HERE / "dist" / "main.js").exists():
        print(f"the page is not built yet: cd {HERE} && npm ci && npm run build", file=sys.stderr)
        return 2
    url, key, secret = (os.environ[name] for name in names)
    switchboard = Switchboard(url, key, secret, options.agent)
    web.run_app(switchboard.app(), host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
