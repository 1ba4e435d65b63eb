//! libFuzzer's entry to `log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::log::check(input));
