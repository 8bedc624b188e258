//! Gemini's generateContent and its context caches.

use llm_batch::testing::{Hint, Quota};
use serde_json::{Value, json};

use super::support::{Ask, Wire, events, header, ms, read, serve, usage};

#[tokio::test]
async fn a_whole_answer_leaves_out_what_is_zero() {
    let setup = serve(|sim| sim.requests_per_minute(600)).await;
    let response = setup.ask(Wire::Gemini, &Ask::new("2 and 3")).await.unwrap();
    assert_eq!(header(&response, "x-gemini-service-tier"), "standard");
    assert!(
        response
            .headers()
            .keys()
            .all(|name| !name.as_str().contains("ratelimit"))
    );
    let body = super::support::json(response).await;
    assert_eq!(
        (&body["modelVersion"], &body["responseId"]),
        (&json!("m"), &json!("sim-1"))
    );
    assert_eq!(body["candidates"][0]["finishReason"], "STOP");
    let told = body["usageMetadata"].as_object().unwrap();
    for absent in ["thoughtsTokenCount", "cachedContentTokenCount"] {
        assert!(!told.contains_key(absent));
    }
    // Either version, fields in either case.
    let snake = json!({"contents": [{"parts": [{"text": "3"}]}], "system_instruction": {"parts": [{"text": "2 and"}]},
        "generation_config": {"max_output_tokens": 5}});
    let (status, body) = setup.gemini("POST", "/v1/models/m:generateContent", snake).await;
    assert_eq!(
        (status, &body["candidates"][0]["finishReason"]),
        (200, &json!("MAX_TOKENS"))
    );
    let counted = Ask::new("abcdefgh").body(Wire::Gemini);
    let (_, body) = setup
        .gemini("POST", "/v1beta/models/m:countTokens", counted)
        .await;
    assert_eq!(body, json!({"totalTokens": 2}));
    let (_, models) = setup.gemini("GET", "/v1beta/models", json!({})).await;
    assert_eq!(models["models"][0]["name"], "models/sim");
    let (_, model) = setup.gemini("GET", "/v1beta/models/m", json!({})).await;
    assert_eq!(model["name"], "models/m");
}

