//! Tests of every wire format: the same answers and accounts, the same faults, one ledger.

use futures::StreamExt;
use futures::stream;
use llm_batch::testing::Quota;
use llm_batch::{Prompt, TokenUsage};
use reqwest::Client;
use serde_json::{Value, json};

use super::support::{Answer, Ask, WIRES, Wire, header, ms, read, read_stream, serve};

fn asks() -> Vec<Ask> {
    let schema = json!({"type": "object", "required": ["n", "names"], "properties": {
        "n": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}},
    }});
    let mut asks = Vec::new();
    for number in 0..6_u64 {
        asks.push(Ask {
            system: (number % 2 == 0).then(|| "Be brief. Größe 🙂".to_owned()),
            schema: (number % 3 == 0).then(|| schema.clone()),
            max_tokens: (number == 4).then_some(20),
            ..Ask::new(format!("What is {number} + 3? é日本"))
        });
    }
    asks
}

fn prompt(ask: &Ask) -> Prompt {
    let mut prompt = Prompt::new(ask.text.as_str());
    if let Some(system) = &ask.system {
        prompt = prompt.with_system(system.as_str());
    }
    if let Some(schema) = &ask.schema {
        prompt = prompt.with_output_schema(schema.clone());
    }
    match ask.max_tokens {
        Some(limit) => prompt.with_max_output_tokens(limit.try_into().unwrap()),
        None => prompt,
    }
}

#[tokio::test]
async fn the_same_prompt_gets_the_same_answer_and_account_on_every_wire() {
    let setup = serve(|sim| sim.reasoning_tokens(7).cached_share(0.25)).await;
    let mut billed = TokenUsage::ZERO;
    for ask in asks() {
        let expected = setup.provider.answer_to(&prompt(&ask));
        let mut usages = Vec::new();
        for wire in WIRES {
            let whole = setup.ask(wire, &ask).await.unwrap().text().await.unwrap();
            let whole = read(wire, &serde_json::from_str(&whole).unwrap());
            let streamed = setup.ask(wire, &ask.clone().streamed()).await.unwrap();
            assert_eq!(
                header(&streamed, "content-type"),
                "text/event-stream; charset=utf-8"
            );
            let streamed = read_stream(wire, &streamed.text().await.unwrap()).unwrap();
            assert_eq!(whole, streamed, "{wire:?}: {ask:?}");
            assert_eq!(whole.text, expected, "{wire:?}");
            usages.extend([whole.usage, streamed.usage]);
        }
        assert!(usages.iter().all(|usage| *usage == usages[0]), "{usages:?}");
        assert_eq!(usages[0].reasoning, 7);
        assert!(usages[0].cached_input > 0);
        billed += usages.into_iter().sum();
    }
    let ledger = setup.server.shutdown().await;
    assert_eq!((ledger.answered, ledger.billed_answered), (48, billed));
    assert!(ledger.is_balanced());
}

#[tokio::test]
async fn a_token_limit_spent_on_reasoning_leaves_an_empty_answer() {
    let setup = serve(|sim| sim.reasoning_tokens(50)).await;
    let ask = Ask {
        max_tokens: Some(10),
        ..Ask::new("hi")
    };
    let limits = ["length", "incomplete", "max_tokens", "MAX_TOKENS"];
    for (wire, finish) in WIRES.into_iter().zip(limits) {
        let (status, body) = setup.post(wire, &ask.body(wire)).await;
        let whole = read(wire, &body);
        assert_eq!(
            (status, whole.text.as_str(), whole.finish.as_str()),
            (200, "", finish)
        );
        assert_eq!((whole.usage.output, whole.usage.reasoning), (10, 10));
        let streamed = setup.ask(wire, &ask.clone().streamed()).await.unwrap();
        assert_eq!(
            read_stream(wire, &streamed.text().await.unwrap()),
            Some(whole),
            "{wire:?}"
        );
    }
}

