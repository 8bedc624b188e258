//! Chat completions that come piece by piece, and streams that end in every way.

use std::sync::Arc;
use std::time::Duration;

use llm_batch::provider::{Model, Streaming};
use llm_batch::{
    Delivery, Disposition, ErrorKind, FinishReason, ItemReport, LlmError, LlmRequest, LlmResponse, Prompt,
    TokenUsage,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{After, Reply, Server};

/// An event with this data.
#[allow(clippy::needless_pass_by_value)] // the calls read better
fn event(data: impl ToString) -> String {
    format!("data: {}\n\n", data.to_string())
}

/// A chunk whose first choice has this delta.
fn delta(delta: &Value) -> String {
    event(json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "test-model-1", "usage": null,
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}]
    }))
}

fn text(text: &str) -> String {
    delta(&json!({"content": text}))
}

fn finish(reason: &str) -> String {
    event(
        json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": null}),
    )
}

const DONE: &str = "data: [DONE]\n\n";

fn usage() -> String {
    event(json!({"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}))
}

fn whole(pieces: &[impl AsRef<str>]) -> Reply {
    Reply::events(pieces).ended()
}

async fn ask_server(
    server: &Server,
    streaming: Streaming,
    prompt: Prompt,
) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let model = server.model().with_streaming(streaming);
    ask_model(model, prompt).await
}

async fn ask_model(model: Model, prompt: Prompt) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let request = LlmRequest::new(prompt);
    let item = Arc::clone(request.item());
    let result = model.oneshot(request).await;
    (result, item.report())
}

async fn ask(reply: Reply) -> (Result<LlmResponse, LlmError>, ItemReport) {
    let server = Server::start(move |_| reply.clone()).await;
    ask_server(&server, Streaming::new(), "x".into()).await
}

#[tokio::test]
async fn pieces_make_the_answer_that_would_have_come_whole() {
    let server = Server::start(|_| {
        whole(&[
            delta(&json!({"role": "assistant", "content": "", "refusal": null})),
            text("6 times "),
            text("7\n"),
            text("is 42"),
            finish("stop"),
            usage(),
            DONE.to_owned(),
        ])
    })
    .await;
    let (answer, report) = ask_server(&server, Streaming::new(), "6 * 7?".into()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.output, "6 times 7\nis 42");
    assert_eq!(answer.usage, Some(TokenUsage::new(10, 2)));
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.metadata.model.as_deref(), Some("test-model-1"));
    assert_eq!(answer.metadata.response_id.as_deref(), Some("chatcmpl-1"));
    assert!(report.time_to_first_token.is_some());
    assert_eq!((report.calls, report.unknown_usage_calls), (1, 0));
    assert_eq!(report.usage, TokenUsage::new(10, 2));

    let sent = server.received()[0].json();
    assert_eq!(sent["stream"], true);
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    assert_eq!(sent["messages"][0]["content"], "6 * 7?");
}

#[tokio::test]
async fn the_body_is_kept_as_it_would_have_come_whole() {
    let server = Server::start(|_| whole(&[text("4"), finish("stop"), usage(), DONE.to_owned()])).await;
    let model = server.builder().keep_raw_body(true).build().unwrap().model("m");
    let answer = model
        .with_streaming(Streaming::new())
        .oneshot(LlmRequest::new("x".into()));
    let body: Value = serde_json::from_str(answer.await.unwrap().metadata.raw_body.unwrap().get()).unwrap();
    assert_eq!(
        body,
        json!({
            "id": "chatcmpl-1", "model": "test-model-1", "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "4", "refusal": null}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2}
        })
    );
}

