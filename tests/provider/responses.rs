//! OpenAI's Responses: what is sent, what replies mean, and how streams end.

use std::sync::Arc;
use std::time::Duration;

use llm_batch::provider::{Model, Streaming};
use llm_batch::{
    Delivery, Disposition, ErrorKind, FinishReason, ItemReport, LlmError, LlmRequest, LlmResponse, Message,
    Part, Prompt, Role, TokenUsage,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{After, Reply, Server};

fn model(server: &Server) -> Model {
    server.builder().build().unwrap().responses("test-model")
}

/// A response of 10 + 2 tokens.
fn response(status: &str, output: &Value) -> Value {
    json!({
        "id": "resp_1", "object": "response", "model": "test-model-1", "status": status, "error": null,
        "incomplete_details": null, "output": output,
        "usage": {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    })
}

fn message(text: &str) -> Value {
    json!({"type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}]})
}

fn phased(phase: &str, text: &str) -> Value {
    let mut message = message(text);
    message["phase"] = phase.into();
    message
}

async fn ask_model(model: Model, prompt: Prompt) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let request = LlmRequest::new(prompt);
    let item = Arc::clone(request.item());
    let result = model.oneshot(request).await;
    (result, item.report())
}

async fn ask(reply: Reply, prompt: Prompt) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let server = Server::start(move |_| reply.clone()).await;
    ask_model(model(&server), prompt).await
}

async fn read(body: Value) -> Result<LlmResponse, LlmError> {
    ask(Reply::json(&body), "x".into()).await.0
}

#[tokio::test]
async fn a_prompt_becomes_a_response() {
    let server = Server::start(|_| Reply::json(&response("completed", &json!([message("4")])))).await;
    let prompt = Prompt::new("2 + 2?")
        .with_system("Be brief.")
        .with_max_output_tokens(64);
    let (answer, report) = ask_model(model(&server), prompt).await;
    let answer = answer.unwrap();
    assert_eq!(answer.output, "4");
    assert_eq!(answer.usage, Some(TokenUsage::new(10, 2)));
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.metadata.model.as_deref(), Some("test-model-1"));
    assert_eq!(answer.metadata.response_id.as_deref(), Some("resp_1"));
    assert_eq!(answer.metadata.provider.as_deref(), Some("openai"));
    assert_eq!(
        (report.calls, report.unknown_usage_calls, report.usage),
        (1, 0, TokenUsage::new(10, 2))
    );

    let sent = &server.received()[0];
    assert_eq!(sent.path, "/v1/responses");
    assert_eq!(sent.header("authorization"), Some("Bearer sk-test-0123456789"));
    assert_eq!(
        sent.json(),
        json!({"model": "test-model", "input": "2 + 2?", "instructions": "Be brief.", "max_output_tokens": 64, "store": false})
    );
}

#[tokio::test]
async fn every_parameter_reaches_the_wire() {
    let server = Server::start(|_| Reply::json(&response("completed", &json!([message("{}")])))).await;
    let schema = json!({
        "title": "A person", "type": "object", "properties": {"name": {"type": "string"}},
        "required": ["name"], "additionalProperties": false
    });
    let prompt = Prompt::default()
        .with_message(Message::system("Stay calm."))
        .with_message(Message::new(
            Role::User,
            vec![
                Part::text("What is this?"),
                Part::image("data:image/png;base64,AA=="),
                Part::json(json!({"type": "input_file", "file_id": "f"})),
            ],
        ))
        .with_message(Message::new(
            Role::Assistant,
            vec![Part::text("A "), Part::text("cat.")],
        ))
        .with_message(Message::assistant("Or a dog."))
        .with_message(Message::user("Sure?"))
        .with_model("override")
        .with_temperature(0.5)
        .with_top_p(0.25)
        .with_output_schema(schema.clone())
        .with_extra("reasoning", json!({"effort": "low"}))
        .with_extra("store", true);
    let defaults = Prompt::default()
        .with_system("Be brief.")
        .with_temperature(1.0)
        .with_max_output_tokens(9);
    ask_model(model(&server).with_defaults(defaults), prompt)
        .await
        .0
        .unwrap();
    assert_eq!(
        server.received()[0].json(),
        json!({
            "model": "override",
            "instructions": "Be brief.",
            "input": [
                {"type": "message", "role": "system", "content": "Stay calm."},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
                    {"type": "input_file", "file_id": "f"},
                ]},
                {"type": "message", "role": "assistant", "content": [
                    {"type": "output_text", "text": "A "},
                    {"type": "output_text", "text": "cat."},
                ]},
                {"type": "message", "role": "assistant", "content": "Or a dog."},
                {"type": "message", "role": "user", "content": "Sure?"},
            ],
            "temperature": 0.5,
            "top_p": 0.25,
            "max_output_tokens": 9,
            "text": {"format": {"type": "json_schema", "name": "A_person", "schema": schema, "strict": true}},
            "reasoning": {"effort": "low"},
            "store": true,
        })
    );
}

