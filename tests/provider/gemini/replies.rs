//! What is made of replies: recorded ones, trimmed.

use llm_batch::{Delivery, Disposition, ErrorKind, FinishReason, Prompt};
use serde_json::{Value, json};

use super::{answer, ask, builder, model, reply, tokens};
use crate::server::{Reply, Server};

async fn read(body: Value) -> Result<llm_batch::LlmResponse, llm_batch::LlmError> {
    let server = Server::start(move |_| Reply::json(&body)).await;
    ask(&model(&server), "x").await
}

/// One candidate that stopped for `reason`.
fn candidate(reason: &str, parts: &Value) -> Value {
    json!({
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8},
    })
}

#[tokio::test]
async fn thoughts_count_as_output_and_are_not_in_the_text() {
    let answer = read(json!({
        "candidates": [{"content": {"parts": [
            {"text": "**Calculating** first ...", "thought": true}, {"text": "50"}, {"text": "40"},
        ], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "modelVersion": "gemini-2.5-flash", "responseId": "id_1",
        "usageMetadata": {"candidatesTokenCount": 5, "promptTokenCount": 21, "thoughtsTokenCount": 310, "totalTokenCount": 336},
    }))
    .await
    .unwrap();
    assert_eq!(answer.output, "5040");
    assert_eq!(tokens(answer.usage), Some((21, 315, 0, 310)));
    let metadata = answer.metadata;
    assert_eq!(metadata.provider.as_deref(), Some("gcp.gemini"));
    assert_eq!(metadata.model.as_deref(), Some("gemini-2.5-flash"));
    assert_eq!(metadata.response_id.as_deref(), Some("id_1"));
    assert_eq!(metadata.finish_reason, Some(FinishReason::Stop));
    assert!(metadata.raw_body.is_none());
}

#[tokio::test]
async fn cached_and_tool_tokens_are_input() {
    let mut body = answer("Paris.");
    body["usageMetadata"] = json!({"cachedContentTokenCount": 3512, "candidatesTokenCount": 2, "promptTokenCount": 3520,
        "thoughtsTokenCount": 42, "toolUsePromptTokenCount": 6, "totalTokenCount": 3570, "serviceTier": "standard"});
    let answer = read(body).await.unwrap();
    assert_eq!(tokens(answer.usage), Some((3526, 44, 3512, 42)));
}

#[tokio::test]
async fn function_calls_are_kept_as_they_came() {
    let call =
        json!({"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "c2ln"});
    let answer = read(candidate("STOP", &json!([{"text": "Let me see."}, call])))
        .await
        .unwrap();
    assert_eq!(answer.output, "Let me see.");
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(answer.metadata.tool_calls, [call]);
}

#[tokio::test]
async fn the_token_limit_cuts_a_text_and_fails_what_is_of_no_use() {
    let cut = read(candidate(
        "MAX_TOKENS",
        &json!([{"text": "The capital of France is"}]),
    ))
    .await
    .unwrap();
    assert_eq!(cut.metadata.finish_reason, Some(FinishReason::Length));
    assert_eq!(cut.output, "The capital of France is");

    // Spent on thoughts.
    let empty = json!({
        "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}],
        "usageMetadata": {"promptTokenCount": 15, "thoughtsTokenCount": 30, "totalTokenCount": 45},
    });
    let error = read(empty).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.disposition()),
        (ErrorKind::Truncated, Disposition::Fatal)
    );
    assert_eq!(tokens(error.usage()), Some((15, 30, 0, 30)));

    let server =
        Server::start(|_| Reply::json(&candidate("MAX_TOKENS", &json!([{"text": "{\"a\": "}])))).await;
    let prompt = Prompt::new("x").with_output_schema(json!({"type": "object"}));
    let error = ask(&model(&server), prompt).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.raw_output(), Some("{\"a\": "));
    assert_eq!(tokens(error.usage()), Some((5, 3, 0, 0)));
}

#[tokio::test]
async fn a_blocked_prompt_and_a_blocked_answer_are_refusals() {
    let prompt = json!({
        "modelVersion": "gemini-2.5-flash",
        "promptFeedback": {"blockReason": "MODEL_ARMOR", "blockReasonMessage": "The prompt violated Prompt Injection filters."},
        "usageMetadata": {"trafficType": "ON_DEMAND"},
    });
    let error = read(prompt).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.disposition()),
        (ErrorKind::ContentFilter, Disposition::Fatal)
    );
    assert_eq!((error.code(), error.usage()), (Some("MODEL_ARMOR"), None));
    assert!(error.to_string().contains("Prompt Injection"), "{error}");

    let answer = json!({
        "candidates": [{"content": {}, "finishReason": "SAFETY", "safetyRatings": [
            {"blocked": true, "category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW"}]}],
        "usageMetadata": {"promptTokenCount": 14, "totalTokenCount": 14},
    });
    let error = read(answer).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::ContentFilter, Some("SAFETY"))
    );
    assert_eq!(tokens(error.usage()), Some((14, 0, 0, 0)));
    assert_eq!(error.delivery(), Delivery::MaybeBilled);
}

