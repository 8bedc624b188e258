//! Typed answers: a JSON Schema from a Rust type, sent with the prompt, and answers checked against it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, RetryLayer, RetryPolicy, StructuredExt};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
//! struct Review {
//!     product: String,
//!     #[schemars(range(min = 1, max = 5))]
//!     stars: u8,
//! }
//!
//! let model = service_fn(async |request: LlmRequest| {
//!     assert!(request.input().output_schema().is_some());
//!     let stars = if request.attempt() == 1 { 9 } else { 4 };
//!     Ok::<_, LlmError>(LlmResponse::new(format!(r#"{{"product": "lamp", "stars": {stars}}}"#)))
//! });
//! // Under the retry layer: an invalid answer is retried immediately.
//! let model = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::new(3)))
//!     .service(model.structured::<Review>());
//! let answer = model.oneshot(LlmRequest::new("Great lamp, a bit pale.".into())).await.unwrap();
//! assert_eq!(answer.output, Review { product: "lamp".into(), stars: 4 });
//! # }
//! ```
//!
//! # Checks
//! 1. The text is JSON, in an outer code fence or bare. [`recover_json`](Structured::recover_json) also takes the one JSON
//!    value in a text.
//! 2. It follows the schema: types, required fields, choices, bounds, formats.
//! 3. It deserialises into the type.
//! 4. It satisfies the rules of [`validate_with`](Structured::validate_with), and of `garde` where
//!    `validate_with_garde` asks for it (feature `garde`).
//!
//! A failure is an [`LlmError`] of kind [`Validation`](ErrorKind::Validation), which the retry policy retries immediately. It
//! keeps the call's usage and the text ([`LlmError::raw_output`]), and names every fault by path: [`InvalidOutput::of`].
//!
//! # Other failures
//! An answer cut by the output token limit is [`Truncated`](ErrorKind::Truncated) and is not retried: the same limit would
//! cut it again. A refusal, or an answer that the provider's filter stopped, is
//! [`ContentFilter`](ErrorKind::ContentFilter).
//!
//! # Requests
//! The schema of the type, unless the prompt has its own. Each provider receives the subset that it supports; a schema that a
//! provider would reject fails before the call, with the path. Where a provider requires every property, optional ones may
//! come back as null, which counts as missing.
//!
//! Providers require an object at the top level. For any other type (`Vec<T>`, an enum) the schema is that of an object with one
//! property, `value`, and an answer may have that form or not.

mod answer;
mod fault;
#[cfg(feature = "garde")]
mod garde;
mod schema;
mod service;
mod text;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_service::Service;

use self::answer::Reader;
use self::schema::Schema;
use crate::error::{BoxError, ErrorKind, LlmError};
use crate::request::LlmRequest;
use crate::response::LlmResponse;

pub use self::fault::{Fault, InvalidOutput};
pub use self::service::{Parsed, Structured, StructuredFuture};
pub use self::text::strip_code_fence;

/// Typed answers for every strategy that takes a [`Prompt`](crate::Prompt) and answers with text.
///
/// Apply it to the provider, under the retry layer. The [module](self) lists the checks.
pub trait StructuredExt: Service<LlmRequest, Response = LlmResponse, Error: From<LlmError>> + Sized {
    /// Makes answers values of `T`: sends its schema with the prompt, and validates the answer.
    ///
    /// ```
    /// use llm_batch::StructuredExt;
    /// use llm_batch::layer::standard::StandardLayer;
    /// use llm_batch::testing::SimulatedProvider;
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use tower::Layer;
    ///
    /// #[derive(Deserialize, JsonSchema)]
    /// struct City {
    ///     name: String,
    ///     country: Option<String>,
    /// }
    ///
    /// let provider = SimulatedProvider::builder().build()?;
    /// let model = StandardLayer::new().layer(provider.service().structured::<City>());
    /// # let _ = model;
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    ///
    /// # Panics
    /// If the schema of `T` is not a valid JSON Schema, such as one with a malformed pattern.
    #[track_caller]
    fn structured<T>(self) -> Structured<Self, T>
    where
        T: JsonSchema + DeserializeOwned + 'static,
    {
        match Schema::of::<T>() {
            Ok(schema) => Structured::new(self, Reader::new(schema)),
            Err(error) => panic!(
                "the schema of {} is not valid: {error}",
                std::any::type_name::<T>()
            ),
        }
    }

    /// Makes answers JSON of a schema that is known only at run time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::LlmError> {
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{InvalidOutput, LlmRequest, StructuredExt};
    /// use serde_json::json;
    /// use tower::ServiceExt;
    ///
    /// let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    /// let model = FakeStrategy::new(|_: &LlmRequest| r#"{"age": "old"}"#.to_owned()).structured_by(schema)?;
    /// let error = model.oneshot(LlmRequest::new("How old?".into())).await.unwrap_err();
    /// assert_eq!(InvalidOutput::of(&error).unwrap().faults[0].path, "/age");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if it is not a valid JSON Schema.
    fn structured_by(self, schema: Value) -> Result<Structured<Self, Value>, LlmError> {
        let schema = Schema::new(schema).map_err(|error| {
            LlmError::new(
                ErrorKind::Configuration,
                format!("the output schema is not valid: {error}"),
            )
        })?;
        Ok(Structured::new(self, Reader::new(schema)))
    }

    /// Makes answers from the text by `parse`, for anything that is not JSON. Sends no schema.
    ///
    /// An error of `parse` becomes a validation failure, which is retried. An [`LlmError`] is passed through
    /// ([`LlmError::fatal`] ends the item), and an [`InvalidOutput`] may name several faults. `parse` receives the text
    /// unmodified; [`strip_code_fence`] removes a code fence.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{ErrorKind, LlmRequest, StructuredExt};
    /// use tower::ServiceExt;
    ///
    /// let model = FakeStrategy::new(|request: &LlmRequest| format!("{}", request.input().messages().len()));
    /// let model = model.parse_with(|text| text.trim().parse::<u32>());
    /// assert_eq!(model.oneshot(LlmRequest::new("How many?".into())).await.unwrap().output, 1);
    ///
    /// let model = FakeStrategy::new(|_: &LlmRequest| "many".to_owned()).parse_with(|text| text.parse::<u32>());
    /// let error = model.oneshot(LlmRequest::new("How many?".into())).await.unwrap_err();
    /// assert_eq!((error.kind(), error.raw_output()), (ErrorKind::Validation, Some("many")));
    /// # }
    /// ```
    fn parse_with<F, T, E>(self, parse: F) -> Parsed<Self, T>
    where
        F: Fn(&str) -> Result<T, E> + Send + Sync + 'static,
        E: Into<BoxError>,
        T: 'static,
    {
        Parsed::new(self, parse)
    }
}

impl<S> StructuredExt for S where S: Service<LlmRequest, Response = LlmResponse, Error: From<LlmError>> {}
