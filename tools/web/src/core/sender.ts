// Gets the outbox acknowledged. Order: enqueue (stored) -> sent under a tag -> ACK, or REJECT and again.
// A number is used only by an ACK (docs/WIRE.md, "Sending once"), so whatever is refused for now goes out again
// under the same n, and what is refused for good gives its n to the next.

import type { Device, OutboxEntry } from "./device";
import type { Link } from "./link";
import type { Reject } from "./wire";

/** Entries of one conversation that are out without an answer; the server keeps as many keys in memory. */
export const IN_FLIGHT_MAX = 16;
/** How long an agent's message waits for the ASSIGNED that gives it a valid epoch. */
export const OWNER_WAIT_MS = 3_000;

/** How long a refusal for now pauses a conversation when the server names no time. */
const BUSY_MS = 1_000;

export interface SenderOwner {
  /** Epoch to act under; 0 for visitors. */
  epoch(conversation: string): number;
  /** Whether this client owns the conversation (agents) or takes part in it (visitors). */
  owns(conversation: string): boolean;
  /** The entry is durable as `seq`. */
  acknowledged(entry: OutboxEntry, seq: number): void;
  /** The device id is of no more use. */
  replaceDevice(): void;
  changed(): void;
}

export class Sender {
  readonly #tagOf = new Map<number, number>();
  readonly #entryOf = new Map<number, OutboxEntry>();
  /** Epoch each entry was last sent under. */
  readonly #epochOf = new Map<number, number>();
  readonly #paused = new Map<string, ReturnType<typeof setTimeout>>();
  /** Conversations whose items have to be looked through first, since the device was replaced. */
  readonly held = new Set<string>();

  constructor(
    private readonly device: Device,
    private readonly link: Link,
    private readonly owner: SenderOwner,
    private readonly random: () => number,
  ) {}

  /** Sends what is not out yet, in order of n. */
  flush(conversation: string): void {
    if (conversation === "" || this.#paused.has(conversation) || this.held.has(conversation)) return;
    let out = 0;
    for (const entry of this.device.pending(conversation)) {
      if (out >= IN_FLIGHT_MAX) return;
      out += 1;
      if (this.#tagOf.has(entry.id)) continue;
      const tag = this.#send(entry);
      if (tag === 0) return;
      this.#tagOf.set(entry.id, tag);
      this.#entryOf.set(tag, entry);
    }
  }

  flushAll(): void {
    for (const conversation of new Set(this.device.entries.map((e) => e.conversation)))
      this.flush(conversation);
  }

  #send(entry: OutboxEntry): number {
    const { conversation, n } = entry;
    const owner_epoch = this.owner.epoch(conversation);
    this.#epochOf.set(entry.id, owner_epoch);
    if (entry.kind === "resolve") return this.link.send({ type: "resolve", conversation, n, owner_epoch });
    const { content, body } = entry;
    return this.link.send({ type: "send", conversation, n, owner_epoch, content, body });
  }

  /** No answer will come any more: all goes out again on the next connection. */
  broken(): void {
    for (const timer of this.#paused.values()) clearTimeout(timer);
    this.#paused.clear();
    this.#tagOf.clear();
    this.#entryOf.clear();
  }

  /** Answers to what is out no longer count: it goes out again under another conversation. */
  recall(conversation: string): void {
    this.#resume(conversation);
    for (const entry of this.device.pending(conversation)) this.#tagOf.delete(entry.id);
  }

  /** Whether the tag was a SEND's or RESOLVE's. */
  knows(tag: number): boolean {
    return this.#entryOf.has(tag);
  }

  acknowledged(tag: number, seq: number): void {
    const entry = this.#settle(tag);
    if (entry === undefined) return;
    // The item itself may have come first and have taken the entry away.
    if (this.device.acknowledge(entry.conversation, entry.n) === entry) this.owner.acknowledged(entry, seq);
    this.flush(entry.conversation);
    this.owner.changed();
  }

  /** An item of the conversation shows that a key is durable; its ACK may still come, or never. */
  confirmed(conversation: string, device: string, n: number): void {
    if (device === this.device.id) this.device.seen(conversation, n);
    const entry = this.device.confirm(conversation, device, n);
    if (entry === undefined) return;
    this.#tagOf.delete(entry.id);
    this.flush(conversation);
  }

  /** The entry a tag stands for, if the tag is the latest attempt. */
  #settle(tag: number): OutboxEntry | undefined {
    const entry = this.#entryOf.get(tag);
    this.#entryOf.delete(tag);
    if (entry === undefined || this.#tagOf.get(entry.id) !== tag) return undefined;
    this.#tagOf.delete(entry.id);
    return entry;
  }

  rejected(tag: number, reject: Reject): void {
    const entry = this.#settle(tag);
    if (entry === undefined) return;
    const { conversation } = entry;
    const code = reject.code.toLowerCase();
    if (reject.retry_after_ms > 0) return this.#pause(conversation, reject.retry_after_ms);
    if (code === "busy") return this.#pause(conversation, BUSY_MS);
    switch (code) {
      case "out_of_order": {
        // Behind one that was refused: again from there. With nothing at the expected n the count was lost.
        const known = this.device.pending(conversation).some((e) => e.n === reject.detail);
        if (!known && reject.detail > 0) this.device.renumber(conversation, reject.detail);
        return this.#pause(conversation, 50);
      }
      case "device_expired":
      case "id_reused":
        return this.owner.replaceDevice();
      case "stale_owner":
        return this.#stale(entry);
      default:
        this.#fail(entry, code);
    }
  }

  /** The conversation may have come back to this agent under a newer epoch. */
  #stale(entry: OutboxEntry): void {
    const { conversation } = entry;
    const sentUnder = this.#epochOf.get(entry.id) ?? 0;
    if (this.owner.owns(conversation) && this.owner.epoch(conversation) > sentUnder) {
      return this.#pause(conversation, 20);
    }
    this.#pause(conversation, OWNER_WAIT_MS, () => {
      if (!this.owner.owns(conversation) || this.owner.epoch(conversation) <= sentUnder) {
        for (const late of this.device.pending(conversation)) this.#fail(late, "stale_owner");
      }
    });
  }

  /** An ASSIGNED or STATE changed who may send. */
  ownerChanged(conversation: string): void {
    if (!this.owner.owns(conversation)) return;
    this.#resume(conversation);
    this.flush(conversation);
  }

  #resume(conversation: string): void {
    clearTimeout(this.#paused.get(conversation));
    this.#paused.delete(conversation);
  }

  /** All of the conversation goes out again after the delay; answers to earlier attempts no longer count. */
  #pause(conversation: string, delayMs: number, before?: () => void): void {
    for (const entry of this.device.pending(conversation)) this.#tagOf.delete(entry.id);
    if (this.#paused.has(conversation)) return;
    const timer = setTimeout(
      () => {
        this.#paused.delete(conversation);
        before?.();
        this.flush(conversation);
      },
      Math.round(delayMs * (1 + this.random() / 4)),
    );
    this.#paused.set(conversation, timer);
  }

  #fail(entry: OutboxEntry, code: string): void {
    this.device.fail(entry, code);
    // A second RESOLVE is refused because there is nothing left to end: nobody needs to hear of it.
    if (entry.kind === "resolve") this.device.discard(entry.id);
    for (const later of this.device.pending(entry.conversation)) this.#tagOf.delete(later.id);
    this.flush(entry.conversation);
    this.owner.changed();
  }
}
