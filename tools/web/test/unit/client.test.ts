// Resume, order and the outbox, against a server played by hand.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS, backoffMs } from "../../src/core/backoff";
import { OUTBOX_ENTRIES_MAX } from "../../src/core/device";
import { IN_FLIGHT_MAX } from "../../src/core/sender";
import { CONVERSATION, message, page, pass, settle, state, Tab } from "./fake";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_790_000_000_000 }));
afterEach(() => mock.timers.reset());

async function visitor(seq = 0): Promise<Tab> {
  const tab = new Tab("visitor");
  await tab.welcome();
  await tab.open(seq);
  return tab;
}

const sent = (tab: Tab): [number, string][] => tab.socket.of("send").map((m) => [m["n"], m["body"]]);

test("a visitor says hello, opens and sends; the item replaces the acknowledged text without doubling it", async () => {
  const tab = await visitor();
  assert.deepEqual(
    tab.socket.of("open").map((m) => m["n"]),
    [1],
  );
  tab.client.send(CONVERSATION, "hi");
  tab.client.send(CONVERSATION, "there");
  assert.deepEqual(sent(tab), [
    [1, "hi"],
    [2, "there"],
  ]);
  tab.ack(tab.socket.of("send")[0]!, 1);
  assert.deepEqual(tab.bodies, ["hi"]);
  assert.equal(tab.client.threads.get(CONVERSATION)?.cursor, 0, "an ACK does not move the cursor");
  const key = { device: tab.client.deviceId, n: 1 };
  tab.socket.say(message(1, "visitor", "hi", key));
  assert.deepEqual(tab.bodies, ["hi"]);
  assert.equal(tab.client.threads.get(CONVERSATION)?.cursor, 1);
  assert.deepEqual(
    tab.client.unsent(CONVERSATION).map((e) => e.body),
    ["there"],
  );
});

test("after a break the same numbers go out again, in order, and the cursor says where the stream went on", async () => {
  const tab = await visitor();
  for (const body of ["a", "b", "c"]) tab.client.send(CONVERSATION, body);
  tab.ack(tab.socket.of("send")[0]!, 1);
  tab.socket.say(message(1, "visitor", "a", { device: tab.client.deviceId, n: 1 }));
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  const hello = await tab.welcome();
  assert.deepEqual(hello["cursors"], [{ conversation: CONVERSATION, epoch: 1, seq: 1 }]);
  assert.deepEqual(sent(tab), [
    [2, "b"],
    [3, "c"],
  ]);
  assert.equal(tab.socket.of("open").length, 0, "the conversation is known");
});

test("a reload keeps the device, its numbers and what was not acknowledged", async () => {
  const tab = await visitor();
  const device = tab.client.deviceId;
  tab.client.send(CONVERSATION, "a");
  tab.client.send(CONVERSATION, "b");
  tab.ack(tab.socket.of("send")[0]!, 1);
  tab.load();
  const hello = await tab.welcome();
  assert.equal(hello["device"], device);
  assert.deepEqual(sent(tab), [[2, "b"]]);
  tab.client.send(CONVERSATION, "c");
  assert.deepEqual(sent(tab), [
    [2, "b"],
    [3, "c"],
  ]);
});

test("an item that shows an own key is as good as its ACK", async () => {
  const tab = await visitor();
  tab.client.send(CONVERSATION, "a");
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await settle();
  await tab.welcome();
  tab.socket.say(message(1, "visitor", "a", { device: tab.client.deviceId, n: 1 }));
  assert.deepEqual(tab.client.unsent(CONVERSATION), []);
  tab.ack(tab.socket.of("send")[0]!, 1);
  assert.deepEqual(tab.bodies, ["a"]);
});

test("items at or below the cursor are dropped, each is shown once", async () => {
  const tab = await visitor();
  const items = [
    message(1, "visitor", "a"),
    state(2, "queued", "first_message", 0),
    message(3, "agent", "b"),
  ];
  for (const item of [...items, items[0]!, items[2]!]) tab.socket.say(item);
  assert.deepEqual(tab.bodies, ["a", "(queued)", "b"]);
  tab.socket.say(message(3, "agent", "other text under a known seq"));
  assert.deepEqual(tab.bodies, ["a", "(queued)", "b"]);
});