#[tokio::test]
async fn a_raw_body_passes_unchanged() {
    let server = Server::start(|_| Reply::json(&response("completed", &json!([message("ok")])))).await;
    let text =
        r#"{"zeta":1,"model":"own","input":[{"type":"message","role":"user","content":"x"}],"store":true}"#;
    let body = || Prompt::raw(serde_json::from_str(text).unwrap());
    let model = model(&server).with_defaults(Prompt::default().with_system("not for raw").with_seed(1));
    ask_model(model.clone(), body()).await.0.unwrap();
    ask_model(model.clone(), body().with_model("other").with_extra("zeta", 2))
        .await
        .0
        .unwrap();
    let nameless = || Prompt::raw(serde_json::from_str(r#"{"input":"x"}"#).unwrap());
    ask_model(model.clone(), nameless()).await.0.unwrap();
    ask_model(model.with_streaming(Streaming::new()), nameless())
        .await
        .0
        .unwrap();
    let sent = server.received();
    assert_eq!(sent[0].body, text);
    assert_eq!(
        sent[1].body,
        text.replace("\"own\"", "\"other\"")
            .replace("\"zeta\":1", "\"zeta\":2")
    );
    assert_eq!(sent[2].body, r#"{"input":"x","model":"test-model"}"#);
    assert_eq!(
        sent[3].body,
        r#"{"input":"x","model":"test-model","stream":true}"#
    );
}

#[tokio::test]
async fn what_the_wire_cannot_say_is_refused_unsent() {
    let server = Server::start(|_| Reply::json(&response("completed", &json!([message("ok")])))).await;
    let plain = || Prompt::new("x");
    let background = serde_json::from_value(json!({"input": "x", "background": true})).unwrap();
    for (prompt, defaults, word) in [
        (plain().with_seed(7), Prompt::default(), "`seed`"),
        (plain().with_stop("END"), Prompt::default(), "`stop`"),
        (plain(), Prompt::default().with_stop("END"), "openai-chat:"),
        (
            plain().with_extra("background", true),
            Prompt::default(),
            "`background`",
        ),
        (
            plain(),
            Prompt::default().with_extra("background", true),
            "`background`",
        ),
        (Prompt::raw(background), Prompt::default(), "`background`"),
        (plain().with_extra("stream", true), Prompt::default(), "`stream`"),
    ] {
        let model = model(&server).with_defaults(defaults);
        assert!(model.request_body(&prompt).is_err());
        let (result, report) = ask_model(model, prompt).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent)
        );
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(report.unknown_usage_calls, 0);
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn the_output_is_the_text_of_the_messages_and_of_the_final_answer_where_there_is_one() {
    let reasoning = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": [{"type": "reasoning_text", "text": "hm"}]});
    let two_parts = json!({"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "other", "text": "-"}, {"type": "output_text", "text": "b"}]});
    let unphased =
        json!({"type": "message", "phase": null, "content": [{"type": "output_text", "text": "z"}]});
    for (output, text) in [
        (json!([message("one")]), "one"),
        (
            json!([reasoning, message("one "), {"type": "web_search_call"}, message("two")]),
            "one two",
        ),
        (json!([two_parts]), "ab"),
        (json!([unphased]), "z"),
        (
            json!([phased("commentary", "Let me see."), phased("final_answer", "42")]),
            "42",
        ),
        (
            json!([
                phased("final_answer", "4"),
                message("no"),
                phased("final_answer", "2")
            ]),
            "42",
        ),
        (json!([phased("commentary", "Let me see.")]), ""),
        (json!([]), ""),
        (
            json!([null, 7, {"type": "message"}, {"type": "message", "content": "x"}]),
            "",
        ),
    ] {
        let answer = read(response("completed", &output)).await.unwrap();
        assert_eq!(answer.output, text, "{output}");
    }
    // A server that says no status, or one of its own.
    let mut body = response("done", &json!([message("x")]));
    assert_eq!(read(body.clone()).await.unwrap().output, "x");
    body.as_object_mut().unwrap().remove("status");
    assert_eq!(read(body).await.unwrap().output, "x");
}

#[tokio::test]
async fn calls_of_functions_are_tool_calls() {
    let call = json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{\"x\":1}", "status": "completed"});
    let custom = json!({"type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": "y"});
    let output = json!([{"type": "reasoning", "summary": []}, call, custom, message("I call.")]);
    let answer = read(response("completed", &output)).await.unwrap();
    assert_eq!(answer.metadata.tool_calls, [call, custom]);
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(answer.output, "I call.");
}

#[tokio::test]
async fn usage_is_normalised() {
    let full = |input, output, cached_input, cache_write, reasoning| {
        let mut usage = TokenUsage::new(input, output);
        (usage.cached_input, usage.cache_write, usage.reasoning) = (cached_input, cache_write, reasoning);
        Some(usage)
    };
    for (usage, expected) in [
        (
            json!({"input_tokens": 4020, "input_tokens_details": {"cache_write_tokens": 4012, "cached_tokens": 0}, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 4025}),
            full(4020, 5, 0, 4012, 0),
        ),
        (
            json!({"input_tokens": 1515, "input_tokens_details": {"cached_tokens": 1390}, "output_tokens": 227, "output_tokens_details": {"reasoning_tokens": 192}}),
            full(1515, 227, 1390, 0, 192),
        ),
        (
            json!({"input_tokens": 3, "output_tokens": 4, "input_tokens_details": null}),
            full(3, 4, 0, 0, 0),
        ),
        (
            json!({"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 9}}),
            full(3, 4, 0, 0, 4),
        ),
        (json!({"input_tokens": 3}), None),
        (json!(null), None),
    ] {
        let mut body = response("completed", &json!([message("x")]));
        body["usage"] = usage.clone();
        assert_eq!(read(body).await.unwrap().usage, expected, "{usage}");
    }
}

#[tokio::test]
async fn refusals_and_filters_fail_with_their_usage() {
    let refusal =
        json!([{"type": "message", "content": [{"type": "refusal", "refusal": "I'm sorry, I can't."}]}]);
    let mut filtered = response("incomplete", &json!([message("half an ans")]));
    filtered["incomplete_details"] = json!({"reason": "content_filter"});
    for (body, word) in [
        (response("completed", &refusal), "I'm sorry"),
        (filtered, "filter"),
    ] {
        let error = read(body).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (ErrorKind::ContentFilter, Disposition::Fatal)
        );
        assert_eq!(
            (error.usage(), error.delivery()),
            (Some(TokenUsage::new(10, 2)), Delivery::MaybeBilled)
        );
        assert!(error.to_string().contains(word), "{error}");
    }
    // An empty refusal is none.
    let both = json!([{"type": "message", "content": [{"type": "refusal", "refusal": ""}, {"type": "output_text", "text": "x"}]}]);
    assert_eq!(read(response("completed", &both)).await.unwrap().output, "x");
}

#[tokio::test]
async fn a_cut_answer_is_an_answer_unless_it_is_empty_or_json() {
    let cut = |output: Value| {
        let mut body = response("incomplete", &output);
        body["incomplete_details"] = json!({"reason": "max_output_tokens"});
        body
    };
    let answer = read(cut(json!([message("half")]))).await.unwrap();
    assert_eq!(
        (answer.output.as_str(), answer.metadata.finish_reason),
        ("half", Some(FinishReason::Length))
    );

    // Reasoning ate the budget; the provider may call it 0 tokens.
    for output in [
        json!([{"type": "reasoning", "summary": []}]),
        json!([message(" ")]),
        json!([]),
    ] {
        let error = read(cut(output)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.usage()),
            (ErrorKind::Truncated, Some(TokenUsage::new(10, 2)))
        );
    }
    let prompt = Prompt::new("x").with_output_schema(json!({"type": "object"}));
    let (result, _) = ask(Reply::json(&cut(json!([message("{\"a\":")]))), prompt).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.raw_output()),
        (ErrorKind::Truncated, Some("{\"a\":"))
    );
}

#[tokio::test]
async fn a_success_status_with_another_end_is_an_error_of_its_kind() {
    use Delivery::{MaybeBilled, Rejected};
    use Disposition::{Backoff, Fatal, ScopeFatal, Throttled};
    use ErrorKind as K;
    let failed = |code: &str, message: &str| {
        let mut body = response("failed", &json!([]));
        body["error"] = json!({"code": code, "message": message});
        body["usage"] = Value::Null;
        body
    };
    let with_status = |status: &str, reason: Value| {
        let mut body = response(status, &json!([message("half")]));
        body["incomplete_details"] = reason;
        body["usage"] = Value::Null;
        body
    };
    for (body, kind, disposition, delivery) in [
        (
            failed("server_error", "The model failed to generate a response."),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (
            failed("rate_limit_exceeded", "Please try again in 1.5s."),
            K::RateLimit,
            Throttled,
            Rejected,
        ),
        (
            failed("insufficient_quota", "You exceeded your current quota."),
            K::InsufficientBalance,
            ScopeFatal,
            Rejected,
        ),
        (
            failed("invalid_prompt", "The prompt is malformed."),
            K::InvalidRequest,
            Fatal,
            Rejected,
        ),
        (
            failed(
                "invalid_prompt",
                "Your prompt was flagged as potentially violating our usage policy.",
            ),
            K::ContentFilter,
            Fatal,
            MaybeBilled,
        ),
        (failed("bio_policy", "no"), K::ContentFilter, Fatal, MaybeBilled),
        (
            failed("misalignment_policy_violation", "no"),
            K::ContentFilter,
            Fatal,
            MaybeBilled,
        ),
        (
            failed("image_content_policy_violation", "no"),
            K::ContentFilter,
            Fatal,
            MaybeBilled,
        ),
        (
            failed("invalid_base64_image", "no"),
            K::InvalidRequest,
            Fatal,
            Rejected,
        ),
        (
            failed("image_too_large", "no"),
            K::InvalidRequest,
            Fatal,
            Rejected,
        ),
        (
            failed("data_residency_mismatch", "no"),
            K::InvalidRequest,
            Fatal,
            Rejected,
        ),
        (
            failed("context_length_exceeded", "no"),
            K::ContextLength,
            Fatal,
            Rejected,
        ),
        (
            failed("vector_store_timeout", "no"),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (failed("a_new_code", "no"), K::ServerError, Backoff, MaybeBilled),
        (
            with_status("failed", json!(null)),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (
            with_status("cancelled", json!(null)),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (
            with_status("queued", json!(null)),
            K::InvalidRequest,
            Fatal,
            MaybeBilled,
        ),
        (
            with_status("in_progress", json!(null)),
            K::InvalidRequest,
            Fatal,
            MaybeBilled,
        ),
        (
            with_status("incomplete", json!({"reason": "max_messages"})),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (
            with_status("incomplete", json!({"reason": "steered"})),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
        (
            with_status("incomplete", json!(null)),
            K::ServerError,
            Backoff,
            MaybeBilled,
        ),
    ] {
        let (result, report) = ask(Reply::json(&body), "x".into()).await;
        let error = result.unwrap_err();
        let facts = (error.kind(), error.disposition(), error.delivery());
        assert_eq!(facts, (kind, disposition, delivery), "{body}: {error}");
        let unknown = delivery == MaybeBilled;
        assert_eq!(
            error.usage(),
            if unknown { None } else { Some(TokenUsage::ZERO) },
            "{body}"
        );
        assert_eq!(report.unknown_usage_calls, u32::from(unknown), "{body}");
        if kind == K::RateLimit {
            assert_eq!(error.retry_after(), Some(Duration::from_millis(1_500)));
            assert_eq!(error.code(), Some("rate_limit_exceeded"));
        }
    }
    // What a failed response says that it used is billed.
    let mut body = failed("server_error", "no");
    body["usage"] = json!({"input_tokens": 10, "output_tokens": 2});
    assert_eq!(
        read(body).await.unwrap_err().usage(),
        Some(TokenUsage::new(10, 2))
    );
}

#[tokio::test]
async fn error_statuses_are_classified() {
    use ErrorKind as K;
    for (status, body, kind, disposition) in [
        (
            400,
            r#"{"error":{"code":"model_not_found","message":"The requested model 'x' does not exist.","param":"model","type":"invalid_request_error"}}"#,
            K::NotFound,
            Disposition::ScopeFatal,
        ),
        (
            400,
            r#"{"error":{"message":"Your input exceeds the context window of this model.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#,
            K::ContextLength,
            Disposition::Fatal,
        ),
        (
            400,
            r#"{"error":{"message":"x","type":"invalid_request_error","code":"previous_response_not_found"}}"#,
            K::InvalidRequest,
            Disposition::Fatal,
        ),
        (
            404,
            r#"{"error":{"message":"Previous response with id 'resp_1' not found.","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_found"}}"#,
            K::InvalidRequest,
            Disposition::Fatal,
        ),
        (
            404,
            r#"{"error":{"message":"Container with id 'cntr_1' not found.","type":"invalid_request_error"}}"#,
            K::InvalidRequest,
            Disposition::Fatal,
        ),
        (
            404,
            r#"{"error":{"message":"The model `x` does not exist or you do not have access to it.","type":"invalid_request_error"}}"#,
            K::NotFound,
            Disposition::ScopeFatal,
        ),
        (
            401,
            r#"{"error":{"message":"Incorrect API key provided: x.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
            K::Authentication,
            Disposition::ScopeFatal,
        ),
        (
            429,
            r#"{"error":{"message":"x","type":"tokens","code":"rate_limit_exceeded"}}"#,
            K::RateLimit,
            Disposition::Throttled,
        ),
        (500, "", K::ServerError, Disposition::Backoff),
        (200, "", K::ServerError, Disposition::Backoff),
        (200, "{}", K::ServerError, Disposition::Backoff),
        (
            200,
            r#"{"status":"completed","output":"text"}"#,
            K::ServerError,
            Disposition::Backoff,
        ),
        (
            200,
            r#"{"choices":[{"message":{"content":"a chat completion"}}]}"#,
            K::ServerError,
            Disposition::Backoff,
        ),
        (
            200,
            "<html><title>Log in</title></html>",
            K::ServerError,
            Disposition::Backoff,
        ),
    ] {
        let (result, _) = ask(Reply::new(status, &[], body), "x".into()).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (kind, disposition),
            "{status} {body}"
        );
        assert_eq!(error.status(), Some(status));
        assert!(!error.message().is_empty());
    }
}

/// An event of this type.
fn event(kind: &str, mut fields: Value) -> String {
    fields["type"] = kind.into();
    fields["sequence_number"] = 0.into();
    format!("event: {kind}\ndata: {fields}\n\n")
}

fn begin() -> [String; 3] {
    [
        event(
            "response.created",
            json!({"response": {"id": "resp_1", "status": "in_progress", "output": [], "error": null, "usage": null}}),
        ),
        event(
            "response.in_progress",
            json!({"response": {"id": "resp_1", "status": "in_progress"}}),
        ),
        event(
            "response.output_item.added",
            json!({"output_index": 0, "item": {"type": "message", "content": []}}),
        ),
    ]
}

fn end(kind: &str, response: &Value) -> String {
    event(kind, json!({"response": response}))
}

async fn stream(reply: Reply, prompt: Prompt) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let server = Server::start(move |_| reply.clone()).await;
    ask_model(model(&server).with_streaming(Streaming::new()), prompt).await
}

fn whole(pieces: &[String]) -> Reply {
    Reply::events(&[begin().as_slice(), pieces].concat()).ended()
}

#[tokio::test]
async fn the_last_event_of_a_stream_holds_the_answer() {
    let delta = event(
        "response.output_text.delta",
        json!({"delta": "4", "obfuscation": "xyz"}),
    );
    let item = event(
        "response.output_item.done",
        json!({"output_index": 0, "item": message("4")}),
    );
    let last = end(
        "response.completed",
        &response("completed", &json!([message("4")])),
    );
    let server = Server::start({
        let pieces = [delta.clone(), item.clone(), last];
        move |_| whole(&pieces)
    })
    .await;
    let (answer, report) = ask_model(model(&server).with_streaming(Streaming::new()), "x".into()).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.output.as_str(), answer.usage),
        ("4", Some(TokenUsage::new(10, 2)))
    );
    assert_eq!(answer.metadata.response_id.as_deref(), Some("resp_1"));
    assert!(report.time_to_first_token.is_some());
    assert_eq!(
        server.received()[0].json(),
        json!({"model": "test-model", "input": "x", "store": false, "stream": true})
    );
    assert_eq!(server.accepted(), 1);

    // Some servers leave the items out of it, and say `[DONE]` like others.
    for output in [json!([]), json!(null)] {
        let last = end("response.completed", &response("completed", &output));
        let (answer, _) = stream(
            whole(&[delta.clone(), item.clone(), last, "data: [DONE]\n\n".to_owned()]),
            "x".into(),
        )
        .await;
        assert_eq!(answer.unwrap().output, "4", "{output}");
    }
    // Events without a name.
    let nameless = end(
        "response.completed",
        &response("completed", &json!([message("4")])),
    )
    .replace("event: response.completed\n", "");
    let (answer, _) = stream(whole(&[nameless]), "x".into()).await;
    assert_eq!(answer.unwrap().output, "4");
}

#[tokio::test]
async fn thoughts_refusals_and_arguments_are_tokens_too() {
    let last = end(
        "response.completed",
        &response("completed", &json!([message("4")])),
    );
    for kind in [
        "response.reasoning_summary_text.delta",
        "response.reasoning_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
    ] {
        let (_, report) = stream(
            whole(&[event(kind, json!({"delta": "x"})), last.clone()]),
            "x".into(),
        )
        .await;
        assert!(report.time_to_first_token.is_some(), "{kind}");
    }
    let (_, report) = stream(whole(&[last]), "x".into()).await;
    assert_eq!(report.time_to_first_token, None);
}

#[tokio::test]
async fn other_ends_of_a_stream_mean_what_they_mean_in_a_whole_reply() {
    use ErrorKind as K;
    let mut cut = response("incomplete", &json!([message("half")]));
    cut["incomplete_details"] = json!({"reason": "max_output_tokens"});
    let (answer, _) = stream(whole(&[end("response.incomplete", &cut)]), "x".into()).await;
    assert_eq!(answer.unwrap().metadata.finish_reason, Some(FinishReason::Length));

    let mut failed = response("failed", &json!([]));
    failed["error"] = json!({"code": "server_error", "message": "no"});
    let known = Some(TokenUsage::new(10, 2));
    for (piece, kind, usage) in [
        (end("response.failed", &failed), K::ServerError, known),
        (
            end("response.cancelled", &response("cancelled", &json!([]))),
            K::ServerError,
            known,
        ),
        // The two forms of an error event, and what proxies make of one.
        (
            event(
                "error",
                json!({"code": "rate_limit_exceeded", "message": "slow", "param": null}),
            ),
            K::RateLimit,
            None,
        ),
        (
            event(
                "error",
                json!({"error": {"type": "server_error", "code": "insufficient_quota", "message": "pay", "param": null}}),
            ),
            K::InsufficientBalance,
            None,
        ),
        (
            event("error", json!({"code": null, "message": "no", "param": null})),
            K::ServerError,
            None,
        ),
        (
            "data: {\"error\": {\"message\": \"x\", \"code\": 401}}\n\n".to_owned(),
            K::Authentication,
            None,
        ),
        (
            "event: error\ndata: out of memory\n\n".to_owned(),
            K::ServerError,
            None,
        ),
    ] {
        let (result, report) = stream(whole(std::slice::from_ref(&piece)), "x".into()).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.usage()), (kind, usage), "{piece}: {error}");
        assert_eq!(error.delivery(), Delivery::MaybeBilled, "{piece}");
        assert!(!error.message().is_empty(), "{piece}");
        assert_eq!(report.unknown_usage_calls, u32::from(usage.is_none()));
    }
}

#[tokio::test]
async fn a_cut_stream_was_sent_and_may_have_been_billed() {
    let begun = [
        begin().as_slice(),
        &[event("response.output_text.done", json!({"text": "4"}))],
    ]
    .concat();
    for reply in [
        Reply::events(&begun).ended(),
        Reply::events(&begun).after(After::Close),
        Reply::events(&begun).after(After::Reset),
        // The last event, but not whole.
        Reply::events(&["event: response.completed\ndata: {\"type\":\"response.comp"]).ended(),
        Reply::events(&[event("response.completed", json!({"response": null}))]).ended(),
    ] {
        let (result, report) = stream(reply, "x".into()).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::Connection, Delivery::MaybeBilled),
            "{error}"
        );
        assert_eq!((error.usage(), report.unknown_usage_calls), (None, 1));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever comes back, there is an answer or an error, and no panic.
    #[test]
    fn mutated_replies_never_panic(position in 0usize..500, byte: u8, cut in 0usize..500) {
        let mut body = response("incomplete", &json!([message("x"), phased("final_answer", "y"), {"type": "function_call"}]));
        body["incomplete_details"] = json!({"reason": "max_output_tokens"});
        let mut body = body.to_string().into_bytes();
        if let Some(slot) = body.get_mut(position) {
            *slot = byte;
        }
        body.truncate(body.len().saturating_sub(cut / 2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend_from_slice(&body);
            let _ = ask(Reply::raw(bytes, After::Keep), "x".into()).await;
        });
    }
}
