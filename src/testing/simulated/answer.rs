//! What is asked and what is answered. The answer follows from the question alone.

use serde_json::{Map, Value, json};

use super::super::hash;
use crate::prompt::{Part, Prompt};
use crate::response::FinishReason;
use crate::usage::TokenUsage;

/// Characters a token has, by OpenAI's rule of thumb for English.
const CHARACTERS_PER_TOKEN: u64 = 4;

pub(super) fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(CHARACTERS_PER_TOKEN)
}

/// What the model sees of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<u64>,
    /// The schema of the answer, or null for any JSON.
    pub(super) json: Option<Value>,
}

impl Question {
    pub(super) fn from_prompt(prompt: &Prompt) -> Self {
        if let Some(body) = prompt.raw_body() {
            let mut question = Self::from_body(body).unwrap_or_default();
            question.model = prompt.model().map(str::to_owned).or(question.model);
            return question;
        }
        let parts = prompt.messages().iter().flat_map(|message| &message.content);
        let texts = parts.filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            Part::Json { value } => value.get("text").and_then(Value::as_str),
            Part::Image { .. } => None,
        });
        Self {
            text: join(prompt.system().into_iter().chain(texts)),
            model: prompt.model().map(str::to_owned),
            max_tokens: prompt.max_output_tokens().map(u64::from),
            json: prompt.output_schema().cloned(),
        }
    }

    /// Reads the body of a chat completions request; the error is a message for the client.
    pub(super) fn from_body(body: &Map<String, Value>) -> Result<Self, &'static str> {
        let messages = match body.get("messages").and_then(Value::as_array) {
            Some(messages) if !messages.is_empty() => messages,
            _ => return Err("'messages' must be a non-empty array."),
        };
        if body.get("stream") == Some(&Value::Bool(true)) {
            return Err("The simulated provider does not stream.");
        }
        let texts = messages.iter().flat_map(|message| match message.get("content") {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect(),
            _ => Vec::new(),
        });
        let number = |name: &str| body.get(name).and_then(Value::as_u64);
        let format = body.get("response_format");
        Ok(Self {
            text: join(texts),
            model: body.get("model").and_then(Value::as_str).map(str::to_owned),
            max_tokens: number("max_completion_tokens").or_else(|| number("max_tokens")),
            json: format
                .filter(|format| format["type"] != "text")
                .map(|format| format.pointer("/json_schema/schema").cloned().unwrap_or_default()),
        })
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        tokens(&self.text).max(1)
    }
}

fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join("\n")
}

/// What the model generated.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) refused: bool,
    pub(super) finish: FinishReason,
    pub(super) usage: TokenUsage,
}

impl Answer {
    pub(super) fn new(question: &Question, cached_share: f64, variant: Variant) -> Self {
        let mut text = match (variant, &question.json) {
            (Variant::Refusal, _) => "I'm sorry, I can't assist with that.".to_owned(),
            (Variant::InvalidJson, _) => format!("{{\"answer\": \"{}\", ", echo(&question.text)),
            (Variant::Proper, Some(schema)) => instance(schema, &question.text).to_string(),
            (Variant::Proper, None) => sentence(&question.text),
        };
        let mut finish = FinishReason::Stop;
        if let Some(limit) = question.max_tokens.filter(|&limit| limit < tokens(&text)) {
            let keep = usize::try_from(limit.saturating_mul(CHARACTERS_PER_TOKEN)).unwrap_or(usize::MAX);
            text = text.chars().take(keep).collect();
            finish = FinishReason::Length;
        }
        let mut usage = TokenUsage::new(question.prompt_tokens(), tokens(&text));
        usage.cached_input = (usage.input as f64 * cached_share) as u64;
        Self {
            refused: variant == Variant::Refusal,
            text,
            finish,
            usage,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Proper,
    Refusal,
    InvalidJson,
}

/// Sixteen hexadecimal digits that stand for the question, so that a test can tell whose answer it holds.
pub(super) fn echo(question: &str) -> String {
    format!("{:016x}", hash(0, question.as_bytes()))
}

/// A few sentences in the manner of a solved word problem, with the echo at the end.
fn sentence(question: &str) -> String {
    let numbers: Vec<u64> = question
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .filter(|number| *number < 1_000_000)
        .take(8)
        .collect();
    let sum: u64 = numbers.iter().sum();
    let listed: Vec<_> = numbers.iter().map(u64::to_string).collect();
    let working = if listed.is_empty() {
        "There is nothing to add up here.".to_owned()
    } else {
        format!(
            "The question gives {}. Together that is {sum}.",
            listed.join(", ")
        )
    };
    // One to eight steps, so that answers differ in length as real ones do.
    let steps = hash(1, question.as_bytes()) % 8 + 1;
    let filler: String = (1..=steps)
        .map(|step| format!(" Step {step}: read the numbers again and check the sum."))
        .collect();
    format!("{working}{filler}\n#### {sum} ({})", echo(question))
}

/// The smallest value that a JSON Schema of the usual keywords allows.
fn instance(schema: &Value, question: &str) -> Value {
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        return values.first().cloned().unwrap_or_default();
    }
    let kind = match schema.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ => return json!({ "answer": echo(question) }),
    };
    match kind {
        "object" => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let fields = properties.into_iter().flatten();
            fields
                .map(|(name, field)| (name.clone(), instance(field, question)))
                .collect()
        }
        "array" => json!([instance(schema.get("items").unwrap_or(&Value::Null), question)]),
        "string" => echo(question).into(),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 42.into()),
        "boolean" => true.into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_faces_read_the_same_question() {
        let prompt = Prompt::new("What is 2 + 3?")
            .with_system("Be brief.")
            .with_max_output_tokens(64);
        let body = json!({
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is 2 + 3?"}]},
            ],
            "max_completion_tokens": 64,
        });
        let from_body = Question::from_body(body.as_object().unwrap()).unwrap();
        assert_eq!(Question::from_prompt(&prompt), from_body);
    }

    #[test]
    fn answers_differ_by_question_and_obey_the_limit() {
        let question = |text: &str, max_tokens| Question {
            text: text.to_owned(),
            max_tokens,
            ..Question::default()
        };
        let answer = |question: &Question| Answer::new(question, 0.0, Variant::Proper);
        let first = answer(&question("2 and 3", None));
        assert!(first.text.contains("#### 5 "), "{}", first.text);
        assert_eq!(first, answer(&question("2 and 3", None)));
        assert_ne!(first.text, answer(&question("3 and 2", None)).text);
        let cut = answer(&question("2 and 3", Some(4)));
        assert_eq!((cut.usage.output, cut.finish), (4, FinishReason::Length));
    }

    #[test]
    fn a_schema_is_answered_with_an_instance() {
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string"}, "age": {"type": "integer", "minimum": 3}, "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"type": "boolean"}},
        }});
        let value = instance(&schema, "q");
        assert_eq!(
            value,
            json!({"name": echo("q"), "age": 3, "kind": "a", "tags": [true]})
        );
    }
}
