//! Feedback about a bad answer for the next attempt.

use std::fmt::Write as _;

use serde_json::Value;

use crate::error::{ErrorKind, LlmError};
use crate::prompt::{IDEMPOTENCY_KEY, Message};
use crate::request::LlmRequest;
use crate::schema::pointer::member;
use crate::structured::{Fault, InvalidOutput};

/// The last feedback of an item, and the number of messages in its prompt before.
#[derive(Clone)]
struct LastFeedback {
    asked: usize,
    message: Message,
}

/// Adds to the prompt of the next attempt which fields of the last answer were wrong, and why, and which were right.
///
/// A hook for [`RetryPolicy::on_error`](crate::RetryPolicy::on_error). After a validation failure the hook appends the model's
/// answer to the prompt, and a message with the faults by path, as found by [typed answers](crate::structured); for your own
/// validation failure, a message with its text. Only the last answer is in the prompt, so that it does not grow from attempt to
/// attempt. Other failures do not change the prompt. An `Idempotency-Key` of the prompt is removed, as it belongs to the prompt
/// without feedback. A prompt with a [raw body](crate::Prompt::raw) is not changed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::recipe::feedback;
/// use llm_batch::{
///     LlmError, LlmRequest, LlmResponse, Part, RetryLayer, RetryPolicy, StructuredExt,
/// };
/// use schemars::JsonSchema;
/// use serde::Deserialize;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Review {
///     product: String,
///     #[schemars(range(min = 1, max = 5))]
///     stars: u8,
/// }
///
/// let provider = service_fn(async |request: LlmRequest| {
///     let last = request.input().messages().last();
///     let corrected = last.is_some_and(|message| {
///         matches!(&message.content[..], [Part::Text { text }] if text.contains("- /stars: "))
///     });
///     let stars = if corrected { 4 } else { 9 };
///     Ok::<_, LlmError>(LlmResponse::new(format!(r#"{{"product": "lamp", "stars": {stars}}}"#)))
/// });
/// let model = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::new(2).on_error(feedback)))
///     .service(provider.structured::<Review>());
/// assert_eq!(model.oneshot(LlmRequest::new("Great lamp, a bit pale.".into())).await?.output.stars, 4);
/// # Ok(()) }
/// ```
pub fn feedback(error: &LlmError, next: &mut LlmRequest) {
    if error.kind() != ErrorKind::Validation || next.input().raw_body().is_some() {
        return;
    }
    let last = next.state().get::<LastFeedback>();
    let text = match InvalidOutput::of(error) {
        Some(invalid) => describe(&invalid.faults, invalid.value.as_ref()),
        None => describe(&[Fault::new("", error.message())], None),
    };
    // The key belongs to the body that was answered.
    next.input_mut().remove_header(IDEMPOTENCY_KEY);
    let messages = next.input_mut().messages_mut();
    // One item may send several prompts, as agents do: another prompt has no feedback to remove.
    if let Some(last) = last
        && let Some(after) = messages.get(last.asked..)
        && after.contains(&last.message)
    {
        messages.truncate(last.asked);
    }
    let given = LastFeedback {
        asked: messages.len(),
        message: Message::user(text),
    };
    if let Some(text) = error.raw_output().filter(|text| !text.trim().is_empty()) {
        messages.push(Message::assistant(text));
    }
    messages.push(given.message.clone());
    next.state().insert(given);
}

fn describe(faults: &[Fault], value: Option<&Value>) -> String {
    let mut text = "Your answer was not accepted. What is wrong with it:\n".to_owned();
    for fault in faults {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {fault}");
    }
    let mut right = Vec::new();
    if let Some(value) = value {
        collect_right(value, "", faults, &mut right);
    }
    if !right.is_empty() {
        text.push_str("What is right, to be kept as it is:\n");
        for path in right {
            let _ = writeln!(text, "- {path}");
        }
    }
    text.push_str("Give the whole answer again, corrected.");
    text
}

/// The paths of the largest parts of `value` without a fault at, above or inside them.
fn collect_right(value: &Value, path: &str, faults: &[Fault], right: &mut Vec<String>) {
    if faults.iter().any(|fault| fault.path == path) {
        return;
    }
    if !path.is_empty() && !faults.iter().any(|fault| is_inside(&fault.path, path)) {
        right.push(path.to_owned());
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, part) in members {
                collect_right(part, &member(path, name), faults, right);
            }
        }
        Value::Array(parts) => {
            for (index, part) in parts.iter().enumerate() {
                collect_right(part, &member(path, index), faults, right);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns `true` if `path` is inside `outer`.
fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}
