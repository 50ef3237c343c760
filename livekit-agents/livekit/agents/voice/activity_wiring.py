"""How an activity is wired to models, tools and hearing, and how each wire is cut again.

Functions over an `AgentActivity`, in the order in which start and close use them. None of those
that a close uses needs the activity lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._connections import Connections
from ..llm import LLM, AgentConfigUpdate, Instructions, RealtimeModel, Tool, ToolContext, Toolset
from ..log import logger
from ..types import NotGiven, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope, wait_until
from .closing import KILL, Step
from .events import ErrorEvent

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .hearing.listening import DetachedHearing
    from .realtime_link import RealtimeLink
    from .turn import TurnDetectionMode

TOOLSET_SETUP_TIMEOUT = 30.0
"""Seconds one toolset may take to set up; a dead server must not hold `start()` forever."""


@dataclass
class Reusable:
    """What the next activity may take over instead of opening it anew."""

    realtime: RealtimeLink | None = None
    hearing: DetachedHearing | None = None

    @property
    def empty(self) -> bool:
        """Whether everything was taken over, or closed."""
        return self.realtime is None and (self.hearing is None or self.hearing.empty)

    def close_steps(self, budget: float) -> list[Step]:
        """Close whatever nobody took over, within `budget` seconds."""
        steps: list[Step] = []
        if self.realtime is not None:
            steps.append(_close_step("detached realtime session", self.realtime, budget))
        if self.hearing is not None and not self.hearing.empty:
            steps.append(Step("detached STT stream", self.hearing.aclose))
        return steps


# -- start ----------------------------------------------------------------------------------------


def prewarm(activity: AgentActivity) -> None:
    """Let the models connect before they are needed."""
    for model in (activity.llm, activity.stt, activity.tts):
        warm_up = getattr(model, "prewarm", None)
        if warm_up is None:
            continue
        try:
            warm_up()
        except Exception:
            logger.exception("prewarming %s failed, it will connect when it is used", model)


async def set_up_toolsets(activity: AgentActivity) -> None:
    """Set up all toolsets side by side. One that fails is reported, and done without.

    Those of the session are attached to it, and so go on through a handoff.
    """
    from ..llm.async_toolset import attach

    session = activity.session
    servers = activity.mcp_servers or []
    if servers and not activity._mcp_toolsets:
        from ..llm.mcp import MCPToolset

        activity._mcp_toolsets = [
            MCPToolset(id=f"mcp_{index}", mcp_server=server) for index, server in enumerate(servers)
        ]
    shared = _toolsets(session.tools)
    own = [toolset for toolset in own_toolsets(activity) if toolset not in shared]
    attach(shared, session)
    attach(own, activity)
    await _set_up(activity, [*shared, *own])


async def change_toolsets(activity: AgentActivity, tools: list[Tool | Toolset]) -> None:
    """Get ready for other tools of the agent. Toolsets that go are closed with the activity."""
    from ..llm.async_toolset import attach

    known = [*own_toolsets(activity), *_toolsets(activity.session.tools)]
    kept = _toolsets(tools)
    activity._former_toolsets += [
        toolset
        for toolset in _toolsets(activity.agent._tools)
        if toolset not in kept and toolset not in activity._former_toolsets
    ]
    new = [toolset for toolset in kept if toolset not in known]
    attach(new, activity)
    await _set_up(activity, new)


def own_toolsets(activity: AgentActivity) -> list[Toolset]:
    """The toolsets that end with the activity: the agent's, also former ones, and MCP's."""
    own = _toolsets(activity.agent._tools)
    return [*own, *(t for t in activity._former_toolsets if t not in own), *activity._mcp_toolsets]


def _toolsets(tools: Iterable[Tool | Toolset]) -> list[Toolset]:
    return [tool for tool in tools if isinstance(tool, Toolset)]


async def _set_up(activity: AgentActivity, toolsets: list[Toolset]) -> None:
    if not toolsets:
        return
    scope = TaskScope(f"toolsets of {activity.agent.id}")
    tasks = {
        scope.spawn(toolset.setup(), name=f"set up {toolset.id}", log_errors=False): toolset
        for toolset in toolsets
    }
    try:
        await wait_until(tasks, TOOLSET_SETUP_TIMEOUT)
    finally:
        await scope.cancel(0.25)
    for task, toolset in tasks.items():
        error = _setup_error(task)
        if error is not None:
            logger.error(
                "setting up toolset %s failed, its tools are missing", toolset.id, exc_info=error
            )
            activity._failed_toolsets.append(toolset)
            activity.session.emit("error", ErrorEvent(error=error, source=toolset))


def _setup_error(task: asyncio.Task[Any]) -> BaseException | None:
    if not task.done() or task.cancelled():
        return asyncio.TimeoutError(f"not set up within {TOOLSET_SETUP_TIMEOUT:.0f} s")
    return task.exception()


def subscribe(activity: AgentActivity) -> None:
    """Follow metrics and errors of the models; undone by `release_subscriptions`."""
    session = activity.session

    def listen(source: Any, event: str, handler: Callable[..., None]) -> None:
        source.on(event, handler)
        activity._unsubscribe.append(lambda: source.off(event, handler))

    activity.release_subscriptions()
    for source in (activity.llm, activity.stt, activity.tts, activity.vad, activity.turn_detection):
        if source is None or not hasattr(source, "on"):
            continue
        listen(source, "metrics_collected", activity.on_model_metrics)
        if isinstance(source, RealtimeModel) or not isinstance(source, str):
            listen(source, "error", _error_handler(activity, source))
    stt = activity.stt
    forward = session.options.stt_context_options.get("forward_chat_context", True)
    if stt is not None and forward and stt.capabilities.chat_context:
        listen(session, "conversation_item_added", stt._push_conversation_item)


def _error_handler(activity: AgentActivity, source: Any) -> Callable[[Any], None]:
    def on_error(error: Any) -> None:
        activity.session._on_error(error, source)

    return on_error


async def open_realtime(activity: AgentActivity, reuse: Reusable | None) -> None:
    """Open, or take over, the session with a realtime model."""
    model = activity.llm
    if not isinstance(model, RealtimeModel):
        return
    from .realtime_events import RealtimeEvents
    from .replies.realtime import push_state

    adopted = reuse.realtime if reuse is not None else None
    if adopted is not None and reuse is not None:
        reuse.realtime = None
        adopted.interrupt()
        adopted.clear_audio()
    link = adopted if adopted is not None else _open_link(activity, model)
    activity.realtime = link
    link.listen(RealtimeEvents(activity, link).handlers())
    await push_state(activity, link, adopted=adopted is not None)


def _open_link(activity: AgentActivity, model: RealtimeModel) -> RealtimeLink:
    from .realtime_link import RealtimeLink

    options: dict[str, bool] = {}
    if model.capabilities.can_disable_turn_detection and not activity.server_turn_detection:
        logger.info("turns are found here, %s does not look for them", model.label)
        options["turn_detection_disabled"] = True
    connections = Connections(f"{model.label} session")
    with connections.recording():
        session = model.session(**options)
    return RealtimeLink(session, activity.session, connections)


def announce_config(activity: AgentActivity) -> None:
    """Note in the histories which instructions and tools count from here on."""
    agent = activity.agent
    if isinstance(activity.llm, LLM):
        put_instructions(activity)
    names = sorted(ToolContext(activity.tools).function_tools)
    if agent.instructions or names:
        activity._record_config(
            AgentConfigUpdate(
                instructions=in_words(agent.instructions) or None, tools_added=names or None
            )
        )


def in_words(instructions: Any) -> str:
    """Instructions as they are recorded: those for voice, if nothing in them is for both."""
    return str(instructions) or (
        instructions.render(modality="audio") if isinstance(instructions, Instructions) else ""
    )


def put_instructions(activity: AgentActivity) -> None:
    """Keep the instructions as the first message of the agent's context."""
    from .generation import update_instructions

    if activity.agent.instructions:
        update_instructions(
            activity.agent._chat_ctx,
            instructions=activity.agent.instructions,
            add_if_missing=True,
        )


