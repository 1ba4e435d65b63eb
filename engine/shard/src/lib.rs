//! One shard, sans-IO: connections, router, desk, appender, gate, outbox.
