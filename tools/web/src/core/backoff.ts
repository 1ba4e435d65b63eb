// Reconnect delays: exponential with jitter, so that ten thousand pages do not come back in the same instant.

export const BACKOFF_FIRST_MS = 300;
export const BACKOFF_MAX_MS = 15_000;

/**
 * Delay before attempt `attempt` (0 = first retry): uniform in [half, whole] of `first * 2^attempt`, capped.
 * A server's retry-after is a lower bound; up to a quarter of it is added as jitter.
 */
export function backoffMs(attempt: number, retryAfterMs: number, random: () => number): number {
  const whole = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
  const own = whole * (0.5 + random() / 2);
  const asked = retryAfterMs * (1 + random() / 4);
  return Math.round(Math.max(own, asked));
}