#[tokio::test]
async fn usage_is_found_wherever_it_stands() {
    let known = Some(TokenUsage::new(10, 2));
    let counts = json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12});
    let last = |more: Value| {
        let mut chunk = json!({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]});
        chunk
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        event(chunk)
    };
    for (pieces, expected) in [
        (vec![finish("stop"), usage()], known),
        // DeepSeek, Mistral, OpenRouter: in the last chunk of the answer.
        (vec![last(json!({"usage": counts}))], known),
        // Groq.
        (vec![last(json!({"x_groq": {"id": "1", "usage": counts}}))], known),
        (
            vec![
                event(json!({"x_groq": {"id": "1"}, "choices": []})),
                last(json!({"x_groq": {"usage": counts}})),
            ],
            known,
        ),
        // The last one that says something counts.
        (
            vec![
                event(json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1}})),
                finish("stop"),
                usage(),
                event(json!({"choices": [], "usage": null})),
            ],
            known,
        ),
        (vec![finish("stop")], None),
    ] {
        let mut pieces = pieces;
        pieces.insert(0, text("4"));
        pieces.push(DONE.to_owned());
        let (answer, report) = ask(whole(&pieces)).await;
        let answer = answer.unwrap();
        assert_eq!(
            (answer.output.as_str(), answer.usage),
            ("4", expected),
            "{pieces:?}"
        );
        assert_eq!(
            report.unknown_usage_calls,
            u32::from(expected.is_none()),
            "{pieces:?}"
        );
    }
}

#[tokio::test]
async fn the_cost_of_a_streamed_call_is_kept() {
    let last =
        json!({"choices": [], "usage": {"prompt_tokens": 15, "completion_tokens": 9, "cost": 0.000_06}});
    let (answer, _) = ask(whole(&[text("1"), finish("stop"), event(last), DONE.to_owned()])).await;
    assert_eq!(answer.unwrap().metadata.cost, Some(0.000_06));
}

#[tokio::test]
async fn comments_and_blank_lines_keep_a_stream_alive_and_say_nothing() {
    let keep_alive = ": OPENROUTER PROCESSING\n\n";
    let (answer, _) = ask(whole(&[
        "\n\n".to_owned(),
        keep_alive.to_owned(),
        keep_alive.to_owned(),
        "\r\n".to_owned(),
        text("a"),
        ": keep-alive\n\n".to_owned(),
        // Data in several lines, and in pieces that no line ends.
        "data: {\"choices\": [{\"index\": 0,\ndata:  \"delta\": {\"conte".to_owned(),
        "nt\": \"b\"}}]}\n".to_owned(),
        "\n".to_owned(),
        "retry: 3000\nid: 7\nevent: message\n\n".to_owned(),
        finish("stop"),
        usage(),
        "data:[DONE]\r\n\r\n".to_owned(),
    ]))
    .await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.output.as_str(), answer.usage),
        ("ab", Some(TokenUsage::new(10, 2)))
    );
}

#[tokio::test]
async fn an_answer_that_says_it_is_finished_needs_no_terminator() {
    // The last event may also lack its blank line.
    let cut_line = usage().trim_end().to_owned();
    for (pieces, usage) in [
        (
            vec![text("4"), finish("stop"), usage()],
            Some(TokenUsage::new(10, 2)),
        ),
        (
            vec![text("4"), finish("stop"), cut_line],
            Some(TokenUsage::new(10, 2)),
        ),
        // The usage was still to come. The answer is paid for: it stands, and what it used is unknown.
        (vec![text("4"), finish("stop")], None),
    ] {
        let (answer, report) = ask(whole(&pieces)).await;
        let answer = answer.unwrap();
        assert_eq!((answer.output.as_str(), answer.usage), ("4", usage), "{pieces:?}");
        assert_eq!(report.unknown_usage_calls, u32::from(usage.is_none()));
        let (answer, _) = ask(Reply::events(&pieces).after(After::Reset)).await;
        assert_eq!(answer.unwrap().output, "4", "{pieces:?}");
    }
}

