//! From an item's fields to its prompt.

use std::path::Path;

use llm_batch::{Prompt, ReasoningEffort, Tool};
use serde_json::{Map, Value};

use crate::args::PromptArgs;
use crate::exit::UsageError;
use crate::input::{Content, Endpoint};
use crate::model::Bodies;
use crate::output::OutputFormat;
use crate::template::{Template, in_template};

/// Fields that are the prompt where no template is given: of lines and tables, and of folders.
const PROMPT_FIELDS: [&str; 2] = ["prompt", "text"];

/// Fields of a chat completion that are taken from a line with `messages`.
const CHAT_FIELDS: [&str; 35] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// The reason to refuse some options.
pub(crate) const WHOLE_REQUEST: &str = "to which the options of a prompt (--prompt, --system, --temperature, --tools, --schema, ...) do not apply; --extra sets fields of it";

/// The reason to refuse a line.
pub(crate) const FOR_RESPONSES: &str =
    "is for /v1/responses, which --model openai-responses:MODEL and openai:MODEL answer alone";

/// Makes prompts as the command line says.
#[derive(Debug)]
pub(crate) struct Composer {
    template: Option<Template>,
    system: Option<String>,
    /// The field with an item's own system prompt.
    system_field: Option<String>,
    /// `true` if an option names that field.
    names_system: bool,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u32>,
    seed: Option<i64>,
    stop: Vec<String>,
    reasoning_effort: Option<ReasoningEffort>,
    tools: Vec<Tool>,
    extra: Map<String, Value>,
    model: Option<String>,
    bodies: Bodies,
    has_schema: bool,
    /// The output, if it has a place for one answer of an item only.
    one_answer: Option<OutputFormat>,
}

impl Composer {
    /// `model` replaces the model of request bodies, of which `bodies` are sent as they are.
    pub(crate) fn new(args: &PromptArgs, model: Option<String>, bodies: Bodies) -> Result<Self, UsageError> {
        let source = match (&args.prompt, &args.prompt_file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(path)) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| UsageError::new(format!("--prompt-file {}: {error}", path.display())))?,
            ),
            (None, None) => None,
        };
        // With a template the fields are the template's, and one by the name `system` may be about something else.
        let default = source.is_none().then(|| "system".to_owned());
        Ok(Self {
            template: source.as_deref().map(Template::new).transpose()?,
            system: args.system.clone(),
            system_field: args.system_field.clone().or(default),
            names_system: args.system_field.is_some(),
            temperature: args.temperature,
            top_p: args.top_p,
            max_output_tokens: args.max_output_tokens,
            seed: args.seed,
            stop: args.stop.clone(),
            reasoning_effort: args.reasoning_effort,
            tools: args.tools.as_deref().map_or(Ok(Vec::new()), tools)?,
            extra: args.extra.clone().map(|extra| extra.0).unwrap_or_default(),
            model,
            bodies,
            has_schema: args.schema.is_some(),
            one_answer: None,
        })
    }

    /// Refuses prompts that ask for more answers than the output has a place for.
    pub(crate) fn for_output(mut self, format: OutputFormat) -> Self {
        self.one_answer = Some(format).filter(|format| !format.facts().keeps_choices);
        self
    }

    /// Rejects items of these columns, if none of them can have a prompt.
    pub(crate) fn check_columns(&self, columns: &[String]) -> Result<(), String> {
        if let Some(template) = &self.template {
            return template.check(columns);
        }
        let has = |name: &str| columns.iter().any(|column| column == name);
        if has("messages") || has("prompt") || (has("text") && has("path")) {
            return Ok(());
        }
        let names: Vec<_> = columns.iter().map(String::as_str).collect();
        Err(no_prompt("column", &names))
    }

    /// Returns `true` if options are set that make no sense for ready request bodies.
    pub(crate) fn shapes_prompts(&self) -> bool {
        self.template.is_some()
            || self.system.is_some()
            || self.names_system
            || self.temperature.is_some()
            || self.top_p.is_some()
            || self.max_output_tokens.is_some()
            || self.seed.is_some()
            || !self.stop.is_empty()
            || self.reasoning_effort.is_some()
            || !self.tools.is_empty()
            || self.has_schema
    }

    /// The prompt of one item, or the fault of the item.
    pub(crate) fn prompt(&self, content: Content) -> Result<Prompt, String> {
        let mut prompt = match content {
            Content::Fields(fields) => self.prompt_of_fields(fields)?,
            Content::Body(..) if self.shapes_prompts() => {
                return Err(format!("the line is a whole request, {WHOLE_REQUEST}"));
            }
            Content::Body(endpoint, body) => self.prompt_of_body(endpoint, body)?,
        };
        for (name, value) in &self.extra {
            prompt = prompt.with_extra(name.as_str(), value.clone());
        }
        match self.one_answer {
            Some(format) if asks_for_several(&prompt) => Err(several_answers(format)),
            _ => Ok(prompt),
        }
    }

    /// The system prompt of an item: its own, or that of all.
    fn system(&self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        let named = self.system_field.as_ref();
        match named.and_then(|field| Some((field, fields.get(field)?))) {
            Some((_, Value::String(text))) if !text.is_empty() => Ok(Some(text.clone())),
            None | Some((_, Value::Null | Value::String(_))) => Ok(self.system.clone()),
            Some((field, _)) => Err(format!(
                "field `{field}` is the system prompt, so it must be text"
            )),
        }
    }

    /// The prompt of a row's fields, with the options where the row sets nothing.
    fn prompt_of_fields(&self, mut fields: Map<String, Value>) -> Result<Prompt, String> {
        let is_chat = self.template.is_none() && fields.contains_key("messages");
        let (prompt, system) = if is_chat {
            if fields.contains_key("prompt") {
                return Err(
                    "there are both `prompt` and `messages`; name one, such as --prompt '{{prompt}}', or remove one"
                        .to_owned(),
                );
            }
            let system = self.system(&fields)?;
            fields.retain(|name, _| CHAT_FIELDS.contains(&name.as_str()));
            if let (Some(format), Some(true)) = (self.one_answer, fields.get("n").map(is_several)) {
                return Err(several_answers(format));
            }
            let prompt = Prompt::from_chat_request(fields).map_err(|error| error.message().to_owned())?;
            (prompt, system)
        } else {
            let system = self.system(&fields)?;
            (Prompt::new(self.text(fields)?), system)
        };
        let prompt = match system {
            Some(system) => prompt.with_system(system),
            None => prompt,
        };
        Ok(self.with_options(prompt))
    }

    /// A prompt without a text, by which options that the provider does not take are noticed before any call.
    pub(crate) fn sample(&self) -> Prompt {
        let prompt = self.with_options(Prompt::new(""));
        self.extra.iter().fold(prompt, |prompt, (name, value)| {
            prompt.with_extra(name.as_str(), value.clone())
        })
    }

    fn with_options(&self, mut prompt: Prompt) -> Prompt {
        if let (Some(temperature), None) = (self.temperature, prompt.temperature()) {
            prompt = prompt.with_temperature(temperature);
        }
        if let (Some(top_p), None) = (self.top_p, prompt.top_p()) {
            prompt = prompt.with_top_p(top_p);
        }
        if let (Some(tokens), None) = (self.max_output_tokens, prompt.max_output_tokens()) {
            prompt = prompt.with_max_output_tokens(tokens);
        }
        if let (Some(seed), None) = (self.seed, prompt.seed()) {
            prompt = prompt.with_seed(seed);
        }
        if prompt.stop().is_empty() {
            prompt = self.stop.iter().fold(prompt, Prompt::with_stop);
        }
        if let (Some(effort), None) = (self.reasoning_effort, prompt.reasoning_effort()) {
            prompt = prompt.with_reasoning_effort(effort);
        }
        if prompt.tools().is_empty() {
            prompt = self.tools.iter().cloned().fold(prompt, Prompt::with_tool);
        }
        prompt
    }

    /// A request of OpenAI's: as it is for a model that takes it so, and else as a prompt.
    fn prompt_of_body(&self, endpoint: Endpoint, body: Map<String, Value>) -> Result<Prompt, String> {
        let prompt = match endpoint {
            Endpoint::Chat if self.bodies.chat => Prompt::raw(body),
            Endpoint::Chat => Prompt::from_chat_request(body).map_err(|error| error.message().to_owned())?,
            Endpoint::Responses if self.bodies.responses => Prompt::raw(body),
            Endpoint::Responses => return Err(format!("the line {FOR_RESPONSES}")),
        };
        Ok(match &self.model {
            Some(model) => prompt.with_model(model.as_str()),
            None => prompt,
        })
    }

    fn text(&self, mut fields: Map<String, Value>) -> Result<String, String> {
        if let Some(template) = &self.template {
            return template.render(&fields);
        }
        for name in PROMPT_FIELDS {
            // `text` alone is the prompt of a folder's file, which has a path.
            if name == "text" && !fields.contains_key("path") {
                continue;
            }
            match fields.remove(name) {
                Some(Value::String(text)) => return Ok(text),
                Some(_) => {
                    return Err(format!(
                        "field `{name}` is not text; use --prompt '{{{{{name}}}}}'"
                    ));
                }
                None => {}
            }
        }
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        Err(no_prompt("field", &names))
    }
}

