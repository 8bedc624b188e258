//! The words of `llm-batch simulate`.

use std::time::Duration;

use clap::Args;
use llm_batch::testing::{Hint, Latency, Preset};

use super::values::duration;

const SIMULATE_EXAMPLES: &str = "\
Examples:
  # In one terminal: 600 requests a minute, 5 % of the connections cut, 2 % of the calls rejected
  llm-batch simulate --rpm 600 --hint retry-after-ms --reset-rate 0.05 --status 503=0.02

  # In another: any program that speaks OpenAI's chat completions, such as this one
  llm-batch run -m openai-compatible:sim --base-url http://127.0.0.1:8080/v1 \\
      --max-attempts 8 prompts.txt

  # Any other provider's program, too: Anthropic's and Gemini's base URL is http://127.0.0.1:8080.
  # And streams that break off or stand still, for programs that ask for them (`run --stream`)
  llm-batch simulate --keep-alive 15s --stream-cut-rate 0.05 --stream-stall 0.01=2m

It serves until Ctrl-C, and then prints its ledger as JSON on standard output: the calls it
received, answered and cut, and the tokens it billed. While it serves, the ledger is at
http://127.0.0.1:8080/_sim/ledger.";

#[derive(Debug, Args)]
#[command(after_help = SIMULATE_EXAMPLES)]
pub(crate) struct SimulateArgs {
    /// The port on the loopback address; 0 takes a free one.
    #[arg(short, long, default_value_t = 8080, value_name = "PORT")]
    pub(crate) port: u16,

    /// A ready-made provider to start from: steady, throttled or chaos. The options below change it.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<Preset>,

    /// Requests a minute, as a bucket that holds a second's worth.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rpm: Option<u64>,

    /// Tokens a minute, as a bucket that holds a second's worth.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tpm: Option<u64>,

    /// Calls at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) concurrency: Option<u64>,

    /// The form of the wait hint for throttled calls: none, retry-after-ms, retry-after, http-date, message, reset-headers
    /// or retry-info.
    #[arg(long, value_name = "FORM")]
    pub(crate) hint: Option<Hint>,

    /// Throttled calls take from the request quota, too.
    #[arg(long)]
    pub(crate) count_rejected: bool,

    /// Time to an answer: 200ms, evenly 100ms..300ms, or with a heavy tail 200ms~2s (median and 99th percentile).
    #[arg(long, value_name = "TIME")]
    pub(crate) latency: Option<Latency>,

    /// The share of calls whose connection is cut after the request was read.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) reset_rate: Option<f64>,

    /// The share of calls answered with a page of HTML.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) garbage_rate: Option<f64>,

    /// The share of streamed calls whose stream ends without its last event.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) stream_cut_rate: Option<f64>,

    /// The share of streamed calls whose stream ends with an error event.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) stream_error_rate: Option<f64>,

    /// The share of calls whose answer comes slowly, and over how long, such as 0.1=5s.
    #[arg(long, value_name = "SHARE=TIME", value_parser = share_and_time)]
    pub(crate) slow_body: Option<(f64, Duration)>,

    /// The share of calls that stand still before they are answered, and for how long, such as 0.01=30s.
    #[arg(long, value_name = "SHARE=TIME", value_parser = share_and_time)]
    pub(crate) stall: Option<(f64, Duration)>,

    /// The share of streamed calls that stand still in the middle of the stream, and for how long, such as 0.01=30s.
    #[arg(long, value_name = "SHARE=TIME", value_parser = share_and_time)]
    pub(crate) stream_stall: Option<(f64, Duration)>,

    /// Streams with nothing to send show a sign of life that often.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_alive: Option<Duration>,

    /// Tokens that the model thinks before each answer.
    #[arg(long, value_name = "N")]
    pub(crate) reasoning_tokens: Option<u64>,

    /// The share of the input that is read from the provider's cache.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) cached_share: Option<f64>,

    /// The fewest tokens that are kept in a cache, by Anthropic's marks or Gemini's context caches; 1024 unless set.
    #[arg(long, value_name = "N")]
    pub(crate) cache_minimum: Option<u64>,

    /// A time in which every call is rejected: from when after the first call, how long, with which status, such as
    /// 4s+5s=503; may be given several times.
    #[arg(long, value_name = "FROM+TIME=CODE", value_parser = outage)]
    pub(crate) outage: Vec<Outage>,

    /// The share of calls rejected with a status, such as 503=0.02; may be given several times.
    #[arg(long, value_name = "CODE=SHARE", value_parser = status_rate)]
    pub(crate) status: Vec<(u16, f64)>,

    /// The seed of every decision of chance.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) seed: u64,
}

/// A time in which every call is rejected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    /// Counted from the first call.
    pub(crate) from: Duration,
    pub(crate) length: Duration,
    pub(crate) status: u16,
}

fn outage(text: &str) -> Result<Outage, String> {
    let parts = || {
        let (times, status) = text.split_once('=')?;
        let (from, length) = times.split_once('+')?;
        Some(Outage {
            from: humantime::parse_duration(from.trim()).ok()?,
            length: humantime::parse_duration(length.trim()).ok()?,
            status: status.trim().parse().ok()?,
        })
    };
    parts().ok_or_else(|| "write it as FROM+TIME=CODE, such as 4s+5s=503".to_owned())
}

fn share_and_time(text: &str) -> Result<(f64, Duration), String> {
    let parts = || {
        let (share, time) = text.split_once('=')?;
        Some((
            share.trim().parse().ok()?,
            humantime::parse_duration(time.trim()).ok()?,
        ))
    };
    parts().ok_or_else(|| "write it as SHARE=TIME, such as 0.1=5s".to_owned())
}

fn status_rate(text: &str) -> Result<(u16, f64), String> {
    let wrong = || "write it as CODE=SHARE, such as 503=0.02".to_owned();
    let (status, rate) = text.split_once('=').ok_or_else(wrong)?;
    Ok((
        status.trim().parse().map_err(|_| wrong())?,
        rate.trim().parse().map_err(|_| wrong())?,
    ))
}
