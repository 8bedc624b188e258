//! The facts that the [table](super::table) reads.

use std::time::Duration;

use crate::error::ReportedQuota;
use crate::provider::wire::error_body::ErrorBody;
use crate::provider::wire::message;

/// Codes of a missing model or a wrong address. A body that is not JSON comes from a server that does not know the path.
const FOR_ALL_CODES: &[&str] = &[
    "model_not_found",
    "model_not_available",
    "unknown_model",
    "param_model",
    "unknown_url",
    "not_json",
];

/// Whole messages of servers that do not know the path. The file is that of llama.cpp, which looks for a web page.
const WRONG_ADDRESS: &[&str] = &[
    "",
    "404",
    "not found",
    "404 not found",
    "404 page not found",
    "page not found",
    "file not found",
    "resource not found",
    "the requested resource was not found",
];

/// Words of a message about a missing model or a wrong address.
const FOR_ALL: &[&str] = &[
    "model",
    "models",
    "deployment",
    "engine",
    "endpoint",
    "endpoints",
    "url",
    "route",
    "path",
    "method not found",
];

/// Words of a message about an object of one prompt, in which words about the model may stand as well: a gateway adds the
/// name of its model, a download the address.
const OF_ONE_PROMPT: &[&str] = &[
    "no such file",
    "file not found:",
    "file id",
    "file with id",
    "file_id",
    "access the file",
    "previous response",
    "response with id",
    "item with id",
    "conversation",
    "container",
    "vector store",
    "prompt with id",
    "image url",
    "image_url",
    "download",
    "fetch",
];

/// The known facts about a failed reply.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) status: u16,
    codes: &'a [String],
    text: String,
    /// The wait that the reply asks for.
    pub(crate) hint: Option<Duration>,
    /// The quotas that rate-limit headers reported.
    pub(crate) quota: ReportedQuota,
}

impl<'a> Facts<'a> {
    pub(super) fn new(
        status: u16,
        body: &'a ErrorBody,
        hint: Option<Duration>,
        quota: ReportedQuota,
    ) -> Self {
        Self {
            status,
            codes: &body.facts,
            text: message::normalised(&body.message),
            hint,
            quota,
        }
    }

    pub(crate) fn coded(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&code.as_str()))
    }

    /// Returns `true` if the message names a limit, and says that the request alone asks for more.
    pub(crate) fn asks_more_than_the_limit(&self) -> bool {
        message::asks_more_than_the_limit(&self.text)
    }

    /// Returns `true` if something that was named does not exist.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.status, 404 | 405 | 410)
            || self.coded(&["not_found_error"])
            || (self.status < 300 && self.coded(&["not_found"]))
    }

    /// Returns `true` if what is missing is the model, or the address that every call goes to, so that no call can
    /// succeed. A file, a response or a cache that one prompt refers to concerns that prompt alone.
    pub(super) fn is_missing_for_all(&self) -> bool {
        let words = self.text.trim_end_matches(['.', '!']);
        // The address knows no questions at all.
        let is_wrong = self.status == 405 || WRONG_ADDRESS.contains(&words);
        if self.coded(FOR_ALL_CODES) || is_wrong {
            return true;
        }
        !self.says(OF_ONE_PROMPT) && self.says(FOR_ALL)
    }

    pub(crate) fn says(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| message::says(&self.text, phrase))
    }
}
