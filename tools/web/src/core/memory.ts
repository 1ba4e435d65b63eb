// What a visitor's browser keeps of its conversation between two visits, in localStorage. The items themselves are
// kept where they are durable, which is on the server.

import type { Cabinet } from "./device";
import type { Thread } from "./thread";

export interface Remembered {
  conversation: string;
  identity: string;
  epoch: number;
  seq: number;
  status: Thread["status"];
  agentName: string;
  marks: Thread["marks"];
}

/** The one conversation of a visitor at a site. */
export class Memory {
  readonly #key: string;

  constructor(
    private readonly local: Cabinet,
    site: string,
  ) {
    this.#key = `ringdesk.visitor.${site}.conversation`;
  }

  /** What was kept, unless it is not what this version writes. */
  load(): Remembered | undefined {
    try {
      const kept = JSON.parse(this.local.getItem(this.#key) ?? "") as Remembered;
      const whole = /^[0-9a-f]{16}$/.test(kept.conversation) && kept.seq >= 0;
      return whole && kept.marks.visitor && kept.marks.staff ? kept : undefined;
    } catch {
      return undefined;
    }
  }

  save(kept: Remembered): void {
    try {
      this.local.setItem(this.#key, JSON.stringify(kept));
    } catch {
      // Without storage the conversation is found again by OPEN.
    }
  }

  clear(): void {
    this.local.removeItem(this.#key);
  }
}
