//! Estimates of the tokens of a request.

use std::any::Any;

use super::LlmRequest;
use crate::prompt::Prompt;

/// Estimates the tokens of a request, input plus output.
///
/// A token quota reserves the estimate before the call and settles with the actual usage, so a rough estimate is
/// enough. Closures implement it.
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
    /// Returns the expected tokens of `request`.
    fn estimate(&self, request: &Req) -> u64;
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
        let request: &dyn Any = request;
        let text = |text: &str| (text.chars().count() as u64).div_ceil(4) + DEFAULT_OUTPUT;
        if let Some(request) = request.downcast_ref::<LlmRequest<Prompt>>() {
            let prompt = request.input();
            prompt.characters().div_ceil(4) + prompt.max_output_tokens().map_or(DEFAULT_OUTPUT, u64::from)
        } else if let Some(request) = request.downcast_ref::<LlmRequest<String>>() {
            text(request.input())
        } else if let Some(request) = request.downcast_ref::<LlmRequest<&'static str>>() {
            text(request.input())
        } else {
            0
        }
    }
}