def start_hearing(activity: AgentActivity, reuse: Reusable | None) -> None:
    """Create the recognition of this run, taking over the open STT stream if there is one."""
    from .audio_recognition import AudioRecognition
    from .endpointing import create_endpointing

    stt = activity.stt
    vad = activity.vad
    if activity.server_turn_detection and activity.using_default_vad:
        vad = None
    recognition = AudioRecognition(
        activity.session,
        hooks=activity,
        endpointing=create_endpointing(activity.endpointing_opts),
        stt=activity.agent.stt_node if stt is not None else None,
        vad=vad,
        interruption_detection=activity.interruption_detector,
        turn_detection=activity.turn_detection,
        stt_model=stt.model if stt is not None else None,
        stt_provider=stt.provider if stt is not None else None,
        stt_aligned_transcript=bool(stt is not None and stt.capabilities.aligned_transcript),
    )
    activity.recognition = recognition
    recognition.start(adopt=reuse.hearing if reuse is not None else None)


def start_keyterms(activity: AgentActivity) -> None:
    """Give the STT the keyterms, and look for new ones if asked to."""
    activity.session._keyterms.start(activity.session, activity.stt)


# -- handing over -----------------------------------------------------------------------------------


def detach_reusable(activity: AgentActivity, new: AgentActivity | None) -> Reusable | None:
    """Take out what `new` can go on with; the rest ends with this activity."""
    if new is None or activity.session._is_closing:
        return None
    from .agent import Agent
    from .replies.realtime import can_hand_over
    from .turn import is_streaming_detector

    reuse = Reusable()
    default_node = all(type(a.agent).stt_node is Agent.stt_node for a in (activity, new))
    same_stt = activity.stt is not None and activity.stt is new.stt and default_node
    detection = activity.turn_detection
    same_detector = is_streaming_detector(detection) and detection is new.turn_detection
    if activity.recognition is not None and (same_stt or same_detector):
        reuse.hearing = activity.recognition.detach(
            keep_stt=same_stt, keep_turn_detector=same_detector
        )
    link = activity.realtime
    if link is not None and can_hand_over(activity, new, link):
        link.hold()
        reuse.realtime, activity.realtime = link, None
    activity.session._handoffs.carry(reuse)
    return reuse


