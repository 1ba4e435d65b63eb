//! The process `ringdeskd`.

fn main() {}
