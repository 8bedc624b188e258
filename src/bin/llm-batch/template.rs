//! Templates: `{{field}}` in a prompt.

use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;

use crate::exit::UsageError;

const NAME: &str = "prompt";

/// A prompt with places for the fields of an item.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
}

impl Template {
    /// Reads a template. One line break at its end is dropped.
    pub(crate) fn new(source: String) -> Result<Self, UsageError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Text stays as it is, everything else is written as JSON; nothing is escaped for HTML.
        environment.set_formatter(|out, _, value| match value.kind() {
            ValueKind::None | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
                let text = to_json(value)?;
                Ok(out.write_str(&text)?)
            }
            _ => Ok(std::fmt::Write::write_fmt(out, format_args!("{value}"))?),
        });
        environment.add_filter("tojson", |value: Value| to_json(&value));
        environment.add_template_owned(NAME, source).map_err(|error| {
            UsageError::new(format!("the prompt's template is wrong: {}", describe(&error)))
        })?;
        Ok(Self { environment })
    }

    /// The text for one item.
    pub(crate) fn render(&self, fields: &Map<String, serde_json::Value>) -> Result<String, String> {
        let failed = |error: minijinja::Error| {
            let message = match error.kind() {
                ErrorKind::UndefinedError => {
                    "the template names a field that the item does not have".to_owned()
                }
                _ => "the template cannot be filled in".to_owned(),
            };
            let names: Vec<_> = fields.keys().map(String::as_str).collect();
            format!(
                "{message}: {} (its fields are: {})",
                describe(&error),
                names.join(", ")
            )
        };
        let template = self.environment.get_template(NAME).map_err(failed)?;
        template.render(Value::from(Serde(fields))).map_err(failed)
    }
}

fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    serde_json::to_string(value).map_err(|error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "a value cannot be written as JSON")
            .with_source(error)
    })
}

/// What is wrong, and where in the template.
fn describe(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if line > 1 => format!("{what}, line {line} of the template"),
        _ => what,
    }
}