#[tokio::test]
async fn a_cut_stream_was_sent_and_may_have_been_billed() {
    let begun = [text("half an ans"), text("wer")];
    for (reply, word) in [
        (whole(&begun), "before the answer was complete"),
        (Reply::events(&begun).after(After::Close), "broke off"),
        (Reply::events(&begun).after(After::Reset), "broke off"),
        (whole(&[""; 0]), "before the answer was complete"),
        (whole(&[": keep-alive\n\n"]), "before the answer was complete"),
    ] {
        let (result, report) = ask(reply).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert_eq!(error.delivery(), Delivery::MaybeBilled);
        assert_eq!(error.disposition(), Disposition::Backoff);
        assert_eq!((error.usage(), error.status()), (None, Some(200)));
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!((report.calls, report.unknown_usage_calls), (1, 1));
    }
}

#[tokio::test]
async fn an_error_in_a_stream_is_that_error() {
    use ErrorKind as K;
    let usage_known = Some(TokenUsage::new(10, 2));
    for (event, kind, usage) in [
        // OpenRouter, with and without its own usage.
        (
            event(json!({"id": "gen-1", "error": {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "provider_unavailable"}},
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]})),
            K::ServerError,
            None,
        ),
        (
            event(json!({"error": {"code": 503, "message": "busy", "metadata": {"error_type": "provider_overloaded"}},
                "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})),
            K::Overloaded,
            usage_known,
        ),
        (
            event(json!({"choices": [{"index": 0, "delta": {}, "error": {"code": 429, "message": "slow down"}, "finish_reason": "error"}]})),
            K::RateLimit,
            None,
        ),
        (
            event(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})),
            K::ServerError,
            usage_known,
        ),
        // OpenAI, vLLM of both ages, xAI, Mistral, llama.cpp.
        (event(json!({"error": {"message": "The server had an error", "type": "server_error", "code": null}})), K::ServerError, None),
        (event(json!({"object": "error", "message": "maximum context length", "type": "BadRequestError", "code": 400})), K::ContextLength, None),
        (event(json!({"error": {"message": "x", "type": "BadRequestError", "code": 400}})), K::InvalidRequest, None),
        (event(json!({"code": "The service is currently unavailable", "error": "Try again"})), K::ServerError, None),
        (event(json!({"object": "error", "message": "Invalid model", "type": "invalid_model", "code": "1500"})), K::NotFound, None),
        ("event: error\ndata: {\"code\": 500, \"message\": \"Context size has been exceeded.\", \"type\": \"server_error\"}\n\n".to_owned(), K::ServerError, None),
        ("event: error\ndata: out of memory\n\n".to_owned(), K::ServerError, None),
        // A bare object, as Google writes it.
        (
            "{\"error\": {\"code\": 401, \"message\": \"no\"}}\n".to_owned(),
            K::Authentication,
            None,
        ),
    ] {
        for after_text in [true, false] {
            let mut pieces = vec![event.clone()];
            if after_text {
                pieces.insert(0, text("half an ans"));
            }
            let (result, report) = ask(whole(&pieces)).await;
            let error = result.unwrap_err();
            assert_eq!(error.kind(), kind, "{event}: {error}");
            assert_eq!(error.delivery(), Delivery::MaybeBilled, "{event}");
            assert_eq!(error.usage(), usage, "{event}");
            assert!(!error.message().is_empty(), "{event}");
            assert_eq!(report.unknown_usage_calls, u32::from(usage.is_none()));
        }
    }
}