test("a hole is filled by history before what lies behind it is shown", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(message(4, "agent", "d"));
  assert.deepEqual(tab.bodies, ["a"]);
  const history = tab.socket.last("history");
  assert.deepEqual([history["before"], history["after"]], [0, 1]);
  tab.socket.say(page(history["tag"], [message(2, "visitor", "b"), message(3, "agent", "c")], false));
  assert.deepEqual(tab.bodies, ["a", "b", "c", "d"]);
  assert.equal(tab.client.threads.get(CONVERSATION)?.cursor, 4);
});

test("a gap moves the cursor past what is not kept", async () => {
  const tab = await visitor();
  tab.socket.say({ type: "gap", conversation: CONVERSATION, from: 1, to: 7 });
  tab.socket.say(message(8, "agent", "after"));
  assert.deepEqual(tab.bodies, ["after"]);
});

test("scrolling up asks for the items before the oldest, once at a time, to the start", async () => {
  const tab = await visitor(100);
  const first = tab.socket.last("history");
  assert.equal(first["before"], 101);
  tab.client.older(CONVERSATION);
  assert.equal(tab.socket.of("history").length, 1, "one is out already");
  tab.socket.say(page(first["tag"], [message(99, "visitor", "y"), message(100, "agent", "z")], true));
  tab.client.older(CONVERSATION);
  const second = tab.socket.last("history");
  assert.equal(second["before"], 99);
  tab.socket.say(page(second["tag"], [message(98, "visitor", "x")], false));
  tab.client.older(CONVERSATION);
  assert.equal(tab.socket.of("history").length, 2, "there is no more");
  assert.deepEqual(tab.bodies, ["x", "y", "z"]);
});

test("BUSY: from the refused one on, all goes out again under the same numbers", async () => {
  const tab = await visitor();
  for (const body of ["a", "b", "c"]) tab.client.send(CONVERSATION, body);
  const [a, b, c] = tab.socket.of("send");
  tab.reject(a!, "BUSY", { retry_after_ms: 1000 });
  tab.reject(b!, "OUT_OF_ORDER", { detail: 1 });
  tab.reject(c!, "OUT_OF_ORDER", { detail: 1 });
  await pass(990);
  assert.equal(sent(tab).length, 3);
  await pass(300);
  assert.deepEqual(sent(tab).slice(3), [
    [1, "a"],
    [2, "b"],
    [3, "c"],
  ]);
});

test("what is refused for good gives its number to the next and stays on the screen", async () => {
  const tab = await visitor();
  tab.client.send(CONVERSATION, "bad");
  tab.client.send(CONVERSATION, "good");
  const [bad, good] = tab.socket.of("send");
  tab.reject(bad!, "TOO_LARGE");
  tab.reject(good!, "OUT_OF_ORDER", { detail: 1 });
  assert.deepEqual(sent(tab).slice(2), [[1, "good"]]);
  const [failed] = tab.client.unsent(CONVERSATION);
  assert.equal(failed?.failed, "too_large");
  assert.equal(tab.client.discard(failed!.id), "bad");
  assert.deepEqual(
    tab.client.unsent(CONVERSATION).map((e) => e.body),
    ["good"],
  );
});

test("a lost count is taken from the server", async () => {
  const tab = await visitor();
  tab.client.send(CONVERSATION, "a");
  tab.ack(tab.socket.last("send"), 1);
  tab.client.send(CONVERSATION, "b");
  tab.reject(tab.socket.last("send"), "OUT_OF_ORDER", { detail: 1 });
  await pass(100);
  assert.deepEqual(sent(tab).at(-1), [1, "b"]);
});

test("a retired device gets a new id and sends nothing twice that came through under the old one", async () => {
  const tab = await visitor();
  const old = tab.client.deviceId;
  tab.client.send(CONVERSATION, "came through");
  tab.client.send(CONVERSATION, "did not");
  tab.reject(tab.socket.of("send")[0]!, "DEVICE_EXPIRED");
  await settle();
  const hello = await tab.welcome();
  assert.notEqual(hello["device"], old);
  assert.deepEqual(sent(tab), [], "first a look at what is there");
  const history = tab.socket.last("history");
  tab.socket.say(page(history["tag"], [message(1, "visitor", "came through", { device: old, n: 1 })], false));
  assert.deepEqual(sent(tab), [[1, "did not"]]);
});

