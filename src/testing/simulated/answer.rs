//! The question and the answer, which depends only on the question.

use serde_json::Value;

use super::super::hash;
use super::builder::Config;
use super::instance::{echo, instance};
use crate::response::FinishReason;
use crate::usage::TokenUsage;

/// Characters per token, by OpenAI's rule of thumb for English.
const CHARACTERS_PER_TOKEN: u64 = 4;

pub(super) fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(CHARACTERS_PER_TOKEN)
}

/// The parts of a request that the model sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<u64>,
    /// The schema of the answer, or null for any JSON.
    pub(super) json: Option<Value>,
    /// The tool that has to be called in place of an answer.
    pub(super) tool: Option<WantedTool>,
}

/// A tool that has to be called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WantedTool {
    pub(super) name: String,
    /// The schema of its arguments.
    pub(super) parameters: Option<Value>,
}

impl WantedTool {
    /// The one of the name, or without one the first.
    pub(super) fn of(mut tools: impl Iterator<Item = Self>, name: Option<&str>) -> Option<Self> {
        tools.find(|tool| name.is_none_or(|name| tool.name == name))
    }

    /// A tool whose fields stand in the object itself, its schema under `parameters`.
    pub(super) fn read(tool: &Value, parameters: &str) -> Option<Self> {
        Some(Self {
            name: tool.get("name")?.as_str()?.to_owned(),
            parameters: tool.get(parameters).cloned(),
        })
    }

    /// Small arguments that the schema allows, as JSON.
    fn arguments(&self, question: &str) -> String {
        let schema = self.parameters.as_ref();
        let arguments = schema.map(|schema| instance(schema, question));
        let arguments = arguments.filter(Value::is_object);
        arguments.map_or_else(|| "{}".to_owned(), |arguments| arguments.to_string())
    }
}

impl Question {
    pub(super) fn prompt_tokens(&self) -> u64 {
        tokens(&self.text).max(1)
    }
}

/// Joins the texts of a prompt's parts.
pub(super) fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join("\n")
}

/// The output of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// The tool that is called. The text then is its arguments.
    pub(super) called: Option<String>,
    pub(super) refused: bool,
    pub(super) finish: FinishReason,
    pub(super) usage: TokenUsage,
    /// The part of the cache write that is kept for an hour.
    pub(super) long_cache_write: u64,
}

impl Answer {
    pub(super) fn new(question: &Question, config: &Config, variant: Variant) -> Self {
        let tool = question.tool.as_ref().filter(|_| variant == Variant::Proper);
        let mut text = match (variant, tool, &question.json) {
            (Variant::Refusal, ..) => "I'm sorry, I can't assist with that.".to_owned(),
            (Variant::Block, ..) => String::new(),
            (Variant::InvalidJson, ..) => format!("{{\"answer\": \"{}\", ", echo(&question.text)),
            (Variant::Proper, Some(tool), _) => tool.arguments(&question.text),
            (Variant::Proper, None, Some(schema)) => instance(schema, &question.text).to_string(),
            (Variant::Proper, None, None) => sentence(&question.text),
        };
        let mut finish = match tool {
            Some(_) => FinishReason::ToolCalls,
            None => FinishReason::Stop,
        };
        let mut reasoning = config.reasoning_tokens;
        if let Some(limit) = question.max_tokens {
            // Reasoning counts toward the limit, and comes first.
            reasoning = reasoning.min(limit);
            let left = limit - reasoning;
            if left < tokens(&text) {
                let keep = usize::try_from(left.saturating_mul(CHARACTERS_PER_TOKEN)).unwrap_or(usize::MAX);
                text = text.chars().take(keep).collect();
                finish = FinishReason::Length;
            }
        }
        let mut usage = TokenUsage::new(question.prompt_tokens(), tokens(&text).saturating_add(reasoning));
        usage.reasoning = reasoning;
        usage.cached_input = (usage.input as f64 * config.cached_share) as u64;
        Self {
            refused: matches!(variant, Variant::Refusal | Variant::Block),
            // Arguments that were cut are not a call.
            called: tool
                .filter(|_| finish == FinishReason::ToolCalls)
                .map(|tool| tool.name.clone()),
            text,
            finish,
            usage,
            long_cache_write: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Proper,
    /// A refusal with a text.
    Refusal,
    /// A refusal without a text.
    Block,
    InvalidJson,
}

/// A few sentences like a solved word problem, with the echo at the end.
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
    // One to eight steps, so that answers differ in length like real ones.
    let steps = hash(1, question.as_bytes()) % 8 + 1;
    let filler: String = (1..=steps)
        .map(|step| format!(" Step {step}: read the numbers again and check the sum."))
        .collect();
    format!("{working}{filler}\n#### {sum} ({})", echo(question))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        super::super::SimulatedProvider::builder().config
    }

    #[test]
    fn answers_differ_by_question_and_obey_the_limit() {
        let question = |text: &str, max_tokens| Question {
            text: text.to_owned(),
            max_tokens,
            ..Question::default()
        };
        let answer = |question: &Question| Answer::new(question, &config(), Variant::Proper);
        let first = answer(&question("2 and 3", None));
        assert!(first.text.contains("#### 5 "), "{}", first.text);
        assert_eq!(first, answer(&question("2 and 3", None)));
        assert_ne!(first.text, answer(&question("3 and 2", None)).text);
        let cut = answer(&question("2 and 3", Some(4)));
        assert_eq!((cut.usage.output, cut.finish), (4, FinishReason::Length));
    }

    #[test]
    fn reasoning_comes_first_and_counts_toward_the_limit() {
        let thoughtful = Config {
            reasoning_tokens: 10,
            ..config()
        };
        let answer = |max_tokens| {
            let question = Question {
                text: "2 and 3".to_owned(),
                max_tokens,
                ..Question::default()
            };
            Answer::new(&question, &thoughtful, Variant::Proper)
        };
        let free = answer(None);
        assert_eq!(free.usage.reasoning, 10);
        assert_eq!(free.usage.output, 10 + tokens(&free.text));
        let cut = answer(Some(12));
        assert_eq!(
            (cut.usage.output, cut.usage.reasoning, cut.text.len()),
            (12, 10, 8)
        );
        let spent = answer(Some(6));
        assert_eq!((spent.usage.output, spent.usage.reasoning), (6, 6));
        assert_eq!((spent.text.as_str(), spent.finish), ("", FinishReason::Length));
    }
}
