import { css } from "lit";

// Colours as custom properties: a page that embeds the element may set --ringdesk-accent.
export const style = css`
  :host {
    --accent: var(--ringdesk-accent, #0f6e66);
    --on-accent: #ffffff;
    --surface: #ffffff;
    --sunken: #f3f5f4;
    --text: #17211f;
    --soft: #56635f;
    --line: #dde3e1;
    --theirs: #ffffff;
    --read: #0f6e66;
    --on-read: #ffffff;
    --warn: #a33b1f;
    --shadow: 0 12px 40px rgb(10 30 26 / 22%);
    font:
      15px/1.45 system-ui,
      -apple-system,
      "Segoe UI",
      "PingFang SC",
      "Microsoft YaHei",
      sans-serif;
    color: var(--text);
    color-scheme: light dark;
    position: fixed;
    right: 20px;
    bottom: 20px;
    z-index: 2147483000;
  }
  @media (prefers-color-scheme: dark) {
    :host {
      --accent: var(--ringdesk-accent-dark, #3fb3a6);
      --on-accent: #06201d;
      --surface: #18211f;
      --sunken: #111917;
      --text: #e6eeec;
      --soft: #a0b0ab;
      --line: #2c3835;
      --theirs: #25302d;
      --read: #56c7ba;
      --on-read: #06201d;
      --warn: #f0926f;
      --shadow: 0 12px 40px rgb(0 0 0 / 55%);
    }
  }
  * {
    box-sizing: border-box;
  }
  button {
    font: inherit;
    color: inherit;
    cursor: pointer;
  }
  :focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
  }
  /* One ring: on the border, not beside it. */
  textarea:focus-visible {
    outline-offset: -1px;
    border-color: transparent;
  }
  .log:focus-visible {
    outline-offset: -2px;
  }
  .bubble {
    position: relative;
    width: 58px;
    height: 58px;
    border: 0;
    border-radius: 50%;
    background: var(--accent);
    color: var(--on-accent);
    box-shadow: var(--shadow);
    display: grid;
    place-items: center;
  }
  .bubble svg {
    width: 26px;
    height: 26px;
  }
  .badge {
    position: absolute;
    top: -3px;
    right: -3px;
    min-width: 22px;
    height: 22px;
    padding: 0 6px;
    border-radius: 11px;
    background: #b3261e;
    color: #fff;
    font-size: 13px;
    font-weight: 600;
    line-height: 22px;
    text-align: center;
  }
  .panel {
    width: min(376px, calc(100vw - 40px));
    height: min(600px, calc(100vh - 40px));
    display: flex;
    flex-direction: column;
    background: var(--surface);
    border: 1px solid var(--line);
    border-radius: 16px;
    box-shadow: var(--shadow);
    overflow: hidden;
  }
  header {
    display: flex;
    align-items: center;
    gap: 4px;
    padding: 12px 8px 12px 16px;
    border-bottom: 1px solid var(--line);
  }
  .title {
    flex: 1;
    min-width: 0;
  }
  h2 {
    margin: 0;
    font-size: 16px;
    font-weight: 600;
  }
  .status {
    display: flex;
    align-items: center;
    gap: 6px;
    font-size: 13px;
    color: var(--soft);
  }
  .dot {
    flex: none;
    width: 8px;
    height: 8px;
    border-radius: 50%;
    background: #b58a2a;
  }
  .dot.open,
  .dot.assigned {
    background: #2e9e6b;
  }
  .dot.resolved {
    background: none;
    border: 2px solid var(--soft);
  }
  .plain {
    border: 0;
    background: none;
    border-radius: 8px;
    padding: 8px;
    min-width: 40px;
    min-height: 40px;
    color: var(--soft);
    font-size: 13px;
  }
  .plain:hover {
    background: var(--sunken);
  }
  .plain svg {
    display: block;
    margin: auto;
    width: 20px;
    height: 20px;
  }
  .log {
    flex: 1;
    overflow-y: auto;
    overscroll-behavior: contain;
    /* The place is kept by core/place.ts, in every browser alike. */
    overflow-anchor: none;
    padding: 12px 14px;
    display: flex;
    flex-direction: column;
    gap: 3px;
    background: var(--sunken);
  }
  .log > :first-child {
    margin-top: auto;
  }
  .welcome {
    text-align: center;
    padding: 24px 20px;
    color: var(--soft);
  }
  .welcome strong {
    display: block;
    font-size: 18px;
    color: var(--text);
    margin-bottom: 4px;
  }
  .line,
  .day {
    align-self: center;
    text-align: center;
    font-size: 12px;
    color: var(--soft);
    padding: 4px 8px;
    max-width: 96%;
  }
  .day {
    font-weight: 600;
  }
  .message {
    max-width: 82%;
    align-self: flex-start;
    display: flex;
    flex-direction: column;
  }
  .message.first {
    margin-top: 8px;
  }
  .author {
    font-size: 12px;
    color: var(--soft);
    margin: 0 0 2px 12px;
  }
  .body {
    background: var(--theirs);
    border-radius: 4px 14px 14px 4px;
    padding: 8px 12px;
    white-space: pre-wrap;
    overflow-wrap: anywhere;
    /* Each line in its own direction. */
    unicode-bidi: plaintext;
    text-align: start;
  }
  .body a {
    color: inherit;
    text-decoration: underline;
    text-underline-offset: 2px;
  }
  .more {
    align-self: inherit;
    border: 0;
    background: none;
    padding: 6px 8px;
    font-size: 13px;
    color: var(--accent);
    text-decoration: underline;
    text-underline-offset: 2px;
  }
  .first .body {
    border-top-left-radius: 14px;
  }
  .mine {
    align-self: flex-end;
    align-items: flex-end;
  }
  .mine .body {
    background: var(--accent);
    color: var(--on-accent);
    border-radius: 14px 4px 4px 14px;
  }
  .mine.first .body {
    border-top-right-radius: 14px;
  }
  .meta {
    font-size: 11.5px;
    color: var(--soft);
    margin: 2px 4px 0;
    display: flex;
    gap: 5px;
  }
  .mark {
    letter-spacing: -0.22em;
    padding-right: 0.22em;
  }
  /* Read differs from delivered by its ground, not by its hue. */
  .mark.read {
    align-self: center;
    padding: 0 0.47em 0 0.25em;
    border-radius: 7px;
    background: var(--read);
    color: var(--on-read);
    font-size: 10px;
    line-height: 14px;
    font-weight: 700;
  }
  .failed .body {
    background: none;
    border: 1px solid var(--warn);
    color: var(--text);
  }
  .failure {
    color: var(--warn);
    font-size: 13px;
  }
  .failure button {
    border: 0;
    background: none;
    text-decoration: underline;
    color: inherit;
    padding: 4px;
  }
  .typing {
    min-height: 22px;
    padding: 2px 16px;
    font-size: 13px;
    color: var(--soft);
    background: var(--sunken);
  }
  .warn {
    padding: 6px 16px;
    font-size: 13px;
    color: var(--warn);
  }
  form {
    display: flex;
    align-items: flex-end;
    gap: 8px;
    padding: 10px 12px;
    border-top: 1px solid var(--line);
  }
  textarea {
    flex: 1;
    resize: none;
    border: 1px solid var(--line);
    border-radius: 12px;
    padding: 9px 12px;
    font: inherit;
    font-size: 16px;
    line-height: 22px;
    height: 42px;
    max-height: 130px;
    color: inherit;
    background: var(--surface);
  }
  .go {
    border: 0;
    border-radius: 12px;
    width: 42px;
    height: 42px;
    background: var(--accent);
    color: var(--on-accent);
    display: grid;
    place-items: center;
  }
  .go:disabled {
    opacity: 0.45;
    cursor: default;
  }
  .go svg {
    width: 20px;
    height: 20px;
  }
  .hidden {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
  @media (max-width: 520px) {
    :host([open]) {
      inset: 0;
    }
    .panel {
      width: 100%;
      height: 100dvh;
      border: 0;
      border-radius: 0;
    }
  }
`;
