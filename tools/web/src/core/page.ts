// What ties a client to a browser page: the tab's device id, waking up, and whether somebody looks.

import type { Client } from "../client";
import { type Cabinet, Device } from "./device";
import type { Connect, Socket } from "./link";

/** How long a tab waits for the page it replaces (a reload) to let go of the device id. */
const CLAIM_MS = 800;

/** A WebSocket behind the three callbacks that a link uses. */
export const connectWebSocket: Connect = (url, subprotocol) => {
  const socket = new WebSocket(url, subprotocol);
  const narrow: Socket = {
    onopen: null,
    onmessage: null,
    onclose: null,
    send: (text) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    },
    close: () => socket.close(),
  };
  socket.onopen = () => narrow.onopen?.();
  socket.onmessage = (event) => narrow.onmessage?.(event);
  socket.onclose = () => narrow.onclose?.();
  return narrow;
};

/** A storage that refuses access (blocked cookies) is replaced by one that lives as long as the page. */
export function cabinet(kind: "sessionStorage" | "localStorage"): Cabinet {
  try {
    const storage = window[kind];
    storage.setItem("ringdesk.probe", "1");
    storage.removeItem("ringdesk.probe");
    return storage;
  } catch {
    const map = new Map<string, string>();
    return {
      getItem: (key) => map.get(key) ?? null,
      setItem: (key, value) => void map.set(key, value),
      removeItem: (key) => void map.delete(key),
    };
  }
}

/**
 * The device of this tab. A duplicated tab starts with a copy of the other's sessionStorage: two tabs under one
 * device id would use the same numbers for different messages. Each tab therefore holds a lock named after its id,
 * and one that cannot get it takes a new id. Browsers offer locks on secure origins and loopback only; elsewhere
 * the collision shows as ID_REUSED and is mended then.
 */
export async function claimDevice(session: Cabinet, key: string): Promise<Device> {
  const device = new Device(session, key);
  if (navigator.locks === undefined) return device;
  if (!(await hold(device.id))) {
    device.reset();
    await hold(device.id);
  }
  return device;
}

function hold(id: string): Promise<boolean> {
  return new Promise((resolve) => {
    navigator.locks
      .request(`ringdesk-device-${id}`, { signal: AbortSignal.timeout(CLAIM_MS) }, () => {
        resolve(true);
        // Held until the page goes away.
        return new Promise<void>(() => {});
      })
      .catch(() => resolve(false));
  });
}

/** Calls `report` whenever somebody may have started or stopped looking; returns the way to stop. */
export function watchAttention(client: Client, report: (attentive: boolean) => void): () => void {
  const stop = new AbortController();
  const { signal } = stop;
  const look = () => report(document.visibilityState === "visible" && document.hasFocus());
  const wake = () => {
    if (document.visibilityState === "visible") client.wake();
    look();
  };
  document.addEventListener("visibilitychange", wake, { signal });
  window.addEventListener("online", wake, { signal });
  window.addEventListener("pageshow", wake, { signal });
  window.addEventListener("focus", look, { signal });
  window.addEventListener("blur", look, { signal });
  look();
  return () => stop.abort();
}
