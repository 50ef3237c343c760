"""Jobs that the server offers: asking the user's code, answering, waiting for the assignment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from livekit.protocol import agent

from ..job import JobAcceptArguments, JobRequest, RunningJobInfo
from ..log import logger
from ..types import ATTRIBUTE_AGENT_NAME
from ..utils.aio import TaskScope, wait_until

if TYPE_CHECKING:
    from .load import LoadGauge

__all__ = ["JobOffers"]


class JobOffers:
    """Answers each offer in a task of its own. Every offer gets exactly one answer."""

    def __init__(
        self,
        *,
        agent_name: Callable[[], str],
        worker_id: Callable[[], str],
        url: str,
        on_request: Callable[[JobRequest], Awaitable[Any]] | None,
        has_room: Callable[[], Awaitable[bool]],
        gauge: LoadGauge,
        send: Callable[[agent.WorkerMessage], None],
        launch: Callable[[RunningJobInfo], Awaitable[None]],
        assignment_timeout: float,
    ) -> None:
        """Set up.

        Args:
            agent_name: Of this worker.
            worker_id: Of this worker, once registered.
            url: Of the server, unless the assignment names another.
            on_request: The user's function; None accepts everything.
            has_room: Whether another job can be taken now.
            gauge: Where places are reserved while an offer is answered.
            send: Sends an answer.
            launch: Runs an assigned job; returns when a process has it.
            assignment_timeout: Seconds an accepted job may take to be assigned.
        """
        self._agent_name = agent_name
        self._worker_id = worker_id
        self._url = url
        self._on_request = on_request
        self._has_room = has_room
        self._gauge = gauge
        self._send = send
        self._launch = launch
        self._assignment_timeout = assignment_timeout
        self._assignments: dict[str, asyncio.Future[agent.JobAssignment]] = {}
        self._scope = TaskScope("job offers")

    def offered(self, request: agent.AvailabilityRequest) -> None:
        """The server offers a job."""
        self._scope.spawn(
            _Offer(self, request, received_at=time.time()).answer(),
            name=f"offer of job {request.job.id}",
        )

    def assigned(self, assignment: agent.JobAssignment) -> None:
        """The server assigns a job that was accepted."""
        future = self._assignments.pop(assignment.job.id, None)
        if future is None or future.done():
            logger.warning("assignment for an unknown job", extra={"job_id": assignment.job.id})
            return
        future.set_result(assignment)

    async def settle(self, timeout: float | None) -> bool:
        """Wait for the offers under way. False when some are left after `timeout` seconds."""
        return not await self._scope.join(timeout)

    async def aclose(self, patience: float) -> None:
        """Let offers under way end by themselves for a while, then decline what is left."""
        if await self._scope.join(patience):
            logger.warning("on_request did not return in time, the offered job is declined")
        await self._scope.cancel(2.0)


class _Offer:
    """One offer and its answer."""

    def __init__(
        self, offers: JobOffers, request: agent.AvailabilityRequest, *, received_at: float
    ) -> None:
        self._offers = offers
        self._job = request.job
        self._resuming = request.resuming
        self._received_at = received_at
        self._answered = False
        self._reserved = False

    async def answer(self) -> None:
        """Answer it."""
        try:
            if not await self._offers._has_room():
                self._respond(agent.AvailabilityResponse(job_id=self._job.id, available=False))
                return
            self._reserve()
            await self._ask_user()
        finally:
            self._release()
            if not self._answered:
                self._respond(agent.AvailabilityResponse(job_id=self._job.id, available=False))

    async def _ask_user(self) -> None:
        job = self._job
        logger.info(
            "received job request",
            extra={
                "job_id": job.id,
                "dispatch_id": job.dispatch_id,
                "room": job.room.name,
                "room_id": job.room.sid,
                "agent_name": job.agent_name,
                "resuming": self._resuming,
                "enable_recording": job.enable_recording,
            },
        )
        request = JobRequest(job=job, on_reject=self._reject, on_accept=self._accept)
        on_request = self._offers._on_request
        try:
            if on_request is None:
                await request.accept()
            else:
                await on_request(request)
        except Exception:
            logger.exception("the job request could not be handled", extra={"job_id": job.id})
        if not self._answered:
            logger.warning(
                "on_request neither accepted nor rejected the job, it is rejected",
                extra={"job_id": job.id},
            )
            await self._reject(False)

    async def _reject(self, terminate: bool) -> None:
        self._respond(
            agent.AvailabilityResponse(job_id=self._job.id, available=False, terminate=terminate)
        )

    async def _accept(self, arguments: JobAcceptArguments) -> None:
        offers, job = self._offers, self._job
        assignment: asyncio.Future[agent.JobAssignment]
        assignment = asyncio.get_running_loop().create_future()
        offers._assignments[job.id] = assignment
        response = agent.AvailabilityResponse(
            job_id=job.id,
            available=True,
            participant_identity=arguments.identity,
            participant_name=arguments.name,
            participant_metadata=arguments.metadata,
        )
        response.participant_attributes[ATTRIBUTE_AGENT_NAME] = offers._agent_name()
        response.participant_attributes.update(arguments.attributes or {})
        self._respond(response)
        accepted_at = time.time()
        try:
            late = await wait_until(assignment, offers._assignment_timeout)
        finally:
            offers._assignments.pop(job.id, None)
        if late:
            logger.warning("assignment for job %s timed out", job.id, extra={"job_id": job.id})
            from ..worker import AssignmentTimeoutError

            raise AssignmentTimeoutError(
                f"the server did not assign job {job.id} within {offers._assignment_timeout:g} s"
            )
        await self._launch(arguments, assignment.result(), accepted_at)

    async def _launch(
        self, arguments: JobAcceptArguments, assigned: agent.JobAssignment, accepted_at: float
    ) -> None:
        offers, job = self._offers, self._job
        info = RunningJobInfo(
            accept_arguments=arguments,
            job=job,
            url=assigned.url or offers._url,
            token=assigned.token,
            worker_id=offers._worker_id(),
            fake_job=False,
            received_at=self._received_at,
            accepted_at=accepted_at,
            assigned_at=time.time(),
        )
        try:
            await offers._launch(info)
        except Exception as error:
            # the server believes that it runs here
            update = agent.UpdateJobStatus(
                job_id=job.id, status=agent.JobStatus.JS_FAILED, error=str(error)
            )
            offers._send(agent.WorkerMessage(update_job=update))
            raise

    def _respond(self, response: agent.AvailabilityResponse) -> None:
        self._answered = True
        self._offers._send(agent.WorkerMessage(availability=response))

    def _reserve(self) -> None:
        self._reserved = True
        self._offers._gauge.reserved += 1

    def _release(self) -> None:
        if self._reserved:
            self._reserved = False
            self._offers._gauge.reserved -= 1
