// The client core that both pages share: one identity, its conversations, one connection that resumes by itself.
// Order: Link (connection) -> Client (who gets which message) -> Thread (items), Sender (outbox), Attention
// (receipts, typing). The state is read after a `changed` notice; nothing here touches the page.

import { Attention } from "./core/attention";
import type { Cabinet, Device, OutboxEntry } from "./core/device";
import { type Connect, Link, type Phase, type Welcome } from "./core/link";
import { Memory, type Remembered } from "./core/memory";
import { Sender } from "./core/sender";
import { Thread } from "./core/thread";
import type { TicketSource } from "./core/tickets";
import {
  type Availability,
  type ClientMessage,
  CURSORS_MAX,
  type Cursor,
  type Deliver,
  type Item,
  NO_DEVICE,
  PAGE_ITEMS_MAX,
  type QueueEntry,
  type Reject,
  type Role,
  type ServerMessage,
  type Side,
  VERSION,
} from "./core/wire";

export type { Phase } from "./core/link";

/** Items asked for when somebody scrolls up. */
export const HISTORY_ITEMS = 40;
/** Delay before a request that was refused for now is repeated, unless the server names one. */
const AGAIN_MS = 1_000;

export interface ClientOptions {
  role: Role;
  site: string;
  device: Device;
  /** Where a visitor's conversation is remembered. */
  local: Cabinet;
  tickets: TicketSource;
  connect: Connect;
  /** Uniform in [0, 1). */
  random?: () => number;
}

export interface Queue {
  waiting: number;
  entries: QueueEntry[];
}

/** A request whose answer is recognised by its tag. */
type Call = { of: "open"; n: number } | { of: "older" | "newer"; conversation: string } | { of: "presence" };

/** Conversations an agent takes at once until it says otherwise. */
export const CAPACITY_DEFAULT = 5;

export class Client {
  readonly role: Role;
  readonly link: Link;
  readonly threads = new Map<string, Thread>();
  /** Visitor: the conversation of this browser, "" until the server named one. */
  current = "";
  /** Agents: who waits. */
  queue: Queue = { waiting: 0, entries: [] };
  /** Agent number, name or visitor id, as the server said. */
  agent = 0;
  identity = "";
  /** Agents: what this client declares after each WELCOME. */
  presence: { availability: Availability; capacity: number } = {
    availability: "online",
    capacity: CAPACITY_DEFAULT,
  };
  readonly #device: Device;
  readonly #sender: Sender;
  readonly #attention: Attention;
  readonly #side: Side;
  readonly #memory: Memory;
  readonly #random: () => number;
  /** Counts connections: what is due later belongs to the one it was asked on. */
  #life = 0;
  #epoch = 0;
  #remembered: Remembered | undefined;
  #opening = 0;
  /** Tag of the latest PRESENCE. */
  #declared = 0;
  readonly #calls = new Map<number, Call>();
  readonly #listeners = new Set<() => void>();
  #told = false;

