// What a page tells the other side about itself: receipts and typing. Both are throttled here; receipts are
// repeated after a reconnect, because one that was not yet durable may have been lost (contract C6).

import type { Link } from "./link";
import { type Thread, TYPING_SHOWN_MS } from "./thread";

/** Receipts of one burst of items go out as one. */
export const RECEIPT_DELAY_MS = 120;
/** "Typing" is repeated at most this often while keys are pressed. */
export const TYPING_EVERY_MS = 2_500;
/** After the last key, "typing" is taken back. */
export const TYPING_IDLE_MS = 4_000;

interface Sent {
  delivered: number;
  read: number;
}

export class Attention {
  /** The conversation somebody is looking at: the page is visible, focused and shows its end. */
  looking: string | undefined;
  readonly #sent = new Map<string, Sent>();
  readonly #due = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #typedAt = new Map<string, number>();
  readonly #typingOff = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #shown = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(
    private readonly link: Link,
    private readonly thread: (conversation: string) => Thread | undefined,
    /** Only those who take part give receipts: the visitor, and the owning agent. */
    private readonly takesPart: (thread: Thread) => boolean,
    private readonly changed: () => void,
  ) {}

  /** New connection: what it was told before may not have become durable. */
  connected(): void {
    this.#sent.clear();
    this.#typedAt.clear();
  }

  look(conversation: string | undefined): void {
    this.looking = conversation;
    if (conversation !== undefined) this.receipts(conversation);
  }

  /** Items came, or somebody looks: a receipt is due soon. Reading counts here at once. */
  receipts(conversation: string): void {
    const thread = this.thread(conversation);
    if (thread === undefined) return;
    if (this.looking === conversation && thread.marks[thread.side].read < thread.otherSeq) {
      thread.marks[thread.side].read = thread.otherSeq;
      this.changed();
    }
    if (this.#due.has(conversation)) return;
    this.#due.set(
      conversation,
      setTimeout(() => {
        this.#due.delete(conversation);
        this.#send(conversation);
      }, RECEIPT_DELAY_MS),
    );
  }

  #send(conversation: string): void {
    const thread = this.thread(conversation);
    if (thread === undefined || !thread.based || !this.takesPart(thread)) return;
    const delivered = Math.min(thread.otherSeq, thread.cursor);
    const read = Math.min(thread.marks[thread.side].read, delivered);
    const last = this.#sent.get(conversation) ?? { delivered: 0, read: 0 };
    if (delivered <= last.delivered && read <= last.read) return;
    if (this.link.send({ type: "receipt", conversation, delivered, read }) !== 0) {
      this.#sent.set(conversation, { delivered, read });
    }
  }

  /** A receipt was refused for now, and the time the server asked for is over. */
  again(conversation: string): void {
    this.#sent.delete(conversation);
    this.receipts(conversation);
  }

  /** A key was pressed in the composer. */
  typing(conversation: string): void {
    const now = Date.now();
    if (now - (this.#typedAt.get(conversation) ?? 0) >= TYPING_EVERY_MS) {
      this.#typedAt.set(conversation, now);
      this.link.send({ type: "typing", conversation, on: true });
    }
    clearTimeout(this.#typingOff.get(conversation));
    this.#typingOff.set(
      conversation,
      setTimeout(() => this.stopTyping(conversation), TYPING_IDLE_MS),
    );
  }

  /** The composer is empty, was left alone, or its text was sent. */
  stopTyping(conversation: string): void {
    clearTimeout(this.#typingOff.get(conversation));
    if (this.#typedAt.delete(conversation)) this.link.send({ type: "typing", conversation, on: false });
  }

  /** The other side types; taken back by itself, since "off" may be shed. */
  heard(thread: Thread, on: boolean): void {
    clearTimeout(this.#shown.get(thread.id));
    thread.typing = on ? { author: thread.other, until: Date.now() + TYPING_SHOWN_MS } : undefined;
    if (!on) return;
    this.#shown.set(
      thread.id,
      setTimeout(() => {
        thread.typing = undefined;
        this.changed();
      }, TYPING_SHOWN_MS),
    );
  }

  /** No timer outlives the client. */
  stop(): void {
    for (const timers of [this.#due, this.#typingOff, this.#shown]) {
      for (const timer of timers.values()) clearTimeout(timer);
      timers.clear();
    }
  }
}