#[tokio::test]
async fn a_stalled_stream_times_out_and_a_slow_one_does_not() {
    // Nothing more comes after the first piece.
    let stalled =
        Server::start(|_| Reply::events(&[text("a")]).then(Duration::from_secs(600), &text("b"))).await;
    let streaming = Streaming::new().with_idle_timeout(Duration::from_millis(100));
    let (result, report) = ask_server(&stalled, streaming, "x".into()).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::TimedOut, Delivery::MaybeBilled)
    );
    assert_eq!(error.usage(), None);
    assert!(llm_batch::Verdict::from(&error).maybe_billed);
    assert!(error.to_string().contains("100ms"), "{error}");
    assert!(report.time_to_first_token.is_some());

    // Twice as long as may pass between two pieces, kept alive by events and comments.
    let slow = Server::start(|_| {
        let pause = Duration::from_millis(200);
        let pieces = (0..10).map(|number| {
            if number % 2 == 0 {
                text("a")
            } else {
                ": wait\n\n".to_owned()
            }
        });
        pieces
            .fold(Reply::events(&[""; 0]), |reply, piece| reply.then(pause, &piece))
            .then(pause, &finish("stop"))
            .then(Duration::ZERO, DONE)
            .ended()
    })
    .await;
    let streaming = Streaming::new().with_idle_timeout(Duration::from_secs(1));
    let (answer, _) = ask_server(&slow, streaming, "x".into()).await;
    assert_eq!(answer.unwrap().output, "aaaaa");
}

#[tokio::test]
async fn the_wait_for_the_reply_to_begin_is_not_idle() {
    let server = Server::start(|_| {
        whole(&[text("late"), finish("stop"), DONE.to_owned()]).wait(Duration::from_millis(300))
    })
    .await;
    let streaming = Streaming::new().with_idle_timeout(Duration::from_millis(50));
    let (answer, _) = ask_server(&server, streaming, "x".into()).await;
    assert_eq!(answer.unwrap().output, "late");
    let (answer, _) = ask_server(&server, streaming.without_idle_timeout(), "x".into()).await;
    assert_eq!(answer.unwrap().output, "late");
}

#[tokio::test]
async fn what_is_complete_stands_though_the_body_never_ends() {
    let server = Server::start(|_| {
        Reply::events(&[text("4"), finish("stop"), usage(), DONE.to_owned()])
            .then(Duration::from_secs(600), ": more\n\n")
    })
    .await;
    let (answer, _) = ask_server(&server, Streaming::new(), "x".into()).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.output.as_str(), answer.usage),
        ("4", Some(TokenUsage::new(10, 2)))
    );
}

#[tokio::test]
async fn a_server_that_ignores_the_wish_for_a_stream_is_read_whole() {
    let (answer, report) = ask(Reply::text("whole")).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.output.as_str(), answer.usage),
        ("whole", Some(TokenUsage::new(10, 2)))
    );
    assert_eq!(report.time_to_first_token, None);
    // Blank lines that kept the connection alive come before the JSON.
    let body = format!("\n\n\n{}", crate::server::completion("late"));
    let (answer, _) = ask(Reply::new(200, &[("content-type", "application/json")], body)).await;
    assert_eq!(answer.unwrap().output, "late");
}

#[tokio::test]
async fn an_error_status_is_classified_as_without_a_stream() {
    let body =
        r#"{"error":{"message":"Please try again in 2s","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let (result, _) = ask(Reply::new(429, &[("content-type", "application/json")], body)).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::RateLimit, Delivery::Rejected)
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert_eq!(error.usage(), Some(TokenUsage::ZERO));
}

#[tokio::test]
async fn an_overload_before_the_first_event_may_lack_its_reason() {
    for head in ["HTTP/1.1 529 \r\n", "HTTP/1.1 529\r\n"] {
        let reply = format!("{head}content-type: text/event-stream\r\ncontent-length: 0\r\n\r\n");
        let (result, _) = ask(Reply::raw(reply, After::Keep)).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.status(), error.delivery()),
            (ErrorKind::Overloaded, Some(529), Delivery::Rejected)
        );
    }
}

#[tokio::test]
async fn a_stream_beyond_the_bound_is_an_error_of_its_own() {
    let server =
        Server::start(|_| whole(&[text(&"x".repeat(5_000)), text(&"x".repeat(5_000)), finish("stop")])).await;
    let model = |bytes| {
        let client = server.builder().max_response_bytes(bytes).build().unwrap();
        client.model("m").with_streaming(Streaming::new())
    };
    let (result, _) = ask_model(model(9_000), "x".into()).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::ResponseTooLarge, Delivery::MaybeBilled)
    );
    assert_eq!(error.usage(), None);
    let (answer, _) = ask_model(model(20_000), "x".into()).await;
    assert_eq!(answer.unwrap().output.len(), 10_000);
}

