//! libFuzzer's entry to `shard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::shard::check(input));
