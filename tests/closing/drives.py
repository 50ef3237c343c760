"""What brings a conversation to the place where it gets stuck."""

from __future__ import annotations

import asyncio
from typing import Any

from closing.scene import Ask, Drive, Part, Scene, Second

from fakes.hearing import frame
from fakes.realtime import RealtimeReply
from livekit.agents.vad import VADEventType
from livekit.agents.voice import AgentSession
from livekit.agents.voice.amd import AMD

WORDS = "where is my parcel"
"""What the user says."""


async def nothing(scene: Scene) -> None:
    """The session only listens."""


async def talks(scene: Scene) -> None:
    """The agent replies to a text."""
    scene.reply("tell me")


async def says(scene: Scene) -> None:
    """The agent speaks."""
    scene.say("something long to say")


async def tells(scene: Scene) -> None:
    """The agent tells a long story."""
    scene.say("once upon a time there was an agent who told a story, and when it was told, " * 3)


async def says_for_sure(scene: Scene) -> None:
    """The agent says what can't be interrupted."""
    scene.say("something important", allow_interruptions=False)


async def queues(scene: Scene) -> None:
    """More speech waits behind the first."""
    scene.say("something long to say")
    scene.say("something important", allow_interruptions=False)
    scene.reply("and this?")
    scene.checker.user_words.remove("and this?")  # it need not get that far


async def interrupts(scene: Scene) -> None:
    """Somebody interrupts the agent, and waits until it is silent."""
    scene.reply("tell me")
    await asyncio.sleep(0.1)
    scene.checker.waiter("interrupt", scene.session.interrupt(force=True))


def calls(*tools: str) -> Drive:
    """The agent calls tools."""

    async def drive(scene: Scene) -> None:
        scene.reply_with_tool(*tools)

    return drive


async def calls_while_speaking(scene: Scene) -> None:
    """A tool runs while other speech plays and waits."""
    scene.reply_with_tool("look_up")
    await asyncio.sleep(0.1)
    scene.say("one moment")
    scene.say("and another")


async def asks(scene: Scene) -> None:
    """A tool asks the user in an inline task."""
    scene.reply_with_tool("ask")
    await asyncio.sleep(0.1)


async def asks_and_looks_up(scene: Scene) -> None:
    """The inline task calls a tool of its own."""
    scene.reply_with_tool("ask")
    await scene.asked.wait()
    await asyncio.sleep(0)
    scene.reply_with_tool("look_up", text="this one")


async def answers(scene: Scene) -> None:
    """The user answers the inline task, which gives the floor back."""
    scene.reply_with_tool("ask")
    await scene.asked.wait()
    await asyncio.sleep(0)
    task = scene.session.current_agent
    assert isinstance(task, Ask)
    task.complete("yes")


async def hands_over(scene: Scene) -> None:
    """Another agent takes over."""
    scene.session.update_agent(Second(scene))


async def hands_over_twice(scene: Scene) -> None:
    """Two handoffs are in flight."""
    scene.session.update_agent(Second(scene))
    scene.session.update_agent(Second(scene))


async def hands_over_while_asking(scene: Scene) -> None:
    """Another agent takes over while a tool waits for an inline task."""
    scene.reply_with_tool("ask")
    await scene.asked.wait()
    scene.session.update_agent(Second(scene))


async def user_talks(scene: Scene) -> None:
    """The user says something, and waits for the answer."""
    await scene.user_speaks()
    scene.ear.final(WORDS)
    scene.checker.user_words.append(WORDS)
    await scene.user_stops()


async def user_is_heard(scene: Scene) -> None:
    """The first audio of the user arrives."""
    activity = scene.session._activity
    assert activity is not None
    activity.push_audio(frame())
    await asyncio.sleep(0)


async def user_pauses(scene: Scene) -> None:
    """The user has said something, and a streaming turn detector is asked whether that was all."""
    await user_is_heard(scene)
    await scene.user_speaks()
    scene.ear.final(WORDS)
    scene.checker.user_words.append(WORDS)
    await asyncio.sleep(0.2)
    scene.vad.streams[-1].send(
        VADEventType.INFERENCE_DONE,
        speaking=True,
        speech_duration=0.6,
        raw_accumulated_silence=0.2,
    )


