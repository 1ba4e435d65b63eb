// What an agent reads in place of a visitor's id.

import assert from "node:assert/strict";
import { test } from "node:test";

import { visitorName } from "../../src/core/rows";
import { wordsOf } from "../../src/core/words";

const named = (visitor: string) => visitorName(visitor, "00a4000000123456", wordsOf("en"));

test("an anonymous visitor is named by the first letters of its id", () => {
  assert.equal(named("v-qM8PYLV-DvGEvp"), "Visitor qM8PYL");
  assert.equal(named(`v-${"0123456789abcdef".repeat(2)}`), "Visitor 012345");
  assert.equal(named(""), "Visitor #123456");
});

test("an id that a site gave stays as it is", () => {
  for (const id of ["ana@example.org", "v-1", "v-0123456789abcde", "v-qM8PYLV DvGEvp", "w-qM8PYLV-DvGEvp"]) {
    assert.equal(named(id), id);
  }
});
