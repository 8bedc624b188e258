//! Streams of server-sent events, in every wire.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    llm_batch::fuzzing::events(data);
});
