// What is different for agents: presence, ownership, epochs.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { BACKOFF_FIRST_MS } from "../../src/core/backoff";
import { OWNER_WAIT_MS } from "../../src/core/sender";
import { CONVERSATION, message, page, pass, state, Tab } from "./fake";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_790_000_000_000 }));
afterEach(() => mock.timers.reset());

async function agent(epoch = 1, seq = 0): Promise<Tab> {
  const tab = new Tab("agent");
  await tab.welcome();
  tab.assigned(epoch, seq);
  return tab;
}

const thread = (tab: Tab) => tab.client.threads.get(CONVERSATION);

test("presence follows every WELCOME, with a number of its own", async () => {
  const tab = await agent();
  assert.deepEqual(
    tab.socket.of("presence").map((m) => [m["n"], m["availability"], m["capacity"]]),
    [[1, "online", 5]],
  );
  tab.client.declare("away", 3);
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome();
  assert.deepEqual(
    tab.socket.of("presence").map((m) => [m["n"], m["availability"], m["capacity"]]),
    [[3, "away", 3]],
  );
});

test("older news than the ASSIGNED does not take the conversation away, later news does", async () => {
  const tab = await agent(1, 0);
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(state(2, "queued", "first_message", 0));
  assert.equal(thread(tab)?.own, true);
  assert.equal(thread(tab)?.status, "assigned");
  tab.socket.say(state(3, "assigned", "assigned", 1, 9));
  assert.equal(thread(tab)?.own, true);
  tab.socket.say(state(4, "queued", "agent_lost", 1));
  assert.equal(thread(tab)?.own, false);
  assert.equal(thread(tab)?.status, "queued");
});

test("after ASSIGNED the newest items are read, and unread ones counted from the staff's receipt", async () => {
  const tab = await agent(2, 50);
  const history = tab.socket.last("history");
  assert.equal(history["before"], 51);
  const items = [message(49, "visitor", "x"), message(50, "visitor", "y")];
  tab.socket.say(page(history["tag"], items, true));
  assert.equal(thread(tab)?.unread, 2);
  await pass(200);
  assert.deepEqual(
    tab.socket.of("receipt").map((m) => [m["delivered"], m["read"]]),
    [[50, 0]],
  );
});

test("sends carry the epoch; a stale one waits for the ASSIGNED that mends it", async () => {
  const tab = await agent(1);
  tab.client.send(CONVERSATION, "hello");
  assert.equal(tab.socket.last("send")["owner_epoch"], 1);
  tab.reject(tab.socket.last("send"), "STALE_OWNER", { detail: 2 });
  tab.assigned(2);
  await pass(100);
  assert.deepEqual([tab.socket.last("send")["owner_epoch"], tab.socket.last("send")["n"]], [2, 1]);
});

test("a stale send of a conversation that went to another fails and stays visible", async () => {
  const tab = await agent(1);
  tab.client.send(CONVERSATION, "one");
  tab.client.send(CONVERSATION, "two");
  tab.reject(tab.socket.of("send")[0]!, "STALE_OWNER", { detail: 2 });
  tab.reject(tab.socket.of("send")[1]!, "STALE_OWNER", { detail: 2 });
  tab.socket.say(state(1, "assigned", "assigned", 2, 8));
  await pass(OWNER_WAIT_MS * 2);
  assert.deepEqual(
    tab.client.unsent(CONVERSATION).map((e) => [e.body, e.failed]),
    [
      ["one", "stale_owner"],
      ["two", "stale_owner"],
    ],
  );
});

test("RESOLVE shares the count of SEND and goes out again after a break", async () => {
  const tab = await agent(1);
  tab.client.send(CONVERSATION, "bye");
  tab.client.resolve(CONVERSATION);
  assert.equal(tab.socket.last("resolve")["n"], 2);
  tab.socket.cut();
  await pass(BACKOFF_FIRST_MS);
  await tab.welcome();
  assert.deepEqual(
    tab.socket.sent.filter((m) => m["n"] && m["conversation"]).map((m) => [m["type"], m["n"]]),
    [
      ["send", 1],
      ["resolve", 2],
    ],
  );
  tab.reject(tab.socket.last("resolve"), "RESOLVED");
  assert.deepEqual(
    tab.client.unsent(CONVERSATION).map((e) => e.body),
    ["bye"],
  );
});

test("an ASSIGNED ahead of what is held is caught up by history", async () => {
  const tab = await agent(1);
  tab.socket.say(message(1, "visitor", "a"));
  tab.assigned(3, 3);
  const history = tab.socket.last("history");
  assert.deepEqual([history["before"], history["after"]], [0, 1]);
  tab.socket.say(page(history["tag"], [message(2, "visitor", "b"), message(3, "visitor", "c")], false));
  assert.deepEqual(tab.bodies, ["a", "b", "c"]);
});

test("only the owner gives receipts", async () => {
  const tab = await agent(1);
  tab.socket.say(message(1, "visitor", "a"));
  tab.socket.say(state(2, "resolved", "resolved", 1));
  tab.socket.say(message(3, "visitor", "b"));
  await pass(200);
  assert.deepEqual(tab.socket.of("receipt"), []);
});
