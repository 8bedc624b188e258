//! Programs that combine llm-batch with other crates: see `examples` and `tests` in this package.
