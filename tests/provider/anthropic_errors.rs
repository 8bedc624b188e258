//! Every failure that Anthropic sends, over the wire: status, headers and body in, the error's facts out.

use std::time::Duration;

use llm_batch::Delivery::{MaybeBilled, Rejected};
use llm_batch::Disposition::{self, Backoff, Fatal, ScopeFatal, Throttled};
use llm_batch::{Delivery, ErrorKind, LlmRequest, Prompt, TokenUsage};
use tower::ServiceExt;

use crate::anthropic::model;
use crate::server::{Reply, Server};

struct Row {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    /// The whole body, or `type|message|error_code` of one in Anthropic's shape.
    body: &'static str,
    kind: ErrorKind,
    disposition: Disposition,
    delivery: Delivery,
    /// Seconds.
    wait: Option<u64>,
}

const fn row(
    status: u16,
    body: &'static str,
    kind: ErrorKind,
    disposition: Disposition,
    delivery: Delivery,
) -> Row {
    Row {
        status,
        headers: &[],
        body,
        kind,
        disposition,
        delivery,
        wait: None,
    }
}

impl Row {
    const fn headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }

    const fn waits(mut self, seconds: u64) -> Self {
        self.wait = Some(seconds);
        self
    }

    fn body(&self) -> String {
        let mut parts = self.body.split('|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(kind), Some(message), code) => {
                let mut error = serde_json::json!({"type": kind, "message": message});
                if let Some(code) = code {
                    error["details"] = serde_json::json!({"error_code": code});
                }
                serde_json::json!({"type": "error", "error": error, "request_id": "req_1"}).to_string()
            }
            _ => self.body.to_owned(),
        }
    }
}

const LIMITED: &str =
    "rate_limit_error|This request would exceed your organization's rate limit. Please try again later.";
const NO_RETRY: &[(&str, &str)] = &[("x-should-retry", "false")];
const DATE: (&str, &str) = ("date", "Wed, 19 Aug 2026 14:34:00 GMT");

