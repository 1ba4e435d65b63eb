// The messages of wire format v1 in their JSON form (docs/WIRE.md, subprotocol `ringdesk.v1.json`).
// Ids, sessions and times are hex strings of 16 digits, because a JSON number loses precision past 2^53;
// seq, n and receipts are numbers.

/** WebSocket subprotocol of the JSON form. */
export const SUBPROTOCOL = "ringdesk.v1.json";
/** Wire version this client speaks. */
export const VERSION = 1;
/** Most bytes of UTF-8 in the body of a SEND. */
export const BODY_BYTES_MAX = 65_536;
/** Most items the server puts on one page of history. */
export const PAGE_ITEMS_MAX = 200;
/** Most resume cursors in one HELLO. */
export const CURSORS_MAX = 256;
/** Larger than every seq: asks HISTORY for the newest items. */
export const SEQ_MAX = Number.MAX_SAFE_INTEGER;
/** Device id of items that no device wrote. */
export const NO_DEVICE = "0000000000000000";

export type Role = "visitor" | "agent";
export type Author = "visitor" | "agent" | "system";
export type Side = "visitor" | "staff";
export type Status = "open" | "queued" | "assigned" | "resolved";
export type Cause = "first_message" | "reopened" | "assigned" | "agent_lost" | "resolved";
export type Content = "text" | "reference" | "card";
export type Availability = "offline" | "online" | "away";

/** Resume position in one conversation. */
export interface Cursor {
  conversation: string;
  epoch: number;
  seq: number;
}

export type ClientMessage =
  | {
      type: "hello";
      version_min: number;
      version_max: number;
      role: Role;
      device: string;
      ticket: string;
      cursors: Cursor[];
    }
  | { type: "open"; n: number; topic: string }
  | { type: "send"; conversation: string; n: number; owner_epoch: number; content: Content; body: string }
  | { type: "receipt"; conversation: string; delivered: number; read: number }
  | { type: "typing"; conversation: string; on: boolean }
  | { type: "history"; conversation: string; before: number; after: number; limit: number }
  | { type: "resolve"; conversation: string; n: number; owner_epoch: number }
  | { type: "presence"; n: number; availability: Availability; capacity: number }
  | { type: "ping"; nonce: string };

/** A message as one item of a conversation. */
export interface Deliver {
  type: "deliver";
  conversation: string;
  seq: number;
  at: string;
  author: Author;
  agent: number;
  device: string;
  n: number;
  content: Content;
  body: string;
}

/** A change of a conversation's state; shares the dense seq with messages. */
export interface State {
  type: "state";
  conversation: string;
  seq: number;
  at: string;
  status: Status;
  cause: Cause;
  by: Author;
  agent: number;
  owner_epoch: number;
  agent_name: string;
}

export type Item = Deliver | State;

export interface Assigned {
  type: "assigned";
  conversation: string;
  agent: number;
  owner_epoch: number;
  status: Status;
  seq: number;
  since: string;
  visitor: string;
  visitor_read: number;
  visitor_delivered: number;
  staff_read: number;
  staff_delivered: number;
}

export interface QueueEntry {
  conversation: string;
  since: string;
  visitor: string;
}

export interface Reject {
  type: "reject";
  code: string;
  of: string;
  conversation: string;
  retry_after_ms: number;
  detail: number;
  sentence: string;
}

export type ServerMessage = { tag?: number; channel?: number } & (
  | {
      type: "welcome";
      version: number;
      epoch: number;
      session: string;
      at: string;
      heartbeat_s: number;
      frame_bytes_max: number;
      agent: number;
      identity: string;
      site: string;
    }
  | { type: "ack"; conversation: string; seq: number; n: number; duplicate: boolean }
  | Item
  | Assigned
  | { type: "receipt"; conversation: string; side: Side; delivered: number; read: number }
  | { type: "typing"; conversation: string; author: Author; agent: number; on: boolean }
  | { type: "page"; conversation: string; first: number; last: number; more: boolean; items: Item[] }
  | { type: "gap"; conversation: string; from: number; to: number }
  | Reject
  | { type: "goodbye"; code: string; retry_after_ms: number; sentence: string }
  | { type: "pong"; nonce: string }
  | { type: "queue"; waiting: number; oldest_since: string; entries: QueueEntry[] }
);

/** Wall-clock milliseconds since 1970 of a hybrid-clock stamp: the high 48 of its 64 bits. */
export function millisOf(at: string): number {
  return Number.parseInt(at.slice(0, 12), 16) || 0;
}

/** UTF-8 length, which is what the limits count. */
export function utf8Bytes(text: string): number {
  return new TextEncoder().encode(text).length;
}
