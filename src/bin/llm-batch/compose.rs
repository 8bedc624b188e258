//! From an item's fields to its prompt.

use llm_batch::Prompt;
use serde_json::{Map, Value};

use crate::args::PromptArgs;
use crate::exit::UsageError;
use crate::input::Content;
use crate::output::OutputFormat;
use crate::template::{Template, in_template};

/// Fields that are the prompt where no template is given: of lines and tables, and of folders.
const PROMPT_FIELDS: [&str; 2] = ["prompt", "text"];

/// Why some options are refused.
pub(crate) const WHOLE_REQUEST: &str = "to which --prompt, --system, --temperature, --max-output-tokens and --schema do not apply; --extra sets fields of it";

/// Makes prompts as the command line says.
#[derive(Debug)]
pub(crate) struct Composer {
    template: Option<Template>,
    system: Option<String>,
    /// The field with an item's own system prompt.
    system_field: Option<String>,
    /// Whether an option names that field.
    names_system: bool,
    temperature: Option<f64>,
    max_output_tokens: Option<u32>,
    extra: Map<String, Value>,
    model: Option<String>,
    has_schema: bool,
    /// The output, if it has a place for one answer of an item only.
    one_answer: Option<OutputFormat>,
}

impl Composer {
    /// `model` replaces the model of request bodies.
    pub(crate) fn new(args: &PromptArgs, model: Option<String>) -> Result<Self, UsageError> {
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
            template: source.map(Template::new).transpose()?,
            system: args.system.clone(),
            system_field: args.system_field.clone().or(default),
            names_system: args.system_field.is_some(),
            temperature: args.temperature,
            max_output_tokens: args.max_output_tokens,
            extra: args.extra.clone().map(|extra| extra.0).unwrap_or_default(),
            model,
            has_schema: args.schema.is_some(),
            one_answer: None,
        })
    }

    /// Refuses prompts that ask for more answers than the output has a place for.
    pub(crate) fn for_output(mut self, format: OutputFormat) -> Self {
        self.one_answer = Some(format).filter(|format| !format.facts().keeps_choices);
        self
    }

    /// Whether options are set that make no sense for ready request bodies.
    pub(crate) fn shapes_prompts(&self) -> bool {
        self.template.is_some()
            || self.system.is_some()
            || self.names_system
            || self.temperature.is_some()
            || self.max_output_tokens.is_some()
            || self.has_schema
    }

    /// The prompt of one item, or what is wrong with the item.
    pub(crate) fn prompt(&self, content: Content) -> Result<Prompt, String> {
        let mut prompt = match content {
            Content::Fields(fields) => {
                let system = self.system(&fields)?;
                let prompt = Prompt::new(self.text(fields)?);
                match system {
                    Some(system) => prompt.with_system(system),
                    None => prompt,
                }
            }
            Content::Body(_) if self.shapes_prompts() => {
                return Err(
                    "--prompt, --system and --schema do not apply to a line that is a whole request"
                        .to_owned(),
                );
            }
            Content::Body(body) => {
                let prompt = Prompt::raw(body);
                match &self.model {
                    Some(model) => prompt.with_model(model.as_str()),
                    None => prompt,
                }
            }
        };
        if let Some(temperature) = self.temperature {
            prompt = prompt.with_temperature(temperature);
        }
        if let Some(tokens) = self.max_output_tokens {
            prompt = prompt.with_max_output_tokens(tokens);
        }
        for (name, value) in &self.extra {
            prompt = prompt.with_extra(name.as_str(), value.clone());
        }
        match self.one_answer {
            Some(format) if asks_for_several(&prompt) => Err(format!(
                "several answers are asked for (`n`, `candidateCount`), and {} has a place for one; use --output-format jsonl",
                format.name()
            )),
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
        let Some(first) = names.first() else {
            return Err("there is no field `prompt`".to_owned());
        };
        Err(format!(
            "there is no field `prompt`; name the one to use, such as --prompt '{}' (the fields are: {})",
            in_template(first),
            names.join(", ")
        ))
    }
}

/// Whether the body asks for more than one answer.
fn asks_for_several(prompt: &Prompt) -> bool {
    let body = prompt.raw_body();
    let field = |name| (prompt.extra().get(name)).or_else(|| body.and_then(|body| body.get(name)));
    let config = field("generationConfig");
    let counts = [field("n"), config.and_then(|config| config.get("candidateCount"))];
    let is_several = |count: &Value| count.as_f64().is_some_and(|count| count > 1.0);
    counts.into_iter().flatten().any(is_several)
}
