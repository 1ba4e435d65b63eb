// The console's state: who is logged in, the client, what is selected. Components read it; the client tells of
// changes, and `version` makes Svelte read again.

import { CAPACITY_DEFAULT, Client } from "../client";
import { Drafts } from "../core/drafts";
import { cabinet, claimDevice, connectWebSocket, watchAttention } from "../core/page";
import { Rows, type Row, stateLine, visitorName } from "../core/rows";
import type { Thread } from "../core/thread";
import { type AgentLogin, AgentTickets, TicketError } from "../core/tickets";
import { type Availability, BODY_BYTES_MAX, millisOf, type QueueEntry, utf8Bytes } from "../core/wire";
import { chooseLanguage, type Language, preferredLanguage, type Words, wordsOf } from "../core/words";

/** One line of the conversation list. */
export interface Entry {
  id: string;
  visitor: string;
  own: boolean;
  status: Thread["status"];
  unread: number;
  last: string;
  at: number;
  typing: boolean;
}

const PRESENCE = "ringdesk.agent.presence";
/** Characters of the last message that a list may show of it. */
const PREVIEW_CHARS = 160;

export class Desk {
  language = $state<Language>(preferredLanguage());
  words: Words = $derived(wordsOf(this.language));
  login = $state<AgentLogin | undefined>();
  /** Code of the last refused login, or "ended". */
  trouble = $state("");
  selected = $state("");
  /** The conversation's end is on the screen: what comes is read. */
  atEnd = $state(true);
  /** Milliseconds after which another login may be tried, if the server said so. */
  loginAfterMs = $state(0);
  readonly drafts = $state<Record<string, string>>({});
  #kept: Drafts | undefined;
  #version = $state(0);
  #client = $state.raw<Client | undefined>();
  #attentive = false;
  readonly #session = cabinet("sessionStorage");
  readonly #tickets = new AgentTickets(this.#session, "");
  #stops: (() => void)[] = [];

  constructor() {
    chooseLanguage(this.language);
    const login = this.#tickets.login;
    if (login !== undefined) void this.#begin(login);
  }

  /** The client, read in a way that makes the reader depend on its changes. */
  get client(): Client | undefined {
    void this.#version;
    return this.#client;
  }

  get thread(): Thread | undefined {
    return this.client?.threads.get(this.selected);
  }

  setLanguage(language: Language): void {
    this.language = language;
    chooseLanguage(language);
  }

  async enter(site: string, login: string, password: string): Promise<void> {
    this.trouble = "";
    try {
      await this.#begin(await this.#tickets.enter(site, login, password));
    } catch (error) {
      this.trouble = error instanceof TicketError ? error.code : "unreachable";
      this.loginAfterMs = error instanceof TicketError ? error.retryAfterMs : 0;
    }
  }

