//! libFuzzer's entry to `upgrade`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::upgrade::check(input));
