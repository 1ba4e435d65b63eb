// Links in messages: properties over random bodies made of the pieces that matter, then cases by name.

import assert from "node:assert/strict";
import { test } from "node:test";

import { isLong, LINES_SHOWN, LINKS_MAX, type Part, parts, shown } from "../../src/core/prose";

/** A small generator with a seed (mulberry32), so that a failure can be repeated. */
function dice(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const PIECES = [
  ..."abcXYZ019 \n\t.,;:!?()[]{}<>\"'`&=#%@/\\|^~*_-+$",
  ..."看看。，）》”\u202e\u2066\u200f\ufeff\u00a0\ud83d\ude00",
  "\ud83d",
  "\ude00",
  "http://",
  "https://",
  "HTTPS://",
  "javascript:",
  "data:text/html,",
  "java\nscript:alert(1)",
  "<script>alert(1)</script>",
  '" onmouseover="alert(1)',
  "<img src=x onerror=alert(1)>",
  "example.com",
  "user:secret@",
  "bank.example@",
  "localhost:8080/",
  "[::1]",
  "/wiki/Tea_(drink)",
  "?q=1&r=2#end",
  "%00%0a",
  "мир.рф",
  "xn--e1afmkfd",
  "://",
  "ftp://files.example/",
];

function check(body: string, found: Part[]): void {
  assert.equal(found.map((part) => part.text).join(""), body, "nothing lost, nothing added");
  for (const { text, href } of found) {
    assert.notEqual(text, "");
    if (href === undefined) continue;
    const url = new URL(href);
    assert.match(url.protocol, /^https?:$/);
    assert.equal(url.username + url.password, "");
    assert.notEqual(url.hostname, "");
    assert.match(text, /^https?:\/\/[\x21-\x7e]+$/i);
    assert.doesNotMatch(href, /[\s<>"`\\]/);
    assert.equal(new URL(text).href, href, "a link leads where it says");
  }
  assert.ok(found.filter((part) => part.href !== undefined).length <= LINKS_MAX);
}

test("any body: its parts are the body, and every link is a plain http or https URL as written", () => {
  const roll = dice(20_261_121);
  let links = 0;
  for (let round = 0; round < 4_000; round++) {
    const length = 1 + Math.floor(roll() * 24);
    const body = Array.from({ length }, () => PIECES[Math.floor(roll() * PIECES.length)]).join("");
    const found = parts(body);
    check(body, found);
    links += found.filter((part) => part.href !== undefined).length;
  }
  assert.ok(links > 300, `the generator makes links: ${links}`);
});

test("any body shown in part begins like the body, and a cut URL is no link", () => {
  const roll = dice(7);
  for (let round = 0; round < 300; round++) {
    const length = 1 + Math.floor(roll() * 900);
    const body = Array.from({ length }, () => PIECES[Math.floor(roll() * PIECES.length)]).join("");
    const columns = 20 + Math.floor(roll() * 60);
    const { parts: head, cut } = shown(body, columns, false);
    const text = head.map((part) => part.text).join("");
    assert.equal(cut, isLong(body, columns));
    if (!cut) assert.equal(text, body);
    else assert.ok(text.endsWith("…") && body.startsWith(text.slice(0, -1)) && text.length <= body.length);
    const whole = new Set(parts(body).map((part) => part.href));
    for (const part of head) if (part.href !== undefined) assert.ok(whole.has(part.href));
    assert.equal(shown(body, columns, true).cut, false);
  }
});

test("a sentence keeps its marks, brackets stay in pairs", () => {
  const links = (body: string) => parts(body).flatMap((part) => (part.href ? [part.text] : []));
  assert.deepEqual(links("See https://example.com/a."), ["https://example.com/a"]);
  assert.deepEqual(links("(https://example.com/a)!"), ["https://example.com/a"]);
  assert.deepEqual(links("https://example.com/Tea_(drink), and http://b.example?x=1"), [
    "https://example.com/Tea_(drink)",
    "http://b.example?x=1",
  ]);
  assert.deepEqual(links("请看https://example.com/a，谢谢"), ["https://example.com/a"]);
  assert.deepEqual(links("javascript:alert(1) ftp://a.example https:// https://аpple.com"), []);
  assert.deepEqual(links("https://bank.example@evil.example/"), []);
});

test("64 KiB in a screen: cut in part within a few milliseconds, also when it is nothing but links or marks", () => {
  for (const unit of ["word ", "https://a.b ", "https://a.b/((((", "https://a.b/)))).....", "长", "x", "\n"]) {
    const body = unit.repeat(Math.floor(65_536 / unit.length));
    const began = performance.now();
    const { parts: head, cut } = shown(body, 34, false);
    check(body, parts(body));
    assert.ok(cut);
    assert.ok(head.reduce((sum, part) => sum + part.text.length, 0) <= LINES_SHOWN * 35 + 1);
    assert.ok(performance.now() - began < 1_500, `${unit}: ${performance.now() - began} ms`);
  }
});

test("a message of a screen's length is shown whole", () => {
  assert.equal(isLong("one\n".repeat(LINES_SHOWN), 34), false);
  assert.equal(isLong("short", 34), false);
  assert.equal(isLong("one\n".repeat(30), 34), true);
  assert.equal(isLong("长".repeat(400), 34), true);
});
