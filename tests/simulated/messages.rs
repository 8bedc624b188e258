//! Anthropic's Messages.

use std::time::SystemTime;

use llm_batch::testing::{Hint, Quota};
use serde_json::{Value, json};

use super::support::{Ask, Setup, Wire, events, header, ms, read, serve, usage};

async fn refused(setup: &Setup, version: Option<&str>, body: &Value) -> String {
    let url = format!("{}/v1/messages", setup.server.origin());
    let mut request = setup.client.post(url);
    if let Some(version) = version {
        request = request.header("anthropic-version", version);
    }
    let response = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 400, "{body}");
    assert_eq!(header(&response, "x-should-retry"), "false");
    let id = header(&response, "request-id");
    let body = super::support::json(response).await;
    assert_eq!(
        (&body["type"], &body["request_id"]),
        (&json!("error"), &json!(id))
    );
    assert_eq!(body["error"]["type"], "invalid_request_error");
    body["error"]["message"].as_str().unwrap().to_owned()
}

fn with(name: &str, value: Value) -> Value {
    let mut body = Ask::new("hi").body(Wire::Messages);
    body[name] = value;
    body
}

#[tokio::test]
async fn a_whole_answer_is_a_message() {
    let setup = serve(|sim| sim).await;
    let response = setup.ask(Wire::Messages, &Ask::new("2 and 3")).await.unwrap();
    assert_eq!(header(&response, "request-id"), "req_sim_1");
    let body = super::support::json(response).await;
    assert_eq!(
        (&body["type"], &body["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert_eq!(
        (&body["stop_reason"], &body["stop_details"]),
        (&json!("end_turn"), &Value::Null)
    );
    assert_eq!(body["content"].as_array().unwrap().len(), 1);
    assert_eq!(body["usage"]["service_tier"], "standard");
}

#[tokio::test]
async fn what_the_api_refuses_is_refused() {
    let setup = serve(|sim| sim).await;
    let new = Some("2026-10-21");
    let plain = Ask::new("hi").body(Wire::Messages);
    assert!(refused(&setup, None, &plain).await.contains("header is required"));
    assert!(
        refused(&setup, Some("2031-01-01"), &plain)
            .await
            .contains("not a valid version")
    );
    for name in ["temperature", "top_p", "top_k"] {
        let body = with(name, json!(1));
        assert!(refused(&setup, new, &body).await.starts_with(name));
        let old = setup
            .client
            .post(format!("{}/v1/messages", setup.server.origin()));
        let old = old
            .header("anthropic-version", "2023-06-01")
            .body(body.to_string());
        assert_eq!(old.send().await.unwrap().status(), 200);
    }
    let mut no_limit = plain.clone();
    no_limit.as_object_mut().unwrap().remove("max_tokens");
    assert_eq!(
        refused(&setup, new, &no_limit).await,
        "max_tokens: Field required"
    );
    assert!(
        refused(&setup, new, &with("messages", json!([])))
            .await
            .starts_with("messages")
    );
    let thinking = |budget: u64| with("thinking", json!({"type": "enabled", "budget_tokens": budget}));
    assert!(refused(&setup, new, &thinking(100)).await.contains("1024"));
    assert!(
        refused(&setup, new, &thinking(9_000))
            .await
            .contains("max_tokens")
    );
    let mark = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
    let marks = refused(
        &setup,
        new,
        &with("system", json!([mark, mark, mark, mark, mark])),
    )
    .await;
    assert!(marks.contains("Found 5"), "{marks}");
    let cited =
        json!([{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{"a": 1}]}]}]);
    assert!(
        refused(&setup, new, &with("messages", cited))
            .await
            .contains("citations")
    );
    let ledger = setup.server.shutdown().await;
    assert!(ledger.is_balanced());
    assert_eq!((ledger.answered, ledger.rejected[&400]), (3, 11));
}

