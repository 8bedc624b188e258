//! The collected outcomes of a complete batch.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::summary::BatchSummary;
use crate::error::LlmError;
use crate::item::ItemId;
use crate::response::LlmResponse;

/// Every outcome of a batch, with its account: the result of [`into_result`](crate::LlmBatch::into_result).
///
/// ```
/// # fn example(result: llm_batch::batch::BatchResult) {
/// for (outcome, response) in result.successes() {
///     println!("{}: {}", outcome.id, response.output);
/// }
/// for (outcome, error) in result.failures() {
///     eprintln!("{}: {error}", outcome.id);
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchResult<R = LlmResponse, E = LlmError, C = ()> {
    /// The outcomes in the order of the input.
    pub outcomes: Vec<Outcome<R, E, C>>,
    /// The account of the batch.
    pub summary: BatchSummary,
}

impl<R, E, C> BatchResult<R, E, C> {
    /// The outcomes with an answer, each with its answer.
    pub fn successes(&self) -> impl Iterator<Item = (&Outcome<R, E, C>, &R)> {
        let answered = |outcome| Outcome::response(outcome).map(|response| (outcome, response));
        self.outcomes.iter().filter_map(answered)
    }

    /// The outcomes without an answer, each with its error.
    pub fn failures(&self) -> impl Iterator<Item = (&Outcome<R, E, C>, &E)> {
        let failed = |outcome| Outcome::error(outcome).map(|error| (outcome, error));
        self.outcomes.iter().filter_map(failed)
    }

    /// The outcomes by the text of their ids: `by_id()["q7"]`. Ids need not be unique: of equal ids the first item is kept.
    pub fn by_id(&self) -> HashMap<Cow<'_, str>, &Outcome<R, E, C>> {
        let mut by_id = HashMap::with_capacity(self.outcomes.len());
        for outcome in &self.outcomes {
            let id = match &outcome.id {
                ItemId::Index(index) => Cow::Owned(index.to_string()),
                ItemId::Text(text) => Cow::Borrowed(&**text),
            };
            by_id.entry(id).or_insert(outcome);
        }
        by_id
    }
}

impl<R, E, C> IntoIterator for BatchResult<R, E, C> {
    type Item = Outcome<R, E, C>;
    type IntoIter = std::vec::IntoIter<Outcome<R, E, C>>;

    /// The outcomes in the order of the input.
    fn into_iter(self) -> Self::IntoIter {
        self.outcomes.into_iter()
    }
}
