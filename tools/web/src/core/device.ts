// The device identity of this tab and what it has not seen acknowledged yet, kept in sessionStorage so that a
// reload resends with the same numbers. Order: an entry is written to storage before it is written to the socket.

import type { Content } from "./wire";

/** The part of the Storage interface that is needed; tests pass a map. */
export interface Cabinet {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** A SEND or RESOLVE without its ACK. `n` counts per conversation and device; both kinds share it (contract C4). */
export interface OutboxEntry {
  conversation: string;
  n: number;
  kind: "send" | "resolve";
  content: Content;
  body: string;
  /** Milliseconds since 1970 at which the user sent it, by this machine's clock. */
  at: number;
  /** Keys "device:n" it was sent under before the device was replaced; it may have been accepted under one. */
  former?: string[];
  /** Refused for good: the code. The entry then has no number and is only shown. */
  failed?: string;
  /** Identity on the screen while it has no seq. */
  id: number;
}

interface Saved {
  device: string;
  open_n: number;
  presence_n: number;
  last_n: Record<string, number>;
  outbox: OutboxEntry[];
  next_id: number;
}

/** Entries kept at most; past it the composer refuses until the connection is back. */
export const OUTBOX_ENTRIES_MAX = 200;
/** Characters of all bodies kept at most: well inside the 5 MB that browsers give sessionStorage. */
export const OUTBOX_CHARS_MAX = 1_000_000;

/** 16 hex digits, never zero (zero means "no device" on the wire). */
export function randomDevice(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  bytes[0] = (bytes[0] ?? 0) | 1;
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Device id, counters and outbox of one tab. */
export class Device {
  #saved: Saved;

  constructor(
    private readonly cabinet: Cabinet,
    private readonly key: string,
  ) {
    this.#saved = this.#load();
  }

  #load(): Saved {
    const fresh: Saved = {
      device: randomDevice(),
      open_n: 0,
      presence_n: 0,
      last_n: {},
      outbox: [],
      next_id: 1,
    };
    const text = this.cabinet.getItem(this.key);
    if (text === null) {
      this.#write(fresh);
      return fresh;
    }
    try {
      const saved = { ...fresh, ...(JSON.parse(text) as Partial<Saved>) };
      return /^[0-9a-f]{16}$/.test(saved.device) && Array.isArray(saved.outbox) ? saved : fresh;
    } catch {
      return fresh;
    }
  }

  #save(): void {
    this.#write(this.#saved);
  }