#[tokio::test]
async fn fragments_of_tool_calls_are_joined() {
    let call = |index: Value, id: Value, name: Value, arguments: &str| {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if !id.is_null() {
            call["id"] = id;
            call["type"] = "function".into();
        }
        if !name.is_null() {
            call["function"]["name"] = name;
        }
        delta(&json!({"tool_calls": [call]}))
    };
    let expected = [
        json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}),
        json!({"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
    ];
    let more = |index: u64, arguments: &str| call(index.into(), Value::Null, Value::Null, arguments);
    let unnumbered =
        |id: &str, name: &str, arguments: &str| call(Value::Null, id.into(), name.into(), arguments);
    let first = |index: u64, id: &str, name: &str, arguments: &str| {
        call(index.into(), id.into(), name.into(), arguments)
    };
    for pieces in [
        vec![
            first(0, "a", "f", ""),
            more(0, "{\"x\""),
            first(1, "b", "g", ""),
            more(0, ":1}"),
            more(1, "{}"),
        ],
        // The id with every fragment.
        vec![
            first(0, "a", "f", "{\"x\""),
            call(json!(0), json!("a"), Value::Null, ":1}"),
            first(1, "b", "g", "{}"),
        ],
        // Whole calls, not numbered, or all with the same number.
        vec![unnumbered("a", "f", "{\"x\":1}"), unnumbered("b", "g", "{}")],
        vec![
            first(0, "a", "f", "{\"x\""),
            more(0, ":1}"),
            first(0, "b", "g", "{"),
            more(0, "}"),
        ],
    ] {
        let mut pieces = pieces;
        pieces.extend([finish("tool_calls"), usage(), DONE.to_owned()]);
        let (answer, report) = ask(whole(&pieces)).await;
        let answer = answer.unwrap();
        assert_eq!(answer.metadata.tool_calls, expected, "{pieces:?}");
        assert_eq!(answer.metadata.finish_reason, Some(FinishReason::ToolCalls));
        assert_eq!(answer.output, "");
        assert!(report.time_to_first_token.is_some());
    }
}

#[tokio::test]
async fn refusals_filters_and_cuts_are_read_as_in_whole_replies() {
    use ErrorKind as K;
    let refusal = |text: &str| delta(&json!({"refusal": text}));
    for (pieces, kind) in [
        (
            vec![refusal("I cannot "), refusal("help."), finish("stop")],
            K::ContentFilter,
        ),
        (vec![text("half"), finish("content_filter")], K::ContentFilter),
        (vec![finish("length")], K::Truncated),
    ] {
        let mut pieces = pieces;
        pieces.extend([usage(), DONE.to_owned()]);
        let (result, _) = ask(whole(&pieces)).await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.usage()),
            (kind, Some(TokenUsage::new(10, 2))),
            "{error}"
        );
        if kind == K::ContentFilter && pieces.len() == 5 {
            assert!(error.to_string().contains("I cannot help."), "{error}");
        }
    }
    let (answer, _) = ask(whole(&[text("half"), finish("length"), usage(), DONE.to_owned()])).await;
    assert_eq!(answer.unwrap().metadata.finish_reason, Some(FinishReason::Length));
    // A stream that ends properly, but says nothing at all.
    let (result, _) = ask(whole(&[DONE])).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (K::ServerError, Delivery::MaybeBilled)
    );
}

