// One connection at a time, and the next one after it. Order of a life:
// ticket -> socket -> HELLO -> WELCOME -> online -> broken -> delay -> ticket ...
// What travels is the owner's business; this file knows HELLO, WELCOME, GOODBYE, PING and silence.

import { backoffMs } from "./backoff";
import { TicketError, type TicketSource } from "./tickets";
import { type ClientMessage, NO_DEVICE, type ServerMessage, SUBPROTOCOL } from "./wire";

/** The part of WebSocket that is needed; tests pass a fake. */
export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  send(text: string): void;
  close(): void;
}

export type Connect = (url: string, subprotocol: string) => Socket;

/**
 * `idle`: not started. `connecting`: a ticket or a WELCOME is awaited. `online`: WELCOME came. `waiting`: the next
 * attempt is at `retryAt`. `refused`: somebody has to log in (`refusal` is the code).
 */
export type Phase = "idle" | "connecting" | "online" | "waiting" | "refused";

export type Welcome = Extract<ServerMessage, { type: "welcome" }>;

/** What the owner of a link supplies. */
export interface LinkOwner {
  hello(ticket: string): Extract<ClientMessage, { type: "hello" }>;
  welcomed(welcome: Welcome): void;
  received(message: ServerMessage): void;
  /** The connection is gone: tags of it will never be answered. */
  broken(): void;
  changed(): void;
}

/** From connect to WELCOME. */
const WELCOME_MS_MAX = 10_000;
/** After waking up (page visible again, network back) a live server answers a PING within this. */
const PROBE_MS = 4_000;
/** Somebody in a hurry makes at most one attempt in this time. */
const HURRY_MS = 1_500;
/** A connection that lived this long resets the backoff. */
const STABLE_MS = 5_000;
/** After a goodbye that says this client is at fault: not in a tight loop. */
const FAULT_MS = 30_000;

/** Goodbyes after which the same again later is right, at once. */
const PASSING = new Set(["busy", "shutting_down", "idle", "internal"]);

export class Link {
  phase: Phase = "idle";
  /** Code of the last refusal. */
  refusal = "";
  /** Milliseconds since 1970 of the next attempt while `waiting`. */
  retryAt = 0;
  #socket: Socket | undefined;
  #attempt = 0;
  #life = 0;
  #lastTag = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #beat: ReturnType<typeof setTimeout> | undefined;
  #heartbeatMs = 30_000;
  #welcomedAt = 0;
  #sentAt = 0;
  #receivedAt = 0;
  #retryAfterMs = 0;
  #triedAt = 0;

  constructor(
    private readonly owner: LinkOwner,
    private readonly tickets: TicketSource,
    private readonly connect: Connect,
    private readonly random: () => number,
  ) {}

  get online(): boolean {
    return this.phase === "online";
  }

  start(): void {
    if (this.phase === "idle" || this.phase === "refused") {
      this.#attempt = 0;
      void this.#open();
    }
  }

  /** Closes and stays closed. */
  stop(): void {
    this.#drop();
    this.#turn("idle");
  }

  /** Leaves the present connection and makes another at once. */
  renew(): void {
    if (this.phase === "idle" || this.phase === "refused") return;
    this.#drop();
    void this.#open();
  }

