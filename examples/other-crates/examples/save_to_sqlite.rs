//! Writes results to a database as they arrive; a restart continues an interrupted run.
//!
//! `cargo run -p other-crates --example save_to_sqlite -- answers.db` (without a path: a temporary file)

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::testing::FakeStrategy;
use llm_batch::{LlmRequest, LlmStreamExt, Prompt, StandardLayer, TokenUsage};
use rusqlite::Connection;
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let path = std::env::args_os()
        .nth(1)
        .map_or_else(|| temporary.path().join("answers.db"), Into::into);
    let database = Connection::open(&path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, answer TEXT NOT NULL, tokens INTEGER);",
    )?;

    let model = FakeStrategy::new(|request: &LlmRequest| format!("answer to {}", request.id()))
        .latency(Duration::from_millis(10))
        .usage(TokenUsage::new(20, 5));
    let strategy = StandardLayer::new().layer(model);

    // Two runs over the same input: the first is interrupted, the second processes the rest.
    for limit in [40, usize::MAX] {
        let mut answered = database.prepare("SELECT 1 FROM answers WHERE id = ?1")?;
        let mut todo = Vec::new();
        for n in 0..100 {
            let id = format!("question-{n}");
            if !answered.exists([&id])? {
                todo.push((id, Prompt::from(format!("question {n}"))));
            }
        }
        println!("{} questions to ask", todo.len());
        let results = stream::iter(todo).with_strategy(strategy.clone()).llm_batch(10);
        let mut results = std::pin::pin!(results.take(limit));
        while let Some(outcome) = results.next().await {
            let response = outcome.result?;
            let tokens = outcome.report.usage.total();
            database.execute(
                "INSERT INTO answers (id, answer, tokens) VALUES (?1, ?2, ?3)",
                (outcome.id.to_string(), response.output, i64::try_from(tokens)?),
            )?;
        }
    }
    let (rows, tokens): (i64, i64) =
        database.query_row("SELECT count(*), sum(tokens) FROM answers", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    println!("{rows} answers in the database, {tokens} tokens");
    Ok(())
}
