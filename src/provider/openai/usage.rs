//! Token counts as the servers report them.

use super::json::Json;
use crate::provider::reply::count;
use crate::response::BilledApart;
use crate::usage::TokenUsage;

/// The usage of a chat completion; none if it does not say, which is not zero.
///
/// `prompt_tokens` includes cached tokens and `completion_tokens` includes reasoning on this wire. DeepSeek splits its
/// input into cache hits and misses; Groq may put the usage under `x_groq`.
pub(super) fn of_chat(reply: &Json<'_>) -> Option<TokenUsage> {
    let usage = [
        reply.get("usage"),
        reply.get("x_groq").and_then(|groq| groq.get("usage")),
    ]
    .into_iter()
    .flatten()
    .find(|usage| matches!(usage, Json::Object(fields) if !fields.is_empty()))?;
    let count = |name: &str| number(usage.get(name)?);
    let cache_hits = count("prompt_cache_hit_tokens");
    let split_input = || Some(cache_hits?.saturating_add(count("prompt_cache_miss_tokens")?));
    let total = count("total_tokens");
    let input = count("prompt_tokens").or_else(split_input);
    let output = count("completion_tokens");
    let (input, output) = match (input, output, total) {
        (Some(input), Some(output), _) => (input, output),
        (Some(input), None, Some(total)) => (input, total.saturating_sub(input)),
        (None, Some(output), Some(total)) => (total.saturating_sub(output), output),
        _ => return None,
    };
    // xAI leaves reasoning out of its completion tokens. The total includes it.
    let reasoning = usage
        .get("completion_tokens_details")
        .and_then(|details| number(details.get("reasoning_tokens")?))
        .unwrap_or_default();
    let sum = input.saturating_add(output).saturating_add(reasoning);
    let apart = reasoning > 0 && total == Some(sum);
    let mut tokens = TokenUsage::new(
        input,
        if apart {
            output.saturating_add(reasoning)
        } else {
            output
        },
    );
    add_details(
        &mut tokens,
        usage,
        "prompt_tokens_details",
        "completion_tokens_details",
    );
    if tokens.cached_input == 0 {
        tokens.cached_input = cache_hits.unwrap_or_default().min(input);
    }
    Some(tokens)
}

/// The usage of a response of the Responses; none if it does not say, which is not zero. Details are parts of their sums.
pub(super) fn of_response(reply: &Json<'_>) -> Option<TokenUsage> {
    let usage = reply.get("usage")?;
    let count = |name: &str| number(usage.get(name)?);
    let mut tokens = TokenUsage::new(count("input_tokens")?, count("output_tokens")?);
    add_details(
        &mut tokens,
        usage,
        "input_tokens_details",
        "output_tokens_details",
    );
    Some(tokens)
}

fn add_details(tokens: &mut TokenUsage, usage: &Json<'_>, input: &str, output: &str) {
    let long_writes = || {
        let writes = usage.get(input)?.get("cache_write_tokens_details")?;
        number(writes.get("ttl_12h_tokens")?)
    };
    let known = |group: &str, name: &str| number(usage.get(group)?.get(name)?);
    let detail = |group, name| known(group, name).unwrap_or_default();
    tokens.cached_input = detail(input, "cached_tokens").min(tokens.input);
    tokens.cache_write = detail(input, "cache_write_tokens").min(tokens.input);
    tokens.cache_write_long = long_writes().unwrap_or_default().min(tokens.cache_write);
    tokens.reasoning = detail(output, "reasoning_tokens").min(tokens.output);
}

/// The usage of a reply of either wire that is not billed as text tokens. The calls of OpenAI's own tools are items of a
/// response, which are counted where they are read.
pub(super) fn billed_apart(reply: &Json<'_>) -> BilledApart {
    let mut apart = BilledApart::default();
    let Some(usage) = reply.get("usage") else {
        return apart;
    };
    for group in [
        "prompt_tokens_details",
        "completion_tokens_details",
        "input_tokens_details",
        "output_tokens_details",
    ] {
        let tokens = usage
            .get(group)
            .and_then(|details| number(details.get("audio_tokens")?));
        apart.add("audio_tokens", tokens.unwrap_or_default());
    }
    // Perplexity's searches and xAI's sources.
    for name in ["num_search_queries", "num_sources_used"] {
        apart.add(name, usage.get(name).and_then(number).unwrap_or_default());
    }
    apart
}

/// Returns the cost of the call as the provider reports it, in US dollars (OpenRouter).
pub(super) fn cost(reply: &Json<'_>) -> Option<f64> {
    let cost = reply.get("usage")?.get("cost")?.as_f64()?;
    (cost.is_finite() && cost >= 0.0).then_some(cost)
}

/// A count, also where a server writes it as a text or as `12.0`.
fn number(value: &Json<'_>) -> Option<u64> {
    count(value.as_u64(), value.as_f64(), value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_any_sense_do_not_overflow() {
        let reply = format!(
            r#"{{"usage": {{"prompt_tokens": 0, "completion_tokens": {0}, "total_tokens": {0},
            "completion_tokens_details": {{"reasoning_tokens": 1}}}}}}"#,
            u64::MAX
        );
        let usage = of_chat(&serde_json::from_str(&reply).unwrap()).unwrap();
        assert_eq!(usage.output, u64::MAX);
    }

    #[test]
    fn counts_may_be_texts_and_floats() {
        let reply = r#"{"usage": {"prompt_tokens": "10", "completion_tokens": 2.0}}"#;
        let usage = of_chat(&serde_json::from_str(reply).unwrap()).unwrap();
        assert_eq!((usage.input, usage.output), (10, 2));
        let reply = r#"{"usage": {"input_tokens": "ten", "output_tokens": 2}}"#;
        assert_eq!(of_response(&serde_json::from_str(reply).unwrap()), None);
    }

    #[test]
    fn reasoning_is_output_whether_it_is_counted_apart_or_not() {
        for (output, total) in [(50, 160), (110, 160), (50, 100)] {
            let reply = format!(
                r#"{{"usage": {{"prompt_tokens": 50, "completion_tokens": {output}, "total_tokens": {total},
                "completion_tokens_details": {{"reasoning_tokens": 60}}}}}}"#
            );
            let usage = of_chat(&serde_json::from_str(&reply).unwrap()).unwrap();
            let expected = if total == 160 { (110, 60) } else { (50, 50) };
            assert_eq!((usage.output, usage.reasoning), expected, "{reply}");
        }
    }
}
