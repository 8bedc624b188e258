//! The two JSON models used to read replies: `Json` for OpenAI's wire formats, which borrows, and `serde_json::Value`.
#![allow(missing_docs, unreachable_pub)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

// Its tests are not run here.
#[allow(dead_code, unused_imports)]
#[path = "../../../src/provider/openai/json.rs"]
mod model;

use model::Json;

/// A chat completion of about 200 words.
fn reply() -> String {
    let text = "The answer has a few words, \"quotes\" and lines.\n".repeat(25);
    json!({
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1_741_569_952,
        "model": "gpt-4.1-2025-04-14", "service_tier": "default", "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []}}],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}},
    })
    .to_string()
}

/// A piece of a stream: one token.
fn piece() -> String {
    json!({
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion.chunk", "created": 1_741_569_952,
        "model": "gpt-4.1-2025-04-14", "service_tier": "default", "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": null, "finish_reason": null}],
        "usage": null,
    })
    .to_string()
}

fn models(c: &mut Criterion) {
    for (name, text) in [("reply", reply()), ("piece", piece())] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("Json", |b| {
            b.iter(|| drop(black_box(serde_json::from_str::<Json<'_>>(black_box(&text)))));
        });
        group.bench_function("Value", |b| {
            b.iter(|| drop(black_box(serde_json::from_str::<Value>(black_box(&text)))));
        });
        group.finish();
    }
}

criterion_group!(benches, models);
criterion_main!(benches);
