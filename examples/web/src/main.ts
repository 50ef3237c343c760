// Calls an agent: joins a room with the microphone, shows what the agent does and what is said,
// and after hanging up how long the agent took to leave.

import {
  ConnectionState,
  type Participant,
  ParticipantKind,
  type RemoteTrack,
  Room,
  RoomEvent,
  type TextStreamReader,
  setLogLevel,
} from "livekit-client";

setLogLevel("warn");

type Phase = "idle" | "connecting" | "call" | "closing" | "ended" | "failed";

interface CallDetails {
  url: string;
  token: string;
  room: string;
}

const AGENT_STATE = "lk.agent.state";
const TRANSCRIPTION_TOPIC = "lk.transcription";
const CHAT_TOPIC = "lk.chat";
const SEGMENT_ID = "lk.segment_id";
const FINAL = "lk.transcription_final";
const CLOSE_PATIENCE_MS = 30_000;
const CLOSE_POLL_MS = 100;

const LABELS: Record<string, string> = {
  initializing: "The agent is getting ready",
  idle: "The agent is idle",
  listening: "Listening",
  thinking: "Thinking",
  speaking: "Speaking",
};

function element<T extends HTMLElement>(selector: string): T {
  const found = document.querySelector<T>(selector);
  if (found === null) throw new Error(`the page has no ${selector}`);
  return found;
}

const page = element<HTMLElement>("main");
const stateLine = element("#state");
const note = element("#note");
const button = element<HTMLButtonElement>("#call");
const muteButton = element<HTMLButtonElement>("#mute");
const chat = element<HTMLFormElement>("#chat");
const text = element<HTMLInputElement>("#text");

/** Shows one phase of the call. */
function show(phase: Phase, line: string, hint = ""): void {
  page.dataset.phase = phase;
  stateLine.textContent = line;
  note.textContent = hint;
  const calling = phase === "connecting" || phase === "call";
  button.textContent = calling ? "Hang up" : "Call";
  button.disabled = phase === "closing";
  chat.hidden = phase !== "call";
}

/** What is said, a bubble for each segment; interim words are replaced by later ones. */
class Transcript {
  private readonly list = element<HTMLOListElement>("#transcript");
  private readonly bubbles = new Map<string, HTMLLIElement>();

  clear(): void {
    this.list.replaceChildren();
    this.bubbles.clear();
  }

  note(words: string): void {
    this.bubble("event").textContent = words;
  }

  async follow(reader: TextStreamReader, who: "caller" | "agent"): Promise<void> {
    const attributes = reader.info.attributes ?? {};
    const segment = attributes[SEGMENT_ID] ?? reader.info.id;
    const bubble = this.bubbles.get(segment) ?? this.bubble(who);
    this.bubbles.set(segment, bubble);
    bubble.classList.toggle("interim", who === "caller" && attributes[FINAL] === "false");
    let said = "";
    for await (const piece of reader) {
      said += piece;
      bubble.textContent = said;
      bubble.scrollIntoView({ block: "nearest" });
    }
    if (said === "") bubble.remove();
  }

  private bubble(kind: string): HTMLLIElement {
    const item = document.createElement("li");
    item.className = kind;
    this.list.append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  }
}

class Call {
  private readonly room = new Room({
    adaptiveStream: false,
    dynacast: false,
    // muted means off: the browser shows that nobody listens
    publishDefaults: { stopMicTrackOnMute: true },
  });
  private readonly transcript = new Transcript();
  private readonly voices: HTMLMediaElement[] = [];
  private over = false;
  private meter = 0;

  constructor(
    private muted: boolean,
    private readonly onOver: () => void,
  ) {
    this.room
      .on(RoomEvent.TrackSubscribed, (track) => this.play(track))
      .on(RoomEvent.ParticipantConnected, () => this.showAgent())
      .on(RoomEvent.ParticipantAttributesChanged, () => this.showAgent())
      .on(RoomEvent.ParticipantDisconnected, (who) => this.onLeft(who))
      .on(RoomEvent.Disconnected, () => void this.end("The agent ended the call"));
  }

