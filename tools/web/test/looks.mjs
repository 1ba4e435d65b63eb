// Steps of the browser test about what a reader sees: the place in the log, long and foreign writing, lists, marks,
// small screens. They run on a server and with an agent's page that browser.mjs has ready.

import assert from "node:assert/strict";

/** Where the log is: its offset, its room below, and whether the last message is in view. */
const view = (page) =>
  page.locator(".log").evaluate((log) => {
    const rows = log.querySelectorAll(".message");
    const last = rows[rows.length - 1].getBoundingClientRect();
    const frame = log.getBoundingClientRect();
    return {
      top: log.scrollTop,
      room: log.scrollHeight - log.clientHeight,
      lastSeen: last.bottom <= frame.bottom + 1 && last.bottom > frame.top,
      first: rows[0].dataset.seq,
    };
  });

const style = (locator, name) => locator.evaluate((element, key) => getComputedStyle(element)[key], name);
const body = (page, text) => page.locator(".message .body", { hasText: text }).last();
const sideways = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

async function wheelUp(page) {
  const box = await page.locator(".log").boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await page.mouse.wheel(0, -5000);
}

export async function looks({ step, open, context, pages, shot, say, shows, mark, until, texts, complaints, agent }) {
  let visitor;
  const pause = (ms) => visitor.waitForTimeout(ms);
  const pick = async (page, text) => {
    await page.bringToFront();
    await page.locator(".own .entry", { hasText: text }).first().click();
    await shows(page, text);
  };

  await step("forty messages: who jumps to the top stays there, whatever comes at the end", async () => {
    await agent.bringToFront();
    await agent.locator(".choice .online").click();
    visitor = await open("reader", await context(), "/visitor");
    await visitor.locator("#start").click();
    for (let n = 1; n <= 40; n++) await say(visitor, `line ${n} of a long talk`);
    await mark(visitor, "line 40 of a long talk", "delivered");
    await pick(agent, "line 40 of a long talk");
    assert.match(await agent.locator(".talk h1").textContent(), /^Visitor [\w-]{6}$/);
    for (const [reader, writer] of [
      [agent, visitor],
      [visitor, agent],
    ]) {
      await reader.bringToFront();
      await until("at the end", async () => (await view(reader)).lastSeen);
      await wheelUp(reader);
      await until("at the top", async () => (await view(reader)).top < 5);
      await pause(700);
      const before = await view(reader);
      assert.ok(before.top < 5 && before.room > 200, `stays at the top: ${JSON.stringify(before)}`);
      const text = `meanwhile ${reader === agent ? "one" : "two"}`;
      await say(writer, text);
      await shows(reader, text);
      await pause(300);
      const after = await view(reader);
      assert.ok(Math.abs(after.top - before.top) < 2, `stays: ${JSON.stringify([before, after])}`);
      await reader.locator(".log").evaluate((log) => {
        log.scrollTop = log.scrollHeight;
      });
    }
  });

  await step("the newest message stays in view when the room shrinks", async () => {
    for (const page of [visitor, agent]) {
      await page.bringToFront();
      await page.locator(".log").evaluate((log) => {
        log.scrollTop = log.scrollHeight;
      });
      await until("at the end", async () => (await view(page)).lastSeen);
      await page.locator("textarea").fill("one\ntwo\nthree\nfour\nfive\nsix");
      await pause(250);
      assert.ok((await view(page)).lastSeen, "the composer grew");
      await page.setViewportSize({ width: 1180, height: 420 });
      await pause(250);
      assert.ok((await view(page)).lastSeen, "the keyboard came");
      await page.setViewportSize({ width: 1180, height: 760 });
      await page.locator("textarea").fill("");
    }
  });

  await step("right-to-left writing is laid out from the right, in bodies, lists and while it is written", async () => {
    const arabic = "مرحبا، هل لديكم شاي أخضر؟ (رقم 12)";
    await visitor.locator("textarea").fill(arabic);
    assert.equal(await style(visitor.locator("textarea"), "direction"), "rtl");
    await visitor.locator("textarea").press("Enter");
    await shows(agent, arabic);
    for (const page of [visitor, agent]) assert.equal(await style(body(page, "مرحبا"), "direction"), "rtl");
    const preview = agent.locator(".own .entry .last", { hasText: "مرحبا" });
    assert.equal(await style(preview, "direction"), "rtl");
    assert.equal(await style(preview, "unicodeBidi"), "isolate");
    await say(agent, "نعم، لدينا Mountain oolong و Jasmine pearls.");
    await shows(visitor, "نعم، لدينا Mountain oolong و Jasmine pearls.");
    await shot(visitor, "rtl-visitor");
    await shot(agent, "rtl-agent");
  });

  await step("http and https become links that know nothing of the page; markup and other schemes stay text", async () => {
    const text =
      'See https://example.com/a?b=1&c="x" or (http://b.example/Tea_(drink)). <img src=x onerror=alert(1)> javascript:alert(1)';
    await say(visitor, text);
    for (const page of [agent, visitor]) {
      await shows(page, text);
      const links = await body(page, "onerror").locator("a").evaluateAll((all) =>
        all.map((a) => [a.getAttribute("href"), a.rel, a.target]),
      );
      const rel = "noopener noreferrer nofollow";
      assert.deepEqual(links, [
        ["https://example.com/a?b=1&c=", rel, "_blank"],
        ["http://b.example/Tea_(drink)", rel, "_blank"],
      ]);
      assert.equal(await page.locator(".message img").count(), 0);
    }
  });

  await step("a message of 60 KB shows its beginning, the rest on demand, and gives the place back", async () => {
    const text = `A long story. ${"All work and no play. ".repeat(2_700)}The end.`;
    await visitor.locator("textarea").fill(text);
    await visitor.locator("textarea").press("Enter");
    for (const page of [agent, visitor]) {
      await page.bringToFront();
      const message = page.locator(".message", { hasText: "A long story." });
      const more = message.locator(".more");
      await more.waitFor();
      const height = async () => (await message.boundingBox()).height;
      assert.ok((await height()) < 560, `${await height()} px`);
      await shot(page, `long-${page === agent ? "agent" : "visitor"}`);
      assert.equal(await more.getAttribute("aria-expanded"), "false");
      await more.focus();
      await page.keyboard.press("Enter");
      await until("all of it", async () => /The end\.$/.test(await message.locator(".body").textContent()));
      assert.ok((await height()) > 3_000);
      assert.equal(await more.getAttribute("aria-expanded"), "true");
      await more.click();
      await until("less again", async () => (await height()) < 560);
      await page.locator(".log").evaluate((log) => {
        log.scrollTop = log.scrollHeight;
      });
    }
  });

  await step("a burst tells its time once; read is told by more than a hue", async () => {
    for (const text of ["burst a", "burst b", "burst c"]) await say(agent, text);
    await visitor.bringToFront();
    await mark(agent, "burst c", "read");
    const burst = agent.locator(".message", { hasText: /^burst/ });
    // A minute may end in between.
    await until("times of the burst", async () => {
      const times = await agent.locator(".message", { hasText: "burst" }).locator("time").count();
      return times >= 1 && times <= 2;
    });
    assert.equal(await burst.count(), 3);
    const read = agent.locator(".message .mark.read").last();
    assert.notEqual(await style(read, "backgroundColor"), "rgba(0, 0, 0, 0)");
    assert.equal(await read.getAttribute("title"), "Read");
  });

  await step("a half-written message outlives a reload and a closed panel, and goes with the message", async () => {
    const draft = "I was just about to say";
    await visitor.locator("textarea").pressSequentially(draft);
    await visitor.reload();
    await until("after the reload", async () => (await visitor.locator("textarea").inputValue()) === draft);
    await visitor.locator("textarea").press("Escape");
    await visitor.locator(".bubble").click();
    assert.equal(await visitor.locator("textarea").inputValue(), draft);
    await visitor.locator("textarea").press("Enter");
    await shows(agent, draft);
    await visitor.reload();
    await shows(visitor, draft);
    assert.equal(await visitor.locator("textarea").inputValue(), "");
    await agent.locator("textarea").pressSequentially("half a word");
    await agent.reload();
    await pick(agent, draft);
    assert.equal(await agent.locator("textarea").inputValue(), "half a word");
    await agent.locator("textarea").fill("");
  });

  await step("one ring around the composer; the dot tells what the words beside it say", async () => {
    for (const page of [visitor, agent]) {
      await page.bringToFront();
      await page.locator("textarea").focus();
      const input = page.locator("textarea");
      assert.equal(await style(input, "borderTopColor"), "rgba(0, 0, 0, 0)");
      assert.equal(await style(input, "outlineOffset"), "-1px");
    }
    const dot = visitor.locator("ringdesk-chat .dot");
    const talking = await style(dot, "backgroundColor");
    await agent.locator(".resolve").click();
    await visitor.locator('.status[data-status="resolved"]').waitFor();
    assert.notEqual(await style(dot, "backgroundColor"), talking);
    await shot(visitor, "visitor-ended");
    await say(visitor, "And one thing more");
    await visitor.locator('.status[data-status="assigned"]').waitFor();
    assert.equal(await style(dot, "backgroundColor"), talking);
  });

  await step("who tries too often is told how long to wait", async () => {
    const door = await open("door", await context({ viewport: { width: 320, height: 640 } }), "/agent");
    await door.locator('input[name="login"]').fill("nobody");
    await door.locator('input[name="password"]').fill("not this one");
    await until("too often", async () => {
      await door.locator(".login .primary:enabled").click();
      return /Too many attempts\. Try again in \d+ (second|minute)s?\./.test(
        (await door.locator(".trouble").allTextContents()).join(),
      );
    });
    await shot(door, "login-too-often");
    assert.equal(await sideways(door), 0);
    await door.context().close();
    delete pages.door;
    // The browser reports the refusals by itself.
    complaints.splice(0, complaints.length, ...complaints.filter((text) => !/401|429/.test(text)));
  });

  await step("a tablet leaves the talk its room, a phone of 320 px has two even rows above and nothing cut off", async () => {
    await agent.bringToFront();
    await agent.setViewportSize({ width: 768, height: 1024 });
    await shot(agent, "tablet-agent");
    const list = await agent.locator(".lists").boundingBox();
    assert.ok(list.width <= 768 * 0.32, `${list.width} px`);
    await agent.setViewportSize({ width: 320, height: 640 });
    await shot(agent, "small-agent-talk");
    assert.equal(await sideways(agent), 0);
    await agent.locator(".back").click();
    await shot(agent, "small-agent-list");
    assert.equal(await sideways(agent), 0);
    assert.ok(await agent.locator(".capacity span").isVisible(), "the number has a name");
    const boxes = await agent
      .locator(".bar > *")
      .evaluateAll((all) =>
        all.map((element) => element.getBoundingClientRect()).map((box) => [box.left, box.right, box.top + box.height / 2]),
      );
    assert.ok(boxes.every(([left, right]) => left >= 0 && right <= 320), JSON.stringify(boxes));
    const apart = boxes.every(([left, right, middle], at) =>
      boxes.every((other, index) => at === index || Math.abs(other[2] - middle) > 20 || other[0] >= right || other[1] <= left),
    );
    assert.ok(apart, `nothing lies on another: ${JSON.stringify(boxes)}`);
    assert.equal(new Set(boxes.map(([, , middle]) => Math.round(middle / 12))).size, 2, JSON.stringify(boxes));
    await agent.setViewportSize({ width: 1180, height: 760 });
    await visitor.setViewportSize({ width: 320, height: 640 });
    await visitor.bringToFront();
    await shot(visitor, "small-visitor");
    assert.equal(await sideways(visitor), 0);
    assert.equal((await texts(visitor)).at(-1), "And one thing more");
    await visitor.context().close();
    delete pages.reader;
  });
}
