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
//! // Under the retry layer: an answer that is not valid is asked for again, at once.
//! let model = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::new(3)))
//!     .service(model.structured::<Review>());
//! let answer = model.oneshot(LlmRequest::new("Great lamp, a bit pale.".into())).await.unwrap();
//! assert_eq!(answer.output, Review { product: "lamp".into(), stars: 4 });
//! # }
//! ```
//!
//! # What is checked
//! 1. The text is JSON, in an outer code fence or bare. [`recover_json`](Structured::recover_json) also takes the one JSON
//!    value in a text.
//! 2. It follows the schema: types, required fields, choices, bounds, formats.
//! 3. The type takes it, as serde decides.
//! 4. It keeps the rules of [`validate_with`](Structured::validate_with), and of `garde` where
//!    `validate_with_garde` asks for it (feature `garde`).
//!
//! Whatever fails is an [`LlmError`] of kind [`Validation`](ErrorKind::Validation), which a retry policy repeats at once. It
//! keeps the call's usage and the text ([`LlmError::raw_output`]), and names every fault by path: [`InvalidOutput::of`].
//!
//! # What is no validation failure
//! An answer that the output token limit cut is [`Truncated`](ErrorKind::Truncated): to ask again with the same limit would
//! end the same way, so it is not retried. A refusal, or an answer that the provider's filter stopped, is
//! [`ContentFilter`](ErrorKind::ContentFilter).
//!
//! # What is sent
//! The schema of the type, unless the prompt has its own. Each provider is sent the part of it that it takes; a schema that a
//! provider would refuse fails before the call, with the path. Where a provider wants every property, optional ones may
//! come back as null, which counts as missing.
//!
//! Providers want an object at the top. For any other type (`Vec<T>`, an enum) the schema is that of an object with one
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
/// Apply it to the provider, under the retry layer. The [module](self) tells what is checked.
pub trait StructuredExt: Service<LlmRequest, Response = LlmResponse, Error: From<LlmError>> + Sized {
    /// Answers are values of `T`: its schema is sent with the prompt, and what comes back is checked.
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
    /// If the schema of `T` is no valid JSON Schema, such as one with a malformed pattern.
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

    /// Answers are JSON of a schema that is known only at run time.
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
    /// [`ErrorKind::Configuration`] if it is no valid JSON Schema.
    fn structured_by(self, schema: Value) -> Result<Structured<Self, Value>, LlmError> {
        let schema = Schema::new(schema).map_err(|error| {
            LlmError::new(
                ErrorKind::Configuration,
                format!("the output schema is not valid: {error}"),
            )
        })?;
        Ok(Structured::new(self, Reader::new(schema)))
    }

    /// Answers are what `parse` makes of the text, for everything that is not JSON. No schema is sent.
    ///
    /// Its error becomes a validation failure, so that the answer is asked for again. An [`LlmError`] stays what it is
    /// ([`LlmError::fatal`] gives up), and an [`InvalidOutput`] may name several faults. `parse` is given the text as it came;
    /// [`strip_code_fence`] takes a fence off.
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
