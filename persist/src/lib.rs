//! Per-core append-only log: sectors, batches, segments, replay. Payloads are opaque.