fn rows() -> Vec<Row> {
    use ErrorKind as K;
    vec![
        // Rate limits, and what they say of the wait.
        row(429, LIMITED, K::RateLimit, Throttled, Rejected).headers(&[("retry-after", "7")]).waits(7),
        row(429, LIMITED, K::RateLimit, Throttled, Rejected)
            .headers(&[DATE, ("retry-after", "7"), ("anthropic-ratelimit-requests-remaining", "0"), ("anthropic-ratelimit-requests-reset", "2026-08-19T14:34:30Z")])
            .waits(7),
        row(429, LIMITED, K::RateLimit, Throttled, Rejected)
            .headers(&[DATE, ("anthropic-ratelimit-requests-remaining", "0"), ("anthropic-ratelimit-requests-reset", "2026-08-19T14:34:30Z")])
            .waits(30),
        row(429, LIMITED, K::RateLimit, Throttled, Rejected)
            .headers(&[
                DATE,
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-08-19T14:34:10Z"),
                ("anthropic-ratelimit-tokens-remaining", "500"),
                ("anthropic-ratelimit-tokens-reset", "2026-08-19T14:35:00Z"),
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-08-19T14:34:20Z"),
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-08-19T14:34:40Z"),
            ])
            .waits(40),
        row(429, LIMITED, K::RateLimit, Throttled, Rejected)
            .headers(&[
                DATE,
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-08-19T14:34:50Z"),
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-08-19T14:34:40Z"),
            ])
            .waits(50),
        row(429, "rate_limit_error|Your usage grows too fast.|ramp_limit_exceeded", K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "12")])
            .waits(12),
        row(429, "rate_limit_error|Your usage grows too fast.|ramp_limit_exceeded", K::RateLimit, Throttled, Rejected),
        row(429, "rate_limit_error|Number of concurrent connections has exceeded your rate limit.", K::RateLimit, Throttled, Rejected),
        // Another server's, which is not bound to tell the wait.
        row(429, "", K::RateLimit, Throttled, Rejected),
        row(429, r#"{"error":{"message":"slow down","type":"rate_limit_exceeded"}}"#, K::RateLimit, Throttled, Rejected),
        row(429, LIMITED, K::RateLimit, Fatal, Rejected).headers(&[("retry-after", "7"), ("x-should-retry", "false")]).waits(7),
        // Spend limits among the rate limits.
        row(429, "rate_limit_error|You have reached your API usage limits.|enforced_spend_limit_reached", K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, "rate_limit_error|The contract's limit is reached.|contract_spend_limit_reached", K::InsufficientBalance, ScopeFatal, Rejected),
        // A gateway's, which need not say how long to wait.
        row(429, LIMITED, K::RateLimit, Throttled, Rejected),
        // Money among the mistakes.
        row(400, "invalid_request_error|Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.", K::InsufficientBalance, ScopeFatal, Rejected).headers(NO_RETRY),
        row(400, "invalid_request_error|You have reached your specified API usage limits. You will regain access on 2026-09-01 at 00:00 UTC.", K::InsufficientBalance, ScopeFatal, Rejected),
        row(400, "invalid_request_error|You have reached your specified workspace API usage limits.", K::InsufficientBalance, ScopeFatal, Rejected),
        row(400, "invalid_request_error|The spend limit you set was reached.", K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, "billing_error|Payment required.", K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, "invalid_request_error|The linked organization has no plan.|linked_organization_unpaid", K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, "", K::InsufficientBalance, ScopeFatal, Rejected),
        // Keys and what they may do.
        row(401, "authentication_error|invalid x-api-key", K::Authentication, ScopeFatal, Rejected).headers(NO_RETRY),
        row(401, "", K::Authentication, ScopeFatal, Rejected),
        row(400, "invalid_request_error|This organization has been disabled.|organization_on_hold", K::Authentication, ScopeFatal, Rejected),
        row(403, "permission_error|Your key may not use this resource.", K::PermissionDenied, Fatal, Rejected),
        row(404, "not_found_error|model: claude-nonexistent", K::NotFound, ScopeFatal, Rejected),
        row(404, "not_found_error|Not Found", K::NotFound, ScopeFatal, Rejected),
        // Objects of one prompt.
        row(404, "not_found_error|File not found: file_011CNha8iCJcU1wXNR6q4V8w", K::InvalidRequest, Fatal, Rejected),
        row(404, "not_found_error|Container not found: container_1", K::InvalidRequest, Fatal, Rejected),
        row(404, "invalid_request_error|File not found: file_011CNha8iCJcU1wXNR6q4V8w", K::InvalidRequest, Fatal, Rejected),
        row(400, "invalid_request_error|messages.0.content.0.document.source.file_id: invalid file id", K::InvalidRequest, Fatal, Rejected),
        row(200, "not_found_error|File not found: file_011CNha8iCJcU1wXNR6q4V8w", K::InvalidRequest, Fatal, Rejected),
        // Requests.
        row(400, "invalid_request_error|prompt is too long: 3333404 tokens > 200000 maximum", K::ContextLength, Fatal, Rejected).headers(NO_RETRY),
        row(400, "invalid_request_error|input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000", K::ContextLength, Fatal, Rejected),
        row(400, "exceed_context_size_error|request (2009 tokens) exceeds the available context size (512 tokens)", K::ContextLength, Fatal, Rejected),
        row(400, "invalid_request_error|Output blocked by content filtering policy", K::ContentFilter, Fatal, Rejected),
        row(400, "invalid_request_error|temperature: range: 0..1", K::InvalidRequest, Fatal, Rejected),
        row(413, "request_too_large|Request exceeds the maximum size", K::InvalidRequest, Fatal, Rejected),
        row(413, "invalid_request_error|Too large|request_body_too_large_after_decoding", K::InvalidRequest, Fatal, Rejected),
        row(413, "<html><title>413 Request Entity Too Large</title>", K::InvalidRequest, Fatal, Rejected),
        row(409, "conflict_error|Try again", K::Conflict, Backoff, Rejected),
        // Servers.
        row(500, "api_error|Internal server error", K::ServerError, Backoff, Rejected),
        row(502, "", K::ServerError, Backoff, MaybeBilled),
        row(503, "", K::Overloaded, Backoff, Rejected),
        row(504, "timeout_error|The request took too long", K::Timeout, Backoff, MaybeBilled),
        row(529, "overloaded_error|Overloaded", K::Overloaded, Backoff, Rejected),
        row(529, "overloaded_error|Overloaded", K::Overloaded, Backoff, Rejected).headers(&[("retry-after", "4"), ("x-should-retry", "true")]).waits(4),
        row(529, "", K::Overloaded, Backoff, Rejected),
        row(529, "overloaded_error|Overloaded", K::Overloaded, Fatal, Rejected).headers(NO_RETRY),
        row(400, "invalid_request_error|Something passing", K::InvalidRequest, Backoff, Rejected).headers(&[("x-should-retry", "true")]),
        // Errors inside a success.
        row(200, "overloaded_error|Overloaded", K::Overloaded, Backoff, Rejected),
        row(200, "rate_limit_error|slow", K::RateLimit, Throttled, Rejected),
        row(200, "rate_limit_error|capped|enforced_spend_limit_reached", K::InsufficientBalance, ScopeFatal, Rejected),
        row(200, "invalid_request_error|Your credit balance is too low", K::InsufficientBalance, ScopeFatal, Rejected),
        row(200, "invalid_request_error|prompt is too long: 9 tokens > 8 maximum", K::ContextLength, Fatal, Rejected),
        // On a success the header says nothing of the failure inside.
        row(200, "overloaded_error|Overloaded", K::Overloaded, Backoff, Rejected).headers(&[("retry-after", "61")]),
        row(200, "invalid_request_error|no such field", K::InvalidRequest, Fatal, Rejected),
        row(200, "request_too_large|big", K::InvalidRequest, Fatal, Rejected),
        row(200, "authentication_error|who", K::Authentication, ScopeFatal, Rejected),
        row(200, "permission_error|no", K::PermissionDenied, Fatal, Rejected),
        row(200, "not_found_error|model", K::NotFound, ScopeFatal, Rejected),
        row(200, "conflict_error|again", K::Conflict, Backoff, Rejected),
        row(200, "billing_error|pay", K::InsufficientBalance, ScopeFatal, Rejected),
        row(200, "timeout_error|slow", K::Timeout, Backoff, MaybeBilled),
        row(200, "api_error|died", K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"type":"error"}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"error":"something went wrong"}"#, K::ServerError, Backoff, MaybeBilled),
        // Successes that are none.
        row(200, "", K::ServerError, Backoff, MaybeBilled),
        row(200, "<html><title>Log in</title></html>", K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"content":[{"type":"text","text":"cut"#, K::ServerError, Backoff, MaybeBilled),
        row(200, "[]", K::ServerError, Backoff, MaybeBilled),
        row(200, "{}", K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"choices":[]}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", K::ServerError, Backoff, MaybeBilled),
    ]
}

#[tokio::test]
async fn every_row_is_classified() {
    let server = Server::start(|request| {
        let number: usize = request.json()["messages"][0]["content"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let row = &rows()[number];
        Reply::new(row.status, row.headers, row.body())
    })
    .await;
    let model = model(&server);
    for (number, row) in rows().iter().enumerate() {
        let request = LlmRequest::new(Prompt::new(number.to_string()));
        let item = std::sync::Arc::clone(request.item());
        let error = model.clone().oneshot(request).await.unwrap_err();
        let case = format!("{} {:?} {}: {error}", row.status, row.headers, row.body);
        assert_eq!(error.kind(), row.kind, "{case}");
        assert_eq!(error.disposition(), row.disposition, "{case}");
        assert_eq!(error.retry_after(), row.wait.map(Duration::from_secs), "{case}");
        assert_eq!(error.delivery(), row.delivery, "{case}");
        assert!(error.status().is_some(), "{case}");
        assert!(!error.message().is_empty(), "{case}");
        let unknown = row.delivery == MaybeBilled;
        assert_eq!(
            error.usage(),
            if unknown { None } else { Some(TokenUsage::ZERO) },
            "{case}"
        );
        let report = item.report();
        assert_eq!(
            (report.calls, report.unknown_usage_calls),
            (1, u32::from(unknown)),
            "{case}"
        );
        assert_eq!(
            report.throttled_calls,
            u32::from(row.disposition == Throttled),
            "{case}"
        );
    }
}

#[tokio::test]
async fn the_code_that_tells_most_is_told() {
    let ask = async |body: &'static str| {
        let server = Server::start(move |_| Reply::new(429, &[("retry-after", "1")], body)).await;
        model(&server)
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap_err()
    };
    let error = ask(r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"ramp_limit_exceeded"}}}"#).await;
    assert_eq!(error.code(), Some("ramp_limit_exceeded"));
    let error =
        ask(r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":null}}"#).await;
    assert_eq!(error.code(), Some("rate_limit_error"));
    assert_eq!(error.message(), "m");
}
