//! Benches of llm-batch by criterion: see `benches` beside this file.
