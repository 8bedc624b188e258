//! Every row of the classification, over the wire: status, headers and body in, the error's facts out.

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::Delivery::{MaybeBilled, Rejected};
use llm_batch::Disposition::{self, Backoff, Fatal, RetryNow, ScopeFatal, Throttled};
use llm_batch::{
    Delivery, ErrorKind, LlmError, LlmRequest, LlmStreamExt, Prompt, QuotaDimension, RateLimiter,
    RateLimiterLayer, TokenUsage,
};
use tower::{ServiceBuilder, ServiceExt};

use crate::server::{Reply, Server};

struct Row {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    kind: ErrorKind,
    disposition: Disposition,
    wait: Option<u64>,
    delivery: Delivery,
}

/// A row without headers or a wait.
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
        wait: None,
        delivery,
    }
}

impl Row {
    const fn headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }

    /// The wait, in milliseconds.
    const fn waits(mut self, milliseconds: u64) -> Self {
        self.wait = Some(milliseconds);
        self
    }
}

const RATE_LIMIT: &str = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 26.604s. Visit https://platform.openai.com/account/rate-limits to learn more. You can increase your rate limit by adding a payment method.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
const BARE_RATE_LIMIT: &str = r#"{"error":{"message":"Rate limit reached on tokens per min (TPM)","type":"tokens","code":"rate_limit_exceeded"}}"#;

