//! ringdeskd: boot, replay, reactors, control plane.

fn main() {}
