//! The events of a streamed response.

use serde_json::{Value, json};

use crate::provider::openai::json::Json;
use crate::provider::openai::reply::says_error;
use crate::provider::streaming::{Assemble, Piece};

/// A response that comes in events. The last one holds it whole.
#[derive(Debug, Default)]
pub(super) struct Events {
    response: Option<Value>,
    /// The finished items, for servers whose last event leaves them out.
    items: Vec<Value>,
    error: Option<Value>,
}

impl Assemble for Events {
    fn push(&mut self, name: &str, data: &str) -> Piece {
        if self.response.is_some() {
            // The answer is complete, whatever happens afterwards.
            return Piece::End;
        }
        let mut event: Json<'_> = match serde_json::from_str(data) {
            Ok(event @ Json::Object(_)) => event,
            _ if name == "error" => {
                self.error = Some(json!({ "error": data }));
                return Piece::End;
            }
            // The terminator of chat completions, which some gateways send here too.
            _ if data.trim() == "[DONE]" => return Piece::Other,
            _ => return Piece::Unreadable,
        };
        let kind = match event.take("type") {
            Some(Json::Text(kind)) => kind,
            _ => name.into(),
        };
        match &*kind {
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                let response = event.take("response").map(Value::from);
                self.response = response.filter(Value::is_object);
                Piece::End
            }
            "response.output_item.done" => {
                self.items.extend(event.take("item").map(Value::from));
                Piece::Other
            }
            _ if says_error(&event) => {
                self.error = Some(event.into());
                Piece::End
            }
            // The code and the message stand in the event itself.
            "error" => {
                self.error = Some(json!({ "error": Value::from(event) }));
                Piece::End
            }
            kind if kind.ends_with(".delta") => Piece::Token,
            _ => Piece::Other,
        }
    }

    fn is_complete(&self) -> bool {
        self.response.is_some() || self.error.is_some()
    }

    fn into_body(self: Box<Self>) -> Value {
        if let Some(error) = self.error {
            return error;
        }
        let mut response = self.response.unwrap_or_default();
        let is_empty = |output: &Value| output.as_array().is_some_and(Vec::is_empty) || output.is_null();
        if response.get("output").is_none_or(is_empty)
            && let Some(fields) = response.as_object_mut()
        {
            fields.insert("output".to_owned(), self.items.into());
        }
        response
    }
}
