//! The key of a request in the cache.

use sha2::{Digest, Sha256};

use crate::prompt::Prompt;
use crate::request::LlmRequest;

/// The form in which a key is stored, whatever its length: its SHA-256. Two keys with the same digest cannot be found even on
/// purpose, so a prompt of a stranger cannot be made to collect another prompt's answer, and no secret has to be kept for that.
pub(super) type KeyDigest = [u8; 32];

pub(super) fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key).into()
}

/// Defines which requests are the same: those with equal keys. Closures implement it.
pub trait CacheKey<Req> {
    /// The key, or `None` for a request that is neither looked up nor stored. The cache keeps only a digest of it.
    ///
    /// Called once per request, under no lock. A panic fails that request alone.
    fn key(&self, request: &Req) -> Option<String>;
}

impl<Req, F: Fn(&Req) -> Option<String>> CacheKey<Req> for F {
    fn key(&self, request: &Req) -> Option<String> {
        self(request)
    }
}

/// The default [`CacheKey`]: all that the [`Prompt`] says, by [`prompt_key`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptKey;

impl CacheKey<LlmRequest> for PromptKey {
    fn key(&self, request: &LlmRequest) -> Option<String> {
        prompt_key(request.input())
    }
}

/// All that a prompt says, as canonical JSON: the fields of every object in order of their names. `None` if the prompt cannot be
/// written as JSON, which then is not cached.
///
/// ```
/// use llm_batch::Prompt;
/// use llm_batch::layer::cache::prompt_key;
///
/// let one = Prompt::new("hi").with_extra("a", 1).with_extra("b", 2);
/// let same = Prompt::new("hi").with_extra("b", 2).with_extra("a", 1);
/// assert_eq!(prompt_key(&one), prompt_key(&same));
/// assert_ne!(prompt_key(&one), prompt_key(&same.with_temperature(1.0)));
/// ```
pub fn prompt_key(prompt: &Prompt) -> Option<String> {
    let mut value = serde_json::to_value(prompt).ok()?;
    value.sort_all_objects();
    Some(value.to_string())
}