  async start(): Promise<void> {
    show("connecting", "Calling …");
    this.transcript.clear();
    try {
      const details = await this.request();
      element("#room").textContent = details.room;
      this.room.registerTextStreamHandler(TRANSCRIPTION_TOPIC, (reader, { identity }) => {
        const mine = identity === this.room.localParticipant.identity;
        void this.transcript.follow(reader, mine ? "caller" : "agent");
      });
      await this.room.connect(details.url, details.token);
      await this.room.startAudio();
      await this.listen();
      this.showAgent();
      this.watchLoudness();
    } catch (error) {
      this.over = true;
      await this.room.disconnect();
      show("failed", "The call failed", error instanceof Error ? error.message : String(error));
      this.onOver();
    }
  }

  async say(words: string): Promise<void> {
    await this.room.localParticipant.sendText(words, { topic: CHAT_TOPIC });
  }

  async mute(muted: boolean): Promise<void> {
    this.muted = muted;
    if (this.room.state === ConnectionState.Connected) await this.listen();
  }

  /** Has the microphone on, or off; one that was never on is not asked for. */
  private async listen(): Promise<void> {
    await this.room.localParticipant.setMicrophoneEnabled(!this.muted);
  }

  /** Hangs up, and waits until the server has seen the agent leave as well. */
  async hangUp(): Promise<void> {
    await this.end("You hung up");
  }

  private async request(): Promise<CallDetails> {
    const response = await fetch("/calls", { method: "POST" });
    if (!response.ok) throw new Error(await response.text());
    return (await response.json()) as CallDetails;
  }

  private get agent(): Participant | undefined {
    return [...this.room.remoteParticipants.values()].find(
      (participant) => participant.kind === ParticipantKind.AGENT,
    );
  }

  private showAgent(): void {
    if (this.over) return;
    const state = this.agent?.attributes[AGENT_STATE] ?? "";
    if (this.agent === undefined) {
      show("connecting", "Waiting for an agent …", "Start one: python examples/basic_agent.py dev");
      return;
    }
    page.dataset.state = state;
    show("call", LABELS[state] ?? "Connected");
  }

  private play(track: RemoteTrack): void {
    if (track.kind === "audio") this.voices.push(track.attach());
  }

  private watchLoudness(): void {
    const loudness = Math.max(this.agent?.audioLevel ?? 0, this.room.localParticipant.audioLevel);
    page.style.setProperty("--voice", loudness.toFixed(2));
    if (!this.over) this.meter = requestAnimationFrame(() => this.watchLoudness());
  }

  private onLeft(participant: Participant): void {
    if (participant.kind === ParticipantKind.AGENT) void this.end("The agent hung up");
  }

  private async end(why: string): Promise<void> {
    if (this.over) return;
    this.over = true;
    const began = performance.now();
    cancelAnimationFrame(this.meter);
    page.style.setProperty("--voice", "0");
    page.dataset.state = "";
    show("closing", why, "The agent is closing …");
    this.transcript.note(why);
    const room = element("#room").textContent ?? "";
    await this.room.disconnect();
    for (const voice of this.voices) voice.remove();
    const gone = await this.agentIsGone(room, began);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    if (gone) show("ended", why, `The agent closed and left within ${seconds} s.`);
    else show("failed", why, `The agent was still in the room after ${seconds} s.`);
    this.onOver();
  }

  private async agentIsGone(room: string, since: number): Promise<boolean> {
    while (performance.now() - since < CLOSE_PATIENCE_MS) {
      const response = await fetch(`/calls/${encodeURIComponent(room)}`);
      if (response.ok && !((await response.json()) as { agent: boolean }).agent) return true;
      await new Promise((resolve) => setTimeout(resolve, CLOSE_POLL_MS));
    }
    return false;
  }
}

let call: Call | null = null;
let muted = false;

button.addEventListener("click", () => {
  if (call !== null) {
    void call.hangUp();
    return;
  }
  call = new Call(muted, () => {
    call = null;
  });
  void call.start();
});

muteButton.addEventListener("click", () => {
  muted = !muted;
  muteButton.textContent = muted ? "Unmute" : "Mute";
  muteButton.setAttribute("aria-pressed", String(muted));
  void call?.mute(muted);
});

chat.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (words !== "" && call !== null) void call.say(words);
  text.value = "";
});