  async #begin(login: AgentLogin): Promise<void> {
    // Another agent in the same tab must not go on with the numbers and messages of the last one.
    const key = `ringdesk.agent.${login.site}.${login.login}`;
    const device = await claimDevice(this.#session, `${key}.device`);
    this.#kept = new Drafts(this.#session, `${key}.drafts`);
    const client = new Client({
      role: "agent",
      site: login.site,
      device,
      local: cabinet("localStorage"),
      tickets: this.#tickets,
      connect: connectWebSocket,
    });
    client.presence = this.#declared();
    this.#client = client;
    this.login = login;
    this.#stops.push(client.subscribe(() => this.#changed()));
    this.#stops.push(
      watchAttention(client, (attentive) => {
        this.#attentive = attentive;
        this.look();
      }),
    );
    client.start();
  }

  #declared(): Client["presence"] {
    try {
      return JSON.parse(this.#session.getItem(PRESENCE) ?? "") as Client["presence"];
    } catch {
      return { availability: "online", capacity: CAPACITY_DEFAULT };
    }
  }

  #changed(): void {
    this.#version += 1;
    const client = this.#client;
    if (client?.phase === "refused") return this.#end("ended");
    this.look();
    const unread = this.entries.reduce((sum, entry) => sum + entry.unread, 0);
    document.title = unread > 0 ? `(${unread}) Ringdesk` : "Ringdesk";
  }

  /** Logs out: gives the conversations back at once instead of after the grace period. */
  leave(): void {
    this.#client?.declare("offline", this.#client.presence.capacity);
    this.#end("");
  }

  #end(trouble: string): void {
    for (const stop of this.#stops.splice(0)) stop();
    const client = this.#client;
    // The last words go out before the socket closes.
    setTimeout(() => client?.stop(), 200);
    this.#tickets.leave();
    this.#client = undefined;
    for (const id of Object.keys(this.drafts)) delete this.drafts[id];
    this.login = undefined;
    this.selected = "";
    this.trouble = trouble;
    document.title = "Ringdesk";
  }

  declare(availability: Availability, capacity: number): void {
    this.#client?.declare(availability, capacity);
    this.#session.setItem(PRESENCE, JSON.stringify({ availability, capacity }));
  }

  draft(id: string): string {
    return this.drafts[id] ?? this.#kept?.get(id) ?? "";
  }

  write(id: string, text: string): void {
    this.drafts[id] = text;
    this.#kept?.set(id, text);
  }

  select(id: string): void {
    this.selected = id;
    this.atEnd = true;
    this.look();
  }

  /** The next or previous conversation of the list. */
  step(by: 1 | -1): void {
    const ids = this.entries.map((entry) => entry.id);
    if (ids.length === 0) return;
    const at = ids.indexOf(this.selected);
    this.select(ids[at < 0 ? 0 : (at + by + ids.length) % ids.length] ?? "");
  }

  look(): void {
    const seen = this.#attentive && this.atEnd && this.selected !== "";
    this.#client?.look(seen ? this.selected : undefined);
  }

  /** Sends the draft; the sentence that says why not, or nothing. */
  send(id: string): string {
    const text = this.draft(id).trim();
    if (text === "") return "";
    if (utf8Bytes(text) > BODY_BYTES_MAX) return this.words.tooLong;
    if (this.#client?.send(id, text) !== true) return this.words.tooMuch;
    this.write(id, "");
    this.atEnd = true;
    return "";
  }

  editAgain(id: string, failed: number): void {
    const text = this.#client?.discard(failed) ?? "";
    const draft = this.draft(id);
    this.write(id, draft === "" ? text : `${text}\n${draft}`);
  }

  get rows(): Row[] {
    const client = this.client;
    if (client === undefined || this.thread === undefined) return [];
    return new Rows(client, this.language, this.words).of(this.thread);
  }

  /** Own conversations first, the latest word on top; then those that ended or went to others. */
  get entries(): Entry[] {
    const client = this.client;
    if (client === undefined) return [];
    const entries = [...client.threads.values()].map((thread) => this.#entry(thread));
    return entries.sort((a, b) => Number(b.own) - Number(a.own) || b.at - a.at || a.id.localeCompare(b.id));
  }

  #entry(thread: Thread): Entry {
    const items = thread.sorted();
    // Who took it and who left is in the conversation; the list is about what was said.
    const last = items.findLast((item) => item.type === "deliver") ?? items.at(-1);
    let text = this.words.noMessages;
    if (last !== undefined) text = last.type === "deliver" ? last.body.slice(0, PREVIEW_CHARS) : stateLine(last, false, this.words);
    return {
      id: thread.id,
      visitor: visitorName(thread.visitor, thread.id, this.words),
      own: thread.own,
      status: thread.status,
      // Only the owner's reading counts; what comes into others' conversations is not this agent's to read.
      unread: thread.own ? thread.unread : 0,
      last: text,
      at: millisOf(last?.at ?? thread.since),
      typing: thread.typing !== undefined,
    };
  }

  get queue(): { waiting: number; entries: QueueEntry[] } {
    return this.client?.queue ?? { waiting: 0, entries: [] };
  }
}
