//! OpenAI's Responses.

use serde_json::{Value, json};

use super::support::{Ask, Wire, events, header, read, serve};

#[tokio::test]
async fn a_whole_answer_is_a_response_with_its_items() {
    let setup = serve(|sim| sim.requests_per_minute(600).reasoning_tokens(5)).await;
    let ask = Ask {
        system: Some("Be brief.".to_owned()),
        max_tokens: Some(1_000),
        ..Ask::new("What is 2 + 3?")
    };
    let response = setup.ask(Wire::Responses, &ask).await.unwrap();
    assert_eq!(header(&response, "x-request-id"), "req-sim-1");
    assert_eq!(header(&response, "x-ratelimit-limit-requests"), "600");
    let body = super::support::json(response).await;
    assert_eq!(
        (&body["object"], &body["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(
        (&body["store"], &body["instructions"]),
        (&json!(false), &json!("Be brief."))
    );
    assert_eq!(
        (&body["id"], &body["error"]),
        (&json!("resp_sim_1"), &Value::Null)
    );
    assert_eq!(body["output"][0]["type"], "reasoning");
    assert_eq!(body["output"][1]["type"], "message");
    assert_eq!(body["usage"]["output_tokens_details"]["reasoning_tokens"], 5);
}

#[tokio::test]
async fn items_and_parts_are_read_as_one_prompt() {
    let setup = serve(|sim| sim).await;
    let (_, plain) = setup
        .post(Wire::Responses, &json!({"model": "m", "input": "2 and 3"}))
        .await;
    let input =
        json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2 and 3"}]}]);
    let (_, items) = setup
        .post(Wire::Responses, &json!({"model": "m", "input": input}))
        .await;
    assert_eq!(read(Wire::Responses, &plain), read(Wire::Responses, &items));
    for wrong in [
        json!({}),
        json!({"input": []}),
        json!({"input": "x", "background": true}),
    ] {
        let (status, body) = setup.post(Wire::Responses, &wrong).await;
        assert_eq!(
            (status, &body["error"]["type"]),
            (400, &json!("invalid_request_error")),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_token_limit_makes_it_incomplete() {
    let setup = serve(|sim| sim).await;
    let ask = Ask {
        max_tokens: Some(5),
        ..Ask::new("What is 2 + 3?")
    };
    let (status, body) = setup.post(Wire::Responses, &ask.body(Wire::Responses)).await;
    assert_eq!((status, &body["status"]), (200, &json!("incomplete")));
    assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(body["usage"]["output_tokens"], 5);
    assert_eq!(body["output"][0]["status"], "incomplete");
}

#[tokio::test]
async fn a_refusal_is_a_part_of_its_own() {
    let setup = serve(|sim| sim.refusal_rate(1.0)).await;
    let (status, body) = setup
        .post(Wire::Responses, &Ask::new("hi").body(Wire::Responses))
        .await;
    assert_eq!((status, &body["status"]), (200, &json!("completed")));
    let part = &body["output"][0]["content"][0];
    assert_eq!(
        (&part["type"], part["refusal"].is_string()),
        (&json!("refusal"), true)
    );
    let streamed = setup
        .ask(Wire::Responses, &Ask::new("hi").streamed())
        .await
        .unwrap();
    let text = streamed.text().await.unwrap();
    assert!(text.contains("event: response.refusal.delta") && text.contains("event: response.refusal.done"));
}

#[tokio::test]
async fn events_are_typed_numbered_and_in_order() {
    let setup = serve(|sim| sim).await;
    let response = setup
        .ask(Wire::Responses, &Ask::new("What is 2 + 3?").streamed())
        .await
        .unwrap();
    let events = events(&response.text().await.unwrap());
    let mut names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(names, expected);
    for (number, (name, data)) in events.iter().enumerate() {
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (&data["type"], &data["sequence_number"]),
            (&json!(name), &json!(number))
        );
    }
}

#[tokio::test]
async fn both_shapes_of_the_error_event_occur() {
    let setup = serve(|sim| sim.stream_error_rate(1.0)).await;
    let mut shapes = Vec::new();
    for _ in 0..2 {
        let response = setup
            .ask(Wire::Responses, &Ask::new("hi").streamed())
            .await
            .unwrap();
        let events = events(&response.text().await.unwrap());
        let (name, data) = events.last().unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")));
        if data["error"].is_null() {
            assert_eq!(data["sequence_number"], events.len() - 1);
        }
        shapes.push(
            if data["error"].is_object() {
                "nested"
            } else {
                data["code"].as_str().unwrap()
            }
            .to_owned(),
        );
    }
    shapes.sort();
    assert_eq!(shapes, ["nested", "server_error"]);
}

#[tokio::test]
async fn it_throttles_as_openai_does() {
    let setup = serve(|sim| sim.requests_per_minute(60)).await;
    assert_eq!(
        setup
            .ask(Wire::Responses, &Ask::new("hi"))
            .await
            .unwrap()
            .status(),
        200
    );
    let response = setup
        .ask(Wire::Responses, &Ask::new("hi").streamed())
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), header(&response, "retry-after")),
        (429, "1".to_owned())
    );
    let body = super::support::json(response).await;
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    assert_eq!(setup.server.shutdown().await.throttled, 1);
}
