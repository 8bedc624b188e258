//! Estimates of the tokens of a request.

use std::any::Any;

use super::LlmRequest;
use crate::prompt::Prompt;

/// Estimates the tokens of a request.
///
/// A token quota reserves the estimate before the call and settles with the actual usage, so a rough estimate is
/// enough. Closures that return the sum of input and output implement it; for quotas of input or output tokens implement
/// [`estimate_parts`](Self::estimate_parts) too.
///
/// ```
/// use llm_batch::Estimate;
/// let by_length = |request: &String| request.len() as u64 / 4;
/// assert_eq!(by_length.estimate(&"x".repeat(400)), 100);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot estimate the tokens of a request `{Req}`",
    label = "`{Self}` does not estimate this request",
    note = "give the layer a closure whose argument has its type written out: `.estimate_with(|request: &{Req}| 1_000)`"
)]
pub trait Estimate<Req> {
    /// Returns the expected tokens of `request`, input plus output. 0: unknown.
    fn estimate(&self, request: &Req) -> u64;

    /// Returns the expected input and output tokens of `request`. By default only their sum is known.
    fn estimate_parts(&self, request: &Req) -> TokenEstimate {
        self.estimate(request).into()
    }
}

/// The tokens that a call is expected to take, from an [`Estimate`].
///
/// Where only the sum is known, a quota of input or output tokens reserves their mean in earlier calls, or all of the sum if there was
/// none.
///
/// ```
/// use llm_batch::TokenEstimate;
///
/// assert_eq!(TokenEstimate::new(900, 100).total(), 1_000);
/// assert_eq!(TokenEstimate::from(1_000).input(), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenEstimate {
    total: u64,
    output: Option<u64>,
}

impl TokenEstimate {
    /// Creates an estimate of `input` and `output` tokens.
    pub const fn new(input: u64, output: u64) -> Self {
        Self {
            total: input.saturating_add(output),
            output: Some(output),
        }
    }

    /// Input plus output; 0: unknown.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The input tokens, if they are known apart.
    pub const fn input(&self) -> Option<u64> {
        match self.output {
            Some(output) => Some(self.total - output),
            None => None,
        }
    }

    /// The output tokens, if they are known apart.
    pub const fn output(&self) -> Option<u64> {
        self.output
    }
}

/// An estimate of the sum of input and output alone.
impl From<u64> for TokenEstimate {
    fn from(total: u64) -> Self {
        Self { total, output: None }
    }
}

#[diagnostic::do_not_recommend]
impl<Req, F: Fn(&Req) -> u64> Estimate<Req> for F {
    fn estimate(&self, request: &Req) -> u64 {
        self(request)
    }
}

/// The default [`Estimate`]: four characters a token, plus the output token limit, or 256 if none is set.
///
/// It supports [`LlmRequest`]s of [`Prompt`], `String` and `&'static str`; for any other request it returns 0, which
/// turns the token quota off. Four characters a token is OpenAI's rule of thumb for English; 256 is about the length of an
/// unbounded chat answer. Settlement corrects both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CharacterEstimate;

/// Output tokens assumed if no limit is set.
const DEFAULT_OUTPUT: u64 = 256;

impl<Req: 'static> Estimate<Req> for CharacterEstimate {
    fn estimate(&self, request: &Req) -> u64 {
        self.estimate_parts(request).total()
    }

    fn estimate_parts(&self, request: &Req) -> TokenEstimate {
        let request: &dyn Any = request;
        let text = |text: &str| TokenEstimate::new((text.chars().count() as u64).div_ceil(4), DEFAULT_OUTPUT);
        if let Some(request) = request.downcast_ref::<LlmRequest<Prompt>>() {
            let prompt = request.input();
            let output = prompt.max_output_tokens().map_or(DEFAULT_OUTPUT, u64::from);
            TokenEstimate::new(prompt.characters().div_ceil(4), output)
        } else if let Some(request) = request.downcast_ref::<LlmRequest<String>>() {
            text(request.input())
        } else if let Some(request) = request.downcast_ref::<LlmRequest<&'static str>>() {
            text(request.input())
        } else {
            TokenEstimate::default()
        }
    }
}