/// The message for items that have these names, and not `prompt`.
fn no_prompt(what: &str, names: &[&str]) -> String {
    let Some(first) = names.first() else {
        return format!("the {what} `prompt` is missing");
    };
    format!(
        "the {what} `prompt` is missing; name the one to use, such as --prompt '{}' (the {what}s are: {})",
        in_template(first),
        names.join(", ")
    )
}

/// Returns `true` if the body asks for more than one answer.
fn asks_for_several(prompt: &Prompt) -> bool {
    let body = prompt.raw_body();
    let field = |name| (prompt.extra().get(name)).or_else(|| body.and_then(|body| body.get(name)));
    let config = field("generationConfig");
    let counts = [field("n"), config.and_then(|config| config.get("candidateCount"))];
    counts.into_iter().flatten().any(is_several)
}

fn is_several(count: &Value) -> bool {
    count.as_f64().is_some_and(|count| count > 1.0)
}

fn several_answers(format: OutputFormat) -> String {
    format!(
        "several answers are asked for (`n`, `candidateCount`), and {} has a place for one; use --output-format jsonl",
        format.name()
    )
}

/// The tools in a file: a JSON array.
fn tools(path: &Path) -> Result<Vec<Tool>, UsageError> {
    let wrong = |what: String| UsageError::new(format!("--tools {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let values: Vec<Value> =
        serde_json::from_str(&text).map_err(|error| wrong(format!("not a JSON array of tools: {error}")))?;
    if values.is_empty() {
        return Err(wrong("it holds no tools".to_owned()));
    }
    let tools = values.into_iter().enumerate().map(|(number, value)| {
        Tool::from_json(value).map_err(|error| wrong(format!("tool {}: {}", number + 1, error.message())))
    });
    tools.collect()
}
