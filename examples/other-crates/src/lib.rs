//! Programs of llm-batch together with other crates: see `examples` and `tests` beside this file.