#[tokio::test]
async fn thoughts_and_other_choices_are_left_out() {
    for thought in [
        json!({"reasoning_content": "hm"}),
        json!({"reasoning": "hm", "content": ""}),
        json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
    ] {
        let other = event(
            json!({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}),
        );
        let server = Server::start({
            let pieces = [
                delta(&thought),
                other,
                text("so"),
                finish("stop"),
                DONE.to_owned(),
            ];
            move |_| whole(&pieces)
        })
        .await;
        let (answer, report) = ask_server(&server, Streaming::new(), "x".into()).await;
        let answer = answer.unwrap();
        assert_eq!(
            (answer.output.as_str(), answer.metadata.finish_reason),
            ("so", Some(FinishReason::Stop)),
            "{thought}"
        );
        assert!(report.time_to_first_token.is_some());
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_stream() {
    let server = Server::start(|_| whole(&[text("4"), finish("stop"), usage(), DONE.to_owned()])).await;
    let model = server.model().with_streaming(Streaming::new());
    for _ in 0..5 {
        assert_eq!(ask_model(model.clone(), "x".into()).await.0.unwrap().output, "4");
    }
    // The first one is of its own, as the server may be one that closes after each stream.
    assert_eq!(server.accepted(), 2);

    // Nor does an error event cost the connection; a cut stream does.
    let server = Server::start(|request| match request.number {
        1 => whole(&[event(json!({"error": {"message": "x", "code": 500}}))]),
        2 => Reply::events(&[text("half")]).after(After::Close),
        _ => whole(&[text("4"), finish("stop"), DONE.to_owned()]),
    })
    .await;
    let model = server.model().with_streaming(Streaming::new());
    for works in [true, false, false, true] {
        assert_eq!(ask_model(model.clone(), "x".into()).await.0.is_ok(), works);
    }
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn a_raw_body_is_streamed_too() {
    let server = Server::start(|_| whole(&[text("4"), finish("stop"), DONE.to_owned()])).await;
    let raw = |body: Value| Prompt::raw(serde_json::from_value(body).unwrap());
    let own = json!({"messages": [], "stream_options": {"include_usage": false}});
    for body in [json!({"messages": []}), own] {
        let (answer, _) = ask_server(&server, Streaming::new(), raw(body)).await;
        assert_eq!(answer.unwrap().output, "4");
    }
    let sent = server.received();
    assert_eq!(
        sent[0].json(),
        json!({"messages": [], "model": "test-model", "stream": true, "stream_options": {"include_usage": true}})
    );
    assert_eq!(sent[1].json()["stream_options"], json!({"include_usage": false}));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever a stream holds, there is an answer or an error, and no panic.
    #[test]
    fn mutated_streams_never_panic(position in 0usize..900, byte: u8, cut in 0usize..900, responses: bool) {
        let mut body = if responses {
            [
                event(json!({"type": "response.output_text.delta", "delta": "x"})),
                event(json!({"type": "response.output_item.done", "item": {"type": "function_call"}})),
                event(json!({"type": "response.completed", "response": {"status": "completed", "output": [
                    {"type": "message", "phase": "final_answer", "content": [{"type": "output_text", "text": "x"}]}],
                    "usage": {"input_tokens": 1, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 9}}}})),
                "event: error\ndata: {\"code\": 3}\n\n".to_owned(),
            ].concat()
        } else {
            [
                text("a"),
                delta(&json!({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}]})),
                delta(&json!({"tool_calls": [{"index": 0, "function": {"arguments": "}", "more": "x"}}]})),
                finish("stop"),
                usage(),
                DONE.to_owned(),
            ].concat()
        }
        .into_bytes();
        if let Some(slot) = body.get_mut(position) {
            *slot = byte;
        }
        body.truncate(body.len().saturating_sub(cut / 3));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec();
            bytes.extend_from_slice(&body);
            let server = Server::start(move |_| Reply::raw(bytes.clone(), After::Close)).await;
            let client = server.builder().build().unwrap();
            let model = if responses { client.responses("m") } else { client.chat("m") };
            let _ = ask_model(model.with_streaming(Streaming::new()), "x".into()).await;
        });
    }
}
