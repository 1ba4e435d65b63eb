// A conversation as lines on a screen, for both pages: items in order of seq, then what is not acknowledged yet.

import type { Client } from "../client";
import type { OutboxEntry } from "./device";
import type { Thread } from "./thread";
import { type Deliver, millisOf, type State } from "./wire";
import type { Language, Words } from "./words";

export type Mark = "sending" | "sent" | "delivered" | "read" | "failed";

/** A message, a line between messages, or a day. `key` is stable from the first stroke to the receipt. */
export type Row =
  | {
      kind: "message";
      key: string;
      seq: number;
      mine: boolean;
      author: string;
      body: string;
      time: string;
      /** Own side only. */
      mark: Mark | undefined;
      /** First of a run by the same author. */
      first: boolean;
      /** Shows its time and mark; the others of a burst have the same as the next. */
      last: boolean;
      /** Why it was refused, and the id to take it back. */
      failure: { text: string; id: number } | undefined;
    }
  | { kind: "line" | "day"; key: string; seq: number; text: string };

/** Ticks of a mark: one, two, and two on a filled ground for `read`. The words for it are read out instead. */
export const TICKS: Record<Mark, string> = {
  sending: "○",
  sent: "✓",
  delivered: "✓✓",
  read: "✓✓",
  failed: "!",
};

const locale = (language: Language): string => (language === "zh" ? "zh-CN" : "en-GB");

export function clock(ms: number, language: Language): string {
  return new Intl.DateTimeFormat(locale(language), { hour: "2-digit", minute: "2-digit" }).format(ms);
}

/** A waiting time in its largest unit: "3 min". */
export function since(ms: number, now: number, language: Language): string {
  return span(Math.max(0, Math.round((now - ms) / 1000)), language, "short");
}

/** A length of time in its largest unit. */
export function span(seconds: number, language: Language, unitDisplay: "short" | "long"): string {
  const [value, unit] =
    seconds < 60
      ? [seconds, "second"]
      : seconds < 3600
        ? [Math.floor(seconds / 60), "minute"]
        : [Math.floor(seconds / 3600), "hour"];
  return new Intl.NumberFormat(locale(language), { style: "unit", unit, unitDisplay }).format(value);
}

function day(ms: number, language: Language, words: Words): string {
  const at = new Date(ms).toDateString();
  if (at === new Date().toDateString()) return words.today;
  if (at === new Date(Date.now() - 86_400_000).toDateString()) return words.yesterday;
  return new Intl.DateTimeFormat(locale(language), { weekday: "long", day: "numeric", month: "long" }).format(
    ms,
  );
}

export function stateLine(state: State, forVisitor: boolean, words: Words): string {
  const who = state.agent_name;
  if (forVisitor) {
    if (state.status === "assigned") return words.visitorAssigned(who || words.someone);
    if (state.status === "resolved") return words.visitorResolved;
    if (state.cause === "agent_lost") return words.visitorLost;
    return state.cause === "reopened" ? words.visitorReopened : words.visitorQueued;
  }
  if (state.status === "assigned") return words.agentAssigned(who || words.someone);
  if (state.status === "resolved") return words.agentResolved(state.by === "visitor");
  if (state.cause === "agent_lost") return words.agentLost(who);
  return state.cause === "reopened" ? words.agentReopened : words.agentQueued;
}

export function failureText(code: string, words: Words): string {
  return words.failed[code] ?? words.failedOther;
}

/** Turns a thread and its unsent messages into rows. */
export class Rows {
  #rows: Row[] = [];
  #author = "";
  #day = "";

  constructor(
    private readonly client: Client,
    private readonly language: Language,
    private readonly words: Words,
  ) {}

  of(thread: Thread | undefined): Row[] {
    const gaps = [...(thread?.gaps ?? [])];
    const items = thread?.sorted() ?? [];
    for (const [at, item] of items.entries()) {
      while (gaps[0] !== undefined && gaps[0].from < item.seq)
        this.#line(`g${gaps.shift()?.from}`, 0, this.words.gap);
      this.#days(millisOf(item.at), item.seq);
      if (item.type === "state") {
        // Somebody came at once: that somebody was waited for need not be told.
        const next = items[at + 1];
        if (item.status === "queued" && next?.type === "state" && next.status === "assigned") continue;
        this.#line(`s${item.seq}`, item.seq, stateLine(item, this.client.role === "visitor", this.words));
      } else if (thread !== undefined) {
        this.#message(item, thread);
      }
    }
    for (const entry of this.client.unsent(thread?.id ?? "")) this.#unsent(entry);
    this.#bursts();
    return this.#rows;
  }

  /** Messages of one author in one minute show their time once, at the end, while their mark is the same. */
  #bursts(): void {
    for (const [at, row] of this.#rows.entries()) {
      const next = this.#rows[at + 1];
      if (row.kind !== "message" || next?.kind !== "message" || next.first) continue;
      row.last = row.time !== next.time || row.mark !== next.mark || row.failure !== undefined;
    }
  }

  #line(key: string, seq: number, text: string): void {
    this.#author = "";
    this.#rows.push({ kind: "line", key, seq, text });
  }

  #days(ms: number, seq: number): void {
    const text = day(ms, this.language, this.words);
    if (text === this.#day) return;
    this.#day = text;
    this.#author = "";
    this.#rows.push({ kind: "day", key: `t${seq}-${text}`, seq: 0, text });
  }

  #message(item: Deliver, thread: Thread): void {
    const mine = item.author !== thread.other;
    const other = thread.marks[thread.side === "visitor" ? "staff" : "visitor"];
    const mark = other.read >= item.seq ? "read" : other.delivered >= item.seq ? "delivered" : "sent";
    const author = mine
      ? this.words.you
      : thread.side === "visitor"
        ? thread.agentName || this.words.someone
        : this.words.visitor;
    const run = `${item.author}${item.agent}`;
    this.#rows.push({
      kind: "message",
      key: `d${item.device}:${item.n}`,
      seq: item.seq,
      mine,
      author,
      body: item.body,
      time: clock(millisOf(item.at), this.language),
      mark: mine ? mark : undefined,
      first: run !== this.#author,
      last: true,
      failure: undefined,
    });
    this.#author = run;
  }

  #unsent(entry: OutboxEntry): void {
    this.#days(entry.at, 0);
    const failed = entry.failed;
    const run = `${this.client.role}${this.client.agent}`;
    this.#rows.push({
      kind: "message",
      key: failed === undefined ? `d${this.client.deviceId}:${entry.n}` : `f${entry.id}`,
      seq: 0,
      mine: true,
      author: this.words.you,
      body: entry.body,
      time: clock(entry.at, this.language),
      mark: failed === undefined ? "sending" : "failed",
      first: run !== this.#author,
      last: true,
      failure: failed === undefined ? undefined : { text: failureText(failed, this.words), id: entry.id },
    });
    this.#author = run;
  }
}

/** The id the server gives an anonymous visitor: 14 random letters, or 32 hex digits if it was given long ago. */
const ANONYMOUS = /^v-([0-9a-f]{6}(?=[0-9a-f]{26}$)|[\w-]{6}(?=[\w-]{8}$))/;

/**
 * Anonymous visitors have random ids: the first few letters tell them apart well enough. The queue may leave the
 * visitor out; then the end of the conversation's id stands for it.
 */
export function visitorName(visitor: string, conversation: string, words: Words): string {
  if (visitor === "") return words.visitorNamed(`#${conversation.slice(-6)}`);
  const anonymous = ANONYMOUS.exec(visitor)?.[1];
  return anonymous === undefined ? visitor : words.visitorNamed(anonymous);
}
