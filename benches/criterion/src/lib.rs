//! Criterion benches of llm-batch: see `benches` in this package.
