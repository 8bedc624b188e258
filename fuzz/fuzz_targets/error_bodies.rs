//! Replies of any status, in every wire.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    llm_batch::fuzzing::reply(data);
});
