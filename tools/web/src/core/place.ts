// Where a reader is in a scrolling log. At the end, the log follows what comes and stays there when its room
// shrinks (a phone's keyboard, a growing composer). Anywhere else, the row at the top of the view stays where it is,
// whatever appears above or below it. Order: before (rows as they were) -> the page draws -> after.

/** Distance from the end within which the log follows new messages, and from the top within which it loads more. */
export const NEAR_PX = 60;

/** Rows that keep their element from one drawing to the next; a day's row may get another when older ones appear. */
const ANCHORS = ".message, .line[data-seq]";

export class Place {
  #log: HTMLElement | undefined;
  #anchor: { row: HTMLElement; top: number } | undefined;
  readonly #room = new ResizeObserver(() => this.#resized());

  constructor(
    /** Kept by the page, which also sets it: a message sent puts its writer at the end. */
    private readonly view: { atEnd: boolean },
    /** The view may have moved: what is read, and what has to be loaded, may be another. */
    private readonly moved: () => void,
  ) {}

  /** The log on the screen, if there is one. */
  watch(log: HTMLElement | undefined): void {
    if (log === this.#log) return;
    this.#room.disconnect();
    this.#log = log;
    this.#anchor = undefined;
    if (log !== undefined) this.#room.observe(log);
  }

  before(): void {
    const log = this.#log;
    this.#anchor = undefined;
    if (log === undefined || this.view.atEnd) return;
    const edge = log.getBoundingClientRect().top;
    for (const row of log.querySelectorAll<HTMLElement>(ANCHORS)) {
      const { top, bottom } = row.getBoundingClientRect();
      if (bottom <= edge) continue;
      this.#anchor = { row, top };
      return;
    }
  }

  after(): void {
    const log = this.#log;
    if (log === undefined) return;
    if (this.view.atEnd) {
      log.scrollTop = log.scrollHeight;
      return;
    }
    const anchor = this.#anchor;
    if (anchor === undefined || !anchor.row.isConnected) return;
    const by = anchor.row.getBoundingClientRect().top - anchor.top;
    if (by !== 0) log.scrollTop += by;
  }

  scrolled(): void {
    const log = this.#log;
    if (log === undefined) return;
    this.view.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    this.moved();
  }

  /** The first loaded row is near: older ones are wanted. A log without an overflow has room for them. */
  get nearTop(): boolean {
    const log = this.#log;
    return log !== undefined && (log.scrollTop < NEAR_PX || log.scrollHeight <= log.clientHeight);
  }

  #resized(): void {
    if (this.#log !== undefined && this.view.atEnd) this.#log.scrollTop = this.#log.scrollHeight;
    this.moved();
  }
}
