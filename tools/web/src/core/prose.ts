// The body of a message as parts to show: text, and links to http and https. Nothing here makes HTML; the pages put
// each part into a text node, and `href` into an attribute.

export interface Part {
  text: string;
  /** Absolute, http or https, without user or password. */
  href?: string;
}

/** Links of one message; what follows stays text. */
export const LINKS_MAX = 200;
/** Characters of a link; a longer one stays text. */
export const LINK_CHARS_MAX = 2_048;
/** Lines a message may have before it is shown in part. */
export const LINES_SHOWN = 15;
/** A message that is only this much longer is shown whole: a button for two lines is none. */
const LINES_SLACK = 3;

// ASCII only: what writing follows a URL without a space (Chinese, full-width marks, direction marks) ends it, and a
// host in look-alike letters is no link.
const URL_LIKE = /\bhttps?:\/\/[!#-;=?-[\]_a-z~]+/gi;
const TRAILING = new Set(".,;:!?'*_~");
const PAIRS: readonly (readonly [string, string])[] = [
  ["(", ")"],
  ["[", "]"],
];

/** Takes off what belongs to the sentence: marks at the end, and brackets that were opened before the URL. */
function trim(url: string): string {
  const spare = PAIRS.map(([open, close]) => url.split(close).length - url.split(open).length);
  let end = url.length;
  while (end > 0) {
    const last = url.charAt(end - 1);
    const pair = PAIRS.findIndex(([, close]) => close === last);
    if (pair >= 0 ? (spare[pair] ?? 0) <= 0 : !TRAILING.has(last)) break;
    if (pair >= 0) spare[pair] = (spare[pair] ?? 0) - 1;
    end -= 1;
  }
  return url.slice(0, end);
}

function target(text: string): string | undefined {
  if (text.length > LINK_CHARS_MAX) return undefined;
  try {
    const url = new URL(text);
    const web = url.protocol === "http:" || url.protocol === "https:";
    // "https://bank.example@elsewhere.example" looks like what it is not.
    return web && url.hostname !== "" && url.username === "" && url.password === "" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/** The parts of a body; joined they are the body. */
export function parts(body: string): Part[] {
  if (!body.includes("://")) return body === "" ? [] : [{ text: body }];
  const found: Part[] = [];
  let from = 0;
  let links = 0;
  for (const match of body.matchAll(URL_LIKE)) {
    const text = trim(match[0]);
    const href = target(text);
    if (href === undefined) continue;
    if (match.index > from) found.push({ text: body.slice(from, match.index) });
    found.push({ text, href });
    from = match.index + text.length;
    links += 1;
    if (links === LINKS_MAX) break;
  }
  if (from < body.length) found.push({ text: body.slice(from) });
  return found;
}

/** Place at which a body has filled `lines` lines of `columns` columns; its length if it never does. */
function fills(body: string, columns: number, lines: number): number {
  let line = 1;
  let column = 0;
  for (let at = 0; at < body.length; at++) {
    const code = body.charCodeAt(at);
    // East Asian writing takes two columns.
    const width = code >= 0x2e80 && code < 0xd800 ? 2 : 1;
    const broken = code === 10;
    column += width;
    if (!broken && column <= columns) continue;
    if (line === lines) return at;
    line += 1;
    column = broken ? 0 : width;
  }
  return body.length;
}

/** The parts to show, and whether they are only the beginning of a message too long for a screen. */
export function shown(body: string, columns: number, whole: boolean): { parts: Part[]; cut: boolean } {
  if (whole || !isLong(body, columns)) return { parts: parts(body), cut: false };
  const limit = fills(body, columns, LINES_SHOWN);
  const head: Part[] = [];
  let left = limit;
  for (const part of parts(body)) {
    if (part.text.length <= left) {
      head.push(part);
      left -= part.text.length;
      continue;
    }
    // The beginning of a URL leads elsewhere than the URL: it is text.
    const text = part.text.slice(0, left);
    const end = /\s\S{0,40}$/.exec(text)?.index ?? text.replace(/[\ud800-\udbff]$/, "").length;
    head.push({ text: `${text.slice(0, end)}…` });
    break;
  }
  return { parts: head, cut: true };
}

export function isLong(body: string, columns: number): boolean {
  return fills(body, columns, LINES_SHOWN + LINES_SLACK) < body.length;
}
