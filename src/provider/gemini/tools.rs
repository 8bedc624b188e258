//! Tools, and the choice among them.

use serde_json::{Value, json};

use super::generate::open_api;
use super::options::SchemaForm;
use crate::error::LlmError;
use crate::prompt::{Tool, ToolChoice};
use crate::provider::request::refuse;
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// `tools`: one list of declarations; `None` without tools.
pub(super) fn tools(tools: &[Tool], form: SchemaForm) -> Result<Option<Value>, LlmError> {
    if tools.is_empty() {
        return Ok(None);
    }
    let declarations: Result<Vec<_>, _> = tools.iter().map(|tool| declaration(tool, form)).collect();
    Ok(Some(json!([{ "functionDeclarations": declarations? }])))
}

fn declaration(tool: &Tool, form: SchemaForm) -> Result<Value, LlmError> {
    let mut declaration = json!({ "name": tool.name });
    if let Some(description) = &tool.description {
        declaration["description"] = description.as_str().into();
    }
    if let Some(schema) = &tool.parameters {
        let (name, schema) = match form {
            SchemaForm::JsonSchema => {
                let schema = for_wire(schema, Dialect::Gemini)?;
                ("parametersJsonSchema", schema.into_owned())
            }
            SchemaForm::OpenApi => ("parameters", open_api::schema(schema)?),
        };
        declaration[name] = schema;
    }
    Ok(declaration)
}

/// `toolConfig`. None if the provider's default is what is wanted.
pub(super) fn config(ask: &Ask<'_>) -> Result<Option<Value>, LlmError> {
    if ask.parallel_tool_calls() == Some(false) {
        return Err(refuse(
            "Gemini cannot be kept from calling several tools at once; leave `parallel_tool_calls` out",
        ));
    }
    let is_strict = ask.tools().iter().any(|tool| tool.strict == Some(true));
    let mode = match ask.tool_choice() {
        // It holds the arguments to the schema; so does `ANY`.
        None | Some(ToolChoice::Auto) if is_strict => "VALIDATED",
        None => return Ok(None),
        Some(ToolChoice::Auto) => "AUTO",
        Some(ToolChoice::None) => "NONE",
        Some(ToolChoice::Required | ToolChoice::Tool(_)) => "ANY",
    };
    let mut config = json!({ "mode": mode });
    if let Some(ToolChoice::Tool(name)) = ask.tool_choice() {
        config["allowedFunctionNames"] = json!([name]);
    }
    Ok(Some(json!({ "functionCallingConfig": config })))
}
