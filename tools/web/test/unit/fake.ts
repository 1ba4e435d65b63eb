// What the client core stands on in the tests: storage in a map, sockets driven by hand, virtual time.

import { mock } from "node:test";

import { Client } from "../../src/client";
import { type Cabinet, Device } from "../../src/core/device";
import type { Socket } from "../../src/core/link";
import { type Ticket, TicketError, type TicketSource } from "../../src/core/tickets";
import type { Author, Cause, Deliver, Role, State, Status } from "../../src/core/wire";

export const CONVERSATION = "00a4000000000001";

export class Drawer implements Cabinet {
  readonly map = new Map<string, string>();
  getItem(key: string): string | null {
    return this.map.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.map.set(key, value);
  }
  removeItem(key: string): void {
    this.map.delete(key);
  }
}

// `any`: what was written is inspected field by field.
export type Sent = Record<string, any>;

export class FakeSocket implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  readonly sent: Sent[] = [];
  closed = false;

  send(text: string): void {
    if (!this.closed) this.sent.push(JSON.parse(text) as Sent);
  }
  close(): void {
    this.closed = true;
  }
  /** The server says something. */
  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify({ tag: 0, channel: 0, ...message }) });
  }
  /** The connection breaks. */
  cut(): void {
    this.closed = true;
    this.onclose?.();
  }
  of(type: string): Sent[] {
    return this.sent.filter((m) => m["type"] === type);
  }
  last(type: string): Sent {
    const found = this.of(type).at(-1);
    if (found === undefined)
      throw new Error(`no ${type} was sent, only ${this.sent.map((m) => m["type"]).join()}`);
    return found;
  }
}

export class FakeTickets implements TicketSource {
  given = 0;
  codes: string[] = [];
  closed = false;
  get(): Promise<Ticket> {
    if (this.closed) return Promise.reject(new TicketError("refused", "login_expected"));
    this.given += 1;
    return Promise.resolve({ ticket: `ticket-${this.given}`, ws: "ws://here/ws" });
  }
  refused(code: string): void {
    this.codes.push(code);
  }
}

/** Lets promises and microtasks run; time stands still. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

/** Moves virtual time on. */
export async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await settle();
}

/** A tab: its storage outlives the page that `load` makes. */
export class Tab {
  readonly session = new Drawer();
  readonly local = new Drawer();
  readonly tickets = new FakeTickets();
  readonly sockets: FakeSocket[] = [];
  client!: Client;

  constructor(readonly role: Role) {
    this.load();
  }

  /** Loads the page, again if there was one. */
  load(): void {
    if (this.client !== undefined) {
      this.socket?.cut();
      this.client.stop();
    }
    this.client = new Client({
      role: this.role,
      site: "demo",
      device: new Device(this.session, "device"),
      local: this.local,
      tickets: this.tickets,
      connect: () => {
        const socket = new FakeSocket();
        this.sockets.push(socket);
        return socket;
      },
      random: () => 0.5,
    });
    this.client.start();
  }

  get socket(): FakeSocket {
    return this.sockets.at(-1) as FakeSocket;
  }

  /** The pending attempt succeeds; returns the HELLO. */
  async welcome(epoch = 1): Promise<Sent> {
    await settle();
    this.socket.onopen?.();
    const hello = this.socket.last("hello");
    this.socket.say({
      type: "welcome",
      tag: hello["tag"],
      version: 1,
      epoch,
      session: "0000000000000001",
      at: "0000000000000000",
      heartbeat_s: 30,
      frame_bytes_max: 131072,
      agent: this.role === "agent" ? 9 : 0,
      identity: this.role === "agent" ? "Ana" : "v-1",
      site: "demo",
    });
    await settle();
    return hello;
  }

  /** Visitor: answers the OPEN. */
  async open(seq = 0): Promise<void> {
    const open = this.socket.last("open");
    this.ack(open, seq);
    await settle();
  }

  ack(request: Sent, seq: number): void {
    this.socket.say({
      type: "ack",
      tag: request["tag"],
      conversation: request["conversation"] ?? CONVERSATION,
      seq,
      n: request["n"],
      duplicate: false,
    });
  }

  reject(request: Sent, code: string, more: object = {}): void {
    this.socket.say({
      type: "reject",
      tag: request["tag"],
      code,
      of: request["type"],
      conversation: request["conversation"] ?? "0000000000000000",
      retry_after_ms: 0,
      detail: 0,
      sentence: "",
      ...more,
    });
  }

  assigned(owner_epoch: number, seq = 0): void {
    this.socket.say({
      type: "assigned",
      conversation: CONVERSATION,
      agent: 9,
      owner_epoch,
      status: "assigned",
      seq,
      since: "0000000000000000",
      visitor: "v-1",
      visitor_read: 0,
      visitor_delivered: 0,
      staff_read: 0,
      staff_delivered: 0,
    });
  }

  /** Bodies on the screen in order. */
  get bodies(): string[] {
    const thread = this.client.threads.get(CONVERSATION);
    return (thread?.sorted() ?? []).map((i) => (i.type === "deliver" ? i.body : `(${i.status})`));
  }
}

export function message(
  seq: number,
  author: Author,
  body: string,
  key?: { device: string; n: number },
): Deliver {
  return {
    type: "deliver",
    conversation: CONVERSATION,
    seq,
    at: "0000000000000000",
    author,
    agent: author === "agent" ? 9 : 0,
    device: key?.device ?? "00000000000000ff",
    n: key?.n ?? seq,
    content: "text",
    body,
  };
}

export function state(seq: number, status: Status, cause: Cause, owner_epoch: number, agent = 0): State {
  return {
    type: "state",
    conversation: CONVERSATION,
    seq,
    at: "0000000000000000",
    status,
    cause,
    by: "system",
    agent,
    owner_epoch,
    agent_name: agent === 0 ? "" : "Ana",
  };
}

export function page(tag: number, items: { seq: number }[], more: boolean): object {
  const first = items[0]?.seq ?? 0;
  const last = items.at(-1)?.seq ?? 0;
  return { type: "page", tag, conversation: CONVERSATION, first, last, more, count: items.length, items };
}
