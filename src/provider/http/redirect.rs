//! Redirects that a call follows.

use http::header::LOCATION;
use reqwest::Url;

use crate::error::{Delivery, Disposition, ErrorKind, LlmError};

/// Returns the target of a redirect, if it stays on the host. The key never leaves for another one, and a POST never
/// becomes a GET.
pub(super) fn same_host_redirect(from: &Url, response: &reqwest::Response) -> Result<Option<Url>, LlmError> {
    let status = response.status();
    if !status.is_redirection() {
        return Ok(None);
    }
    let refuse = |what: &str| {
        let message = format!("{what}; set the base URL to where the server is");
        // Every call goes to this address.
        Err(LlmError::new(ErrorKind::InvalidRequest, message)
            .with_status(status.as_u16())
            .with_delivery(Delivery::Rejected)
            .with_disposition(Disposition::ScopeFatal))
    };
    let target = response
        .headers()
        .get(LOCATION)
        .and_then(|target| target.to_str().ok());
    let Some(target) = target.and_then(|target| from.join(target).ok()) else {
        return refuse("the server redirects to nowhere");
    };
    let host = target.host_str().unwrap_or_default();
    if !matches!(status.as_u16(), 307 | 308) {
        refuse(&format!(
            "the server redirects to {host}, and asks for a GET there"
        ))
    } else if from.origin() != target.origin() {
        refuse(&format!(
            "the server redirects to another place, {}://{host}",
            target.scheme()
        ))
    } else {
        Ok(Some(target))
    }
}