  /** Somebody waits for the connection: an attempt that is due later is made now, unless one was just made. */
  hurry(): void {
    if (this.phase !== "waiting" || this.#retryAfterMs > 0 || Date.now() - this.#triedAt < HURRY_MS) return;
    this.#drop();
    void this.#open();
  }

  /** The page woke up: like `hurry`, and a connection is probed. */
  wake(): void {
    this.hurry();
    if (this.phase === "online") {
      const life = this.#life;
      const since = Date.now();
      this.send({ type: "ping", nonce: NO_DEVICE });
      setTimeout(() => {
        if (life === this.#life && this.online && this.#receivedAt < since) this.renew();
      }, PROBE_MS);
    }
  }

  /** Sends if online; the tag under which it is answered, or 0. */
  send(message: ClientMessage): number {
    if (!this.online) return 0;
    return this.#write(message);
  }

  #write(message: ClientMessage): number {
    // Tags are u32 and never 0.
    this.#lastTag = (this.#lastTag % 0xffff_ffff) + 1;
    this.#sentAt = Date.now();
    this.#socket?.send(JSON.stringify({ ...message, tag: this.#lastTag, channel: 0 }));
    return this.#lastTag;
  }

  async #open(): Promise<void> {
    const life = ++this.#life;
    this.#triedAt = Date.now();
    this.#turn("connecting");
    let ticket: { ticket: string; ws: string };
    try {
      ticket = await this.tickets.get();
    } catch (error) {
      if (life !== this.#life) return;
      if (error instanceof TicketError && error.kind === "refused") return this.#refuse(error.code);
      return this.#again(error instanceof TicketError ? error.retryAfterMs : 0);
    }
    if (life !== this.#life) return;
    let socket: Socket;
    try {
      socket = this.connect(ticket.ws, SUBPROTOCOL);
    } catch {
      return this.#again(0);
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#again(0), WELCOME_MS_MAX);
    socket.onopen = () => {
      if (life === this.#life) this.#write(this.owner.hello(ticket.ticket));
    };
    socket.onmessage = (event) => {
      if (life === this.#life) this.#receive(event.data);
    };
    socket.onclose = () => {
      if (life === this.#life) this.#again(0);
    };
  }

  #receive(data: unknown): void {
    this.#receivedAt = Date.now();
    let message: ServerMessage;
    try {
      message = JSON.parse(String(data)) as ServerMessage;
    } catch {
      return this.#again(FAULT_MS);
    }
    if (message.type === "goodbye") return this.#goodbye(message.code.toLowerCase(), message.retry_after_ms);
    if (message.type === "pong") return;
    if (message.type === "welcome") return this.#welcome(message);
    if (this.online) this.owner.received(message);
  }

  #welcome(welcome: Welcome): void {
    clearTimeout(this.#timer);
    this.#welcomedAt = Date.now();
    this.#heartbeatMs = Math.max(1, welcome.heartbeat_s) * 1000;
    this.refusal = "";
    this.#turn("online");
    this.#schedule();
    this.owner.welcomed(welcome);
  }

  /** Half a heartbeat apart: speaks when nothing was said, and notices when nothing is heard. */
  #schedule(): void {
    clearTimeout(this.#beat);
    this.#beat = setTimeout(() => {
      if (!this.online) return;
      const now = Date.now();
      if (now - this.#receivedAt > this.#heartbeatMs * 1.5) return this.renew();
      if (now - Math.min(this.#sentAt, this.#receivedAt) >= this.#heartbeatMs * 0.4) {
        this.send({ type: "ping", nonce: NO_DEVICE });
      }
      this.#schedule();
    }, this.#heartbeatMs / 2);
  }

  #goodbye(code: string, retryAfterMs: number): void {
    if (code.startsWith("ticket_")) {
      this.tickets.refused(code);
      return this.#again(retryAfterMs);
    }
    this.refusal = code;
    this.#again(PASSING.has(code) || retryAfterMs > 0 ? retryAfterMs : FAULT_MS);
  }

  #refuse(code: string): void {
    this.#drop();
    this.refusal = code;
    this.#turn("refused");
  }

  /** Another attempt after a delay; at least what the server asked for. */
  #again(retryAfterMs: number): void {
    if (this.#welcomedAt > 0 && Date.now() - this.#welcomedAt > STABLE_MS) this.#attempt = 0;
    this.#drop();
    this.#retryAfterMs = retryAfterMs;
    const delay = backoffMs(this.#attempt, retryAfterMs, this.random);
    this.#attempt += 1;
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => void this.#open(), delay);
    this.#turn("waiting");
  }

  /** Ends the present life: its callbacks and timers mean nothing from here on. */
  #drop(): void {
    this.#life += 1;
    clearTimeout(this.#timer);
    clearTimeout(this.#beat);
    const socket = this.#socket;
    this.#socket = undefined;
    this.#welcomedAt = 0;
    if (socket === undefined) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.owner.broken();
  }

  #turn(phase: Phase): void {
    this.phase = phase;
    this.owner.changed();
  }
}
