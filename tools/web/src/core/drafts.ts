// Half-written messages of this tab, in sessionStorage: a reload, or a closed panel, keeps them.

import type { Cabinet } from "./device";

/** Conversations whose drafts are kept; the oldest goes first. */
const DRAFTS_MAX = 32;

export class Drafts {
  #kept: [string, string][];

  constructor(
    private readonly session: Cabinet,
    private readonly key: string,
  ) {
    try {
      const saved = JSON.parse(session.getItem(key) ?? "[]") as [string, string][];
      this.#kept = saved.filter(([id, text]) => typeof id === "string" && typeof text === "string");
    } catch {
      this.#kept = [];
    }
  }

  get(conversation: string): string {
    return this.#kept.find(([id]) => id === conversation)?.[1] ?? "";
  }

  /** Empty text takes the draft away. */
  set(conversation: string, text: string): void {
    this.#kept = this.#kept.filter(([id]) => id !== conversation);
    if (text !== "") this.#kept = [...this.#kept, [conversation, text] as [string, string]].slice(-DRAFTS_MAX);
    try {
      if (this.#kept.length === 0) this.session.removeItem(this.key);
      else this.session.setItem(this.key, JSON.stringify(this.#kept));
    } catch {
      // No room: the draft lives as long as the page.
    }
  }
}
