//! The text of the compiler errors that the common mistakes lead to.

/// The texts belong to one compiler version, and the cases are built apart from everything else, which takes minutes;
/// so this runs where it is asked for, as the check does.
#[test]
fn mistakes_read_as_one_sentence_at_the_call() {
    if std::env::var_os("LLM_BATCH_COMPILE_FAIL").is_none() {
        eprintln!("skipped: set LLM_BATCH_COMPILE_FAIL=1 to compare the compiler's messages");
        return;
    }
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
