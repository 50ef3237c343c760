"""Requests about a job's room that may be left running: deleting it, calling, transferring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from .log import logger
from .utils.aio import TaskScope

if TYPE_CHECKING:
    from livekit import api, rtc


class RoomRequests:
    """Owns the tasks of such requests. Whoever awaits one gets its result or error."""

    def __init__(self, api: Callable[[], api.LiveKitAPI], *, fake: bool, job_id: str) -> None:
        self._api = api
        self._fake = fake
        self._scope = TaskScope(f"requests of job {job_id}")

    def delete_room(self, room_name: str) -> asyncio.Future[Any]:
        """Delete a room. Never raises."""
        if self._fake:
            from livekit import api

            return self._nothing("delete_room", api.DeleteRoomResponse())
        return self._scope.spawn(self._delete_room(room_name), name="delete room")

    async def _delete_room(self, room_name: str) -> None:
        import aiohttp
        from livekit import api

        try:
            await self._api().room.delete_room(api.DeleteRoomRequest(room=room_name))
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                logger.warning("could not delete room %s: %s", room_name, error)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            logger.warning("could not delete room %s: %r", room_name, error)

    def call(
        self, *, room: str, call_to: str, trunk_id: str, identity: str, name: str
    ) -> asyncio.Future[Any]:
        """Have a phone called, and the callee put into the room."""
        from livekit import api

        if self._fake:
            return self._nothing("add_sip_participant", api.SIPParticipantInfo())
        request = api.CreateSIPParticipantRequest(
            room_name=room,
            participant_identity=identity,
            sip_trunk_id=trunk_id,
            sip_call_to=call_to,
            participant_name=name,
        )
        return self._scope.spawn(
            self._send(lambda sip: sip.create_sip_participant(request)), name=f"call {identity}"
        )

    def transfer(
        self, participant: rtc.RemoteParticipant | str, *, room: str, to: str, dialtone: bool
    ) -> asyncio.Future[Any]:
        """Have a caller transferred to another number."""
        from livekit import api, rtc

        if isinstance(participant, str):
            identity = participant
        else:
            assert participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP, (
                f"only SIP participants can be transferred, {participant.identity!r} is none"
            )
            identity = participant.identity
        if self._fake:
            return self._nothing("transfer_sip_participant", api.SIPParticipantInfo())
        request = api.TransferSIPParticipantRequest(
            participant_identity=identity, room_name=room, transfer_to=to, play_dialtone=dialtone
        )
        return self._scope.spawn(
            self._send(lambda sip: sip.transfer_sip_participant(request)),
            name=f"transfer {identity}",
        )

    async def _send(self, request: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        return await request(self._api().sip)

    def _nothing(self, what: str, result: Any) -> asyncio.Future[Any]:
        logger.warning("%s does nothing in a job without a room", what)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(result)
        return future

    async def settle(self, seconds: float) -> None:
        """Wait for requests under way, for so long at most."""
        await self._scope.join(seconds)

    async def cancel(self, seconds: float) -> None:
        """Cancel what is left."""
        await self._scope.cancel(seconds)