#[tokio::test]
async fn every_reason_to_stop_has_its_kind() {
    use ErrorKind::{ContentFilter, ModelFault, Truncated};
    for (reason, kind) in [
        ("SAFETY", ContentFilter),
        ("PROHIBITED_CONTENT", ContentFilter),
        ("BLOCKLIST", ContentFilter),
        ("SPII", ContentFilter),
        ("MODEL_ARMOR", ContentFilter),
        ("IMAGE_SAFETY", ContentFilter),
        ("RECITATION", ModelFault),
        ("LANGUAGE", ModelFault),
        ("OTHER", ModelFault),
        ("MALFORMED_FUNCTION_CALL", ModelFault),
        ("MALFORMED_RESPONSE", ModelFault),
        ("UNEXPECTED_TOOL_CALL", ModelFault),
        ("TOO_MANY_TOOL_CALLS", ModelFault),
        ("MISSING_THOUGHT_SIGNATURE", ModelFault),
        ("NO_IMAGE", ModelFault),
        // Nothing to continue with.
        ("CONTINUATION", Truncated),
    ] {
        let mut body = candidate(reason, &json!([{"text": "so far"}]));
        body["candidates"][0]["finishMessage"] = "because".into();
        let error = read(body).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, Some(reason)));
        assert_eq!(error.raw_output(), Some("so far"));
        assert_eq!(tokens(error.usage()), Some((5, 3, 0, 0)), "{reason}");
        assert!(error.to_string().contains("because"), "{error}");
        let again = kind == ModelFault;
        assert_eq!(error.disposition() == Disposition::RetryNow, again, "{reason}");
    }
    for reason in ["ESCALATION", "A_NEW_ONE"] {
        let answer = read(candidate(reason, &json!([{"text": "an answer"}])))
            .await
            .unwrap();
        assert_eq!(
            (answer.output.as_str(), answer.metadata.finish_reason),
            ("an answer", Some(FinishReason::Other(reason.to_owned())))
        );
        let error = read(candidate(reason, &json!([]))).await.unwrap_err();
        assert_eq!(error.kind(), ModelFault);
    }
    // No reason at all.
    let answer = read(json!({"candidates": [{"content": {"parts": [{"text": "x"}]}}]}))
        .await
        .unwrap();
    assert_eq!((answer.usage, answer.metadata.finish_reason), (None, None));
}

#[tokio::test]
async fn a_list_of_chunks_is_one_answer() {
    let body = json!([
        {"candidates": [{"content": {"parts": [{"text": "1, "}]}, "index": 0}], "usageMetadata": {"promptTokenCount": 8}},
        {"candidates": [{"content": {"parts": [{"text": "2"}]}, "finishReason": "STOP", "index": 0}],
         "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 3, "totalTokenCount": 11}},
    ]);
    let answer = read(body).await.unwrap();
    assert_eq!(
        (answer.output.as_str(), tokens(answer.usage)),
        ("1, 2", Some((8, 3, 0, 0)))
    );
}

#[tokio::test]
async fn the_raw_reply_is_kept_on_request() {
    let server = Server::start(|_| Reply::new(200, &[], format!("\n\n{}", answer("x")))).await;
    let model = builder(&server).keep_raw_body(true).build().unwrap().model("m");
    let kept = ask(&model, "x").await.unwrap().metadata.raw_body.unwrap();
    assert_eq!(kept.get(), answer("x").to_string());
}

#[tokio::test]
async fn no_candidates_are_no_answer() {
    for body in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"candidates":[]}"#,
        r#"{"candidates":[7]}"#,
        "<html>",
        r#"{"candidates":[{"content"#,
    ] {
        let server = Server::start(move |_| Reply::new(200, &[], body)).await;
        let error = ask(&model(&server), "x").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery(), error.status()),
            (ErrorKind::ServerError, Delivery::MaybeBilled, Some(200)),
            "{body}"
        );
    }
    let server = Server::start(|_| reply("fine")).await;
    assert_eq!(ask(&model(&server), "x").await.unwrap().output, "fine");
}

#[tokio::test]
async fn further_candidates_are_kept() {
    let mut body = candidate("STOP", &json!([{"text": "a"}]));
    let further = json!({"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP", "index": 1});
    body["candidates"].as_array_mut().unwrap().push(further.clone());
    let answer = read(body).await.unwrap();
    assert_eq!(answer.output, "a");
    assert_eq!(answer.metadata.further_choices.unwrap().choices, [further]);
}