test("another epoch drops what is held and takes the conversation from its start", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(message(2, "visitor", "lost"));
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome(2);
  assert.deepEqual(tab.bodies, []);
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(message(2, "agent", "other"));
  assert.deepEqual(tab.bodies, ["a", "other"]);
});

test("text written before the conversation has a name is sent once it has one", async () => {
  const tab = new Tab("visitor");
  await settle();
  assert.equal(tab.client.send(tab.client.current, "early"), true);
  await tab.welcome();
  assert.deepEqual(sent(tab), []);
  await tab.open();
  assert.deepEqual(sent(tab), [[1, "early"]]);
});

test("a conversation the server does not know is replaced, and what is pending moves along", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "agent", "a"));
  tab.client.send(CONVERSATION, "pending");
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome();
  tab.socket.say({
    type: "reject",
    code: "NOT_FOUND",
    of: "hello",
    conversation: CONVERSATION,
    retry_after_ms: 0,
    detail: 0,
    sentence: "",
  });
  const open = tab.socket.last("open");
  tab.socket.say({
    type: "ack",
    tag: open["tag"],
    conversation: "00a4000000000002",
    seq: 0,
    n: open["n"],
    duplicate: false,
  });
  await settle();
  assert.equal(tab.client.current, "00a4000000000002");
  assert.deepEqual(tab.socket.of("send").at(-1)?.["conversation"], "00a4000000000002");
});

test("no more messages are out than the server's window, and the outbox has an end", async () => {
  const tab = await visitor();
  for (let i = 0; i < IN_FLIGHT_MAX + 3; i++) tab.client.send(CONVERSATION, `m${i}`);
  assert.equal(sent(tab).length, IN_FLIGHT_MAX);
  tab.ack(tab.socket.of("send")[0]!, 1);
  assert.equal(sent(tab).length, IN_FLIGHT_MAX + 1);
  let taken = IN_FLIGHT_MAX + 2;
  while (tab.client.send(CONVERSATION, "x")) taken += 1;
  assert.equal(taken, OUTBOX_ENTRIES_MAX);
});

test("the delay of a goodbye is kept, a ticket that expired is renewed, a login is asked for", async () => {
  const tab = await visitor();
  tab.socket.say({ type: "goodbye", code: "SHUTTING_DOWN", retry_after_ms: 5000, sentence: "" });
  assert.equal(tab.client.phase, "waiting");
  await pass(4999);
  assert.equal(tab.sockets.length, 1);
  await pass(1300);
  assert.equal(tab.sockets.length, 2);
  await tab.welcome();
  tab.socket.say({ type: "goodbye", code: "TICKET_EXPIRED", retry_after_ms: 0, sentence: "" });
  assert.deepEqual(tab.tickets.codes, ["ticket_expired"]);
  tab.tickets.closed = true;
  await pass(1000);
  assert.equal(tab.client.phase, "refused");
});

test("silence is broken by PING, and a peer that stays silent is left", async () => {
  const tab = await visitor();
  await pass(15_000);
  assert.equal(tab.socket.of("ping").length, 1);
  tab.socket.say({ type: "pong", nonce: "0000000000000000" });
  await pass(15_000);
  tab.socket.say({ type: "pong", nonce: "0000000000000000" });
  assert.equal(tab.sockets.length, 1);
  await pass(15_000);
  await pass(15_000);
  await pass(15_000);
  await pass(15_000);
  assert.equal(tab.sockets.length, 2, "another connection was made");
});

