//! `llm-batch simulate`.

use std::io::{self, Write as _};

use llm_batch::testing::{SimulatedProvider, SimulatedProviderBuilder};

use crate::args::SimulateArgs;
use crate::exit::{Exit, UsageError};
use crate::signals::Signals;

/// Serves the provider until a signal comes, and prints its ledger.
pub(crate) fn main(args: &SimulateArgs) -> Result<Exit, UsageError> {
    let provider = builder(args)
        .build()
        .map_err(|error| UsageError::new(error.to_string()))?;
    crate::runtime()?.block_on(serve(provider, args.port))
}

fn builder(args: &SimulateArgs) -> SimulatedProviderBuilder {
    let mut builder = SimulatedProvider::builder().seed(args.seed);
    if let Some(preset) = args.preset {
        builder = builder.preset(preset);
    }
    if let Some(limit) = args.rpm {
        builder = builder.requests_per_minute(limit);
    }
    if let Some(limit) = args.tpm {
        builder = builder.tokens_per_minute(limit);
    }
    if let Some(calls) = args.concurrency {
        builder = builder.concurrency(calls);
    }
    if let Some(hint) = args.hint {
        builder = builder.hint(hint);
    }
    if args.count_rejected {
        builder = builder.count_rejected(true);
    }
    if let Some(latency) = args.latency {
        builder = builder.latency(latency);
    }
    if let Some(rate) = args.reset_rate {
        builder = builder.reset_rate(rate);
    }
    if let Some(rate) = args.garbage_rate {
        builder = builder.garbage_rate(rate);
    }
    if let Some(rate) = args.stream_cut_rate {
        builder = builder.stream_cut_rate(rate);
    }
    if let Some(rate) = args.stream_error_rate {
        builder = builder.stream_error_rate(rate);
    }
    if let Some((rate, time)) = args.slow_body {
        builder = builder.slow_body(rate, time);
    }
    if let Some((rate, time)) = args.stall {
        builder = builder.stall(rate, time);
    }
    if let Some((rate, time)) = args.stream_stall {
        builder = builder.stream_stall(rate, time);
    }
    if let Some(interval) = args.keep_alive {
        builder = builder.keep_alive(interval);
    }
    if let Some(tokens) = args.reasoning_tokens {
        builder = builder.reasoning_tokens(tokens);
    }
    if let Some(share) = args.cached_share {
        builder = builder.cached_share(share);
    }
    if let Some(tokens) = args.cache_minimum {
        builder = builder.cache_minimum(tokens);
    }
    for (status, rate) in &args.status {
        builder = builder.status_rate(*status, *rate);
    }
    for outage in &args.outage {
        builder = builder.outage(outage.from, outage.length, outage.status);
    }
    builder
}

async fn serve(provider: SimulatedProvider, port: u16) -> Result<Exit, UsageError> {
    let mut signals = Signals::new().map_err(|error| UsageError::new(error.to_string()))?;
    let server = provider
        .serve(&format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| UsageError::new(format!("port {port}: {error}")))?;
    let (url, origin) = (server.base_url(), server.origin());
    eprintln!("serving a simulated provider at {url} until Ctrl-C");
    eprintln!("  OpenAI (chat completions and Responses): {url}");
    eprintln!("  Anthropic and Gemini: {origin}");
    eprintln!("try: llm-batch run --model openai-compatible:sim --base-url {url} PROMPTS");
    signals.next().await;
    let ledger = tokio::select! {
        ledger = server.shutdown() => ledger,
        // A second signal does not wait for the calls in flight.
        () = signals.next() => provider.ledger(),
    };
    let text = serde_json::to_string_pretty(&ledger).map_err(|error| UsageError::new(error.to_string()))?;
    // Standard output may be closed.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(Exit::Success)
}
