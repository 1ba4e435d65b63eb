//! libFuzzer's entry to `message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::message::check(input));
