// One conversation as this page knows it. Items are kept by seq; `cursor` is the highest seq up to which the
// stream is complete, and nothing at or below it is taken twice (contract C5).

import type { Assigned, Author, Cause, Deliver, Item, Side, Status } from "./wire";

export interface Marks {
  delivered: number;
  read: number;
}

/** Milliseconds after which a typing note without a follow-up is taken back. */
export const TYPING_SHOWN_MS = 6_000;
/** Items that came ahead of a hole; past this many the hole is asked for again later. */
const AHEAD_ITEMS_MAX = 1_000;

export class Thread {
  readonly items = new Map<number, Item>();
  /** Highest seq of the complete stream; 0 = nothing yet. */
  cursor = 0;
  /** Lowest seq held, or cursor + 1 when none is. */
  oldest = 1;
  /** Whether the cursor is based on something the server said; before that no item can be placed. */
  based = false;
  /** Whether items older than `oldest` exist on the server. */
  more = false;
  /** A HISTORY for older items is out. */
  loading = false;
  /** A HISTORY for items after the cursor is out. */
  catching = false;
  status: Status = "open";
  cause: Cause | undefined;
  agent = 0;
  agentName = "";
  ownerEpoch = 0;
  /** Agents: the conversation is this agent's own. */
  own = false;
  visitor = "";
  since = "";
  readonly marks: Record<Side, Marks> = {
    visitor: { delivered: 0, read: 0 },
    staff: { delivered: 0, read: 0 },
  };
  /** Who types, until when (milliseconds since 1970). */
  typing: { author: Author; until: number } | undefined;
  /** Ranges the server no longer keeps. */
  readonly gaps: { from: number; to: number }[] = [];
  /** Highest seq of a message of the other side up to the cursor: what receipts are about. */
  otherSeq = 0;
  #ahead = new Map<number, Item>();
  /** Seqs of own messages known from their ACK only. */
  #provisional = new Set<number>();
  #stateSeq = 0;
  /** Epoch of the latest ASSIGNED: a STATE of an earlier epoch is older news than that. */
  #assignedEpoch = 0;

  constructor(
    readonly id: string,
    readonly side: Side,
  ) {}

  /** Who writes on the other side. */
  get other(): Author {
    return this.side === "visitor" ? "agent" : "visitor";
  }

  /** The stream starts after `seq`: the server said that this is the highest one so far. */
  base(seq: number): void {
    if (this.based) return;
    this.based = true;
    this.cursor = seq;
    this.oldest = seq + 1;
    this.more = seq > 0;
    this.#drain();
  }

  /** Takes a live item. Says `new`, `seen` (at or below the cursor) or `hole` (items before it are missing). */
  take(item: Item): "new" | "seen" | "hole" {
    if (this.based && item.seq <= this.cursor) return "seen";
    if (!this.based || item.seq > this.cursor + 1) {
      if (this.#ahead.size < AHEAD_ITEMS_MAX) this.#ahead.set(item.seq, item);
      return "hole";
    }
    this.#advance(item);
    this.#drain();
    return "new";
  }

  #advance(item: Item): void {
    this.cursor = item.seq;
    this.#keep(item);
  }

  #drain(): void {
    for (;;) {
      const next = this.#ahead.get(this.cursor + 1);
      if (next === undefined) break;
      this.#ahead.delete(next.seq);
      this.#advance(next);
    }
    for (const seq of this.#ahead.keys()) if (seq <= this.cursor) this.#ahead.delete(seq);
  }

  /** Whether items wait behind a hole. */
  get hole(): boolean {
    return this.#ahead.size > 0;
  }

  /** Places an item outside the live stream: a page of history, or an own message known from its ACK. */
  #keep(item: Item): void {
    // The server's item replaces the one made up from an ACK, which carries this machine's clock.
    if (!this.items.has(item.seq) || this.#provisional.delete(item.seq)) this.items.set(item.seq, item);
    if (item.type === "state") return this.#follow(item);
    if (this.typing?.author === item.author) this.typing = undefined;
    if (item.author === this.other) this.otherSeq = Math.max(this.otherSeq, item.seq);
  }

  #follow(state: Extract<Item, { type: "state" }>): void {
    if (state.seq <= this.#stateSeq) return;
    this.#stateSeq = state.seq;
    if (state.status === "assigned") this.agentName = state.agent_name;
    if (state.owner_epoch < this.#assignedEpoch) return;
    this.status = state.status;
    if (state.status === "resolved") this.typing = undefined;
    this.cause = state.cause;
    this.agent = state.agent;
    this.ownerEpoch = Math.max(this.ownerEpoch, state.owner_epoch);
    if (state.status === "queued") this.since = state.at;
  }

  /** An own message is durable as `seq`; shown at once, replaced when the server's item arrives. */
  acknowledged(item: Deliver): void {
    if (this.items.has(item.seq)) return;
    this.items.set(item.seq, item);
    this.#provisional.add(item.seq);
  }

  /** A page before `oldest`. */
  older(items: Item[], more: boolean): void {
    for (const item of items) this.#keep(item);
    const first = items[0];
    if (first !== undefined) this.oldest = Math.min(this.oldest, first.seq);
    this.more = more && this.oldest > 1;
  }

  /** A page after the cursor: the missing part of the live stream. */
  newer(items: Item[]): Item[] {
    return items.filter((item) => this.take(item) === "new");
  }

  /** The server keeps nothing in this range: the stream goes on after it. */
  gap(from: number, to: number): void {
    this.gaps.push({ from, to });
    if (this.based && to > this.cursor) this.cursor = to;
    this.#drain();
  }

  assigned(message: Assigned, self: number): void {
    this.own = message.agent === self && message.status === "assigned";
    this.status = message.status;
    this.agent = message.agent;
    this.ownerEpoch = Math.max(this.ownerEpoch, message.owner_epoch);
    this.#assignedEpoch = this.ownerEpoch;
    this.visitor = message.visitor;
    this.since = message.since;
    this.receipt("visitor", message.visitor_delivered, message.visitor_read);
    this.receipt("staff", message.staff_delivered, message.staff_read);
  }

  /** Receipts are cumulative: never lower. */
  receipt(side: Side, delivered: number, read: number): void {
    const marks = this.marks[side];
    marks.delivered = Math.max(marks.delivered, delivered);
    marks.read = Math.max(marks.read, read);
  }

  /** The epoch changed: what is held may not be what the server has. Drafts and receipts stay with their owners. */
  forget(): void {
    this.items.clear();
    this.#ahead.clear();
    this.#provisional.clear();
    this.gaps.length = 0;
    this.otherSeq = 0;
    this.cursor = 0;
    this.oldest = 1;
    this.based = false;
    this.more = false;
    this.loading = false;
    this.catching = false;
    this.#stateSeq = 0;
    for (const side of ["visitor", "staff"] as const) this.marks[side] = { delivered: 0, read: 0 };
  }

  /** Items in order. */
  sorted(): Item[] {
    return [...this.items.values()].sort((a, b) => a.seq - b.seq);
  }

  /** Messages of the other side, among those loaded, that the own side has not read. */
  get unread(): number {
    let count = 0;
    for (const item of this.items.values()) {
      if (item.type === "deliver" && item.author === this.other && item.seq > this.marks[this.side].read)
        count += 1;
    }
    return count;
  }
}
