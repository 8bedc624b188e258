//! Usage that is not billed as text tokens.

/// The usage of a call that is not billed as text tokens: audio and image tokens, and calls of the provider's own tools.
///
/// In [`ResponseMetadata::extensions`](crate::ResponseMetadata::extensions) of an answer that used any. A price list of tokens
/// does not cover it, so the cost of such a call is unknown, unless the provider reports a cost itself.
///
/// ```
/// use llm_batch::LlmResponse;
/// use llm_batch::response::BilledApart;
///
/// fn searches(response: &LlmResponse) -> u64 {
///     let used = response.metadata.extensions.get::<BilledApart>();
///     used.map_or(0, |used| used.get("web_search_requests"))
/// }
/// # assert_eq!(searches(&LlmResponse::new(String::new())), 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BilledApart {
    counts: Vec<(String, u64)>,
}

impl BilledApart {
    /// The counts by the names of the provider's usage, none of them zero.
    pub fn counts(&self) -> &[(String, u64)] {
        &self.counts
    }

    /// The count of this name; zero if it was not used.
    pub fn get(&self, name: &str) -> u64 {
        let mut counts = self.counts.iter();
        counts
            .find(|(known, _)| known == name)
            .map_or(0, |(_, count)| *count)
    }

    /// Adds to the count of this name.
    #[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
    pub(crate) fn add(&mut self, name: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => self.counts.push((name.to_owned(), count)),
        }
    }

    /// Puts it into the metadata of an answer, unless it is empty, as for most answers.
    #[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
    pub(crate) fn note_in(self, metadata: &mut super::ResponseMetadata) {
        if !self.counts.is_empty() {
            metadata.extensions.insert(self);
        }
    }
}