#[tokio::test]
async fn streams_are_cut_in_three_ways_and_the_ledger_counts_each() {
    let ask = Ask::new("What is 2 + 3?").streamed();
    for wire in WIRES {
        // Ended cleanly, but without the last event.
        let setup = serve(|sim| sim.stream_cut_rate(1.0)).await;
        let text = setup.ask(wire, &ask).await.unwrap().text().await.unwrap();
        assert!(
            text.replace('\r', "").ends_with("\n\n") && read_stream(wire, &text).is_none(),
            "{wire:?}: {text}"
        );
        let ledger = setup.server.shutdown().await;
        assert_eq!((ledger.cut, ledger.cut_in_body, ledger.answered), (1, 1, 0));
        assert!(ledger.billed_cut.total() > 0 && ledger.is_balanced());

        // A reset.
        let setup = serve(|sim| sim.reset_in_body_rate(1.0)).await;
        let response = setup.ask(wire, &ask).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.text().await.is_err());
        let ledger = setup.server.shutdown().await;
        assert_eq!((ledger.cut, ledger.cut_in_body), (1, 1));

        // An error event.
        let setup = serve(|sim| sim.stream_error_rate(1.0)).await;
        let response = setup.ask(wire, &ask).await.unwrap();
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        assert!(read_stream(wire, &text).is_none());
        assert!(text.contains("error"), "{text}");
        let ledger = setup.server.shutdown().await;
        assert_eq!((ledger.cut, ledger.error_events, ledger.cut_in_body), (1, 1, 0));
        assert!(ledger.is_balanced());

        // In the middle of an event; and no events at all.
        let setup = serve(|sim| sim.truncated_rate(1.0)).await;
        let text = setup.ask(wire, &ask).await.unwrap().text().await.unwrap();
        assert!(
            !text.ends_with('\n') && read_stream(wire, &text).is_none(),
            "{text}"
        );
        assert_eq!(setup.server.shutdown().await.garbled, 1);
        let setup = serve(|sim| sim.garbage_rate(1.0)).await;
        let response = setup.ask(wire, &ask).await.unwrap();
        assert_eq!(header(&response, "content-type"), "text/html");
        assert!(response.text().await.unwrap().starts_with("<html>"));
        assert_eq!(setup.server.shutdown().await.garbled, 1);
    }
}

#[tokio::test]
async fn stream_faults_leave_whole_answers_alone() {
    let setup = serve(|sim| {
        sim.stream_cut_rate(0.5)
            .stream_error_rate(0.5)
            .stream_stall(1.0, ms(3_600_000))
    })
    .await;
    for wire in WIRES {
        let (status, body) = setup.post(wire, &Ask::new("hi").body(wire)).await;
        assert_eq!(status, 200);
        assert!(!read(wire, &body).text.is_empty());
    }
    assert_eq!(setup.server.shutdown().await.answered, 4);
}

#[tokio::test]
async fn slow_streams_show_that_they_are_alive() {
    let ask = Ask::new("What is 2 + 3?").streamed();
    for wire in WIRES {
        let setup = serve(|sim| sim.latency(ms(120)).slow_body(1.0, ms(200)).keep_alive(ms(20))).await;
        let text = setup.ask(wire, &ask).await.unwrap().text().await.unwrap();
        let sign = match wire {
            Wire::Messages => Some(
                "event: ping
",
            ),
            Wire::Chat | Wire::Responses => Some(
                ": keep-alive
",
            ),
            Wire::Gemini => None,
        };
        if let Some(sign) = sign {
            // Before the first event, too.
            assert!(text.starts_with(sign), "{wire:?}: {text}");
            assert!(text.matches(sign).count() >= 6, "{wire:?}: {text}");
        } else {
            assert!(
                text.starts_with("data: ") && !text.contains("keep-alive"),
                "{text}"
            );
        }
        let answer = read_stream(wire, &text).unwrap();
        assert_eq!(answer.text, setup.provider.answer_to(&"What is 2 + 3?".into()));
        assert_eq!(setup.server.shutdown().await.answered, 1);
    }
}

