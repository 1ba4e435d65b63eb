// Where tickets come from: the control plane's HTTP port, same origin as the page. Tickets are opaque here.

import type { Cabinet } from "./device";

/** What a connection needs to be admitted. `ws` already names the host that the page was loaded from. */
export interface Ticket {
  ticket: string;
  /** URL of the WebSocket listener. */
  ws: string;
}

/** `unreachable`: the same again later. `refused`: asking again will not help; an agent has to log in. */
export class TicketError extends Error {
  constructor(
    readonly kind: "unreachable" | "refused",
    readonly code: string,
    readonly retryAfterMs = 0,
  ) {
    super(code);
  }
}

export interface TicketSource {
  /** The ticket at hand, or a new one. Throws TicketError. */
  get(): Promise<Ticket>;
  /** The server refused the last one, with this code. */
  refused(code: string): void;
}

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** POSTs JSON and reads JSON; every failure is a TicketError. */
export async function post<T>(fetcher: Fetch, url: string, body: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetcher(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new TicketError("unreachable", "unreachable");
  }
  const answer = (await response.json().catch(() => ({}))) as { code?: string; retry_after_ms?: number };
  if (response.ok) return answer as T;
  const code = (answer.code ?? `http_${response.status}`).toLowerCase();
  // A Retry-After may also be a date; ringdeskd sends seconds, and what is neither must not become a delay of NaN.
  const seconds = Number(response.headers.get("retry-after") ?? 0);
  const retryMs = answer.retry_after_ms ?? (seconds > 0 && seconds < 86_400 ? seconds * 1000 : 0);
  throw new TicketError(
    response.status >= 500 || response.status === 429 ? "unreachable" : "refused",
    code,
    retryMs,
  );
}

interface VisitorAnswer {
  ticket: string;
  ws: string;
  visitor: string;
}

/** Anonymous visitor: the ticket stays in localStorage, so the same browser is the same visitor. */
export class VisitorTickets implements TicketSource {
  readonly #key: string;
  #old: string | undefined;
  #held: Ticket | undefined;

  constructor(
    private readonly site: string,
    private readonly local: Cabinet,
    private readonly base: string,
    private readonly fetcher: Fetch = (url, init) => fetch(url, init),
  ) {
    this.#key = `ringdesk.visitor.${site}.ticket`;
    this.#old = local.getItem(this.#key) ?? undefined;
  }

  /** Renewed once per page, so that a visitor who returns within the ticket's life never loses it. */
  async get(): Promise<Ticket> {
    if (this.#held !== undefined) return this.#held;
    const body = this.#old === undefined ? { site: this.site } : { site: this.site, ticket: this.#old };
    let answer: VisitorAnswer;
    try {
      answer = await post<VisitorAnswer>(this.fetcher, `${this.base}/v1/tickets/visitor`, body);
    } catch (error) {
      // An old ticket that the server does not take back (other key, revoked) must not lock the visitor out.
      if (!(error instanceof TicketError) || error.kind !== "refused" || this.#old === undefined) throw error;
      this.#old = undefined;
      return this.get();
    }
    this.#old = answer.ticket;
    try {
      this.local.setItem(this.#key, answer.ticket);
    } catch {
      // No storage: a visitor for as long as the page lives.
    }
    this.#held = { ticket: answer.ticket, ws: answer.ws };
    return this.#held;
  }

  refused(code: string): void {
    this.#held = undefined;
    if (code !== "ticket_expired") this.#old = undefined;
  }
}

export interface AgentLogin extends Ticket {
  agent: number;
  name: string;
  site: string;
  login: string;
}

/** An agent's ticket lives as long as the tab; when it is refused, somebody has to log in. */
export class AgentTickets implements TicketSource {
  static readonly #key = "ringdesk.agent.login";

  constructor(
    private readonly session: Cabinet,
    private readonly base: string,
    private readonly fetcher: Fetch = (url, init) => fetch(url, init),
  ) {}

  get login(): AgentLogin | undefined {
    try {
      return JSON.parse(this.session.getItem(AgentTickets.#key) ?? "") as AgentLogin;
    } catch {
      return undefined;
    }
  }

  /** Throws TicketError; `refused` is a wrong login or password. */
  async enter(site: string, login: string, password: string): Promise<AgentLogin> {
    const answer = await post<AgentLogin>(this.fetcher, `${this.base}/v1/login`, { site, login, password });
    const held = { ...answer, site, login };
    this.session.setItem(AgentTickets.#key, JSON.stringify(held));
    return held;
  }

  leave(): void {
    this.session.removeItem(AgentTickets.#key);
  }

  get(): Promise<Ticket> {
    const held = this.login;
    return held ? Promise.resolve(held) : Promise.reject(new TicketError("refused", "login_expected"));
  }

  refused(): void {
    this.leave();
  }
}