fn rows() -> Vec<Row> {
    use ErrorKind as K;
    vec![
        // Rate limits and their hints, in order.
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected).waits(26_604),
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected).headers(&[("retry-after", "7")]).waits(7_000),
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after-ms", "174"), ("retry-after", "7")])
            .waits(174),
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "Sat, 21 Nov 2026 10:00:30 GMT"), ("date", "Sat, 21 Nov 2026 10:00:00 GMT")])
            .waits(30_000),
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected).headers(&[("retry-after", "-1")]).waits(26_604),
        row(429, RATE_LIMIT, K::RateLimit, Throttled, Rejected).headers(&[("retry-after", "NaN")]).waits(26_604),
        row(429, BARE_RATE_LIMIT, K::RateLimit, Throttled, Rejected)
            .headers(&[("x-ratelimit-reset-requests", "17ms"), ("x-ratelimit-reset-tokens", "6m0s")])
            .waits(360_000),
        row(429, r#"{"error":{"message":"Too fast","type":"requests","code":"rate_limit_exceeded"}}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("x-ratelimit-reset-requests", "17ms"), ("x-ratelimit-reset-tokens", "6m0s")])
            .waits(17),
        row(429, "", K::RateLimit, Throttled, Rejected)
            .headers(&[
                ("x-ratelimit-remaining-requests", "5"),
                ("x-ratelimit-reset-requests", "1ms"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1m"),
            ])
            .waits(60_000),
        row(429, "", K::RateLimit, Throttled, Rejected),
        row(429, "<html><title>429 Too Many Requests</title></html>", K::RateLimit, Throttled, Rejected),
        // Google's compatible endpoint: a list of one.
        row(429, r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProject"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"}]}}]"#, K::RateLimit, Throttled, Rejected).waits(34_400),
        row(429, r#"{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"48s"}]}}"#, K::QuotaExhausted, ScopeFatal, Rejected).waits(48_000),
        row(429, r#"{"error":{"code":429,"message":"Quota exceeded for metric x, limit: 0, model: y","status":"RESOURCE_EXHAUSTED"}}"#, K::QuotaExhausted, ScopeFatal, Rejected),
        // OpenRouter and its upstreams.
        row(429, r#"{"error":{"code":429,"message":"Provider returned error","metadata":{"provider_name":"G","raw":"temporarily rate-limited upstream. Please retry shortly"}}}"#, K::RateLimit, Throttled, Rejected),
        row(429, r#"{"error":{"code":429,"message":"busy","availability":{"retryable":false}}}"#, K::RateLimit, Fatal, Rejected),
        row(429, r#"{"error":{"code":429,"message":"busy","availability":{"retryable":true,"retry_after":2}}}"#, K::RateLimit, Throttled, Rejected).waits(2_000),
        row(429, r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-min.","metadata":{"error_type":"rate_limit_exceeded"}},"user_id":"u"}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "9"), ("x-ratelimit-limit", "20"), ("x-ratelimit-remaining", "0")])
            .waits(9_000),
        row(429, r#"{"error":{"code":429,"message":"busy","availability":{"code":"model_busy","retryable":true,"retry_after":2}}}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "5")])
            .waits(5_000),
        row(503, r#"{"error":{"code":503,"message":"No provider meets the routing","availability":{"code":"model_down","retryable":false,"fallback_models":["x"]}}}"#, K::Overloaded, Fatal, Rejected),
        // DeepSeek, Groq, Mistral, Azure.
        row(429, r#"{"error":{"message":"Too many concurrent requests for this account","type":"rate_limit_error","param":null,"code":"rate_limit_reached"}}"#, K::RateLimit, Throttled, Rejected),
        row(429, r#"{"error":{"message":"Rate limit reached for model `m` in organization `o` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Used 11900, Requested 300. Please try again in 1s.","type":"tokens","code":"rate_limit_exceeded"}}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "1"), ("x-ratelimit-reset-tokens", "26ms")])
            .waits(1_000),
        row(429, r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300","raw_status_code":429}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("ratelimitbysize-remaining", "0"), ("ratelimitbysize-reset", "12")])
            .waits(12_000),
        row(429, r#"{"message":"Requests rate limit exceeded"}"#, K::RateLimit, Throttled, Rejected),
        row(429, r#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 24 seconds."}}"#, K::RateLimit, Throttled, Rejected).waits(24_000),
        // LiteLLM: a mock limit without a hint, a key's own with one, and a group that is all in cooldown.
        row(429, r#"{"error":{"message":"litellm.RateLimitError: this is a mock rate limit error","type":"throttling_error","param":null,"code":"429"}}"#, K::RateLimit, Throttled, Rejected),
        row(429, r#"{"error":{"message":"Rate limit exceeded for api_key. Limit type: requests. Current limit: 1, Remaining: 0.","type":"None","param":"None","code":"429"}}"#, K::RateLimit, Throttled, Rejected)
            .headers(&[("retry-after", "60")])
            .waits(60_000),
        row(429, r#"{"error":{"message":"No deployments available for selected model, Try again in 5 seconds. Passed model=m.","type":"None","param":"None","code":"429"}}"#, K::RateLimit, Throttled, Rejected).waits(5_000),
        // Limits that no wait cures.
        row(429, r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31538.","type":"tokens","code":"rate_limit_exceeded"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(413, r#"{"error":{"message":"Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 9120, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(200, r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31538.","type":"tokens","code":"rate_limit_exceeded"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(429, r#"{"error":{"message":"Limit 30000, Used 0, Requested 31538. Please try again in 3s","type":"tokens","code":"rate_limit_exceeded"}}"#, K::InvalidRequest, Fatal, Rejected).waits(3_000),
        row(429, r#"{"error":{"message":"Limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","type":"requests","code":"rate_limit_exceeded"}}"#, K::QuotaExhausted, ScopeFatal, Rejected).waits(432_000),
        row(429, r#"{"error":{"message":"Limit reached on requests per day (RPD): Limit 10000, Used 10000, Requested 1. Please try again in 8.64s.","type":"requests","code":"rate_limit_exceeded"}}"#, K::RateLimit, Throttled, Rejected).waits(8_640),
        // Money.
        row(429, r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"error":{"message":"You exceeded your current quota, please check your plan."}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"error":{"message":"Billing hard limit has been reached"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, r#"{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, r#"{"error":{"message":"You requested up to 65536 tokens, but can only afford 30104","code":402}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(400, r#"{"error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"error":{"message":"Your account is not active, please check your billing details.","type":"billing_not_active","param":null,"code":"billing_not_active"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, r#"{"error":{"code":402,"message":"Insufficient credits. Add more.","metadata":{"error_type":"payment_required"}}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"code":"Some resource has been exhausted","error":"Your team t has either used all available credits or reached its monthly spending limit."}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(403, r#"{"code":"The caller does not have permission to execute the specified operation","error":"Your newly created team doesn't have any credits or licenses yet."}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(403, r#"{"code":"permission-denied","error":"You have run out of credits or need a subscription."}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(400, r#"{"error":{"message":"Budget has been exceeded! Current cost: 26.1, Max budget: 0.25","type":"budget_exceeded","param":null,"code":"400"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"error":{"message":"LiteLLM User: u, exceeded budget for model=m","type":"None","param":null,"code":"429"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(429, r#"{"error":{"message":"You exceeded your current token quota: 0, please check your account balance","type":"exceeded_current_quota_error"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(400, r#"{"error":{"message":"Access denied, please make sure your account is in good standing.","type":"Arrearage","code":"Arrearage"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(412, r#"{"error":{"message":"Account xyz is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.","type":"error","code":"PRECONDITION_FAILED"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(403, r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 02:13:05."}"#, K::QuotaExhausted, ScopeFatal, Rejected).waits(7_985_000),
        row(403, r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:00:42."}"#, K::RateLimit, Throttled, Rejected).waits(42_000),
        row(429, r#"{"error":{"message":"Limit 7000, Used 0, Requested ~12903.","type":"tokens","code":"rate_limit_exceeded"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(429, r#"{"error":{"message":"You have reached the monthly limit of your plan."}}"#, K::QuotaExhausted, ScopeFatal, Rejected),
        // Keys and permissions.
        row(401, r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"error":{"message":"Missing Authentication header","code":401}}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"error":{"message":"Authentication Fails, Your api key: ****-key is invalid","type":"authentication_error","param":null,"code":"invalid_request_error"}}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"error":{"message":"Authentication Error, Invalid proxy server token passed","type":"auth_error","param":"None","code":"401"}}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"detail":"Invalid API Key"}"#, K::Authentication, ScopeFatal, Rejected),
        row(401, r#"{"error":{"code":401,"message":"Rate limit? No: no key."}}"#, K::Authentication, ScopeFatal, Rejected),
        row(400, r#"{"code":"invalid-argument","error":"Incorrect API key provided: xx. You can obtain one."}"#, K::Authentication, ScopeFatal, Rejected),
        row(400, r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#, K::Authentication, ScopeFatal, Rejected),
        row(403, r#"{"error":{"message":"Your project may not use this model"}}"#, K::PermissionDenied, Fatal, Rejected),
        row(403, r#"{"code":403,"message":"Invalid API key","type":"Forbidden"}"#, K::Authentication, ScopeFatal, Rejected),
        row(403, "<html><head><title>Error 403 (Forbidden)</title>", K::PermissionDenied, Fatal, Rejected),
        row(403, r#"{"error":{"code":403,"message":"flagged","metadata":{"reasons":["violence"],"flagged_input":"..","provider_name":"P"}}}"#, K::ContentFilter, Fatal, Rejected),
        row(403, r#"{"error":{"code":403,"message":"CachedContent not found (or permission denied)","status":"PERMISSION_DENIED"}}"#, K::CacheMissing, Backoff, Rejected),
        // Models.
        row(404, r#"{"error":{"message":"The model `x` does not exist","type":"invalid_request_error","code":"model_not_found"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"id":"1","message":"model 'x' not found"}"#, K::NotFound, ScopeFatal, Rejected),
        row(400, r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500","raw_status_code":400}"#, K::NotFound, ScopeFatal, Rejected),
        row(400, r#"{"error":{"message":"openai/x is not a valid model ID","code":400},"user_id":"u"}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#, K::NotFound, ScopeFatal, Rejected),
        row(400, r#"{"error":{"message":"The requested model 'x' does not exist.","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(400, r#"{"error":{"code":"invalid_request_error","message":"The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed x.","param":null,"type":"invalid_request_error"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(400, r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models for your key.","type":"None","param":"None","code":"400"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"model \"x\" not found, try pulling it first","type":"not_found_error","param":null,"code":null}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"No endpoints found for a/b.","code":404},"user_id":"u"}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"No allowed providers are available for the selected model.","code":404}}"#, K::NotFound, ScopeFatal, Rejected),
        row(410, r#"{"error":{"message":"The model x has been retired."}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"does not exist","param":"model"}}"#, K::NotFound, ScopeFatal, Rejected),
        // Addresses that are wrong for every call: OpenAI, Azure, Groq, Mistral, vLLM, Spring, Ollama, llama.cpp, web servers.
        row(404, r#"{"error":{"message":"Invalid URL (POST /v1/chat)","type":"invalid_request_error","param":null,"code":null}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"code":"404","message":"Resource not found"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"message":"Unknown request URL: POST /openai/v1/chat. Please check the URL for typos.","type":"invalid_request_error","code":"unknown_url"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"message":"no Route matched with those values"}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"detail":"Not Found"}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"timestamp":1732457108046,"status":404,"error":"Not Found","path":"//chat/completions"}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, "404 page not found", K::NotFound, ScopeFatal, Rejected),
        row(404, r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#, K::NotFound, ScopeFatal, Rejected),
        row(404, "<html><head><title>404 Not Found</title></head></html>", K::NotFound, ScopeFatal, Rejected),
        row(404, "", K::NotFound, ScopeFatal, Rejected),
        // Objects of one prompt.
        row(404, r#"{"error":{"message":"No such File object: file-abc123","type":"invalid_request_error","param":"id","code":null}}"#, K::InvalidRequest, Fatal, Rejected),
        row(400, r#"{"error":{"message":"Invalid file_id: file-abc123","type":"invalid_request_error","param":"file_id","code":"invalid_value"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"litellm.NotFoundError: OpenAIException - No such File object: file-abc123. Received Model Group=gpt-4o","type":null,"param":null,"code":"404"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"Previous response with id 'resp_1' not found.","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_found"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.","type":"invalid_request_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"Vector store with id [vs_1] not found.","type":"invalid_request_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"Failed to download the image: the URL answered 404.","code":404}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"No endpoints found that support image input","code":404}}"#, K::InvalidRequest, Fatal, Rejected),
        row(404, r#"{"error":{"message":"The thing was not found."}}"#, K::InvalidRequest, Fatal, Rejected),
        row(200, r#"{"error":{"message":"No such File object: file-abc123","metadata":{"error_type":"not_found"}}}"#, K::InvalidRequest, Fatal, Rejected),
        row(200, r#"{"error":{"message":"The model is gone","metadata":{"error_type":"not_found"}}}"#, K::NotFound, ScopeFatal, Rejected),
        row(403, r#"{"error":{"message":"You do not have permission to access the File abc or it may not exist.","code":"permission_denied"}}"#, K::InvalidRequest, Fatal, Rejected),
        // Prompts.
        row(400, r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"This endpoint's maximum context length is 200000 tokens.","code":400}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"code":400,"message":"request (2009 tokens) exceeds the available context size (512 tokens)","type":"exceed_context_size_error"}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"prompt is too long: 210000 tokens > 200000 maximum","type":"invalid_request_error"}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.","type":"BadRequestError","param":null,"code":400}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"x","code":400,"metadata":{"error_type":"token_limit_exceeded"}}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"litellm.ContextWindowExceededError: OpenAIException - This model's maximum context length is 8192 tokens.","type":null,"param":null,"code":"400"}}"#, K::ContextLength, Fatal, Rejected),
        row(500, r#"{"error":{"message":"Requested tokens (2000) exceed context window of 512","type":"internal_server_error","param":null,"code":null}}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 128000"}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: too long"}}"#, K::ContextLength, Fatal, Rejected),
        row(422, r#"{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000","error_type":"validation"}"#, K::ContextLength, Fatal, Rejected),
        row(400, r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error","code":"invalid_request_error"}}"#, K::ContentFilter, Fatal, Rejected),
        row(400, r#"{"error":{"code":"1301","message":"The system has detected potentially unsafe or sensitive content in the input."}}"#, K::ContentFilter, Fatal, Rejected),
        row(403, r#"{"code":"permission-denied","error":"Content violates usage guidelines."}"#, K::ContentFilter, Fatal, Rejected),
        row(400, r#"{"error":{"message":"x","code":400,"metadata":{"error_type":"refusal"}}}"#, K::ContentFilter, Fatal, Rejected),
        row(400, r#"{"error":{"message":"max_tokens","code":400,"metadata":{"error_type":"max_tokens_exceeded"}}}"#, K::InvalidRequest, Fatal, Rejected),
        row(400, r#"{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#, K::ContentFilter, Fatal, Rejected),
        row(400, r#"{"error":{"message":"no","metadata":{"error_type":"content_policy_violation"},"code":400}}"#, K::ContentFilter, Fatal, Rejected),
        row(400, r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"x"}}"#, K::ModelFault, RetryNow, MaybeBilled),
        row(400, r#"{"error":{"message":"Unsupported parameter: 'max_tokens'","type":"invalid_request_error","code":"unsupported_parameter"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(400, r#"{"code":400,"message":"Validation: Temperature must be between 0 and 2, got 4290","type":"Bad Request"}"#, K::InvalidRequest, Fatal, Rejected),
        row(400, r#"{"error":{"message":"This response_format type is unavailable now","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(400, r#"{"error":{"code":"decimal_above_max_value","message":"Invalid 'temperature': decimal above maximum value.","param":"temperature","type":"invalid_request_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(422, r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted","input":1}]},"type":"invalid_request_error","param":null,"code":null}"#, K::InvalidRequest, Fatal, Rejected),
        row(422, r#"{"detail":[{"loc":["body","x"],"msg":"field required","type":"missing"}]}"#, K::InvalidRequest, Fatal, Rejected),
        row(413, "", K::InvalidRequest, Fatal, Rejected),
        // An address that knows no questions.
        row(405, "", K::NotFound, ScopeFatal, Rejected),
        row(405, r#"{"detail":"Method Not Allowed"}"#, K::NotFound, ScopeFatal, Rejected),
        // Servers.
        row(500, "", K::ServerError, Backoff, Rejected),
        row(500, r#"{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}"#, K::ServerError, Backoff, Rejected),
        row(500, r#"{"error":{"code":500,"message":"tools param requires --jinja flag","type":"server_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(500, r#"{"error":{"code":500,"message":"Cannot use both json_schema and grammar","type":"server_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(500, "Internal Server Error", K::ServerError, Backoff, Rejected).headers(&[("content-type", "text/plain")]),
        row(500, r#"{"error":{"code":500,"message":"x","metadata":{"error_type":"server"}}}"#, K::ServerError, Backoff, Rejected),
        row(503, r#"{"error":{"message":"The server is overloaded","type":"ServiceUnavailableError","param":null,"code":503}}"#, K::Overloaded, Backoff, Rejected),
        row(503, r#"{"error":{"code":503,"message":"x","metadata":{"error_type":"provider_unavailable"}}}"#, K::ServerError, Backoff, Rejected),
        row(408, r#"{"error":{"code":408,"message":"x","metadata":{"error_type":"timeout"}}}"#, K::Timeout, Backoff, MaybeBilled),
        row(501, r#"{"error":{"code":501,"message":"This server does not support embeddings.","type":"not_supported_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(502, "<html>\r\n<head><title>502 Bad Gateway</title></head>", K::ServerError, Backoff, MaybeBilled),
        row(502, r#"{"error":{"code":502,"message":"down","metadata":{"error_type":"provider_unavailable"}}}"#, K::ServerError, Backoff, MaybeBilled),
        row(503, r#"{"object":"error","message":"overloaded","type":"ServiceUnavailable","code":503}"#, K::Overloaded, Backoff, Rejected),
        row(503, "upstream connect error", K::Overloaded, Backoff, Rejected).headers(&[("retry-after", "4")]).waits(4_000),
        row(529, "", K::Overloaded, Backoff, Rejected),
        row(498, r#"{"error":{"message":"Flex tier capacity exceeded","type":"capacity_exceeded"}}"#, K::Overloaded, Backoff, Rejected),
        row(429, r#"{"error":{"message":"Resource unavailable","type":"resource_unavailable","code":"resource_unavailable"}}"#, K::Overloaded, Backoff, Rejected),
        row(429, r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"engine_overloaded_error"}}"#, K::Overloaded, Backoff, Rejected),
        row(500, r#"{"error":{"code":500,"message":"full","metadata":{"error_type":"provider_overloaded"}}}"#, K::Overloaded, Backoff, Rejected),
        row(408, "", K::Timeout, Backoff, MaybeBilled),
        row(504, "", K::Timeout, Backoff, MaybeBilled),
        row(524, "", K::Timeout, Backoff, MaybeBilled),
        row(409, "", K::Conflict, Backoff, Rejected),
        row(425, "", K::Conflict, Backoff, Rejected),
        // The provider's own word.
        row(400, "", K::InvalidRequest, Backoff, Rejected).headers(&[("x-should-retry", "true")]),
        row(429, "", K::RateLimit, Fatal, Rejected).headers(&[("x-should-retry", "false")]),
        row(500, "", K::ServerError, Fatal, Rejected).headers(&[("x-should-retry", "false")]),
        row(429, "", K::RateLimit, Throttled, Rejected).headers(&[("x-should-retry", "true")]),
        row(500, "", K::ServerError, Backoff, Rejected).headers(&[("x-should-retry", "perhaps")]),
        // Errors inside a success.
        row(200, r#"{"error":{"code":429,"message":"slow down"}}"#, K::RateLimit, Throttled, Rejected),
        row(200, r#"{"error":{"message":"The server had an error","type":"server_error"}}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"error":{"message":"x","code":"insufficient_quota"}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(200, r#"{"error":{"message":"x","code":"rate_limit_exceeded"}}"#, K::RateLimit, Throttled, Rejected),
        row(200, r#"{"error":{"message":"x","type":"invalid_request_error"}}"#, K::InvalidRequest, Fatal, Rejected),
        row(200, r#"{"error":{"message":"x","metadata":{"error_type":"provider_overloaded"}}}"#, K::Overloaded, Backoff, Rejected),
        row(200, r#"{"error":{"message":"x","metadata":{"error_type":"payment_required"}}}"#, K::InsufficientBalance, ScopeFatal, Rejected),
        row(200, r#"{"error":{"message":"x","metadata":{"error_type":"max_tokens_exceeded"}}}"#, K::InvalidRequest, Fatal, Rejected),
        row(200, r#"{"error":{"message":"x","metadata":{"error_type":"timeout"}}}"#, K::Timeout, Backoff, MaybeBilled),
        row(200, r#"{"error":{"message":"x","metadata":{"error_type":"unmapped"}}}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"error":{"message":"x","type":"authentication_error","code":"401"}}"#, K::Authentication, ScopeFatal, Rejected),
        row(200, r#"{"error":"something went wrong"}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"error":{"code":502,"message":"died","metadata":{"error_type":"provider_unavailable"}}}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"id":"1","choices":[{"finish_reason":"error","error":{"code":503,"message":"overloaded"},"message":{"content":""}}]}"#, K::Overloaded, Backoff, Rejected),
        row(200, r#"{"object":"error","message":"Invalid model","type":"invalid_model","code":"1500"}"#, K::NotFound, ScopeFatal, Rejected),
        // Successes that are none.
        row(200, "", K::ServerError, Backoff, MaybeBilled),
        row(200, "<html><title>Log in</title></html>", K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"choices":[{"message":{"content":"cut"#, K::ServerError, Backoff, MaybeBilled),
        row(200, "[]", K::ServerError, Backoff, MaybeBilled),
        row(200, "{}", K::ServerError, Backoff, MaybeBilled),
        row(200, r#"{"choices":[]}"#, K::ServerError, Backoff, MaybeBilled),
        row(200, "data: {\"choices\":[]}\n\ndata: [DONE]\n\n", K::ServerError, Backoff, MaybeBilled),
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
        let Row {
            status,
            headers,
            body,
            ..
        } = rows()[number];
        Reply::new(status, headers, body)
    })
    .await;
    let model = server.model();
    for (number, row) in rows().iter().enumerate() {
        let request = LlmRequest::new(Prompt::new(number.to_string()));
        let item = std::sync::Arc::clone(request.item());
        let error = model.clone().oneshot(request).await.unwrap_err();
        let case = format!("{} {:?} {}: {error}", row.status, row.headers, row.body);
        assert_eq!(error.kind(), row.kind, "{case}");
        assert_eq!(error.disposition(), row.disposition, "{case}");
        assert_eq!(error.retry_after(), row.wait.map(Duration::from_millis), "{case}");
        assert_eq!(error.delivery(), row.delivery, "{case}");
        assert!(error.status().is_some(), "{case}");
        assert!(!error.message().is_empty(), "{case}");
        // A rejection is known to have cost nothing; of the rest nothing is known.
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
async fn an_unknown_model_of_one_prompt_fails_that_prompt_alone() {
    let server = Server::start(|_| Reply::new(404, &[], r#"{"error": {"code": "model_not_found"}}"#)).await;
    let ask = async |prompt: Prompt| server.model().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    let own = ask("x".into()).await;
    assert_eq!((own.kind(), own.disposition()), (ErrorKind::NotFound, ScopeFatal));
    let ready = r#"{"model": "gpt-0", "messages": []}"#;
    for prompt in [
        Prompt::new("x").with_model("gpt-0"),
        Prompt::new("x").with_extra("model", "gpt-0"),
        Prompt::raw(serde_json::from_str(ready).unwrap()),
    ] {
        let overridden = ask(prompt).await;
        assert_eq!(
            (overridden.kind(), overridden.disposition()),
            (ErrorKind::NotFound, Fatal)
        );
    }
}

/// The quota of another model, or the money of another key, concerns the prompt that asked for it.
#[tokio::test]
async fn a_quota_or_an_account_of_one_prompt_fails_that_prompt_alone() {
    let daily = (
        429,
        r#"{"error": {"message": "Rate limit reached on requests per day (RPD): Limit 0"}}"#,
    );
    let key = (401, r#"{"error": {"code": "invalid_api_key"}}"#);
    let raw = |body: &str| Prompt::raw(serde_json::from_str(body).unwrap());
    let plain = || raw(r#"{"messages": []}"#);
    let other_model = || Prompt::new("x").with_model("gpt-0");
    let own_key = || raw(r#"{"messages": [], "api_key": "wrong"}"#);
    for ((status, body), prompt, kind, disposition) in [
        (daily, plain(), ErrorKind::QuotaExhausted, ScopeFatal),
        (daily, other_model(), ErrorKind::QuotaExhausted, Fatal),
        (daily, own_key(), ErrorKind::QuotaExhausted, Fatal),
        (key, plain(), ErrorKind::Authentication, ScopeFatal),
        (key, other_model(), ErrorKind::Authentication, ScopeFatal),
        (key, own_key(), ErrorKind::Authentication, Fatal),
        // What is set besides replaces the field of the body.
        (
            key,
            own_key().with_extra("api_key", "k"),
            ErrorKind::Authentication,
            ScopeFatal,
        ),
    ] {
        let server = Server::start(move |_| Reply::new(status, &[], body)).await;
        let error = server.model().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (kind, disposition));
    }
}

/// One prompt refers to a file that is gone; the others are answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_one_prompt_does_not_close_the_gate() {
    const GONE: &str =
        r#"{"error": {"message": "No such File object: file-1", "type": "invalid_request_error"}}"#;
    let server = Server::start(|request| {
        if request.body.contains("file-1") {
            Reply::new(404, &[], GONE)
        } else {
            Reply::text("ok")
        }
    })
    .await;
    let limiter = RateLimiter::builder().build().unwrap();
    let model = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(server.model());
    let prompts = ["file-1", "a", "b", "file-1", "c"];
    let outcomes: Vec<_> = stream::iter(prompts)
        .with_strategy(model)
        .llm_batch(1)
        .in_order()
        .collect()
        .await;
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.result.as_ref().err().map(LlmError::kind))
        .collect();
    let gone = Some(ErrorKind::InvalidRequest);
    assert_eq!(kinds, [gone, None, None, gone, None]);
    assert_eq!(server.received().len(), prompts.len());
}

#[tokio::test]
async fn the_code_and_the_dimension_are_told() {
    let server = Server::start(|_| {
        Reply::new(
            429,
            &[
                ("x-ratelimit-limit-tokens", "30000"),
                ("x-ratelimit-remaining-tokens", "-1"),
            ],
            RATE_LIMIT,
        )
    })
    .await;
    let error = server
        .model()
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("rate_limit_exceeded"));
    let quota = error.quota().unwrap();
    assert_eq!(quota.dimension, Some(QuotaDimension::Tokens));
    assert_eq!((quota.tokens.limit, quota.tokens.remaining), (Some(30_000), None));
}

#[tokio::test]
async fn a_wait_on_a_success_is_ignored_and_its_quota_is_noted() {
    let headers = [
        ("retry-after", "30"),
        ("x-ratelimit-remaining-requests", "9"),
        ("x-ratelimit-reset-requests", "1m2.3s"),
    ];
    let server =
        Server::start(move |_| Reply::new(200, &headers, crate::server::completion("ok").to_string())).await;
    let mut request = LlmRequest::new(Prompt::new("x"));
    let call = request.begin_call().unwrap();
    let answer = server.model().oneshot(request).await.unwrap();
    assert_eq!(answer.output, "ok");
    let quota = call.quota().unwrap();
    assert_eq!(quota.requests.remaining, Some(9));
    assert_eq!(quota.requests.reset, Some(Duration::from_millis(62_300)));
}
