//! Token counts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::reply::number;
use crate::response::BilledApart;
use crate::usage::TokenUsage;

/// The division of a call's cache writes by the time they are kept, since the two have prices of their own.
///
/// In [`ResponseMetadata::extensions`](crate::ResponseMetadata::extensions) of an answer that wrote to the cache. The sum
/// of both is [`TokenUsage::cache_write`].
///
/// ```
/// use llm_batch::LlmResponse;
/// use llm_batch::provider::anthropic::CacheWrites;
///
/// fn hourly_tokens(response: &LlmResponse) -> u64 {
///     response.metadata.extensions.get::<CacheWrites>().map_or(0, |writes| writes.one_hour)
/// }
/// # assert_eq!(hourly_tokens(&LlmResponse::new(String::new())), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheWrites {
    /// Tokens written for five minutes.
    pub five_minutes: u64,
    /// Tokens written for an hour.
    pub one_hour: u64,
}

/// The usage of a reply; none if it does not say, which is not zero.
///
/// Where the answer took several runs of a model (compaction, an advisor, a fallback), each is billed, and the counts beside
/// them are those of the last one.
pub(super) fn usage(reply: &Value) -> Option<TokenUsage> {
    match reply.get("usage")?.get("iterations") {
        Some(Value::Array(iterations)) if !iterations.is_empty() => iterations
            .iter()
            .map(of_counts)
            .try_fold(TokenUsage::ZERO, |sum, usage| Some(sum + usage?)),
        _ => of_counts(reply.get("usage")?),
    }
}

/// `input_tokens` leaves out what was read from the cache or written to it; `output_tokens` includes thoughts.
fn of_counts(usage: &Value) -> Option<TokenUsage> {
    let count = |name: &str| number(usage.get(name)?);
    let output = count("output_tokens")?;
    let written = count("cache_creation_input_tokens")
        .or_else(|| {
            let writes = writes_of(usage)?;
            Some(writes.five_minutes.saturating_add(writes.one_hour))
        })
        .unwrap_or_default();
    let read = count("cache_read_input_tokens").unwrap_or_default();
    let input = count("input_tokens")?
        .saturating_add(written)
        .saturating_add(read);
    let mut tokens = TokenUsage::new(input, output);
    tokens.cached_input = read;
    tokens.cache_write = written;
    tokens.cache_write_long = writes_of(usage).map_or(0, |writes| writes.one_hour).min(written);
    tokens.reasoning = usage
        .get("output_tokens_details")
        .and_then(|details| number(details.get("thinking_tokens")?))
        .unwrap_or_default()
        .min(output);
    Some(tokens)
}

/// The usage that is not billed as tokens: calls of Anthropic's own tools, but for those that cost nothing beside their tokens.
pub(super) fn billed_apart(reply: &Value) -> BilledApart {
    const FREE: [&str; 2] = ["web_fetch_requests", "tool_search_requests"];
    let mut apart = BilledApart::default();
    let tools = reply.get("usage").and_then(|usage| usage.get("server_tool_use"));
    let counts = tools.and_then(Value::as_object).into_iter().flatten();
    for (name, count) in counts.filter(|(name, _)| !FREE.contains(&name.as_str())) {
        apart.add(name, number(count).unwrap_or_default());
    }
    apart
}

/// The cache writes by their time; none if there were none, or the reply does not say.
pub(super) fn cache_writes(reply: &Value) -> Option<CacheWrites> {
    let usage = reply.get("usage")?;
    let Some(Value::Array(iterations)) = usage.get("iterations").filter(|list| list.get(0).is_some()) else {
        return writes_of(usage);
    };
    iterations
        .iter()
        .filter_map(writes_of)
        .reduce(|sum, writes| CacheWrites {
            five_minutes: sum.five_minutes.saturating_add(writes.five_minutes),
            one_hour: sum.one_hour.saturating_add(writes.one_hour),
        })
}

fn writes_of(usage: &Value) -> Option<CacheWrites> {
    let writes = usage.get("cache_creation")?;
    let count = |name: &str| writes.get(name).and_then(number).unwrap_or_default();
    let writes = CacheWrites {
        five_minutes: count("ephemeral_5m_input_tokens"),
        one_hour: count("ephemeral_1h_input_tokens"),
    };
    (writes != CacheWrites::default()).then_some(writes)
}
