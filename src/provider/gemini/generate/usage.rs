//! Token counts as the provider reports them.

use serde_json::{Map, Value};

use crate::provider::reply::number;
use crate::response::BilledApart;
use crate::usage::TokenUsage;

/// The usage of a reply; none if it does not say, which is not zero. A field that is missing beside others is zero.
///
/// `promptTokenCount` includes cached tokens and leaves out what tools put in; `candidatesTokenCount` leaves thoughts out.
pub(super) fn usage(reply: &Value) -> Option<TokenUsage> {
    let counts = reply.get("usageMetadata")?.as_object()?;
    let count = |name: &str| number(counts.get(name)?);
    let prompt = count("promptTokenCount");
    let candidates = count("candidatesTokenCount");
    let thoughts = count("thoughtsTokenCount").unwrap_or_default();
    let tools = count("toolUsePromptTokenCount").unwrap_or_default();
    let total = count("totalTokenCount");
    if prompt.is_none() && candidates.is_none() && total.is_none() {
        return None;
    }
    let mut output = candidates.unwrap_or_default().saturating_add(thoughts);
    // Without one of the two, it follows from the total.
    let rest = |known: u64| total.map_or(0, |total| total.saturating_sub(known));
    let input = match prompt {
        Some(prompt) => prompt.saturating_add(tools),
        None => rest(output).max(tools),
    };
    if candidates.is_none() {
        output = output.max(rest(input));
    }
    let mut usage = TokenUsage::new(input, output);
    usage.cached_input = count("cachedContentTokenCount").unwrap_or_default().min(input);
    usage.reasoning = thoughts.min(output);
    Some(usage)
}

/// The usage that is not billed as text tokens: audio in the prompt, any other medium in the answer, and searches.
pub(super) fn billed_apart(reply: &Value, candidate: &Value) -> BilledApart {
    let mut apart = BilledApart::default();
    let counts = reply.get("usageMetadata");
    let mut add = |group: &str, name: &str, is_apart: fn(&str) -> bool| {
        let details = counts.and_then(|counts| counts.get(group)?.as_array());
        for detail in details.into_iter().flatten() {
            let modality = detail.get("modality").and_then(Value::as_str).unwrap_or_default();
            if is_apart(modality) {
                apart.add(
                    name,
                    detail.get("tokenCount").and_then(number).unwrap_or_default(),
                );
            }
        }
    };
    add("promptTokensDetails", "audio_prompt_tokens", |modality| {
        modality == "AUDIO"
    });
    add("candidatesTokensDetails", "media_tokens", |modality| {
        modality != "TEXT"
    });
    let searches = candidate.pointer("/groundingMetadata/webSearchQueries");
    let searches = searches.and_then(Value::as_array).map_or(0, Vec::len);
    apart.add("webSearchQueries", searches as u64);
    apart
}

/// Adds the counts of an earlier part of an answer to those of a later one.
pub(super) fn add(earlier: &Map<String, Value>, later: &mut Map<String, Value>) {
    for (name, count) in earlier {
        let Some(count) = number(count) else { continue };
        let own = later.get(name).and_then(number).unwrap_or_default();
        later.insert(name.clone(), own.saturating_add(count).into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn read(counts: &Value) -> Option<(u64, u64, u64, u64)> {
        let usage = usage(&json!({ "usageMetadata": counts }))?;
        Some((usage.input, usage.output, usage.cached_input, usage.reasoning))
    }

    #[test]
    fn counts_get_one_meaning() {
        for (counts, expected) in [
            (
                json!({"promptTokenCount": 10, "candidatesTokenCount": 8, "totalTokenCount": 41, "thoughtsTokenCount": 23}),
                Some((10, 31, 0, 23)),
            ),
            (
                json!({"promptTokenCount": 3520, "candidatesTokenCount": 2, "cachedContentTokenCount": 3512,
                       "thoughtsTokenCount": 42, "totalTokenCount": 3564}),
                Some((3520, 44, 3512, 42)),
            ),
            (
                json!({"promptTokenCount": 14, "totalTokenCount": 14}),
                Some((14, 0, 0, 0)),
            ),
            (
                json!({"promptTokenCount": 14, "thoughtsTokenCount": 9, "totalTokenCount": 23}),
                Some((14, 9, 0, 9)),
            ),
            (
                json!({"promptTokenCount": 5, "toolUsePromptTokenCount": 7, "candidatesTokenCount": 1, "totalTokenCount": 13}),
                Some((12, 1, 0, 0)),
            ),
            (
                json!({"promptTokenCount": 10, "totalTokenCount": 15}),
                Some((10, 5, 0, 0)),
            ),
            (
                json!({"candidatesTokenCount": 5, "totalTokenCount": 15}),
                Some((10, 5, 0, 0)),
            ),
            (
                json!({"promptTokenCount": "10", "candidatesTokenCount": 2.0}),
                Some((10, 2, 0, 0)),
            ),
            (json!({"trafficType": "ON_DEMAND"}), None),
            (json!({}), None),
            (json!(null), None),
        ] {
            assert_eq!(read(&counts), expected, "{counts}");
        }
    }
}