# -- close ------------------------------------------------------------------------------------------


def hearing_steps(activity: AgentActivity) -> list[Step]:
    """End STT, VAD and detectors, side by side and without anybody's cooperation."""
    recognition, activity.recognition = activity.recognition, None
    steps: list[Step] = []
    if recognition is not None:
        steps.append(Step("speech recognition", recognition.aclose, keeps_budget=True))
    return steps


def model_steps(activity: AgentActivity) -> list[Step]:
    """End the session with a realtime model."""
    link, activity.realtime = activity.realtime, None
    if link is None:
        return []
    return [_close_step("realtime session", link, activity.session.options.teardown_timeout)]


def _close_step(name: str, link: RealtimeLink, budget: float) -> Step:
    # It gives the session up itself, a little before the plan would give up the step.
    allowed = budget - min(KILL, budget / 2) - min(0.05, budget / 4)
    return Step(name, lambda: link.aclose(allowed))


def toolset_steps(activity: AgentActivity) -> list[Step]:
    """Close the agent's own toolsets and MCP connections."""
    toolsets = own_toolsets(activity)
    activity._mcp_toolsets, activity._former_toolsets = [], []
    return [toolset_step(toolset) for toolset in toolsets]


def toolset_step(toolset: Toolset) -> Step:
    """Close a toolset. Cancelling one that ends in time by itself would leave behind what it ends."""
    name = f"toolset {toolset.id}"
    if toolset._ends_by_itself:
        return Step(name, lambda _: toolset.aclose(), keeps_budget=True, if_not=toolset._give_up)
    return Step(name, toolset.aclose)