async def user_falls_silent(scene: Scene) -> None:
    """As `user_pauses`, and the answer is waited for."""
    await user_pauses(scene)
    await scene.user_stops()


async def user_talks_in_vain(scene: Scene) -> None:
    """As `user_talks`, with an STT that may not hear it."""
    await scene.user_speaks()
    await scene.user_stops()


async def user_is_cut_short(scene: Scene) -> None:
    """The user is still speaking; an interim transcript is all there is."""
    await scene.user_speaks()
    scene.ear.interim(WORDS)
    scene.checker.user_words.append(WORDS)


async def user_barges_in(scene: Scene) -> None:
    """The user speaks over the agent, whose speech is paused; more waits behind it."""
    scene.say("a very long story that the user does not want to hear to its end")
    await asyncio.sleep(0.5)
    await scene.user_speaks()
    scene.say("another thing")


async def user_goes_on_and_on(scene: Scene) -> None:
    """The user says more than the limit allows."""
    await scene.user_speaks()
    scene.ear.final("one two three four five six seven eight")
    scene.checker.user_words.append("seven eight")


async def reply_is_prepared(scene: Scene) -> None:
    """A reply is begun before the turn is surely over."""
    await scene.user_speaks()
    scene.ear.final(WORDS)
    scene.checker.user_words.append(WORDS)
    await asyncio.sleep(0)


async def commits(scene: Scene) -> None:
    """A program ends the user's turn, and waits for the transcript."""
    await scene.user_speaks()
    scene.checker.waiter("commit", scene.session.commit_user_turn(transcript_timeout=60))


async def claims(scene: Scene) -> None:
    """A program acts for the user, and doesn't stop; others wait until it does."""

    async def claim(session: AgentSession[Any]) -> None:
        async with session._claim_user_turn():
            await scene.parking.at("user turn that is claimed")

    scene.help(claim(scene.session))
    await asyncio.sleep(0)
    scene.checker.waiter("idle", scene.session.wait_for_idle())
    scene.say("something")


async def runs(scene: Scene) -> None:
    """A run collects what happens."""
    scene.checker.waiter("run", scene.session.run(user_input="go"))


async def runs_a_tool(scene: Scene) -> None:
    """A run waits for a tool."""
    scene.llm.replies = [scene.tool_call("look_up")]
    scene.checker.waiter("run", scene.session.run(user_input="go"))


async def drains(scene: Scene) -> None:
    """A program drains the session before it closes it."""
    scene.checker.waiter("drain", scene.session.drain())


async def starts(scene: Scene) -> None:
    """The session still starts."""
    scene.checker.waiter("start", scene.start())


async def starts_with_a_run(scene: Scene) -> None:
    """The session starts, and the caller waits for what `on_enter` produces."""
    scene.attach()
    scene.checker.waiter("start", scene.session.start(scene.agent, capture_run=True))


async def swaps_the_stt(scene: Scene) -> None:
    """The STT was replaced, and the old one closes in the background."""
    await asyncio.sleep(0.1)
    scene.session.clear_user_turn()
    await asyncio.sleep(0)


async def judges(scene: Scene) -> None:
    """A detector judges speech over the agent."""
    activity = scene.session._activity
    assert activity is not None and activity.recognition is not None
    activity.recognition._parts.listening.set_interruption_detector(scene.interruption_detector)


def realtime(**reply: Any) -> Drive:
    """A realtime model replies to a text."""

    async def drive(scene: Scene) -> None:
        assert scene.realtime is not None
        scene.realtime.replies = [RealtimeReply(**reply)]
        handle = scene.session.generate_reply(user_input="go")
        scene.checker.waiter("reply", handle.wait_for_playout())
        if reply.get("never_begins") or reply.get("never_ends"):
            scene.parking.reached.set()

    return drive


async def dials(scene: Scene) -> None:
    """Somebody has picked up, and it is being found out who."""
    amd = AMD(scene.session, llm=scene.amd_llm, stt=None, suppress_compatibility_warning=True)
    await amd.__aenter__()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    amd.on_transcript("leave a message")


def part(slot: str) -> Drive:
    """The session has a further part: recorder, room, session host."""

    async def drive(scene: Scene) -> None:
        setattr(scene.session, slot, Part(scene.parking))

    return drive
