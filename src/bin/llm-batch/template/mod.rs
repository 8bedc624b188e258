//! Templates: `{{field}}` in a prompt.

mod fields;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;

use self::fields::Fields;
use crate::exit::UsageError;

const NAME: &str = "prompt";

/// The name of the whole item in a template.
const ROW: &str = "row";

/// The help for whom a brace was text.
const LITERAL: &str = "to write braces as they are, put the text between {% raw %} and {% endraw %}";

/// A prompt with places for the fields of an item.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    fields: Fields,
}

/// The reason to refuse items with a field of that name.
const TWO_ROWS: &str = "the template uses `row` alone, where it is the field `row`, and as the whole item (`row[\"...\"]`); \
     write the fields by their names alone, or rename the field `row`";

impl Template {
    /// Reads a template. One line break at its end is dropped.
    pub(crate) fn new(source: &str) -> Result<Self, UsageError> {
        let mut environment = Environment::new();
        // So that errors name the field.
        environment.set_debug(true);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(without_comments()?);
        // Text stays as it is, everything else is written as JSON; nothing is escaped for HTML.
        environment.set_formatter(|out, _, value| match value.kind() {
            ValueKind::None | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
                let text = to_json(value)?;
                Ok(out.write_str(&text)?)
            }
            _ => Ok(std::fmt::Write::write_fmt(out, format_args!("{value}"))?),
        });
        environment.add_filter("tojson", |value: Value| to_json(&value));
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            UsageError::new(format!(
                "the prompt's template is wrong: {}; {{{{ and {{% begin a place for a field and a statement: {LITERAL}. \
                 A field whose name is not one word is written as {{{{ row[\"its name\"] }}}}",
                describe(&error)
            ))
        })?;
        let mut free = environment
            .get_template(NAME)
            .map_err(|error| UsageError::new(describe(&error)))?
            .undeclared_variables(false);
        for (name, _) in environment.globals() {
            free.remove(name);
        }
        let fields = Fields::new(source, &free);
        Ok(Self { environment, fields })
    }

    /// Rejects items of these columns, if no such item can fill the template in.
    pub(crate) fn check(&self, columns: &[String]) -> Result<(), String> {
        let has = |name: &str| columns.iter().any(|column| column == name);
        if has(ROW) && self.is_ambiguous() {
            return Err(TWO_ROWS.to_owned());
        }
        let Some(missing) = self.fields.required.iter().find(|name| !has(name)) else {
            return Ok(());
        };
        let names: Vec<_> = columns.iter().map(String::as_str).collect();
        let meant = nearest(missing, &names);
        let meant = meant.map_or_else(String::new, |name| format!("; is {} meant?", in_template(name)));
        Err(format!(
            "the template names the column `{missing}`, which is not in the input{meant} (its columns are: {})",
            names.join(", ")
        ))
    }

    /// Returns `true` if `row` would be two things for an item with a field of that name.
    fn is_ambiguous(&self) -> bool {
        self.fields.has_bare_row && self.fields.has_field_of_row
    }

    /// The text for one item.
    pub(crate) fn render(&self, fields: &Map<String, serde_json::Value>) -> Result<String, String> {
        let failed = |error: minijinja::Error| {
            let message = match error.kind() {
                ErrorKind::UndefinedError => "the template names a field that the item does not have",
                _ => "the template cannot be filled in",
            };
            let names: Vec<_> = fields.keys().map(String::as_str).collect();
            let meant = error
                .detail()
                .and_then(missing_field)
                .and_then(|name| nearest(name, &names));
            let meant = meant.map_or_else(String::new, |name| format!("; is {} meant?", in_template(name)));
            format!(
                "{message}: {}{meant} (its fields are: {})",
                describe(&error),
                names.join(", ")
            )
        };
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let item = Value::from(Serde(fields));
        let has_row = fields.contains_key(ROW);
        if has_row && self.is_ambiguous() {
            return Err(TWO_ROWS.to_owned());
        }
        // Alone, `row` is a field of this name.
        let context = if has_row && self.fields.has_bare_row {
            item
        } else {
            minijinja::context! { row => item.clone(), ..item }
        };
        template.render(context).map_err(failed)
    }
}

/// Comments do not exist: `{#` is ordinary text, as it is in LaTeX, CSS and Markdown.
fn without_comments() -> Result<SyntaxConfig, UsageError> {
    SyntaxConfig::builder()
        .comment_delimiters("{\0#", "#\0}")
        .build()
        .map_err(|error| UsageError::new(error.to_string()))
}

fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    serde_json::to_string(value).map_err(|error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "a value cannot be written as JSON")
            .with_source(error)
    })
}

/// The fault, and its place in the template.
fn describe(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if line > 1 => format!("{what}, line {line} of the template"),
        _ => what,
    }
}

/// The name of the field in a message about an undefined one, if it is a field of the item itself.
fn missing_field(detail: &str) -> Option<&str> {
    let expression = detail.split('`').nth(1)?;
    let name = expression
        .strip_prefix("row.")
        .or_else(|| expression.strip_prefix("row[")?.strip_suffix(']'))
        .unwrap_or(expression);
    Some(name.trim_matches(['"', '\'']))
}

/// The name that is most like another one, if it is like it.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-', '.', '_'], "");
    let alike = |candidate: &str| strsim::jaro_winkler(&plain(name), &plain(candidate));
    let best = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(best) > 0.8).then_some(*best)
}

/// A field as a template names it.
pub(crate) fn in_template(name: &str) -> String {
    let is_word = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty();
    if is_word {
        format!("{{{{{name}}}}}")
    } else {
        format!("{{{{ row[{}] }}}}", serde_json::Value::from(name))
    }
}