  // A browser may refuse storage (private mode, quota). The tab then works from memory and only loses its
  // pending messages on a reload.
  #write(saved: Saved): void {
    try {
      this.cabinet.setItem(this.key, JSON.stringify(saved));
    } catch {
      return;
    }
  }

  get id(): string {
    return this.#saved.device;
  }

  get entries(): readonly OutboxEntry[] {
    return this.#saved.outbox;
  }

  /** Unacknowledged entries of a conversation in the order of n. */
  pending(conversation: string): OutboxEntry[] {
    return this.#saved.outbox.filter((e) => e.conversation === conversation && e.failed === undefined);
  }

  /** Number of the next OPEN: the same until it is acknowledged, since an attempt may have come through. */
  get nextOpen(): number {
    return this.#saved.open_n + 1;
  }

  /** The OPEN under this number was acknowledged. */
  opened(n: number): void {
    this.#saved.open_n = n;
    this.#save();
  }

  /** Sets the OPEN counter to what the server expects next. */
  openExpected(expected: number): void {
    this.#saved.open_n = Math.max(0, expected - 1);
    this.#save();
  }

  nextPresence(): number {
    this.#saved.presence_n += 1;
    this.#save();
    return this.#saved.presence_n;
  }

  /** Gives the entry its number and stores it; `undefined` when the outbox is full. */
  enqueue(
    conversation: string,
    kind: "send" | "resolve",
    content: Content,
    body: string,
    at: number,
  ): OutboxEntry | undefined {
    const chars = this.#saved.outbox.reduce((sum, e) => sum + e.body.length, body.length);
    if (this.#saved.outbox.length >= OUTBOX_ENTRIES_MAX || chars > OUTBOX_CHARS_MAX) return undefined;
    const n = (this.#saved.last_n[conversation] ?? 0) + 1;
    this.#saved.last_n[conversation] = n;
    const entry: OutboxEntry = { conversation, n, kind, content, body, at, id: this.#saved.next_id++ };
    this.#saved.outbox.push(entry);
    this.#save();
    return entry;
  }

  /** Removes what an ACK covers. */
  acknowledge(conversation: string, n: number): OutboxEntry | undefined {
    return this.confirm(conversation, this.id, n);
  }

  /** Removes what an item of the conversation proves to be durable, under the present or a former device id. */
  confirm(conversation: string, device: string, n: number): OutboxEntry | undefined {
    const found = this.pending(conversation).find(
      (e) => (device === this.id && e.n === n) || (e.former?.includes(`${device}:${n}`) ?? false),
    );
    if (found === undefined) return undefined;
    if (device !== this.id) this.#close(found);
    this.#drop(found);
    return found;
  }

  /** Takes a shown failure away. */
  discard(id: number): OutboxEntry | undefined {
    const found = this.#saved.outbox.find((e) => e.id === id && e.failed !== undefined);
    if (found) this.#drop(found);
    return found;
  }

  #drop(entry: OutboxEntry): void {
    this.#saved.outbox = this.#saved.outbox.filter((e) => e !== entry);
    this.#save();
  }

  /**
   * A refusal for good consumed no number (nothing was logged), so later entries move down by one. They are
   * refused as out of order until they are sent again under the new numbers.
   */
  fail(entry: OutboxEntry, code: string): void {
    this.#close(entry);
    entry.failed = code;
    entry.n = 0;
    this.#save();
  }

  /** Takes the entry's number back. */
  #close(entry: OutboxEntry): void {
    for (const later of this.pending(entry.conversation)) if (later.n > entry.n) later.n -= 1;
    this.#saved.last_n[entry.conversation] = (this.#saved.last_n[entry.conversation] ?? 1) - 1;
  }

  /** The server expects `expected` next: what was counted from there on, with a hole, is counted again. */
  renumber(conversation: string, expected: number): void {
    let n = expected;
    for (const entry of this.pending(conversation)) if (entry.n >= expected) entry.n = n++;
    this.#saved.last_n[conversation] = n - 1;
    this.#save();
  }

  /** Entries written before their conversation had an id (or under one the server lost) go to `to`. */
  adopt(from: string, to: string): void {
    if (from === to) return;
    let n = this.#saved.last_n[to] ?? 0;
    for (const entry of this.pending(from)) {
      entry.conversation = to;
      entry.n = ++n;
    }
    this.#saved.last_n[to] = n;
    delete this.#saved.last_n[from];
    this.#save();
  }

  /** Numbers known to be used by this device, seen in the conversation itself. */
  seen(conversation: string, n: number): void {
    if (n > (this.#saved.last_n[conversation] ?? 0)) {
      this.#saved.last_n[conversation] = n;
      this.#save();
    }
  }

  /** A new identity: every counter starts again, pending entries are counted from 1 and keep their old keys. */
  replace(): void {
    const old = this.id;
    const next: Record<string, number> = {};
    for (const entry of this.#saved.outbox) {
      if (entry.failed !== undefined) continue;
      entry.former = [...(entry.former ?? []), `${old}:${entry.n}`].slice(-4);
      entry.n = next[entry.conversation] = (next[entry.conversation] ?? 0) + 1;
    }
    this.#saved = { ...this.#saved, device: randomDevice(), open_n: 0, presence_n: 0, last_n: next };
    this.#save();
  }

  /** Forgets everything: another identity uses this tab now. */
  reset(): void {
    this.cabinet.removeItem(this.key);
    this.#saved = this.#load();
  }
}