#[tokio::test]
async fn marked_prefixes_are_written_once_and_then_read() {
    let setup = serve(|sim| sim).await;
    let long = "shared prefix ".repeat(400);
    let asked = |question: &str, ttl: &str| {
        let mut body = Ask::new(question).body(Wire::Messages);
        body["system"] =
            json!([{"type": "text", "text": long, "cache_control": {"type": "ephemeral", "ttl": ttl}}]);
        body
    };
    let prefix = long.len() as u64 / 4;
    let (_, first) = setup.post(Wire::Messages, &asked("2 and 3", "5m")).await;
    assert_eq!(first["usage"]["cache_creation_input_tokens"], prefix);
    assert_eq!(
        first["usage"]["cache_creation"]["ephemeral_5m_input_tokens"],
        prefix
    );
    assert_eq!(first["usage"]["cache_read_input_tokens"], 0);
    let (_, second) = setup.post(Wire::Messages, &asked("4 and 5", "5m")).await;
    assert_eq!(second["usage"]["cache_creation_input_tokens"], 0);
    assert_eq!(second["usage"]["cache_read_input_tokens"], prefix);
    // The whole prompt, by a mark at the top level: the part beyond the prefix is written, for an hour.
    let mut whole = asked(&"more words ".repeat(100), "5m");
    whole["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
    let (_, third) = setup.post(Wire::Messages, &whole).await;
    let read = usage(Wire::Messages, &third["usage"]);
    assert_eq!(read.cached_input, prefix);
    assert!(
        read.cache_write > 200 && read.cached_input + read.cache_write == read.input,
        "{read:?}"
    );
    assert_eq!(
        third["usage"]["cache_creation"]["ephemeral_1h_input_tokens"],
        read.cache_write
    );
    // Another model has its own cache; a small prefix is not cached; neither is an error.
    let mut other = asked("2 and 3", "5m");
    other["model"] = "other".into();
    assert_eq!(
        setup.post(Wire::Messages, &other).await.1["usage"]["cache_read_input_tokens"],
        0
    );
    let small = with(
        "system",
        json!([{"type": "text", "text": "short", "cache_control": {"type": "ephemeral"}}]),
    );
    for _ in 0..2 {
        let (_, body) = setup.post(Wire::Messages, &small).await;
        let read = usage(Wire::Messages, &body["usage"]);
        assert_eq!((read.cached_input, read.cache_write), (0, 0));
    }
    let billed = setup.server.shutdown().await.billed_answered;
    assert_eq!(billed.cached_input, 2 * prefix);
    assert_eq!(billed.cache_write, 2 * prefix + read.cache_write);
}

#[tokio::test]
async fn a_forced_tool_is_called_with_an_instance_of_its_schema() {
    let setup = serve(|sim| sim).await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let mut body = with(
        "tools",
        json!([{"name": "other"}, {"name": "answer", "strict": true, "input_schema": schema}]),
    );
    body["tool_choice"] = json!({"type": "tool", "name": "answer"});
    let (_, whole) = setup.post(Wire::Messages, &body).await;
    assert_eq!(whole["stop_reason"], "tool_use");
    let block = &whole["content"][0];
    assert_eq!(
        (&block["type"], &block["name"], &block["input"]),
        (&json!("tool_use"), &json!("answer"), &json!({"n": 42}))
    );
    body["stream"] = true.into();
    let response = setup
        .request(Wire::Messages, true)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let events = events(&response.text().await.unwrap());
    let input: String = events
        .iter()
        .filter_map(|(_, data)| {
            let data: Value = serde_json::from_str(data).unwrap();
            data.pointer("/delta/partial_json")?.as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(input, r#"{"n":42}"#);
}

#[tokio::test]
async fn thoughts_are_shown_when_asked_for_and_always_counted() {
    let setup = serve(|sim| sim.reasoning_tokens(30)).await;
    let (_, silent) = setup
        .post(Wire::Messages, &Ask::new("hi").body(Wire::Messages))
        .await;
    let mut body = with("thinking", json!({"type": "adaptive"}));
    let (_, shown) = setup.post(Wire::Messages, &body).await;
    assert_eq!(read(Wire::Messages, &silent), read(Wire::Messages, &shown));
    assert_eq!(silent["usage"]["output_tokens_details"]["thinking_tokens"], 30);
    assert_eq!(silent["content"][0]["type"], "text");
    assert_eq!(shown["content"][0]["type"], "thinking");
    body["stream"] = true.into();
    let response = setup
        .request(Wire::Messages, true)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    for kind in ["thinking_delta", "signature_delta", "text_delta"] {
        assert!(text.contains(kind), "{text}");
    }
    let starts = events(&text)
        .into_iter()
        .filter(|(name, _)| name == "content_block_start");
    assert_eq!(starts.count(), 2);
}

#[tokio::test]
async fn events_come_in_order_and_usage_is_cumulative() {
    let setup = serve(|sim| sim).await;
    let response = setup
        .ask(Wire::Messages, &Ask::new("What is 2 + 3?").streamed())
        .await
        .unwrap();
    let events = events(&response.text().await.unwrap());
    let mut names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let expected = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let data = |at: usize| serde_json::from_str::<Value>(&events[at].1).unwrap();
    let (first, last) = (&data(0)["message"], &data(events.len() - 2));
    assert_eq!(
        (&first["content"], &first["stop_reason"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(first["usage"]["output_tokens"], 1);
    assert_eq!(first["usage"]["input_tokens"], last["usage"]["input_tokens"]);
    assert!(last["usage"]["output_tokens"].as_u64().unwrap() > 10);
}

#[tokio::test]
async fn a_refusal_is_an_empty_answer_that_says_why_and_a_failing_stream_says_overloaded() {
    let setup = serve(|sim| sim.refusal_rate(1.0)).await;
    let (status, body) = setup
        .post(Wire::Messages, &Ask::new("hi").body(Wire::Messages))
        .await;
    assert_eq!((status, &body["content"]), (200, &json!([])));
    assert_eq!(body["stop_reason"], "refusal");
    assert_eq!(body["stop_details"]["type"], "refusal");
    let response = setup
        .ask(Wire::Messages, &Ask::new("hi").streamed())
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    assert!(
        text.contains(r#""stop_reason":"refusal""#) && !text.contains("content_block"),
        "{text}"
    );

    let setup = serve(|sim| sim.stream_error_rate(1.0)).await;
    let response = setup
        .ask(Wire::Messages, &Ask::new("hi").streamed())
        .await
        .unwrap();
    let (name, data) = events(&response.text().await.unwrap()).pop().unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["type"]),
        ("error", &json!("overloaded_error"))
    );
}

#[tokio::test]
async fn rate_limits_are_in_its_own_headers_and_a_throttle_always_has_a_wait() {
    let quota = Quota::new(1, ms(3_000_000));
    for hint in Hint::ALL {
        let setup = serve(|sim| sim.request_quota(quota).hint(hint)).await;
        let response = setup.ask(Wire::Messages, &Ask::new("hi")).await.unwrap();
        assert_eq!(header(&response, "anthropic-ratelimit-requests-limit"), "1");
        assert_eq!(header(&response, "anthropic-ratelimit-requests-remaining"), "0");
        let reset = header(&response, "anthropic-ratelimit-requests-reset");
        let reset = humantime::parse_rfc3339(&reset).unwrap();
        assert!(reset.duration_since(SystemTime::now()).unwrap() > ms(2_900_000));
        assert_eq!(header(&response, "retry-after"), "");

        let response = setup.ask(Wire::Messages, &Ask::new("hi")).await.unwrap();
        assert_eq!(response.status(), 429);
        match hint {
            Hint::RetryAfterMs => {
                assert!(header(&response, "retry-after-ms").parse::<u64>().unwrap() > 2_900_000);
            }
            Hint::HttpDate => assert!(header(&response, "retry-after").ends_with("GMT")),
            _ => assert!(
                header(&response, "retry-after").parse::<u64>().unwrap() > 2_900,
                "{hint}"
            ),
        }
        let windows = header(&response, "anthropic-ratelimit-requests-reset");
        assert_eq!(windows.is_empty(), hint != Hint::ResetHeaders);
        let body = super::support::json(response).await;
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(setup.server.shutdown().await.throttled, 1);
    }
    // Without a wait it would mean a spend limit, which is what this one means.
    let setup = serve(|sim| sim.balance_lasts_for(0)).await;
    let response = setup.ask(Wire::Messages, &Ask::new("hi")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), header(&response, "retry-after")),
        (429, String::new())
    );
    let body = super::support::json(response).await;
    assert_eq!(
        body["error"]["details"]["error_code"],
        "enforced_spend_limit_reached"
    );
}

#[tokio::test]
async fn tokens_are_counted_without_a_call() {
    let setup = serve(|sim| sim).await;
    let url = format!("{}/v1/messages/count_tokens", setup.server.origin());
    let body = json!({"model": "m", "system": "abcd", "messages": [{"role": "user", "content": "efg"}]});
    let post = || setup.client.post(&url).body(body.to_string());
    assert_eq!(post().send().await.unwrap().status(), 400);
    let response = post()
        .header("anthropic-version", "2023-06-01")
        .send()
        .await
        .unwrap();
    assert_eq!(super::support::json(response).await, json!({"input_tokens": 2}));
    let models = setup.client.get(format!("{}/v1/models", setup.server.origin()));
    let models = models
        .header("anthropic-version", "2023-06-01")
        .send()
        .await
        .unwrap();
    let models = super::support::json(models).await;
    assert_eq!(
        (&models["data"][0]["type"], &models["has_more"]),
        (&json!("model"), &json!(false))
    );
    assert_eq!(setup.server.shutdown().await.received, 0);
}