#[tokio::test]
async fn a_stall_in_the_middle_is_silent_and_its_call_is_cut_when_the_client_leaves() {
    for wire in WIRES {
        let setup = serve(|sim| sim.stream_stall(1.0, ms(3_600_000)).keep_alive(ms(5))).await;
        let ask = Ask::new("What is 2 + 3?").streamed();
        let mut response = setup.ask(wire, &ask).await.unwrap();
        let mut came = Vec::new();
        while let Ok(chunk) = tokio::time::timeout(ms(150), response.chunk()).await {
            came.extend(chunk.unwrap().expect("the stream goes on"));
        }
        let text = String::from_utf8(came).unwrap();
        assert!(!text.is_empty() && read_stream(wire, &text).is_none());
        drop(response);
        drop(setup.client);
        let ledger = setup.server.shutdown().await;
        assert_eq!((ledger.cut, ledger.disconnected), (1, 1), "{wire:?}");
        assert!(ledger.is_balanced());
    }
}

#[tokio::test]
async fn each_provider_finds_its_key_where_it_sends_it() {
    let setup = serve(|sim| sim.api_key("right")).await;
    let ask = Ask::new("hi");
    let url = |path: &str| format!("{}{path}", setup.server.origin());
    for wire in WIRES {
        let (status, body) = setup.post(wire, &ask.body(wire)).await;
        let (expected, code) = match wire {
            Wire::Chat | Wire::Responses => (401, &body["error"]["code"]),
            Wire::Messages => (401, &body["error"]["type"]),
            Wire::Gemini => (400, &body["error"]["details"][0]["reason"]),
        };
        assert_eq!(status, expected, "{wire:?}");
        let name = match wire {
            Wire::Chat | Wire::Responses => "invalid_api_key",
            Wire::Messages => "authentication_error",
            Wire::Gemini => "API_KEY_INVALID",
        };
        assert_eq!(code, name, "{body}");
    }
    let cases: [(Wire, &str, &str, bool); 9] = [
        (Wire::Chat, "authorization", "Bearer right", true),
        (Wire::Responses, "authorization", "Bearer right", true),
        (Wire::Messages, "authorization", "Bearer right", true),
        (Wire::Messages, "x-api-key", "right", true),
        (Wire::Gemini, "x-goog-api-key", "right", true),
        (Wire::Chat, "x-api-key", "right", false),
        (Wire::Gemini, "authorization", "Bearer right", false),
        (Wire::Messages, "x-api-key", "wrong", false),
        (Wire::Gemini, "x-goog-api-key", "wrong", false),
    ];
    for (wire, name, value, right) in cases {
        let request = setup.request(wire, false).header(name, value);
        let response = request.body(ask.body(wire).to_string()).send().await.unwrap();
        assert_eq!(response.status() == 200, right, "{wire:?} {name}: {value}");
    }
    let by_query = setup.client.post(url("/v1/models/m:generateContent?key=right"));
    let response = by_query
        .body(ask.body(Wire::Gemini).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let lists = [
        ("/v1/models", "authorization", "Bearer right", "/data/0/id"),
        ("/v1/models", "x-goog-api-key", "right", "/models/0/name"),
        ("/v1beta/models", "x-goog-api-key", "right", "/models/0/name"),
    ];
    for (path, name, value, place) in lists {
        let response = setup
            .client
            .get(url(path))
            .header(name, value)
            .send()
            .await
            .unwrap();
        let list = super::support::json(response).await;
        assert!(
            list.pointer(place).is_some_and(Value::is_string),
            "{path}: {list}"
        );
        assert_eq!(
            setup
                .client
                .get(url(path))
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
                / 100,
            4
        );
    }
}

#[tokio::test]
async fn what_is_lost_is_answered_in_the_providers_own_way() {
    let setup = serve(|sim| sim).await;
    let (status, body) = setup.gemini("POST", "/v1beta/models/m:dream", json!({})).await;
    assert_eq!((status, &body["error"]["status"]), (404, &json!("NOT_FOUND")));
    let (status, body) = setup.gemini("POST", "/v1/messages/dreams", json!({})).await;
    assert_eq!((status, &body["error"]["type"]), (404, &json!("not_found_error")));
    let (status, body) = setup.gemini("POST", "/v1/dreams", json!({})).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("unknown_url")));
}

