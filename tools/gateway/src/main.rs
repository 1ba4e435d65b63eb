//! A line-oriented chat channel behind one gateway connection.

fn main() {}
