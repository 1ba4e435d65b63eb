//! libFuzzer's entry to `ticket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::ticket::check(input));