test("delays double, carry jitter and end at a maximum", () => {
  assert.equal(
    backoffMs(0, 0, () => 0),
    BACKOFF_FIRST_MS / 2,
  );
  assert.equal(
    backoffMs(0, 0, () => 0.999),
    Math.round(BACKOFF_FIRST_MS * 0.9995),
  );
  assert.equal(
    backoffMs(3, 0, () => 0),
    BACKOFF_FIRST_MS * 4,
  );
  assert.equal(
    backoffMs(60, 0, () => 0.9999999),
    BACKOFF_MAX_MS,
  );
  assert.equal(
    backoffMs(0, 9_000, () => 0),
    9_000,
  );
});

test("receipts: stored is said at once, read only when somebody looks, and both once", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "visitor", "a"));
  await pass(200);
  assert.equal(tab.socket.of("receipt").length, 0, "own messages need none");
  tab.socket.say(message(2, "agent", "b"));
  tab.socket.say(message(3, "agent", "c"));
  await pass(200);
  const values = () => tab.socket.of("receipt").map((m) => [m["delivered"], m["read"]]);
  assert.deepEqual(values(), [[3, 0]]);
  assert.equal(tab.client.threads.get(CONVERSATION)?.unread, 2);
  tab.client.look(CONVERSATION);
  assert.equal(tab.client.threads.get(CONVERSATION)?.unread, 0);
  await pass(200);
  assert.deepEqual(values(), [
    [3, 0],
    [3, 3],
  ]);
  tab.client.look(undefined);
  tab.client.look(CONVERSATION);
  await pass(200);
  assert.equal(values().length, 2);
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome();
  await pass(200);
  assert.deepEqual(values(), [[3, 3]], "said again: it may not have become durable");
});

test("typing is said rarely, taken back, and not believed for ever", async () => {
  const tab = await visitor();
  for (let key = 0; key < 10; key++) tab.client.typing(CONVERSATION);
  const values = () => tab.socket.of("typing").map((m) => m["on"]);
  assert.deepEqual(values(), [true]);
  await pass(5_000);
  assert.deepEqual(values(), [true, false]);
  const thread = tab.client.threads.get(CONVERSATION);
  tab.socket.say({ type: "typing", conversation: CONVERSATION, author: "agent", agent: 9, on: true });
  assert.ok(thread?.typing);
  await pass(6_100);
  assert.equal(thread?.typing, undefined);
});

test("a visitor's browser comes back to its conversation, receipts and all", async () => {
  const tab = await visitor();
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(state(2, "assigned", "assigned", 1, 9));
  tab.socket.say({ type: "receipt", conversation: CONVERSATION, side: "staff", delivered: 2, read: 1 });
  tab.session.map.clear();
  tab.load();
  const hello = await tab.welcome();
  assert.deepEqual(hello["cursors"], [{ conversation: CONVERSATION, epoch: 1, seq: 2 }]);
  const history = tab.socket.last("history");
  assert.equal(history["before"], 3);
  const thread = tab.client.threads.get(CONVERSATION);
  assert.deepEqual([thread?.status, thread?.agentName], ["assigned", "Ana"]);
  assert.deepEqual(thread?.marks.staff, { delivered: 2, read: 1 });
});

test("asking for older items without a connection tells nobody: a page that asks when drawn would spin", async () => {
  const tab = await visitor(100);
  tab.socket.cut();
  await settle();
  let told = 0;
  tab.client.subscribe(() => (told += 1));
  tab.client.older(CONVERSATION);
  await settle();
  assert.equal(told, 0);
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome();
  assert.equal(tab.socket.last("history")["before"], 101, "asked for once it can be");
});

test("who writes while the next attempt is far away does not wait for it, but a server's delay stands", async () => {
  const tab = await visitor();
  for (let attempt = 0; attempt < 8; attempt++) {
    tab.socket.cut();
    await pass(BACKOFF_MAX_MS);
  }
  tab.socket.cut();
  const before = tab.sockets.length;
  await pass(2_000);
  tab.client.send(CONVERSATION, "a");
  tab.client.send(CONVERSATION, "b");
  await settle();
  assert.equal(tab.sockets.length, before + 1);
  await tab.welcome();
  tab.socket.say({ type: "goodbye", code: "BUSY", retry_after_ms: 60_000, sentence: "" });
  await pass(5_000);
  tab.client.send(CONVERSATION, "c");
  await settle();
  assert.equal(tab.sockets.length, before + 1);
});