  constructor(options: ClientOptions) {
    this.role = options.role;
    this.#side = options.role === "visitor" ? "visitor" : "staff";
    this.#device = options.device;
    this.#memory = new Memory(options.local, options.site);
    const random = (this.#random = options.random ?? Math.random);
    this.link = new Link(
      {
        hello: (ticket) => this.#hello(ticket),
        welcomed: (welcome) => this.#welcomed(welcome),
        received: (message) => this.#received(message),
        broken: () => this.#broken(),
        changed: () => this.#changed(),
      },
      options.tickets,
      options.connect,
      random,
    );
    this.#sender = new Sender(
      this.#device,
      this.link,
      {
        epoch: (id) => (this.role === "agent" ? (this.threads.get(id)?.ownerEpoch ?? 0) : 0),
        owns: (id) => this.role === "visitor" || (this.threads.get(id)?.own ?? false),
        acknowledged: (entry, seq) => this.#acknowledged(entry, seq),
        replaceDevice: () => this.#replaceDevice(),
        changed: () => this.#changed(),
      },
      random,
    );
    this.#attention = new Attention(
      this.link,
      (id) => this.threads.get(id),
      (thread) => this.role === "visitor" || thread.own,
      () => this.#changed(),
    );
    if (this.role === "visitor") this.#recall();
  }

  // ---- what a page calls -------------------------------------------------------------------------------------

  get phase(): Phase {
    return this.link.phase;
  }

  get deviceId(): string {
    return this.#device.id;
  }

  /** Whether this browser already has a conversation to come back to. */
  get returning(): boolean {
    return this.#remembered !== undefined;
  }

  /** Calls back after each change, at most once per turn; returns the way to stop it. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  start(): void {
    this.link.start();
  }

  stop(): void {
    this.#attention.stop();
    this.link.stop();
  }

  /** The page became visible, or the network came back. */
  wake(): void {
    this.link.wake();
  }

  /** Sends text. False when it is too much to keep until the connection is back. */
  send(conversation: string, body: string): boolean {
    const entry = this.#device.enqueue(conversation, "send", "text", body, Date.now());
    if (entry === undefined) return false;
    this.#attention.stopTyping(conversation);
    this.#sender.flush(conversation);
    this.link.hurry();
    this.#changed();
    return true;
  }

  resolve(conversation: string): void {
    this.#device.enqueue(conversation, "resolve", "text", "", Date.now());
    this.#sender.flush(conversation);
    this.#changed();
  }

  /** Takes a message that was refused off the screen; its text, to edit it again. */
  discard(id: number): string {
    const entry = this.#device.discard(id);
    this.#changed();
    return entry?.body ?? "";
  }

  /** What is not acknowledged yet, or was refused, in the order it was written. */
  unsent(conversation: string): readonly OutboxEntry[] {
    return this.#device.entries.filter((e) => e.conversation === conversation && e.kind === "send");
  }

  /** Somebody scrolled to the top of what is loaded. */
  older(conversation: string): void {
    const thread = this.threads.get(conversation);
    if (thread === undefined || !thread.based || !thread.more || thread.loading) return;
    const before = thread.oldest;
    const message = { type: "history", conversation, before, after: 0, limit: HISTORY_ITEMS } as const;
    thread.loading = this.#call(message, { of: "older", conversation }) !== 0;
    // A notice for nothing would make a page that asks whenever it is drawn ask for ever.
    if (thread.loading) this.#changed();
  }

  look(conversation: string | undefined): void {
    this.#attention.look(conversation);
  }

  typing(conversation: string): void {
    this.#attention.typing(conversation);
  }

  stopTyping(conversation: string): void {
    this.#attention.stopTyping(conversation);
  }

  /** Agents: declared now and after every reconnect. */
  declare(availability: Availability, capacity: number): void {
    this.presence = { availability, capacity };
    this.#declare();
    this.#changed();
  }

  /** Agents: an ended conversation leaves the list. */
  dismiss(conversation: string): void {
    if (this.threads.get(conversation)?.own === false) this.threads.delete(conversation);
    this.#changed();
  }

  // ---- connection --------------------------------------------------------------------------------------------

  /** Sends if online; its tag, or 0. */
  #call(message: ClientMessage, call: Call): number {
    const tag = this.link.send(message);
    if (tag !== 0) this.#calls.set(tag, call);
    return tag;
  }

  #hello(ticket: string): Extract<ClientMessage, { type: "hello" }> {
    const cursors: Cursor[] = [];
    for (const thread of this.threads.values()) {
      if (!thread.based || (this.role === "agent" && !thread.own)) continue;
      cursors.push({ conversation: thread.id, epoch: this.#epoch, seq: thread.cursor });
    }
    const newest = cursors.slice(-CURSORS_MAX);
    const device = this.#device.id;
    return {
      type: "hello",
      version_min: VERSION,
      version_max: VERSION,
      role: this.role,
      device,
      ticket,
      cursors: newest,
    };
  }

  #welcomed(welcome: Welcome): void {
    const another = this.identity !== "" && this.identity !== welcome.identity;
    if (this.#epoch !== 0 && this.#epoch !== welcome.epoch) {
      // A loss was declared: the cursors counted as 0 and everything comes again from the start.
      for (const thread of this.threads.values()) {
        thread.forget();
        thread.base(0);
        if (this.role === "agent" && !thread.own) this.threads.delete(thread.id);
      }
    }
    this.#epoch = welcome.epoch;
    this.agent = welcome.agent;
    this.identity = welcome.identity;
    this.#attention.connected();
    if (this.role === "agent") this.#declare();
    else if (another) this.#startAnew();
    else if (this.current === "") this.#open();
    for (const thread of this.threads.values()) {
      if (this.#sender.held.has(thread.id)) this.#catchUp(thread);
      if (thread.items.size === 0) this.older(thread.id);
      this.#attention.receipts(thread.id);
    }
    this.#sender.flushAll();
    this.#changed();
  }

  #broken(): void {
    this.#life += 1;
    this.#calls.clear();
    this.#opening = 0;
    this.#sender.broken();
    for (const thread of this.threads.values()) {
      thread.loading = false;
      thread.catching = false;
      thread.typing = undefined;
    }
  }

  #received(message: ServerMessage): void {
    switch (message.type) {
      case "ack":
        this.#acked(message.tag ?? 0, message.conversation, message.seq);
        break;
      case "deliver":
      case "state":
        this.#item(message);
        break;
      case "page":
        this.#page(message.tag ?? 0, message.items, message.more);
        break;
      case "assigned":
        this.#assigned(message);
        break;
      case "receipt":
        this.#receipt(message.conversation, message.side, message.delivered, message.read);
        break;
      case "typing": {
        const thread = this.threads.get(message.conversation);
        if (thread !== undefined && message.author === thread.other)
          this.#attention.heard(thread, message.on);
        break;
      }
      case "gap":
        this.threads.get(message.conversation)?.gap(message.from, message.to);
        break;
      case "queue":
        this.queue = { waiting: message.waiting, entries: message.entries };
        break;
      case "reject":
        this.#rejected(message.tag ?? 0, message);
        break;
      default:
        // A kind of a later version: nothing here depends on it.
        return;
    }
    this.#changed();
  }

  // ---- items -------------------------------------------------------------------------------------------------

  #thread(conversation: string): Thread {
    let thread = this.threads.get(conversation);
    if (thread === undefined) {
      thread = new Thread(conversation, this.#side);
      this.threads.set(conversation, thread);
    }
    return thread;
  }

  #item(item: Item): void {
    const thread = this.threads.get(item.conversation);
    if (thread === undefined) return;
    const taken = thread.take(item);
    if (taken === "hole" && thread.based) this.#catchUp(thread);
    if (taken === "new") this.#follow(thread, [item]);
  }

  /** What new items mean for the outbox, ownership and receipts. */
  #follow(thread: Thread, items: Item[]): void {
    const self = this.role === "visitor" ? "visitor" : "agent";
    for (const item of items) {
      if (item.type === "deliver" && item.author === self && item.device !== NO_DEVICE) {
        this.#sender.confirmed(thread.id, item.device, item.n);
      }
    }
    if (this.role === "agent") {
      const mine = thread.status === "assigned" && thread.agent === this.agent;
      if (thread.own && !mine) thread.own = false;
    }
    this.#attention.receipts(thread.id);
    this.#remember(thread);
  }

  #receipt(conversation: string, side: Side, delivered: number, read: number): void {
    const thread = this.threads.get(conversation);
    if (thread === undefined) return;
    thread.receipt(side, delivered, read);
    this.#remember(thread);
  }

  #assigned(message: Extract<ServerMessage, { type: "assigned" }>): void {
    const thread = this.#thread(message.conversation);
    thread.assigned(message, this.agent);
    if (!thread.based) {
      thread.base(message.seq);
      this.older(thread.id);
    } else if (message.seq > thread.cursor) {
      // It was another's meanwhile, and this session did not listen.
      this.#catchUp(thread);
    }
    this.#sender.ownerChanged(thread.id);
    this.#attention.receipts(thread.id);
  }

  /** Asks for what is missing between the cursor and the live stream. */
  #catchUp(thread: Thread): void {
    if (thread.catching) return;
    const { id: conversation, cursor: after } = thread;
    const message = { type: "history", conversation, before: 0, after, limit: PAGE_ITEMS_MAX } as const;
    thread.catching = this.#call(message, { of: "newer", conversation }) !== 0;
  }

  #page(tag: number, items: Item[], more: boolean): void {
    const call = this.#calls.get(tag);
    this.#calls.delete(tag);
    if (call?.of !== "older" && call?.of !== "newer") return;
    const thread = this.threads.get(call.conversation);
    if (thread === undefined) return;
    if (call.of === "older") {
      thread.loading = false;
      thread.older(items, more);
      this.#attention.receipts(thread.id);
      return;
    }
    thread.catching = false;
    const taken = thread.newer(items);
    this.#follow(thread, taken);
    if (more && taken.length > 0) return this.#catchUp(thread);
    if (thread.hole) return this.#later(() => this.#catchUp(thread), AGAIN_MS);
    if (this.#sender.held.delete(thread.id)) this.#sender.flush(thread.id);
  }

  /** After the delay and a random share of it, unless the connection broke: the next one asks by itself. */
  #later(what: () => void, delayMs: number): void {
    const life = this.#life;
    setTimeout(
      () => {
        if (life === this.#life && this.link.online) what();
      },
      Math.round(delayMs * (1 + this.#random() / 4)),
    );
  }

  // ---- answers -----------------------------------------------------------------------------------------------

  #acked(tag: number, conversation: string, seq: number): void {
    if (this.#sender.knows(tag)) return this.#sender.acknowledged(tag, seq);
    const call = this.#calls.get(tag);
    this.#calls.delete(tag);
    if (call?.of === "open") this.#opened(conversation, seq);
  }

  /** The message is shown at its place at once; the item that follows replaces it. */
  #acknowledged(entry: OutboxEntry, seq: number): void {
    if (entry.kind !== "send") return;
    const item: Deliver = {
      type: "deliver",
      conversation: entry.conversation,
      seq,
      at: entry.at.toString(16).padStart(12, "0") + "0000",
      author: this.role === "visitor" ? "visitor" : "agent",
      agent: this.agent,
      device: this.#device.id,
      n: entry.n,
      content: entry.content,
      body: entry.body,
    };
    this.threads.get(entry.conversation)?.acknowledged(item);
  }

  #rejected(tag: number, reject: Reject): void {
    if (this.#sender.knows(tag)) return this.#sender.rejected(tag, reject);
    const call = this.#calls.get(tag);
    this.#calls.delete(tag);
    const code = reject.code.toLowerCase();
    const passing = code === "busy" || reject.retry_after_ms > 0;
    const delay = reject.retry_after_ms > 0 ? reject.retry_after_ms : AGAIN_MS;
    if (call === undefined) {
      // The cursor of a HELLO, or a receipt.
      if (code === "not_found" && reject.conversation === this.current && this.role === "visitor")
        this.#startAnew();
      else if (reject.of === "receipt" && passing)
        this.#later(() => this.#attention.again(reject.conversation), delay);
      return;
    }
    if (call.of === "presence") {
      // What is declared by then counts, and a later declaration that was taken makes this one void.
      const again = () => {
        if (this.#declared === tag) this.#declare();
      };
      if (passing) this.#later(again, delay);
    } else if (call.of === "open") {
      if (code === "device_expired" || code === "id_reused") return this.#replaceDevice();
      if (code === "out_of_order") this.#device.openExpected(reject.detail);
      const again = () => {
        this.#opening = 0;
        this.#open();
      };
      this.#later(again, code === "out_of_order" ? 0 : delay);
    } else {
      this.#pageRefused(call, passing ? "busy" : code, delay);
    }
  }

  #pageRefused(call: { of: "older" | "newer"; conversation: string }, code: string, delay: number): void {
    const thread = this.threads.get(call.conversation);
    if (thread === undefined) return;
    if (code === "not_found") {
      if (this.role === "visitor") return this.#startAnew();
      this.threads.delete(thread.id);
    } else if (call.of === "newer") {
      // Until the delay is over the request counts as out: nothing else may ask for the same any sooner.
      this.#later(() => {
        thread.catching = false;
        this.#catchUp(thread);
      }, delay);
    } else if (code === "busy") {
      this.#later(() => {
        thread.loading = false;
        this.older(thread.id);
      }, delay);
    } else {
      // Refused for good: there is nothing more to see.
      thread.loading = false;
      thread.more = false;
    }
  }

  /** A new device id, and a look through the conversations for what the old one got through. */
  #replaceDevice(): void {
    for (const { conversation } of this.#device.entries) {
      if (this.threads.has(conversation)) this.#sender.held.add(conversation);
    }
    this.#device.replace();
    this.link.renew();
  }

  #declare(): void {
    if (!this.link.online) return;
    const message = { type: "presence", n: this.#device.nextPresence(), ...this.presence } as const;
    this.#declared = this.#call(message, { of: "presence" });
  }

  // ---- the visitor's one conversation ------------------------------------------------------------------------

  #open(): void {
    if (this.#opening !== 0 || this.current !== "" || !this.link.online) return;
    this.#opening = this.#device.nextOpen;
    this.#call({ type: "open", n: this.#opening, topic: "" }, { of: "open", n: this.#opening });
  }

  #opened(conversation: string, seq: number): void {
    this.#device.opened(this.#opening);
    this.#opening = 0;
    // Written before the conversation had a name.
    this.#device.adopt(this.current, conversation);
    this.current = conversation;
    const thread = this.#thread(conversation);
    thread.base(seq);
    this.older(conversation);
    this.#remember(thread);
    this.#sender.flush(conversation);
  }

  /** The server does not know the conversation for this identity: another one takes its place. */
  #startAnew(): void {
    this.#sender.recall(this.current);
    this.#device.adopt(this.current, "");
    this.threads.delete(this.current);
    this.current = "";
    this.#remembered = undefined;
    this.#memory.clear();
    this.#open();
  }

  #recall(): void {
    const kept = this.#memory.load();
    if (kept === undefined) return;
    this.#remembered = kept;
    this.current = kept.conversation;
    this.identity = kept.identity;
    this.#epoch = kept.epoch;
    const thread = this.#thread(kept.conversation);
    thread.base(kept.seq);
    thread.status = kept.status;
    thread.agentName = kept.agentName;
    for (const side of ["visitor", "staff"] as const) {
      thread.receipt(side, kept.marks[side].delivered, kept.marks[side].read);
    }
  }

  /** The cursor is kept where the items are kept, which is on the server: a reload asks for them again. */
  #remember(thread: Thread): void {
    if (this.role !== "visitor" || thread.id !== this.current) return;
    const { status, agentName, marks } = thread;
    const seq = thread.cursor;
    const { identity } = this;
    const epoch = this.#epoch;
    this.#remembered = { conversation: thread.id, identity, epoch, seq, status, agentName, marks };
    this.#memory.save(this.#remembered);
  }

  #changed(): void {
    if (this.#told) return;
    this.#told = true;
    queueMicrotask(() => {
      this.#told = false;
      for (const listener of this.#listeners) listener();
    });
  }
}
