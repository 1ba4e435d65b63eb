// "The same again later": every request that is refused for now is made again after the time the server asked for.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { RECEIPT_DELAY_MS } from "../../src/core/attention";
import { backoffMs } from "../../src/core/backoff";
import { post, TicketError } from "../../src/core/tickets";
import { CONVERSATION, message, page, pass, settle, Tab } from "./fake";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_790_000_000_000 }));
afterEach(() => mock.timers.reset());

const BUSY_MS = 2_000;
/** The jitter at random = 0.5, which the fake uses, is an eighth. */
const JITTER_MS = BUSY_MS / 8;
const busy = { retry_after_ms: BUSY_MS };

async function visitor(seq = 0): Promise<Tab> {
  const tab = new Tab("visitor");
  await tab.welcome();
  await tab.open(seq);
  return tab;
}

async function agent(seq = 0): Promise<Tab> {
  const tab = new Tab("agent");
  await tab.welcome();
  tab.assigned(1, seq);
  return tab;
}

/** The request is made again once, not before the time plus a share of it is over. */
async function again(tab: Tab, type: string, run: () => void): Promise<void> {
  const before = tab.socket.of(type).length;
  run();
  await pass(BUSY_MS);
  assert.equal(tab.socket.of(type).length, before, `${type}: not before the server's time and its jitter`);
  await pass(JITTER_MS);
  await pass(RECEIPT_DELAY_MS);
  assert.equal(tab.socket.of(type).length, before + 1, `${type}: again`);
  await pass(10 * BUSY_MS);
  assert.equal(tab.socket.of(type).length, before + 1, `${type}: once`);
}

test("OPEN goes out again under the same number, and after a break too", async () => {
  const tab = new Tab("visitor");
  await tab.welcome();
  await again(tab, "open", () => tab.reject(tab.socket.last("open"), "BUSY", busy));
  tab.socket.cut();
  await pass(1_000);
  await tab.welcome();
  assert.equal(tab.socket.last("open")["n"], 1, "its ACK may have been lost");
  await tab.open();
  tab.load();
  await tab.welcome();
  assert.equal(tab.socket.of("open").length, 0);
});

test("PRESENCE goes out again, as it is by then; one that was followed by another is void", async () => {
  const tab = await agent();
  const first = tab.socket.last("presence");
  await again(tab, "presence", () => tab.reject(first, "BUSY", busy));
  tab.client.declare("away", 3);
  const [, , away] = tab.socket.of("presence");
  tab.client.declare("online", 4);
  tab.reject(away!, "BUSY", busy);
  await pass(10 * BUSY_MS);
  assert.deepEqual(
    tab.socket.of("presence").map((m) => m["availability"]),
    ["online", "online", "away", "online"],
  );
});

test("a PRESENCE that waits when the connection breaks is declared once on the next", async () => {
  const tab = await agent();
  tab.reject(tab.socket.last("presence"), "BUSY", busy);
  tab.socket.cut();
  await pass(400);
  await tab.welcome();
  await pass(10 * BUSY_MS);
  assert.equal(tab.socket.of("presence").length, 1);
});

test("SEND and RESOLVE go out again even when BUSY names no time", async () => {
  const tab = await agent();
  tab.client.send(CONVERSATION, "a");
  await again(tab, "send", () => tab.reject(tab.socket.last("send"), "BUSY", busy));
  tab.reject(tab.socket.last("send"), "BUSY");
  await pass(1_200);
  assert.deepEqual(
    tab.socket.of("send").map((m) => m["n"]),
    [1, 1, 1],
  );
  tab.ack(tab.socket.last("send"), 1);
  tab.client.resolve(CONVERSATION);
  await again(tab, "resolve", () => tab.reject(tab.socket.last("resolve"), "BUSY", busy));
  assert.equal(tab.client.unsent(CONVERSATION).length, 0);
});

test("RECEIPT goes out again", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "agent", "hi"));
  await pass(RECEIPT_DELAY_MS);
  await again(tab, "receipt", () =>
    tab.reject({ ...tab.socket.last("receipt"), tag: 0 }, "BUSY", { ...busy, of: "receipt" }),
  );
  assert.equal(tab.socket.last("receipt")["delivered"], 1);
});

test("HISTORY goes out again by itself, and a page that asks whenever it is drawn does not ask any sooner", async () => {
  const tab = await agent(50);
  tab.client.subscribe(() => tab.client.older(CONVERSATION));
  await again(tab, "history", () => tab.reject(tab.socket.last("history"), "BUSY", busy));
  tab.socket.say(page(tab.socket.last("history")["tag"], [message(50, "visitor", "y")], true));
  await settle();
  assert.deepEqual(tab.bodies, ["y"]);
});

test("what is missing in the stream is asked for no sooner than the server wants", async () => {
  const tab = await visitor();
  tab.socket.say(message(3, "agent", "c"));
  await again(tab, "history", () => {
    tab.reject(tab.socket.last("history"), "BUSY", busy);
    tab.socket.say(message(4, "agent", "d"));
  });
  const items = ["a", "b", "c", "d"].map((body, at) => message(at + 1, "agent", body));
  tab.socket.say(page(tab.socket.last("history")["tag"], items, false));
  assert.deepEqual(tab.bodies, ["a", "b", "c", "d"]);
});

test("a goodbye's time is a lower bound, and pages do not come back in one instant", async () => {
  const asked = 4_000;
  const delays = [0, 0.25, 0.5, 0.75, 0.999].map((share) => backoffMs(0, asked, () => share));
  assert.ok(delays.every((delay) => delay >= asked));
  assert.equal(new Set(delays).size, delays.length);
  const tab = await visitor();
  tab.socket.say({ type: "goodbye", code: "BUSY", retry_after_ms: asked, sentence: "" });
  tab.client.wake();
  tab.client.send(CONVERSATION, "in a hurry");
  await pass(asked + asked / 8 - 1);
  assert.equal(tab.sockets.length, 1);
  await pass(1);
  assert.equal(tab.sockets.length, 2);
});

test("Retry-After reaches who asked for a ticket; a date or nonsense counts as none", async () => {
  for (const [header, expected] of [
    ["7", 7_000],
    ["Wed, 21 Oct 2026 07:28:00 GMT", 0],
    ["-3", 0],
  ] as const) {
    const answer = new Response("{}", { status: 429, headers: { "retry-after": header } });
    const error: unknown = await post(() => Promise.resolve(answer), "/v1/login", {}).catch((e: unknown) => e);
    assert.ok(error instanceof TicketError);
    assert.equal(error.retryAfterMs, expected, header);
  }
});