#[tokio::test]
async fn statuses_come_in_each_providers_words() {
    let words = |wire: Wire, status: u16| match (wire, status) {
        (Wire::Messages, 403) => "permission_error",
        (Wire::Messages, 404) => "not_found_error",
        (Wire::Messages, 413) => "request_too_large",
        (Wire::Messages, 429) => "rate_limit_error",
        (Wire::Messages, 500) => "api_error",
        (Wire::Messages, 504) => "timeout_error",
        (Wire::Messages, 529) => "overloaded_error",
        (Wire::Gemini, 403) => "PERMISSION_DENIED",
        (Wire::Gemini, 404) => "NOT_FOUND",
        (Wire::Gemini, 413) => "INVALID_ARGUMENT",
        (Wire::Gemini, 429) => "RESOURCE_EXHAUSTED",
        (Wire::Gemini, 500) => "INTERNAL",
        (Wire::Gemini, 504) => "DEADLINE_EXCEEDED",
        (Wire::Gemini, 529) => "UNAVAILABLE",
        (_, 413) => "invalid_request_error",
        _ => "server_error",
    };
    for status in [403, 404, 413, 429, 500, 504, 529] {
        let setup = serve(|sim| sim.status_rate(status, 1.0)).await;
        for wire in WIRES {
            for ask in [Ask::new("hi"), Ask::new("hi").streamed()] {
                let response = setup.ask(wire, &ask).await.unwrap();
                assert_eq!(response.status(), status);
                let body = super::support::json(response).await;
                let place = if wire == Wire::Gemini { "status" } else { "type" };
                assert_eq!(body["error"][place], words(wire, status), "{wire:?} {status}");
            }
        }
        assert_eq!(setup.server.shutdown().await.rejected[&status], 8);
    }
}

/// The result of one call for a client.
async fn outcome(setup: &super::support::Setup, wire: Wire, ask: &Ask) -> Option<Answer> {
    let response = setup.ask(wire, ask).await.ok()?;
    if response.status() != 200 {
        return None;
    }
    let text = response.text().await.ok()?;
    if ask.streamed {
        read_stream(wire, &text)
    } else {
        Some(read(wire, &serde_json::from_str(&text).ok()?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_exact_under_random_faults_on_random_wires() {
    for seed in 0..3 {
        let mut setup = serve(|sim| {
            sim.seed(seed)
                .request_quota(Quota::per_second(400))
                .latency(ms(5))
                .slow_body(0.1, ms(20))
                .keep_alive(ms(3))
                .reset_rate(0.1)
                .reset_before_rate(0.05)
                .status_rate(503, 0.05)
                .truncated_rate(0.05)
                .garbage_rate(0.03)
                .refusal_rate(0.05)
                .invalid_json_rate(0.03)
                .stream_cut_rate(0.1)
                .stream_error_rate(0.1)
                .stream_stall(0.1, ms(20))
                .reasoning_tokens(3)
                .cached_share(0.5)
        })
        .await;
        // A new connection for every call: a client would itself repeat a call that was reset on a reused one.
        setup.client = Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        let calls: Vec<_> = (0..600)
            .map(|index| {
                let ask = Ask {
                    streamed: rng.bool(),
                    ..Ask::new(format!("question {index}"))
                };
                (WIRES[rng.usize(..WIRES.len())], ask)
            })
            .collect();
        let setup = &setup;
        let outcomes: Vec<_> = stream::iter(calls)
            .map(|(wire, ask)| async move { outcome(setup, wire, &ask).await })
            .buffer_unordered(60)
            .collect()
            .await;
        // Calls that were reset may not be in the ledger yet.
        let mut ledger = setup.server.ledger();
        for _ in 0..500 {
            if ledger.in_flight == 0 {
                break;
            }
            tokio::time::sleep(ms(10)).await;
            ledger = setup.server.ledger();
        }
        assert!(ledger.is_balanced() && ledger.in_flight == 0, "{ledger:?}");
        assert_eq!(ledger.received, 600, "{ledger:?}");
        let answers: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(answers.len() as u64, ledger.answered, "{ledger:?}");
        let usage: TokenUsage = answers.iter().map(|answer| answer.usage).sum();
        assert_eq!(usage, ledger.billed_answered, "{ledger:?}");
        let faults = [
            ledger.cut_before_head,
            ledger.cut_in_body,
            ledger.error_events,
            ledger.garbled,
        ];
        assert!(faults.iter().all(|count| *count > 0), "{ledger:?}");
    }
}
