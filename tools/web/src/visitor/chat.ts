// <ringdesk-chat site="demo"> : the bubble and the panel of a visitor. Connects when it is first opened, or at once
// when this browser has a conversation to come back to, so that a page view alone costs the server nothing.

import { html, LitElement, nothing, type PropertyValues, svg, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";

import { Client } from "../client";
import { cabinet, claimDevice, connectWebSocket, watchAttention } from "../core/page";
import { type Row, Rows, TICKS } from "../core/rows";
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
/** Distance from the end within which the log follows new messages, and from the top within which it loads more. */
const NEAR_PX = 60;

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
  /** Distance from the end before a render, to keep the place when older messages appear above. */
  #fromEnd: number | undefined;
  #atEnd = true;
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
    this.#client?.stop();
    this.#client = undefined;
  }

  async #prepare(): Promise<void> {
    const local = cabinet("localStorage");
    const device = await claimDevice(cabinet("sessionStorage"), `ringdesk.visitor.${this.site}.device`);
    if (this.#gone) return;
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
    this.#atEnd = true;
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
    const seen = this.open && this.#attentive && this.#atEnd;
    this.#client?.look(seen ? this.#client.current : undefined);
  }

  get #log(): HTMLElement | null {
    return this.renderRoot.querySelector<HTMLElement>(".log");
  }

  get #input(): HTMLTextAreaElement | null {
    return this.renderRoot.querySelector("textarea");
  }

  protected override willUpdate(): void {
    const log = this.#log;
    this.#fromEnd = log === null ? undefined : log.scrollHeight - log.scrollTop;
  }

  protected override updated(changed: PropertyValues): void {
    const log = this.#log;
    if (log === null) return;
    if (this.#atEnd || changed.has("open")) log.scrollTop = log.scrollHeight;
    else if (this.#fromEnd !== undefined && log.scrollTop < NEAR_PX)
      log.scrollTop = log.scrollHeight - this.#fromEnd;
    this.#look();
    // A short first page leaves room above: fill it.
    if (log.scrollHeight <= log.clientHeight) this.#client?.older(this.#client.current);
  }

  #scrolled(): void {
    const log = this.#log;
    if (log === null) return;
    this.#atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    if (log.scrollTop < NEAR_PX) this.#client?.older(this.#client.current);
    this.#look();
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
      this.#atEnd = true;
    }
    this.#grow();
    input.focus();
  }

  #typed(): void {
    const client = this.#client;
    if (client === undefined || client.current === "") return;
    if (this.#input?.value === "") client.stopTyping(client.current);
    else client.typing(client.current);
    this.#grow();
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
            <span class="dot ${phase}"></span>${this.#statusText()}
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
        @scroll=${this.#scrolled}
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
    const mark = row.mark;
    const words = this.#words;
    return html`<div class=${classes.join(" ")} data-seq=${row.seq} data-mark=${mark ?? nothing}>
      ${row.first && !row.mine ? html`<div class="author">${row.author}</div>` : nothing}
      <div class="body">${row.body}</div>
      <div class="meta">
        <time>${row.time}</time>
        ${
          mark
            ? html`<span class="mark ${mark}" title=${words.mark[mark]} aria-hidden="true"
                  >${TICKS[mark]}</span
                ><span class="hidden">${words.mark[mark]}</span>`
            : nothing
        }
      </div>
      ${row.failure ? this.#failure(row.failure) : nothing}
    </div>`;
  }

  #failure(failure: { text: string; id: number }): TemplateResult {
    return html`<div class="failure">
      ${failure.text} <button @click=${() => this.#editAgain(failure.id)}>${this.#words.editAgain}</button>
    </div>`;
  }
}

customElements.define("ringdesk-chat", RingdeskChat);
