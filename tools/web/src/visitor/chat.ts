// <ringdesk-chat site="demo"> : the bubble and the panel of a visitor. Connects when it is first opened, or at once
// when this browser has a conversation to come back to, so that a page view alone costs the server nothing.

import { html, LitElement, nothing, svg, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";

import { Client } from "../client";
import { Drafts } from "../core/drafts";
import { cabinet, claimDevice, connectWebSocket, watchAttention } from "../core/page";
import { Place } from "../core/place";
import { shown } from "../core/prose";
import { type Mark, type Row, Rows, TICKS } from "../core/rows";
import type { Thread } from "../core/thread";
import { VisitorTickets } from "../core/tickets";
import { BODY_BYTES_MAX, utf8Bytes } from "../core/wire";
import {
  chooseLanguage,
  type Language,
  otherLanguage,
  preferredLanguage,
  type Words,
  wordsOf,
} from "../core/words";
import { style } from "./style";

const icon = (path: string): TemplateResult =>
  html`<svg
    viewBox="0 0 24 24"
    fill="none"
    stroke="currentColor"
    stroke-width="2"
    stroke-linecap="round"
    stroke-linejoin="round"
    aria-hidden="true"
  >
    ${svg`<path d=${path}></path>`}
  </svg>`;
const SPEECH = "M21 12a8 8 0 0 1-8 8H4l2-3.2A8 8 0 1 1 21 12Z";
const CROSS = "M6 6l12 12M18 6 6 18";
const ARROW = "M12 19V5M5 12l7-7 7 7";
/** Columns of a line, about, for what counts as long. */
const COLUMNS = 36;

export class RingdeskChat extends LitElement {
  static override styles = style;
  static override properties = {
    site: {},
    endpoint: {},
    open: { type: Boolean, reflect: true },
    language: { state: true },
    warning: { state: true },
  };

  /** Name of the site. */
  declare site: string;
  /** Origin of the control plane; empty = where the page came from. */
  declare endpoint: string;
  /** Whether the panel is shown. */
  declare open: boolean;
  declare language: Language;
  declare warning: string;

  #client: Client | undefined;
  #attentive = false;
  #stops: (() => void)[] = [];
  readonly #view = { atEnd: true };
  readonly #place = new Place(this.#view, () => this.#moved());
  /** Long messages that are shown whole, by key of their row. */
  readonly #whole = new Set<string>();
  #drafts: Drafts | undefined;
  #gone = false;

  constructor() {
    super();
    this.site = "demo";
    this.endpoint = "";
    this.open = false;
    this.language = preferredLanguage();
    this.warning = "";
  }

  get #words(): Words {
    return wordsOf(this.language);
  }

  get #thread(): Thread | undefined {
    return this.#client?.threads.get(this.#client.current);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.#gone = false;
    chooseLanguage(this.language);
    const onLanguage = () => {
      this.language = preferredLanguage();
    };
    window.addEventListener("ringdesk-language", onLanguage);
    this.#stops.push(() => window.removeEventListener("ringdesk-language", onLanguage));
    this.open ||= cabinet("sessionStorage").getItem("ringdesk.visitor.open") === "1";
    void this.#prepare();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#gone = true;
    for (const stop of this.#stops.splice(0)) stop();
    this.#place.watch(undefined);
    this.#client?.stop();
    this.#client = undefined;
  }

  async #prepare(): Promise<void> {
    const local = cabinet("localStorage");
    const session = cabinet("sessionStorage");
    const device = await claimDevice(session, `ringdesk.visitor.${this.site}.device`);
    if (this.#gone) return;
    this.#drafts = new Drafts(session, `ringdesk.visitor.${this.site}.drafts`);
    const tickets = new VisitorTickets(this.site, local, this.endpoint);
    const client = new Client({
      role: "visitor",
      site: this.site,
      device,
      local,
      tickets,
      connect: connectWebSocket,
    });
    this.#client = client;
    this.#stops.push(client.subscribe(() => this.requestUpdate()));
    this.#stops.push(
      watchAttention(client, (attentive) => {
        this.#attentive = attentive;
        this.#look();
      }),
    );
    if (this.open || client.returning) client.start();
    this.requestUpdate();
  }

  /** Opens or closes the panel. */
  toggle(open = !this.open): void {
    this.open = open;
    cabinet("sessionStorage").setItem("ringdesk.visitor.open", open ? "1" : "0");
    this.#view.atEnd = true;
    if (open) {
      this.#client?.start();
      void this.updateComplete.then(() => this.#input?.focus());
    } else {
      void this.updateComplete.then(() => this.renderRoot.querySelector<HTMLElement>(".bubble")?.focus());
    }
    this.#look();
  }

  /** Read is what was on the screen in front of somebody. */
  #look(): void {
    const seen = this.open && this.#attentive && this.#view.atEnd;
    this.#client?.look(seen ? this.#client.current : undefined);
  }

  get #log(): HTMLElement | null {
    return this.renderRoot.querySelector<HTMLElement>(".log");
  }

  get #input(): HTMLTextAreaElement | null {
    return this.renderRoot.querySelector("textarea");
  }

  protected override willUpdate(): void {
    this.#place.before();
  }

  protected override updated(): void {
    this.#place.watch(this.#log ?? undefined);
    this.#place.after();
    this.#moved();
    this.#restore();
  }

  #moved(): void {
    if (this.#place.nearTop) this.#client?.older(this.#client.current);
    this.#look();
  }

  /** A draft comes back into a field that was not touched yet: after a reload, or when the panel opens again. */
  #restore(): void {
    const input = this.#input;
    const drafts = this.#drafts;
    if (input === null || drafts === undefined || this.#client === undefined || input.dataset["draft"]) return;
    input.dataset["draft"] = "restored";
    // Written before the conversation had a name.
    const draft = drafts.get(this.#client.current) || drafts.get("");
    if (draft === "" || input.value !== "") return;
    input.value = draft;
    this.#grow();
  }

  #keepDraft(text: string): void {
    this.#drafts?.set("", "");
    this.#drafts?.set(this.#client?.current ?? "", text);
  }

  #submit(event?: Event): void {
    event?.preventDefault();
    const input = this.#input;
    const client = this.#client;
    if (input === null || client === undefined) return;
    const text = input.value.trim();
    if (text === "") return;
    if (utf8Bytes(text) > BODY_BYTES_MAX) this.warning = this.#words.tooLong;
    else if (!client.send(client.current, text)) this.warning = this.#words.tooMuch;
    else {
      this.warning = "";
      input.value = "";
      this.#keepDraft("");
      this.#view.atEnd = true;
    }
    this.#grow();
    input.focus();
  }

  #typed(): void {
    const client = this.#client;
    this.#keepDraft(this.#input?.value ?? "");
    this.#grow();
    if (client === undefined || client.current === "") return;
    if (this.#input?.value === "") client.stopTyping(client.current);
    else client.typing(client.current);
  }

  /** The field grows with its text up to its maximum. */
  #grow(): void {
    const input = this.#input;
    if (input === null) return;
    input.style.height = "0";
    input.style.height = `${Math.max(42, input.scrollHeight + 2)}px`;
  }

  #key(event: KeyboardEvent): void {
    // Enter that ends an input method's composition chooses a word, it does not send.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#submit(event);
    if (event.key === "Escape") this.toggle(false);
  }

  #editAgain(id: number): void {
    const text = this.#client?.discard(id) ?? "";
    const input = this.#input;
    if (input === null) return;
    input.value = input.value === "" ? text : `${text}\n${input.value}`;
    this.#keepDraft(input.value);
    this.#grow();
    input.focus();
  }

  #switchLanguage(): void {
    this.language = otherLanguage(this.language).language;
    chooseLanguage(this.language);
    window.dispatchEvent(new Event("ringdesk-language"));
  }

  protected override render(): TemplateResult {
    return this.open ? this.#panel() : this.#bubble();
  }

  #bubble(): TemplateResult {
    const unread = this.#thread?.unread ?? 0;
    const words = this.#words;
    const label = unread > 0 ? `${words.openChat}, ${words.unread(unread)}` : words.openChat;
    return html`<button class="bubble" aria-label=${label} @click=${() => this.toggle(true)}>
      ${icon(SPEECH)} ${unread > 0 ? html`<span class="badge" aria-hidden="true">${unread}</span>` : nothing}
    </button>`;
  }

  #statusText(): string {
    const words = this.#words;
    const phase = this.#client?.phase ?? "idle";
    if (phase === "waiting") return words.waiting;
    if (phase === "refused") return words.refused;
    if (phase !== "online") return words.connecting;
    const thread = this.#thread;
    if (thread?.status === "assigned") return words.talkingTo(thread.agentName || words.someone);
    return words.visitorStatus[thread?.status ?? "open"];
  }

  #panel(): TemplateResult {
    const words = this.#words;
    const thread = this.#thread;
    const phase = this.#client?.phase ?? "idle";
    const other = otherLanguage(this.language);
    const rows = this.#client ? new Rows(this.#client, this.language, words).of(thread) : [];
    const typing = thread?.typing ? words.isTyping(thread.agentName || words.someone) : "";
    return html`<section class="panel" role="dialog" aria-label=${words.chat}>
      <header>
        <div class="title">
          <h2>${words.chat}</h2>
          <div class="status" role="status" data-phase=${phase} data-status=${thread?.status ?? "open"}>
            <span class="dot ${phase === "online" ? (thread?.status ?? "open") : phase}"></span>${this.#statusText()}
          </div>
        </div>
        <button class="plain" lang=${other.language} @click=${this.#switchLanguage}>${other.name}</button>
        <button class="plain" aria-label=${words.closeChat} @click=${() => this.toggle(false)}>
          ${icon(CROSS)}
        </button>
      </header>
      <div
        class="log"
        role="log"
        aria-live="polite"
        tabindex="0"
        aria-label=${words.chat}
        @scroll=${() => this.#place.scrolled()}
      >
        ${thread?.more ? html`<div class="line">${words.loadingOlder}</div>` : nothing}
        ${rows.length === 0 ? html`<div class="welcome"><strong>${words.greeting}</strong>${words.greetingMore}</div>` : nothing}
        ${repeat(
          rows,
          (row) => row.key,
          (row) => this.#row(row),
        )}
      </div>
      <div class="typing" aria-live="polite">${typing}</div>
      ${this.warning === "" ? nothing : html`<div class="warn" role="alert">${this.warning}</div>`}
      <form @submit=${this.#submit}>
        <textarea
          rows="1"
          dir="auto"
          aria-label=${words.write}
          placeholder=${words.write}
          enterkeyhint="send"
          @input=${this.#typed}
          @keydown=${this.#key}
        ></textarea>
        <button class="go" aria-label=${words.send}>${icon(ARROW)}</button>
      </form>
    </section>`;
  }

  #row(row: Row): TemplateResult {
    if (row.kind !== "message") return html`<div class=${row.kind} data-seq=${row.seq}>${row.text}</div>`;
    const classes = [
      "message",
      row.mine ? "mine" : "",
      row.first ? "first" : "",
      row.failure ? "failed" : "",
    ];
    return html`<div class=${classes.join(" ")} data-seq=${row.seq} data-mark=${row.mark ?? nothing}>
      ${row.first && !row.mine ? html`<div class="author" dir="auto">${row.author}</div>` : nothing}
      ${this.#body(row)} ${row.last ? this.#meta(row.time, row.mark) : nothing} ${row.failure ? this.#failure(row.failure) : nothing}
    </div>`;
  }

  #body(row: { key: string; body: string }): TemplateResult {
    const words = this.#words;
    const whole = this.#whole.has(row.key);
    const { parts, cut } = shown(row.body, COLUMNS, whole);
    const texts = parts.map(({ text, href }) =>
      href === undefined
        ? text
        : html`<a href=${href} target="_blank" rel="noopener noreferrer nofollow">${text}</a>`,
    );
    const more = html`<button class="more" aria-expanded=${!cut} @click=${(e: Event) => this.#unfold(e, row.key)}>
      ${cut ? words.showMore : words.showLess}
    </button>`;
    return html`<div class="body" dir="auto">${texts}</div>
      ${cut || whole ? more : nothing}`;
  }

  #meta(time: string, mark: Mark | undefined): TemplateResult {
    const name = mark ? this.#words.mark[mark] : "";
    return html`<div class="meta">
      <time>${time}</time>
      ${
        mark
          ? html`<span class="mark ${mark}" title=${name} aria-hidden="true">${TICKS[mark]}</span
              ><span class="hidden">${name}</span>`
          : nothing
      }
    </div>`;
  }

  /** What opens grows downwards, also at the end of the log; what closes stays in view. */
  #unfold(event: Event, key: string): void {
    const message = (event.currentTarget as HTMLElement).closest(".message");
    this.#view.atEnd = false;
    const closes = this.#whole.delete(key);
    if (!closes) this.#whole.add(key);
    this.requestUpdate();
    void this.updateComplete.then(() => {
      if (closes) message?.scrollIntoView({ block: "nearest" });
      this.#place.scrolled();
    });
  }

  #failure(failure: { text: string; id: number }): TemplateResult {
    return html`<div class="failure">
      ${failure.text} <button @click=${() => this.#editAgain(failure.id)}>${this.#words.editAgain}</button>
    </div>`;
  }
}

customElements.define("ringdesk-chat", RingdeskChat);
