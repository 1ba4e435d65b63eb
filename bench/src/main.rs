//! ringbench: open-loop load over the wire protocol.

fn main() {}
