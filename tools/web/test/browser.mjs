// A whole conversation in a real browser, with kill -9 in its middle.
//   RINGDESKD  the server's binary (default ../../target/release/ringdeskd)
//   CHROMIUM   the browser (default /usr/bin/chromium)
//   DIST       pages to serve in place of the binary's own, to try a build without linking it
// Screenshots go to test/shots/. The last line is `N passed, N failed`; the exit code is 1 if anything failed.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { looks } from "./looks.mjs";
import { Server, serveFrom } from "./server.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const shots = join(here, "shots");
const binary = resolve(process.env.RINGDESKD ?? join(here, "../../../target/release/ringdeskd"));
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
// A page that the test itself serves has no address: the browser would not let it reach the loopback.
if (process.env.DIST) args.push("--disable-features=LocalNetworkAccessChecks");
const WAIT_MS = 20_000;
const PHONE = { width: 390, height: 844 };

if (!existsSync(binary)) {
  console.error(`${binary} is missing: build it (cargo build --release -p ringdesk-server) or set RINGDESKD`);
  process.exit(1);
}
rmSync(shots, { recursive: true, force: true });
mkdirSync(shots, { recursive: true });

const STOP = new Error("a step failed");
let passed = 0;
let failed = 0;
const complaints = [];

/** Each step needs the ones before it: the first failure ends the run. */
async function step(name, run) {
  const started = Date.now();
  try {
    await run();
    passed += 1;
    console.log(`ok   ${name} (${Date.now() - started} ms)`);
  } catch (error) {
    failed += 1;
    console.log(
      `FAIL ${name}\n     ${String(error.stack ?? error)
        .split("\n")
        .slice(0, 12)
        .join("\n     ")}`,
    );
    for (const [who, page] of Object.entries(pages)) {
      await page.screenshot({ path: join(shots, `failed-${who}.png`) }).catch(() => {});
    }
    if (complaints.length > 0) console.log(`     complaints: ${complaints.join("; ")}`);
    throw STOP;
  }
}

/** Polls until `look` gives something true; its last answer otherwise ends up in the error. */
async function until(what, look, ms = WAIT_MS) {
  const end = Date.now() + ms;
  let last;
  while (Date.now() < end) {
    last = await look();
    if (last) return last;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${what}: not within ${ms} ms`);
}

const pages = {};
const server = await Server.make(binary);
const browser = await chromium.launch({ executablePath, args, headless: true });

async function context(options = {}) {
  const made = await browser.newContext({
    locale: "en-GB",
    viewport: { width: 1180, height: 760 },
    ...options,
  });
  made.setDefaultTimeout(WAIT_MS);
  if (process.env.DIST) await serveFrom(made, server.origin, resolve(process.env.DIST));
  return made;
}

/** A page whose complaints (errors, refused by the content policy) fail the run. */
async function open(who, made, path) {
  const page = await made.newPage();
  page.on("pageerror", (error) => complaints.push(`${who}: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // A dead server makes the browser itself report failed connections; that is what the test is about.
    if (message.type() === "error" && !/ERR_CONNECTION|ERR_EMPTY|WebSocket connection|ERR_SOCKET/.test(text))
      complaints.push(`${who}: ${text}`);
  });
  await page.goto(server.origin + path);
  pages[who] = page;
  return page;
}

/** Everything in the conversation's log in order: [seq, text, mark]. */
const log = (page) =>
  page
    .locator(".log [data-seq]")
    .evaluateAll((rows) =>
      rows
        .filter((row) => row.classList.contains("message"))
        .map((row) => [
          Number(row.dataset.seq),
          row.querySelector(".body").textContent,
          row.dataset.mark ?? "",
        ]),
    );
const texts = async (page) => (await log(page)).map((row) => row[1]);
const say = async (page, text) => {
  await page.locator("textarea").fill(text);
  await page.locator("textarea").press("Enter");
};
const shows = (page, text) =>
  until(`"${text}" on the screen`, async () => (await texts(page)).includes(text));
const mark = (page, text, wanted) =>
  until(`"${text}" is ${wanted}`, async () =>
    (await log(page)).some((row) => row[1] === text && row[2] === wanted),
  );
