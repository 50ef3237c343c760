"""What a worker and a server say to each other, without a connection."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st
from livekit.protocol import agent

from livekit.agents._worker.load import LoadGauge
from livekit.agents._worker.protocol import (
    QUEUE_SIZE,
    ProtocolError,
    Registered,
    WorkerProtocol,
    agent_url,
)
from livekit.agents._worker.reconnect import ReconnectPolicy
from livekit.agents.ipc import channel, proto
from livekit.agents.job import JobAcceptArguments, RunningJobInfo


def status(load: float = 0.0) -> agent.WorkerMessage:
    return agent.WorkerMessage(update_worker=agent.UpdateWorkerStatus(load=load))


def job_status(job_id: str) -> agent.WorkerMessage:
    return agent.WorkerMessage(update_job=agent.UpdateJobStatus(job_id=job_id))


REGISTERED = agent.ServerMessage(
    register=agent.RegisterWorkerResponse(worker_id="AW_1")
).SerializeToString()


def drained(protocol: WorkerProtocol) -> list[agent.WorkerMessage]:
    """Write everything that can be written."""
    written = []
    while (data := protocol.next_message()) is not None:
        written.append(agent.WorkerMessage.FromString(data))
        protocol.wrote()
    return written


def registered() -> WorkerProtocol:
    protocol = WorkerProtocol(agent.RegisterWorkerRequest(agent_name="a"))
    protocol.connected()
    protocol.received(REGISTERED)
    return protocol


def test_a_connection_begins_with_the_registration() -> None:
    protocol = WorkerProtocol(agent.RegisterWorkerRequest(agent_name="a"))
    first = agent.WorkerMessage.FromString(protocol.connected())
    assert first.register.agent_name == "a"
    assert protocol.next_message() is None
    event = protocol.received(REGISTERED)
    assert isinstance(event, Registered) and event.response.worker_id == "AW_1"


@pytest.mark.parametrize(
    "data",
    [
        agent.ServerMessage(pong=agent.WorkerPong()).SerializeToString(),
        agent.ServerMessage(availability=agent.AvailabilityRequest()).SerializeToString(),
        b"",
        b"\xff\xff\xff",
    ],
)
def test_anything_else_than_a_registration_may_not_come_first(data: bytes) -> None:
    protocol = WorkerProtocol(agent.RegisterWorkerRequest())
    protocol.connected()
    with pytest.raises(ProtocolError):
        protocol.received(data)


def test_running_jobs_are_announced_after_every_registration() -> None:
    protocol = WorkerProtocol(agent.RegisterWorkerRequest())
    for _ in range(2):
        protocol.connected()
        protocol.received(REGISTERED, active_jobs=["AJ_1", "AJ_2"])
        (migrate,) = drained(protocol)
        assert list(migrate.migrate_job.job_ids) == ["AJ_1", "AJ_2"]
        protocol.lost()


def test_without_a_connection_the_state_is_dropped_and_the_fate_of_jobs_waits() -> None:
    protocol = registered()
    protocol.send(status())
    protocol.send(job_status("AJ_1"))
    protocol.lost()
    protocol.send(status())
    protocol.send(job_status("AJ_2"))
    protocol.connected()
    assert protocol.next_message() is None, "nothing goes out before the registration"
    protocol.received(REGISTERED)
    assert [m.update_job.job_id for m in drained(protocol)] == ["AJ_1", "AJ_2"]


def test_whoever_waits_for_a_message_is_told_when_the_server_has_handled_it() -> None:
    told: list[str] = []
    protocol = registered()
    protocol.send_confirmed(job_status("AJ_1"), lambda: told.append("first"))
    protocol.send_confirmed(job_status("AJ_2"), lambda: told.append("second"))
    written = drained(protocol)
    assert [m.WhichOneof("message") for m in written] == ["update_job", "ping"] * 2
    assert not told, "written is not handled"

    def pong(ping: agent.WorkerMessage) -> bytes:
        answer = agent.WorkerPong(last_timestamp=ping.ping.timestamp)
        return agent.ServerMessage(pong=answer).SerializeToString()

    assert protocol.received(pong(written[1])) is None
    assert told == ["first"]
    protocol.received(pong(written[1]))
    assert told == ["first"]


def test_nobody_waits_for_a_connection_that_is_gone() -> None:
    told: list[str] = []
    protocol = registered()
    protocol.send_confirmed(job_status("AJ_1"), lambda: told.append("lost"))
    protocol.lost()
    assert protocol.send_confirmed(job_status("AJ_2"), lambda: told.append("waits")) is None
    assert told == ["lost", "waits"]
    protocol.connected()
    protocol.received(REGISTERED)
    assert [m.update_job.job_id for m in drained(protocol)] == ["AJ_1", "AJ_2"]


def test_the_queue_is_bounded() -> None:
    protocol = registered()
    for number in range(QUEUE_SIZE + 5):
        protocol.send(job_status(f"AJ_{number}"))
    assert drained(protocol)[0].update_job.job_id == "AJ_5"


@pytest.mark.parametrize(
    ("url", "token", "expected"),
    [
        ("http://localhost:7880", "", "ws://localhost:7880/agent"),
        ("https://host/path/", "", "wss://host/path/agent"),
        ("wss://host", "a b", "wss://host/agent?worker_token=a+b"),
    ],
)
def test_workers_connect_below_the_url_of_the_server(url: str, token: str, expected: str) -> None:
    assert agent_url(url, token) == expected


@pytest.mark.parametrize("url", ["", "localhost:7880", "ftp://host", "wss://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the URL of a LiveKit server"):
        agent_url(url)


def test_reconnecting_waits_longer_each_time_and_gives_up() -> None:
    policy = ReconnectPolicy(max_retry=8, rng=random.Random(1))
    delays = [policy.failed(float(n)) for n in range(9)]
    assert delays[0] == 0.0 and delays[-1] is None
    for n, delay in enumerate(delays[:-1]):
        assert delay == pytest.approx(min(2 * n, 10), rel=0.2)


def test_a_server_that_accepts_and_closes_is_not_called_without_pause() -> None:
    policy, now = ReconnectPolicy(max_retry=16), 0.0
    waited = 0.0
    for _ in range(16):
        policy.registered(now)
        delay = policy.failed(now + 0.1)
        assert delay is not None
        waited += delay
    assert waited > 60.0
    assert policy.failed(now) is None


def test_a_connection_that_lived_forgets_former_failures() -> None:
    policy = ReconnectPolicy(max_retry=3)
    for _ in range(3):
        policy.failed(0.0)
    policy.registered(0.0)
    assert policy.failed(31.0) == 0.0


def test_the_load_decides_with_what_reserved_jobs_will_add() -> None:
    gauge = LoadGauge(threshold=0.7, max_idle=4)
    gauge.load = 0.3
    assert gauge.has_room(active_jobs=3)
    gauge.reserved = 4
    assert gauge.effective(3) == pytest.approx(0.7)
    assert not gauge.has_room(active_jobs=3)
    gauge.load, gauge.reserved = 0.0, 1
    assert gauge.effective(0) == pytest.approx(0.175)


def test_idle_processes_are_worth_keeping_as_far_as_jobs_can_come() -> None:
    gauge = LoadGauge(threshold=0.7, max_idle=4)
    assert gauge.idle_target(active_jobs=0) == 4
    gauge.load = 0.6
    assert gauge.idle_target(active_jobs=6) == 1
    gauge.load = 0.9
    assert gauge.idle_target(active_jobs=6) == 0
    gauge.load = 0.0
    assert gauge.idle_target(active_jobs=6) is None


def running_job(attributes: dict[str, str] | None) -> RunningJobInfo:
    return RunningJobInfo(
        accept_arguments=JobAcceptArguments("name", "identity", "metadata", attributes),
        job=agent.Job(id="AJ_1"),
        url="ws://host",
        token="token",
        worker_id="AW_1",
        fake_job=False,
        received_at=1.5,
        launched_at=2.25,
    )


@pytest.mark.parametrize("attributes", [None, {}, {"a": "b"}])
def test_a_job_reaches_its_process_as_it_was_accepted(attributes: dict[str, str] | None) -> None:
    message = proto.StartJobRequest()
    message.running_job = running_job(attributes)
    received = channel.decode(channel.encode(message), proto.IPC_MESSAGES)
    assert received.running_job == message.running_job


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_MESSAGES = st.one_of(
    st.builds(proto.InitializeResponse, _TEXT),
    st.builds(proto.PingRequest, st.integers(0, 2**64 - 1)),
    st.builds(proto.PongResponse, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.builds(proto.ShutdownRequest, _TEXT),
    st.builds(proto.Exiting, _TEXT),
    st.builds(proto.InferenceRequest, _TEXT, _TEXT, st.binary()),
    st.builds(proto.InferenceResponse, _TEXT, st.none() | st.binary(), _TEXT),
    st.builds(proto.DumpStackTraceRequest),
    st.builds(proto.ShutdownRequestAck),
    st.builds(proto.JobStep, _TEXT),
    st.builds(proto.JobFailed, _TEXT),
)


@given(_MESSAGES)
def test_messages_to_processes_arrive_as_they_were_sent(message: channel.Message) -> None:
    received = channel.decode(channel.encode(message), proto.IPC_MESSAGES)
    assert type(received) is type(message)
    assert vars(received) == vars(message)


@given(st.binary(max_size=64))
def test_garbage_from_a_process_is_an_error_and_nothing_worse(data: bytes) -> None:
    try:
        channel.decode(data, proto.IPC_MESSAGES)
    except (ValueError, DecodeError):  # text that is no UTF-8 included
        pass
