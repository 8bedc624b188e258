//! The key of a request in the cache.

use sha2::{Digest, Sha256};

use crate::prompt::Prompt;
use crate::request::LlmRequest;

/// The stored form of a key: its SHA-256. Collisions cannot be constructed, so an attacker's prompt cannot obtain the answer to
/// another prompt, and no secret is needed for that.
pub(super) type KeyDigest = [u8; 32];

pub(super) fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key).into()
}

/// Defines which requests are identical: those with equal keys. Closures implement it.
pub trait CacheKey<Req> {
    /// Returns the key, or `None` for a request that is neither looked up nor stored. The cache keeps only a digest of it.
    ///
    /// Called once per request, without a lock held. A panic fails only that request.
    fn key(&self, request: &Req) -> Option<String>;
}

impl<Req, F: Fn(&Req) -> Option<String>> CacheKey<Req> for F {
    fn key(&self, request: &Req) -> Option<String> {
        self(request)
    }
}

/// The default [`CacheKey`]: the whole [`Prompt`], by [`prompt_key`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptKey;

impl CacheKey<LlmRequest> for PromptKey {
    fn key(&self, request: &LlmRequest) -> Option<String> {
        prompt_key(request.input())
    }
}

/// Returns the whole prompt as canonical JSON: the fields of every object in order of their names. `None` if the prompt cannot be
/// written as JSON; it is then not cached.
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
