//! Lock-free SPSC lanes between shards, with loom tests.