#[tokio::test]
async fn schemas_in_both_forms_get_the_same_instance() {
    let setup = serve(|sim| sim).await;
    let asked = |name: &str, schema: Value| {
        let mut body = Ask::new("hi").body(Wire::Gemini);
        body["generationConfig"] = json!({"responseMimeType": "application/json"});
        body["generationConfig"][name] = schema;
        body
    };
    let upper = json!({"type": "OBJECT", "properties": {"n": {"type": "NUMBER"}, "s": {"type": "STRING"}}});
    let lower = json!({"type": "object", "properties": {"n": {"type": "number"}, "s": {"type": "string"}}});
    let (_, first) = setup.post(Wire::Gemini, &asked("responseSchema", upper)).await;
    let (_, second) = setup
        .post(Wire::Gemini, &asked("responseJsonSchema", lower.clone()))
        .await;
    assert_eq!(read(Wire::Gemini, &first).text, read(Wire::Gemini, &second).text);
    assert!(read(Wire::Gemini, &first).text.starts_with(r#"{"n":42,"s":""#));
    let mut untyped = asked("responseJsonSchema", lower);
    untyped["generationConfig"]
        .as_object_mut()
        .unwrap()
        .remove("responseMimeType");
    for wrong in [untyped, json!({}), json!({"contents": []})] {
        let (status, body) = setup.post(Wire::Gemini, &wrong).await;
        assert_eq!(
            (status, &body["error"]["status"]),
            (400, &json!("INVALID_ARGUMENT"))
        );
        assert_eq!(body["error"]["code"], 400);
    }
}

#[tokio::test]
async fn thoughts_stand_apart_from_the_answer() {
    let setup = serve(|sim| sim.reasoning_tokens(30)).await;
    let mut body = Ask::new("hi").body(Wire::Gemini);
    let (_, silent) = setup.post(Wire::Gemini, &body).await;
    body["generationConfig"]["thinkingConfig"] = json!({"includeThoughts": true});
    let (_, shown) = setup.post(Wire::Gemini, &body).await;
    assert_eq!(read(Wire::Gemini, &silent), read(Wire::Gemini, &shown));
    assert_eq!(shown["candidates"][0]["content"]["parts"][0]["thought"], true);
    let told = &shown["usageMetadata"];
    assert_eq!(told["thoughtsTokenCount"], 30);
    let output = usage(Wire::Gemini, told).output;
    assert_eq!(told["candidatesTokenCount"].as_u64().unwrap() + 30, output);
}

#[tokio::test]
async fn a_blocked_answer_has_no_content_and_no_candidate_tokens() {
    let setup = serve(|sim| sim.refusal_rate(1.0)).await;
    let (status, body) = setup.post(Wire::Gemini, &Ask::new("hi").body(Wire::Gemini)).await;
    let candidate = &body["candidates"][0];
    assert_eq!(
        (status, &candidate["finishReason"], &candidate["content"]),
        (200, &json!("SAFETY"), &json!({}))
    );
    assert!(body["usageMetadata"].get("candidatesTokenCount").is_none());
    // Thoughts that are not returned are not billed.
    assert_eq!(
        setup.server.ledger().billed_answered,
        usage(Wire::Gemini, &body["usageMetadata"])
    );
}

#[tokio::test]
async fn a_stream_repeats_the_usage_and_its_errors_are_no_events() {
    let setup = serve(|sim| sim).await;
    let response = setup
        .ask(Wire::Gemini, &Ask::new("What is 2 + 3?").streamed())
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    assert!(text.contains("\r\n\r\n"));
    let chunks: Vec<Value> = events(&text)
        .iter()
        .map(|(_, data)| serde_json::from_str(data).unwrap())
        .collect();
    assert!(chunks.len() > 2);
    let outputs: Vec<_> = chunks
        .iter()
        .map(|chunk| usage(Wire::Gemini, &chunk["usageMetadata"]).output)
        .collect();
    assert!(outputs.is_sorted() && outputs[0] > 0, "{outputs:?}");
    let ends = chunks
        .iter()
        .filter(|chunk| chunk["candidates"][0]["finishReason"].is_string());
    assert_eq!(ends.count(), 1);
    let without = setup
        .request(Wire::Gemini, false)
        .body(Ask::new("hi").body(Wire::Gemini).to_string());
    assert_eq!(without.send().await.unwrap().status(), 200);

    let setup = serve(|sim| sim.stream_error_rate(1.0)).await;
    let response = setup.ask(Wire::Gemini, &Ask::new("hi").streamed()).await.unwrap();
    let text = response.text().await.unwrap();
    let error = text.rsplit("\r\n\r\n").next().unwrap();
    assert!(error.lines().count() > 3, "{error}");
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["status"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_throttle_is_in_the_details_and_never_in_headers() {
    let quota = Quota::new(1, ms(3_000_000));
    for hint in Hint::ALL {
        let setup = serve(|sim| sim.request_quota(quota).hint(hint)).await;
        assert_eq!(
            setup.ask(Wire::Gemini, &Ask::new("hi")).await.unwrap().status(),
            200
        );
        let response = setup.ask(Wire::Gemini, &Ask::new("hi")).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), header(&response, "retry-after")),
            (429, String::new())
        );
        let error = super::support::json(response).await["error"].take();
        assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
        let details = error["details"].as_array().cloned().unwrap_or_default();
        let of = |kind: &str| {
            details
                .iter()
                .find(|detail| detail["@type"].as_str().unwrap().ends_with(kind))
        };
        let says = error["message"].as_str().unwrap().contains("Please retry in 29");
        match hint {
            Hint::None => assert!(details.is_empty() && !says),
            Hint::Message => assert!(of("RetryInfo").is_none() && says, "{error}"),
            _ => {
                let delay = of("RetryInfo").unwrap()["retryDelay"].as_str().unwrap();
                assert!(delay.starts_with("29") && delay.ends_with('s') && says, "{error}");
            }
        }
        if hint != Hint::None {
            let violation = &of("QuotaFailure").unwrap()["violations"][0];
            assert_eq!(violation["quotaValue"], "1");
            assert!(violation["quotaId"].as_str().unwrap().ends_with("PerMinute"));
        }
    }
    let daily = Quota::new(1, ms(86_400_000));
    let setup = serve(|sim| sim.request_quota(daily)).await;
    setup.ask(Wire::Gemini, &Ask::new("hi")).await.unwrap();
    let (_, body) = setup.post(Wire::Gemini, &Ask::new("hi").body(Wire::Gemini)).await;
    assert!(body.to_string().contains("PerDay"));
    // A prompt that never fits gets the same reply as one that fits later.
    let setup = serve(|sim| sim.token_quota(Quota::per_minute(10))).await;
    let (status, body) = setup
        .post(Wire::Gemini, &Ask::new("x".repeat(400)).body(Wire::Gemini))
        .await;
    assert_eq!(status, 429);
    assert!(
        body.to_string().contains("\"retryDelay\":\"48.")
            && body.to_string().contains("\"quotaValue\":\"10\"")
    );
    let setup = serve(|sim| sim.balance_lasts_for(0)).await;
    let (status, _) = setup.post(Wire::Gemini, &Ask::new("hi").body(Wire::Gemini)).await;
    assert_eq!((status, setup.server.ledger().rejected[&402]), (402, 1));
}

#[tokio::test]
async fn a_context_cache_lives_is_used_and_dies() {
    let setup = serve(|sim| sim).await;
    let long = "shared context ".repeat(400);
    let caches = "/v1beta/cachedContents";
    let mut create = json!({
        "model": "models/m", "displayName": "d", "ttl": "120.000000000s",
        "systemInstruction": {"parts": [{"text": "Be brief."}], "role": "user"},
        "contents": [{"role": "user", "parts": [{"text": long}]}],
    });
    let (status, made) = setup.gemini("POST", caches, create.clone()).await;
    assert_eq!(
        (status, &made["displayName"], &made["model"]),
        (200, &json!("d"), &json!("models/m"))
    );
    let tokens = made["usageMetadata"]["totalTokenCount"].as_u64().unwrap();
    let name = made["name"].as_str().unwrap();
    let time = |value: &Value, name: &str| humantime::parse_rfc3339(value[name].as_str().unwrap()).unwrap();
    let life = time(&made, "expireTime")
        .duration_since(time(&made, "createTime"))
        .unwrap();
    assert!(life > ms(119_000) && life < ms(121_000));
    let (_, got) = setup.gemini("GET", &format!("/v1/{name}"), json!({})).await;
    assert_eq!(got, made);

    // In use it is prepended to the question, as if it had been sent, and is billed as cached.
    let mut body = Ask::new("What is 2 + 3?").body(Wire::Gemini);
    body["cachedContent"] = name.into();
    let (_, with) = setup.post(Wire::Gemini, &body).await;
    let whole = Ask {
        system: Some("Be brief.".to_owned()),
        ..Ask::new(format!("{long}\nWhat is 2 + 3?"))
    };
    let (_, without) = setup.post(Wire::Gemini, &whole.body(Wire::Gemini)).await;
    let (with, without) = (read(Wire::Gemini, &with), read(Wire::Gemini, &without));
    assert_eq!(
        (&with.text, with.usage.input),
        (&without.text, without.usage.input)
    );
    assert_eq!((with.usage.cached_input, without.usage.cached_input), (tokens, 0));
    let ledger = setup.server.ledger();
    assert_eq!((ledger.caches_created, ledger.cache_creation_tokens), (1, tokens));
    assert_eq!(ledger.billed_answered.cached_input, tokens);

    // Its contents may not be sent again, and it belongs to its model.
    let mut twice = body.clone();
    twice["systemInstruction"] = json!({"parts": [{"text": "x"}]});
    assert_eq!(setup.post(Wire::Gemini, &twice).await.0, 400);
    let (status, _) = setup
        .gemini("POST", "/v1beta/models/other:generateContent", body.clone())
        .await;
    assert_eq!(status, 400);

    // Extended, listed by pages, deleted.
    let (_, kept) = setup
        .gemini(
            "PATCH",
            &format!("/v1beta/{name}?updateMask=ttl"),
            json!({"ttl": "600s"}),
        )
        .await;
    assert!(time(&kept, "expireTime") > time(&made, "expireTime"));
    assert_eq!(kept["createTime"], made["createTime"]);
    create["ttl"] = "3600s".into();
    setup.gemini("POST", caches, create.clone()).await;
    let (_, page) = setup
        .gemini("GET", &format!("{caches}?pageSize=1"), json!({}))
        .await;
    assert_eq!(
        (
            page["cachedContents"].as_array().unwrap().len(),
            &page["nextPageToken"]
        ),
        (1, &json!("1"))
    );
    let (_, page) = setup
        .gemini("GET", &format!("{caches}?pageSize=1&pageToken=1"), json!({}))
        .await;
    assert_eq!(
        (
            page["cachedContents"].as_array().unwrap().len(),
            page.get("nextPageToken")
        ),
        (1, None)
    );
    let path = format!("/v1beta/{name}");
    assert_eq!(setup.gemini("DELETE", &path, json!({})).await, (200, json!({})));
    let gone = json!({"error": {
        "code": 403, "message": "CachedContent not found (or permission denied)", "status": "PERMISSION_DENIED",
    }});
    for method in ["DELETE", "GET"] {
        assert_eq!(setup.gemini(method, &path, json!({})).await, (403, gone.clone()));
    }
    assert_eq!(
        setup.gemini("PATCH", &path, json!({"ttl": "1s"})).await,
        (403, gone.clone())
    );
    assert_eq!(setup.post(Wire::Gemini, &body).await, (403, gone.clone()));

    // An expired one behaves like a deleted one.
    create["ttl"] = "0.05s".into();
    let (_, brief) = setup.gemini("POST", caches, create.clone()).await;
    tokio::time::sleep(ms(60)).await;
    body["cachedContent"] = brief["name"].clone();
    assert_eq!(setup.post(Wire::Gemini, &body).await, (403, gone));

    // Content that cannot be cached.
    for (field, value) in [
        ("ttl", json!("-1s")),
        ("ttl", json!("soon")),
        ("displayName", json!("d".repeat(129))),
    ] {
        let mut wrong = create.clone();
        wrong[field] = value;
        assert_eq!(setup.gemini("POST", caches, wrong).await.0, 400);
    }
    let small = json!({"model": "models/m", "contents": [{"parts": [{"text": "x".repeat(388)}]}]});
    let (status, body) = setup.gemini("POST", caches, small).await;
    let message = "Cached content is too small. total_token_count=97, min_total_token_count=1024";
    assert_eq!((status, &body["error"]["message"]), (400, &json!(message)));
    let ledger = setup.server.shutdown().await;
    assert_eq!(
        (ledger.answered, ledger.rejected[&403], ledger.rejected[&400]),
        (2, 2, 2)
    );
    assert!(ledger.is_balanced());
}
