//! Which entry a model finds.

use llm_batch::PriceTable;

use crate::{found, public};

#[test]
fn the_key_forms_of_the_public_list() {
    let table = public();
    for (provider, model, price) in [
        ("openai", "owl-mini", Some(0.15)),
        ("openai-responses", "owl-mini", Some(0.15)),
        // Its own entry, not that of Vertex, which has the plain key.
        ("gcp.gemini", "finch-flash", Some(0.3)),
        ("gemini", "models/finch-flash", Some(0.3)),
        ("gcp.vertex_ai", "finch-flash", Some(0.9)),
        // The key with the provider outranks the plain one.
        ("deepseek", "wren-chat", Some(0.28)),
        ("openrouter", "someone/heron-4", Some(3.3)),
        ("x_ai", "magpie", Some(2.0)),
        ("xai", "magpie", Some(2.0)),
        // It has a tier above 100 tokens.
        ("azure.ai.openai", "owl-mini", Some(0.33)),
        // The same name elsewhere is another model.
        ("openai-compatible", "owl-mini", None),
        ("vllm", "owl-mini", None),
        ("gemini", "owl-mini", None),
        ("openrouter", "heron-4", None),
        ("", "owl-mini", None),
        ("openai", "", None),
        // Entries without a price for tokens, and no entries.
        ("openai", "owl-speech", None),
        ("openai", "odd-words", None),
        ("openai", "sample_spec", None),
        ("", "sample_spec", None),
    ] {
        assert_eq!(found(&table, provider, model), price, "{provider} {model}");
    }
}

#[test]
fn a_dated_name_falls_back_where_every_version_costs_the_same() {
    let table = public();
    for (model, price) in [
        ("owl-mini-2026-03-01", Some(0.15)),
        ("owl-mini-2026-09-09", Some(0.15)),
        ("owl-mini-20260909", Some(0.15)),
        // Versions of this one differ: the listed one has its own price, another one is not known.
        ("owl-2025-01-15", Some(5.0)),
        ("owl-2026-09-09", None),
        // No dates.
        ("owl-mini-2026-13-01", None),
        ("owl-mini-2026-00-10", None),
        ("owl-mini-1999-01-01", None),
        ("owl-mini-2026-9-9", None),
        ("owl-mini-latest", None),
        ("owl-mini-0613", None),
        ("-2026-09-09", None),
        ("x-20260909é", None),
        ("2026-09-09", None),
        // Fine-tuned.
        ("ft:owl-mini-2026-03-01:team::id", Some(0.3)),
        ("ft:owl-mini-2026-03-01", Some(0.3)),
        ("ft:owl:team::id", None),
    ] {
        assert_eq!(found(&table, "openai", model), price, "{model}");
    }
    // A dated entry is no price for the name without the date.
    let dated = PriceTable::parse("models.\"m-2026-01-01\" = { input = 1 }").unwrap();
    assert_eq!(found(&dated, "openai", "m"), None);
}

#[test]
fn entries_of_ones_own_outrank_the_public_list() {
    let own = PriceTable::parse(
        r#"
        [models."openai:owl-mini"]
        input = 0.10
        [models."qwen3:8b"]
        input = 0.01
        [models.finch-flash]
        input = 0.2
        "#,
    )
    .unwrap();
    let table = public().merge(own.clone());
    assert_eq!(found(&table, "openai", "owl-mini"), Some(0.1));
    assert_eq!(found(&table, "openai-chat", "owl-mini"), Some(0.1));
    assert_eq!(found(&table, "openai", "owl"), Some(2.5), "the rest stays");
    assert_eq!(found(&table, "ollama", "qwen3:8b"), Some(0.01));
    // Without a provider it holds for all of them, and outranks the list as well.
    assert_eq!(found(&table, "gemini", "finch-flash"), Some(0.2));
    assert_eq!(found(&table, "vllm", "finch-flash"), Some(0.2));
    // A dated name that the list has is not overruled by an undated one.
    assert_eq!(found(&table, "openai", "owl-mini-2026-03-01"), Some(0.15));
    // The other way round.
    assert_eq!(found(&own.merge(public()), "openai", "owl-mini"), Some(0.15));
}
