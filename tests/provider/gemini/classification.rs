//! Every row of the classification, over the wire: status, headers and body in, the error's facts out.

use llm_batch::Delivery::{MaybeBilled, Rejected};
use llm_batch::Disposition::{self, Backoff, Fatal, ScopeFatal, Throttled};
use llm_batch::{Delivery, ErrorKind, LlmRequest, Message, Part, Prompt, QuotaDimension, Role, TokenUsage};
use serde_json::json;
use tower::ServiceExt;

use super::{ask, model};
use crate::server::{Reply, Server};

struct Row {
    status: u16,
    body: &'static str,
    kind: ErrorKind,
    disposition: Disposition,
    delivery: Delivery,
    /// In milliseconds.
    wait: Option<u64>,
    headers: &'static [(&'static str, &'static str)],
}

const fn row(
    status: u16,
    body: &'static str,
    kind: ErrorKind,
    disposition: Disposition,
    delivery: Delivery,
    wait: Option<u64>,
) -> Row {
    Row {
        status,
        body,
        kind,
        disposition,
        delivery,
        wait,
        headers: &[],
    }
}

impl Row {
    const fn headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }
}

/// A refusal for a quota of input tokens per minute, with a wait.
const TOKENS_PER_MINUTE: &str = r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count, limit: 1000000, model: gemini-2.5-flash\nPlease retry in 48.939935699s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.Help","links":[]},{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count","quotaId":"GenerateContentPaidTierInputTokensPerModelPerMinute","quotaDimensions":{"model":"gemini-2.5-flash"},"quotaValue":"1000000"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"48s"}]}}"#;

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use ErrorKind as K;
    vec![
        // Rate limits: RetryInfo, then the message, then a minute where the quota is one per minute.
        row(429, TOKENS_PER_MINUTE, K::RateLimit, Throttled, Rejected, Some(48_000)),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.074824224s"}]}}"#, K::RateLimit, Throttled, Rejected, Some(34_074)),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"900ms"}]}}"#, K::RateLimit, Throttled, Rejected, Some(900)),
        row(429, r#"{"error":{"code":429,"message":"Quota exceeded. Please retry in 12.5s.","status":"RESOURCE_EXHAUSTED"}}"#, K::RateLimit, Throttled, Rejected, Some(12_500)),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel","quotaValue":"15"}]}]}}"#, K::RateLimit, Throttled, Rejected, Some(60_000)),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"48s"}]}}"#, K::RateLimit, Throttled, Rejected, Some(7_000)).headers(&[("retry-after", "7")]),
        row(429, r#"{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED"}}"#, K::RateLimit, Throttled, Rejected, None),
        row(429, r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED"}}"#, K::RateLimit, Throttled, Rejected, None),
        row(429, r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"RequestsPerMinute"}]}]}}]"#, K::RateLimit, Throttled, Rejected, Some(60_000)),
        row(429, "", K::RateLimit, Throttled, Rejected, None),
        // Quotas that no wait within a run cures. Those of a day begin anew at midnight in California.
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"250"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"48s"}]}}"#, K::QuotaExhausted, ScopeFatal, Rejected, Some(2 * 3_600_000)).headers(&[("date", "Sun, 22 Nov 2026 06:00:00 GMT")]),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"0"}]}]}}"#, K::QuotaExhausted, ScopeFatal, Rejected, None),
        row(429, r#"{"error":{"code":429,"message":"Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-2.5-pro\nPlease retry in 41s.","status":"RESOURCE_EXHAUSTED"}}"#, K::QuotaExhausted, ScopeFatal, Rejected, Some(41_000)),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3600s"}]}}"#, K::QuotaExhausted, ScopeFatal, Rejected, Some(3_600_000)),
        // Money.
        row(429, r#"{"error":{"code":429,"message":"Your prepayment credits are depleted.","status":"RESOURCE_EXHAUSTED"}}"#, K::InsufficientBalance, ScopeFatal, Rejected, None),
        row(429, r#"{"error":{"code":429,"message":"Your project has exceeded its monthly spending cap.","status":"RESOURCE_EXHAUSTED"}}"#, K::InsufficientBalance, ScopeFatal, Rejected, None),
        row(429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"INSUFFICIENT_G1_CREDITS_BALANCE"}]}}"#, K::InsufficientBalance, ScopeFatal, Rejected, None),
        row(400, r#"{"error":{"code":400,"message":"Gemini API free tier is not available in your country. Please enable billing on your project.","status":"FAILED_PRECONDITION"}}"#, K::InsufficientBalance, ScopeFatal, Rejected, None),
        row(403, r#"{"error":{"code":403,"message":"This API method requires billing to be enabled.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"BILLING_DISABLED"}]}}"#, K::InsufficientBalance, ScopeFatal, Rejected, None),
        row(402, "", K::InsufficientBalance, ScopeFatal, Rejected, None),
        // Keys and permissions.
        row(400, r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"},{"@type":"type.googleapis.com/google.rpc.LocalizedMessage","locale":"en-US","message":"API key not valid."}]}}"#, K::Authentication, ScopeFatal, Rejected, None),
        row(400, r#"{"error":{"code":400,"message":"API key expired. Please renew the API key.","status":"INVALID_ARGUMENT"}}"#, K::Authentication, ScopeFatal, Rejected, None),
        row(401, r#"{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}"#, K::Authentication, ScopeFatal, Rejected, None),
        row(400, r#"{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}"#, K::PermissionDenied, Fatal, Rejected, None),
        row(403, r#"{"error":{"code":403,"message":"Requests to this API are blocked.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_SERVICE_BLOCKED"}]}}"#, K::PermissionDenied, Fatal, Rejected, None),
        row(403, r#"{"error":{"code":403,"message":"Consumer has been suspended.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"CONSUMER_SUSPENDED"}]}}"#, K::PermissionDenied, Fatal, Rejected, None),
        row(403, "<html><head><title>Error 403 (Forbidden)</title>", K::PermissionDenied, Fatal, Rejected, None),
        // What is not there.
        row(404, r#"{"error":{"code":404,"message":"models/gemini-3.6-flahs is not found for API version v1beta, or is not supported for generateContent.","status":"NOT_FOUND"}}"#, K::NotFound, ScopeFatal, Rejected, None),
        row(403, r#"{"error":{"code":403,"message":"CachedContent not found (or permission denied)","status":"PERMISSION_DENIED"}}"#, K::CacheMissing, Backoff, Rejected, None),
        row(404, r#"{"error":{"code":404,"message":"Cached content not found: cachedContents/x","status":"NOT_FOUND"}}"#, K::CacheMissing, Backoff, Rejected, None),
        row(404, r#"{"error":{"code":404,"message":"models/gemini-2.5-flash-image is not found for API version v1, or is not supported for generateContent.","status":"NOT_FOUND"}}"#, K::NotFound, ScopeFatal, Rejected, None),
        row(404, r#"{"error":{"code":404,"message":"Publisher Model `projects/p/models/m` was not found or your project does not have access to it.","status":"NOT_FOUND"}}"#, K::NotFound, ScopeFatal, Rejected, None),
        row(404, r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND"}}"#, K::NotFound, ScopeFatal, Rejected, None),
        row(404, "<html><title>Error 404 (Not Found)!!1</title>", K::NotFound, ScopeFatal, Rejected, None),
        row(403, r#"{"error":{"code":403,"message":"You do not have permission to access the File abc or it may not exist.","status":"PERMISSION_DENIED"}}"#, K::InvalidRequest, Fatal, Rejected, None),
        row(400, r#"{"error":{"code":400,"message":"Invalid file URI: files/abc","status":"INVALID_ARGUMENT"}}"#, K::InvalidRequest, Fatal, Rejected, None),
        row(404, r#"{"error":{"code":404,"message":"File files/abc not found.","status":"NOT_FOUND"}}"#, K::InvalidRequest, Fatal, Rejected, None),
        // Requests.
        row(400, r#"{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}"#, K::ContextLength, Fatal, Rejected, None),
        row(400, r#"{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"x\": Cannot find field.","status":"INVALID_ARGUMENT"}}"#, K::InvalidRequest, Fatal, Rejected, None),
        row(413, "", K::InvalidRequest, Fatal, Rejected, None),
        // The provider.
        row(499, r#"{"error":{"code":499,"message":"The operation was cancelled.","status":"CANCELLED"}}"#, K::Timeout, Backoff, MaybeBilled, None),
        row(500, r#"{"error":{"code":500,"message":"An internal error has occurred.","status":"INTERNAL"}}"#, K::ServerError, Backoff, Rejected, None),
        row(502, "<html><title>502</title>", K::ServerError, Backoff, MaybeBilled, None),
        row(503, r#"{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}"#, K::Overloaded, Backoff, Rejected, None),
        row(503, r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"4s"}]}}"#, K::Overloaded, Backoff, Rejected, Some(4_000)),
        row(504, r#"{"error":{"code":504,"message":"The request timed out.","status":"DEADLINE_EXCEEDED"}}"#, K::Timeout, Backoff, MaybeBilled, None),
        // Errors inside a success.
        row(200, r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#, K::Overloaded, Backoff, Rejected, None),
        row(200, r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"2s"}]}}]"#, K::RateLimit, Throttled, Rejected, Some(2_000)),
        row(200, r#"{"error":{"code":500,"message":"x","status":"INTERNAL"}}"#, K::ServerError, Backoff, MaybeBilled, None),
    ]
}

#[tokio::test]
async fn every_row_is_classified() {
    let server = Server::start(|request| {
        let number = request.json()["contents"][0]["parts"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned();
        let Row {
            status,
            headers,
            body,
            ..
        } = rows()[number.parse::<usize>().unwrap()];
        Reply::new(status, headers, body)
    })
    .await;
    let model = model(&server);
    for (number, row) in rows().iter().enumerate() {
        let request = LlmRequest::new(Prompt::new(number.to_string()));
        let item = std::sync::Arc::clone(request.item());
        let error = model.clone().oneshot(request).await.unwrap_err();
        let case = format!("{} {}: {error}", row.status, row.body);
        assert_eq!(error.kind(), row.kind, "{case}");
        assert_eq!(error.disposition(), row.disposition, "{case}");
        let wait = error.retry_after().map(|wait| wait.as_millis() as u64);
        assert_eq!(wait, row.wait, "{case}");
        assert_eq!(error.delivery(), row.delivery, "{case}");
        assert!(error.status().is_some(), "{case}");
        assert!(!error.message().is_empty(), "{case}");
        let unknown = row.delivery == MaybeBilled;
        let usage = if unknown { None } else { Some(TokenUsage::ZERO) };
        assert_eq!(error.usage(), usage, "{case}");
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

/// Google's words for what is missing name nothing. Where the question refers to nothing but its model, it is the model.
#[tokio::test]
async fn a_missing_entity_is_that_of_the_question_if_it_names_one() {
    const MISSING: &str =
        r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND"}}"#;
    let server = Server::start(|_| Reply::new(404, &[], MISSING)).await;
    let file = json!({"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1/files/abc"}});
    let raw = json!({"contents": [{"parts": [file]}]});
    let of_part = |part| Prompt::new("x").with_message(Message::new(Role::User, vec![part]));
    for prompt in [
        Prompt::new("x").with_extra("cachedContent", "cachedContents/abc"),
        of_part(Part::json(file.clone())),
        of_part(Part::image("gs://bucket/image.png")),
        Prompt::raw(raw.as_object().unwrap().clone()),
    ] {
        let error = ask(&model(&server), prompt).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (ErrorKind::InvalidRequest, Fatal)
        );
    }
    let inline = of_part(Part::image("data:image/png;base64,aW1n"));
    for prompt in [inline, Prompt::new("x")] {
        let error = ask(&model(&server), prompt).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (ErrorKind::NotFound, ScopeFatal)
        );
    }
}

#[tokio::test]
async fn the_quota_is_told() {
    let server = Server::start(|_| Reply::new(429, &[], TOKENS_PER_MINUTE)).await;
    let error = ask(&model(&server), "x").await.unwrap_err();
    let quota = error.quota().unwrap();
    assert_eq!(quota.dimension, Some(QuotaDimension::Tokens));
    assert_eq!(
        (quota.tokens.limit, quota.requests.limit),
        (Some(1_000_000), None)
    );
    let body = r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProject","quotaValue":15}]}]}}"#;
    let server = Server::start(move |_| Reply::new(429, &[], body)).await;
    let error = ask(&model(&server), "x").await.unwrap_err();
    let quota = error.quota().unwrap();
    assert_eq!(
        (quota.dimension, quota.requests.limit),
        (Some(QuotaDimension::Requests), Some(15))
    );
}

/// A prompt of this many words of four letters.
fn words(count: usize) -> Prompt {
    Prompt::new("word ".repeat(count))
}

async fn limited(limit: u64) -> Server {
    let body = TOKENS_PER_MINUTE
        .replace("\"1000000\"", &format!("\"{limit}\""))
        .replace("\"48s\"", "\"2ms\"");
    Server::start(move |_| Reply::new(429, &[], &body)).await
}

#[tokio::test]
async fn a_prompt_that_must_exceed_the_quota_of_a_minute_is_not_repeated() {
    let server = limited(100).await;
    let model = model(&server);
    // 1,000 characters for 100 tokens: no text has as many a token.
    let error = ask(&model, words(200)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.disposition()),
        (ErrorKind::InvalidRequest, Fatal)
    );
    assert_eq!(
        (error.status(), error.code()),
        (Some(429), Some("RESOURCE_EXHAUSTED"))
    );
    assert_eq!(
        (error.retry_after(), error.usage()),
        (None, Some(TokenUsage::ZERO))
    );
    assert!(
        error.to_string().contains("100 input tokens per minute"),
        "{error}"
    );
    // The defaults' system text is part of the prompt.
    let with_system = model
        .clone()
        .with_defaults(Prompt::default().with_system("word ".repeat(200)));
    assert_eq!(
        ask(&with_system, "x").await.unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    // White space is no text, nor are the bytes of an image.
    let blank = Prompt::new(" \n".repeat(5_000)).with_message(llm_batch::Message::new(
        llm_batch::Role::User,
        vec![llm_batch::Part::json(
            serde_json::json!({"inlineData": {"mimeType": "image/png", "data": "A".repeat(10_000)}}),
        )],
    ));
    assert_eq!(ask(&model, blank).await.unwrap_err().kind(), ErrorKind::RateLimit);
}

#[tokio::test]
async fn one_that_probably_does_is_repeated_once() {
    use llm_batch::{RetryLayer, RetryPolicy};
    use tower::Layer;
    let server = limited(100).await;
    let strategy = RetryLayer::new(RetryPolicy::new(3)).layer(model(&server));
    // 600 characters for 100 tokens.
    let request = LlmRequest::new(words(120));
    let item = std::sync::Arc::clone(request.item());
    let error = strategy.clone().oneshot(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!((item.report().calls, item.report().throttled_calls), (2, 1));

    // What may fit is throttled as often as its budget allows.
    let request = LlmRequest::new(words(90));
    let item = std::sync::Arc::clone(request.item());
    let error = strategy.oneshot(request).await.unwrap_err();
    assert_eq!((error.kind(), item.report().calls), (ErrorKind::RateLimit, 21));
}