const shot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`) });

async function login(page, name) {
  await page.locator('input[name="login"]').fill(name);
  await page.locator('input[name="password"]').fill(server.passwords()[name]);
  await page.locator(".login .primary").click();
  await page.locator('.link[data-phase="online"]').waitFor();
}

/** Both pages show the same messages under the same numbers, each number once, in order. */
async function same(visitor, agent) {
  const [left, right] = [await log(visitor), await log(agent)];
  const plain = (rows) => rows.map(([seq, text]) => `${seq} ${text}`);
  assert.deepEqual(plain(left), plain(right));
  const seqs = left.map((row) => row[0]);
  assert.ok(
    seqs.every((seq, at) => seq > 0 && (at === 0 || seq > seqs[at - 1])),
    `in order: ${seqs}`,
  );
  return left;
}

try {
  await server.start();
  const shop = await context();
  const desk = await context();
  let visitor;
  let agent;

  await step("the landing page has both links and no complaint", async () => {
    const page = await open("landing", shop, "/");
    await page.locator('a[href="/visitor"]').waitFor();
    await page.locator('a[href="/agent"]').waitFor();
    await shot(page, "landing");
    await page.locator("#language").click();
    assert.equal(await page.locator("h1").textContent(), "Ringdesk 正在运行");
    await page.locator("#language").click();
    await page.close();
    delete pages.landing;
  });

  await step("a visitor opens the chat and writes although nobody is online", async () => {
    visitor = await open("visitor", shop, "/visitor");
    await visitor.locator("#start").click();
    await visitor.locator('.status[data-phase="online"]').waitFor();
    await shot(visitor, "visitor-empty");
    await say(visitor, "Hello, is the oolong in stock?");
    await mark(visitor, "Hello, is the oolong in stock?", "sent");
    await visitor.locator('.status[data-status="queued"]').waitFor();
    await shot(visitor, "visitor-queued");
  });

  await step("a wrong password is refused with a sentence", async () => {
    agent = await open("agent", desk, "/agent");
    await agent.locator('input[name="login"]').fill("ana");
    await agent.locator('input[name="password"]').fill("not this one");
    await agent.locator(".login .primary").click();
    await agent.locator(".trouble").waitFor();
    await shot(agent, "agent-login");
    // The browser reports the 401 by itself.
    complaints.splice(0, complaints.length, ...complaints.filter((text) => !text.includes("401")));
  });

  await step("an agent logs in away and sees the queue, then online and gets the conversation", async () => {
    await agent.evaluate(() =>
      sessionStorage.setItem("ringdesk.agent.presence", '{"availability":"away","capacity":5}'),
    );
    await login(agent, "ana");
    await agent.locator('[data-waiting="1"]').waitFor();
    await shot(agent, "agent-queue");
    await agent.locator(".choice .online").click();
    await agent.locator(".own .entry").waitFor();
    await agent.locator('[data-waiting="0"]').waitFor();
    await visitor.locator('.status[data-status="assigned"]').waitFor();
    assert.match(await visitor.locator(".status").textContent(), /Ana/);
  });

  await step("unread is counted until the agent looks, and the marks follow", async () => {
    await agent.bringToFront();
    await until(
      "one unread",
      async () => (await agent.locator(".own .badge").allTextContents()).join() === "1",
    );
    await mark(visitor, "Hello, is the oolong in stock?", "delivered");
    await agent.locator(".own .entry").click();
    await shows(agent, "Hello, is the oolong in stock?");
    await until("no badge", async () => (await agent.locator(".own .badge").count()) === 0);
    await mark(visitor, "Hello, is the oolong in stock?", "read");
  });

  await step("typing is seen on either side and goes away with the message", async () => {
    await agent.locator("textarea").pressSequentially("Yes, twelve");
    await until("the agent types", async () => /Ana/.test(await visitor.locator(".typing").textContent()));
    await shot(visitor, "visitor-typing");
    await agent.locator("textarea").press("Enter");
    await shows(visitor, "Yes, twelve");
    await until("not any more", async () => (await visitor.locator(".typing").textContent()) === "");
    await visitor.locator("textarea").pressSequentially("Great");
    await until("the visitor types", async () => (await agent.locator(".typing").textContent()) !== "");
    await shot(agent, "agent-typing");
    await visitor.locator("textarea").press("Enter");
    await shows(agent, "Great");
  });

  await step("a closed panel counts unread on the bubble, Shift+Enter starts a line", async () => {
    await visitor.bringToFront();
    await visitor.locator("ringdesk-chat header button").last().click();
    await visitor.locator(".bubble").waitFor();
    await agent.locator("textarea").fill("first line");
    await agent.locator("textarea").press("Shift+Enter");
    await agent.locator("textarea").pressSequentially("second line");
    await agent.locator("textarea").press("Enter");
    await until("a badge", async () => (await visitor.locator(".badge").allTextContents()).join() === "1");
    await mark(agent, "first line\nsecond line", "delivered");
    await shot(visitor, "visitor-bubble");
    await visitor.locator(".bubble").click();
    await mark(agent, "first line\nsecond line", "read");
  });

  await step(
    "kill -9 while both write: nothing lost, nothing twice, the same order on both pages",
    async () => {
      let writing = true;
      const wrote = [];
      const write = async (page, who) => {
        for (let i = 1; writing; i++) {
          const text = `${who} ${i}`;
          wrote.push(text);
          await say(page, text);
          await page.waitForTimeout(25);
        }
      };
      const hands = Promise.all([write(visitor, "visitor"), write(agent, "agent")]);
      // Looked at below; a failure until then is no unhandled one.
      hands.catch(() => {});
      await visitor.waitForTimeout(1200);
      await server.kill();
      await visitor.waitForTimeout(700);
      await until(
        "the visitor's page notices",
        async () => (await visitor.locator(".status").getAttribute("data-phase")) !== "online",
      );
      await shot(visitor, "visitor-offline");
      await shot(agent, "agent-offline");
      await server.start();
      await visitor.locator('.status[data-phase="online"]').waitFor();
      await agent.locator('.link[data-phase="online"]').waitFor();
      await visitor.waitForTimeout(1000);
      writing = false;
      await hands;
      await until("everything is acknowledged", async () => {
        const rows = [...(await log(visitor)), ...(await log(agent))];
        return rows.every((row) => row[0] > 0 && row[2] !== "sending");
      });
      await until("both have everything", async () => {
        const [left, right] = [await texts(visitor), await texts(agent)];
        return wrote.every((text) => left.includes(text) && right.includes(text));
      });
      const rows = await same(visitor, agent);
      for (const text of wrote) assert.equal(rows.filter((row) => row[1] === text).length, 1, `${text} once`);
      for (const who of ["visitor", "agent"]) {
        const own = rows.map((row) => row[1]).filter((text) => text.startsWith(`${who} `));
        assert.deepEqual(
          own,
          wrote.filter((text) => text.startsWith(`${who} `)),
          `${who}'s own order`,
        );
      }
      console.log(`     ${wrote.length} messages across the kill`);
      await shot(agent, "agent-after-kill");
    },
  );

  await step("the conversation is still the agent's and goes on", async () => {
    await say(agent, "Sorry, our server took a nap.");
    await shows(visitor, "Sorry, our server took a nap.");
    await say(visitor, "I did not notice.");
    await shows(agent, "I did not notice.");
    assert.equal(await agent.locator(".talk .status").getAttribute("data-own"), "true");
  });

  await step(
    "a second kill while the visitor's page reloads: what was written meanwhile arrives once",
    async () => {
      await server.kill();
      await until(
        "noticed",
        async () => (await visitor.locator(".status").getAttribute("data-phase")) !== "online",
      );
      await say(visitor, "written while the server was down");
      await server.start();
      await visitor.reload();
      await shows(agent, "written while the server was down");
      await shows(visitor, "written while the server was down");
      const rows = (await log(agent)).filter((row) => row[1] === "written while the server was down");
      assert.equal(rows.length, 1);
    },
  );

  await step("history comes on scrolling up, on both pages, without a hole", async () => {
    await agent.reload();
    await agent.locator('.link[data-phase="online"]').waitFor();
    await agent.locator(".own .entry").click();
    await shows(agent, "written while the server was down");
    for (const page of [visitor, agent]) {
      await page.bringToFront();
      await until("the first message", async () => {
        await page.locator(".log").evaluate((element) => {
          element.scrollTop = 0;
        });
        return (await texts(page)).includes("Hello, is the oolong in stock?");
      });
    }
    await same(visitor, agent);
  });

  await step("a reload keeps everything: the place, the marks, the conversation", async () => {
    const before = await texts(visitor);
    await visitor.bringToFront();
    await visitor.reload();
    await shows(visitor, "I did not notice.");
    assert.match(await visitor.locator(".status").textContent(), /Ana/);
    const after = await texts(visitor);
    assert.deepEqual(after, before.slice(-after.length));
    await mark(visitor, "I did not notice.", "read");
    await shot(visitor, "visitor-reloaded");
  });

  await step("a duplicated tab is another device: both write, each message comes once", async () => {
    const [twin] = await Promise.all([
      shop.waitForEvent("page"),
      visitor.evaluate(() => void window.open(location.href, "_blank")),
    ]);
    pages.twin = twin;
    await twin.locator('.status[data-phase="online"]').waitFor();
    await Promise.all([say(visitor, "from the first tab"), say(twin, "from the second tab")]);
    for (const page of [visitor, twin, agent]) {
      await shows(page, "from the first tab");
      await shows(page, "from the second tab");
    }
    await until("acknowledged", async () => (await log(twin)).every((row) => row[2] !== "sending"));
    const all = await texts(agent);
    assert.equal(all.filter((text) => text === "from the second tab").length, 1);
    await twin.close();
    delete pages.twin;
  });

  await step("an agent ends the conversation, the visitor's next word reopens it", async () => {
    await agent.bringToFront();
    await agent.locator(".resolve").click();
    await visitor.locator('.status[data-status="resolved"]').waitFor();
    await until(
      "not the agent's any more",
      async () => (await agent.locator(".talk .status").getAttribute("data-own")) === "false",
    );
    await shot(agent, "agent-resolved");
    await visitor.reload();
    await shows(visitor, "from the first tab");
    await say(visitor, "One more question");
    await visitor.locator('.status[data-status="assigned"]').waitFor();
    await shows(agent, "One more question");
    await same(visitor, agent).catch(async () => {
      // The reloaded page holds fewer: its messages are the end of the agent's.
      const [left, right] = [await texts(visitor), await texts(agent)];
      assert.deepEqual(left, right.slice(-left.length));
    });
  });

  await looks({ step, open, context, pages, shot, say, shows, mark, until, texts, complaints, agent });

  await step(
    "on a phone: the panel fills the screen, the console has one column, in Chinese and in the dark",
    async () => {
      const phone = { viewport: PHONE, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
      const street = await context({ ...phone, locale: "zh-CN", colorScheme: "dark" });
      const caller = await open("phone", street, "/visitor");
      await shot(caller, "phone-visitor-page");
      await caller.locator(".bubble").tap();
      await caller.locator('.status[data-phase="online"]').waitFor();
      const box = await caller.locator(".panel").boundingBox();
      assert.deepEqual([box.width, Math.round(box.height)], [PHONE.width, PHONE.height]);
      assert.equal(await caller.locator("ringdesk-chat h2").textContent(), "在线咨询");
      await say(caller, "你好，请问有茉莉花茶吗？");
      await caller.locator('.status[data-status="assigned"]').waitFor();
      await shot(caller, "phone-visitor-chat");
      const pocket = await context(phone);
      const bo = await open("phone-agent", pocket, "/agent");
      await shot(bo, "phone-login");
      await login(bo, "bo");
      await shot(bo, "phone-agent-list");
      // Ana leaves: her conversations go to Bo at once.
      await agent.locator(".choice .offline").click();
      await until("both conversations are Bo's", async () => (await bo.locator(".own .entry").count()) === 3);
      await until("with others", async () => (await agent.locator(".others .entry").count()) === 3);
      assert.equal(await agent.locator(".ended .entry").count(), 0, "what another talks in has not ended");
      await shot(bo, "phone-agent-lists");
      await bo.locator(".own .entry").first().tap();
      await bo.locator(".composer").waitFor();
      await say(bo, "Bo here, I have read everything.");
      await until("taken by the server", async () => {
        const row = (await log(bo)).find(([, text]) => text === "Bo here, I have read everything.");
        return row !== undefined && row[0] > 0;
      });
      await shot(bo, "phone-agent-chat");
      await bo.locator(".back").tap();
      await bo.locator(".own .entry").first().waitFor();
      await shot(agent, "agent-offline-declared");
      assert.ok(
        await caller.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "no sideways scrolling",
      );
      assert.ok(
        await bo.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "no sideways scrolling",
      );
    },
  );

  await step("no page complained: no error, nothing refused by the content policy", async () => {
    assert.deepEqual(complaints, []);
  });
} catch (error) {
  if (error !== STOP) {
    failed += 1;
    console.log(`FAIL the run: ${error.stack ?? error}`);
  }
} finally {
  await browser.close();
  await server.remove();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