def end_steps(activity: AgentActivity) -> list[Step]:
    """End tasks and timers that are left of the activity itself."""
    cut_off = activity.scheduler.was_cut_off
    budget = KILL / 2 if cut_off else activity.session.options.teardown_timeout / 2
    return [
        Step("paused speech", activity.barge_in.ending),
        Step("speech tasks", lambda: activity.scheduler.ending(budget)),
        Step("tools", lambda: activity.tool_executor.ending(budget)),
        Step("activity tasks", lambda: activity.scope.ending(budget)),
    ]


# -- changes while running --------------------------------------------------------------------------


def update_hearing(
    activity: AgentActivity,
    endpointing: NotGivenOr[Any],
    turn_detection: NotGivenOr[Any],
    min_delay: NotGivenOr[float],
    max_delay: NotGivenOr[float],
) -> None:
    """Apply changed endpointing and turn detection to the running recognition."""
    from .endpointing import create_endpointing

    if activity.recognition is None:
        return
    delays = {"min_delay": min_delay, "max_delay": max_delay}
    given = {key: value for key, value in delays.items() if is_given(value)}
    if given or is_given(endpointing):
        options = {**activity.endpointing_opts, **given}
        activity.recognition.update_options(
            endpointing=create_endpointing(options)  # type: ignore[arg-type]
        )
    if is_given(turn_detection):
        change_turn_detection(activity, activity.choose_turn_detection())


def change_turn_detection(activity: AgentActivity, detection: TurnDetectionMode | None) -> None:
    """Let the running activity find turns another way, with the delays that go with it.

    Raises:
        ValueError: The VAD is too quick for the detector. Nothing has changed then.
    """
    recognition = activity.recognition
    if recognition is None or detection is activity.turn_detection:
        return
    before = activity.endpointing_opts
    recognition.update_options(turn_detection=detection)
    activity._turn_detection = detection
    subscribe(activity)
    if (options := activity.endpointing_opts) != before:
        recognition.endpointing.update_options(
            min_delay=options["min_delay"], max_delay=options["max_delay"]
        )


def check_swap(activity: AgentActivity, *, vad: NotGivenOr[Any], llm: NotGivenOr[Any]) -> None:
    """Refuse a swap that can't be done live, before anything is changed.

    Raises:
        RuntimeError: To or from a realtime model.
        ValueError: The VAD is too quick for the streaming turn detector.
    """
    from .hearing.listening import check_vad

    if is_given(llm) and (
        isinstance(llm, RealtimeModel) or isinstance(activity.llm, RealtimeModel)
    ):
        raise RuntimeError(
            "an LLM can't be swapped to or from a realtime model while the agent runs: hand over "
            "to another agent with session.update_agent() instead"
        )
    if is_given(vad) and not activity.using_default_turn_detector:
        check_vad(vad, activity.turn_detection)


def apply_swap(activity: AgentActivity, *, stt: bool, vad: bool) -> None:
    """Let the running activity use the models that its agent has now."""
    subscribe(activity)
    prewarm(activity)
    recognition = activity.recognition
    if recognition is None:
        return
    if stt:
        model = activity.stt
        recognition.update_stt(
            activity.agent.stt_node if model is not None else None,
            stt_model=model.model if model is not None else None,
            stt_provider=model.provider if model is not None else None,
            stt_aligned_transcript=bool(
                model is not None and model.capabilities.aligned_transcript
            ),
        )
        activity.session._keyterms.swap_stt(model)
    if vad:
        swap_vad(activity)


def swap_vad(activity: AgentActivity) -> None:
    """Listen with the VAD there is now. The default detector comes and goes with what it needs."""
    if activity.recognition is None:
        return
    detection = activity.turn_detection
    if isinstance(activity.explicit_turn_detection, NotGiven):
        detection = activity.choose_turn_detection()
    if detection is None:
        change_turn_detection(activity, None)
    activity.recognition.update_vad(activity.vad)
    change_turn_detection(activity, detection)
