//! What calls cost, checked by hand.

use llm_batch::price::{PriceTable, Rate};
use llm_batch::{TokenUsage, Usd};
use proptest::prelude::*;

use crate::{cost, public, tokens, usd};

#[test]
fn cached_tokens_have_their_own_price() {
    // 600 * 0.15 + 400 * 0.075 + 200 * 0.60 = 90 + 30 + 120 = 240 per million
    let dollars = cost(
        &public(),
        "openai:owl-mini",
        [1_000, 200, 400, 0, 0, 0],
        Rate::Online,
    );
    assert_eq!(dollars, Some(0.000_24));
}

#[test]
fn cache_writes_of_five_minutes_and_of_an_hour() {
    // 10,000 input: 1,000 plain, 4,000 read, 5,000 written, of which 2,000 for an hour.
    // 1,000 * 3 + 4,000 * 0.3 + 3,000 * 3.75 + 2,000 * 6 + 100 * 15
    // = 3,000 + 1,200 + 11,250 + 12,000 + 1,500 = 28,950 per million
    let usage = [10_000, 100, 4_000, 5_000, 2_000, 0];
    assert_eq!(
        cost(&public(), "anthropic:heron-4", usage, Rate::Online),
        Some(0.028_95)
    );
    // Without rates in the list they are 0.1, 1.25 and 2 times the input's, and so the same.
    assert_eq!(
        cost(&public(), "anthropic:heron-4-plain", usage, Rate::Online),
        Some(0.028_95)
    );
    // In a batch job half of all of it.
    assert_eq!(
        cost(&public(), "anthropic:heron-4-plain", usage, Rate::Batch),
        Some(0.014_475)
    );
}

#[test]
fn what_a_list_leaves_out_is_filled_where_the_rule_is_known() {
    // OpenAI lists no price for a write: 1,000 * 0.15.
    let written = [1_000, 0, 0, 1_000, 0, 0];
    assert_eq!(
        cost(&public(), "openai:owl-mini", written, Rate::Online),
        Some(0.000_15)
    );
    // One for twelve hours costs more than it says, so it is not known.
    let long = [1_000, 0, 0, 1_000, 1_000, 0];
    assert_eq!(cost(&public(), "openai:owl-mini", long, Rate::Online), None);
    // Whoever resells may take more for a write.
    assert_eq!(
        cost(&public(), "openrouter:someone/heron-4", written, Rate::Online),
        None
    );
    // A cached token never costs more than another one: 1,000 * 3.3.
    let cached = [1_000, 0, 1_000, 0, 0, 0];
    assert_eq!(
        cost(&public(), "openrouter:someone/heron-4", cached, Rate::Online),
        Some(0.0033)
    );
    // The older name of the field: 1,000 * 0.028.
    assert_eq!(
        cost(&public(), "deepseek:wren-chat", cached, Rate::Online),
        Some(0.000_028)
    );
    // No output, no price for it needed: 1,000 * 0.02, a price that stands as a text.
    let input = [1_000, 0, 0, 0, 0, 0];
    assert_eq!(
        cost(&public(), "openai:owl-embed", input, Rate::Online),
        Some(0.000_02)
    );
    assert_eq!(
        cost(
            &public(),
            "openai:owl-embed",
            [1_000, 1, 0, 0, 0, 0],
            Rate::Online
        ),
        None
    );
}

#[test]
fn reasoning_has_its_price_or_that_of_output() {
    // 1,000 * 0.3 + 100 * 2.5 + 300 * 3.5 = 300 + 250 + 1,050
    let usage = [1_000, 400, 0, 0, 0, 300];
    assert_eq!(
        cost(&public(), "gcp.gemini:finch-flash", usage, Rate::Online),
        Some(0.0016)
    );
    // 1,000 * 0.15 + 400 * 0.6
    assert_eq!(
        cost(&public(), "openai:owl-mini", usage, Rate::Online),
        Some(0.000_39)
    );
    // Gemini's batch jobs: half of 0.3, 2.5 and 3.5.
    assert_eq!(
        cost(&public(), "gcp.gemini:finch-flash", usage, Rate::Batch),
        Some(0.0008)
    );
}

#[test]
fn a_batch_job_costs_what_the_list_says_or_half() {
    // 600 * 0.075 + 400 * 0.075 + 200 * 0.30: a cached token costs the lower of 0.075 (online) and 0.075.
    let usage = [1_000, 200, 400, 0, 0, 0];
    assert_eq!(
        cost(&public(), "openai:owl-mini", usage, Rate::Batch),
        Some(0.000_135)
    );
    // Nothing is listed: half of 2.5 and 10. A cached token costs online what any does, and so half of it here.
    // 1,000 * 1.25 + 200 * 5
    assert_eq!(cost(&public(), "openai:owl", usage, Rate::Batch), Some(0.002_25));
    // A cached token is cheaper online (0.03) than the batch input (0.15): 600 * 0.15 + 400 * 0.03 + 200 * 1.25
    assert_eq!(
        cost(&public(), "gemini:finch-flash", usage, Rate::Batch),
        Some(0.000_352)
    );
    // Nobody knows of xAI's.
    assert_eq!(cost(&public(), "xai:magpie", usage, Rate::Batch), None);
}

#[test]
fn a_large_request_is_priced_at_the_tier_as_a_whole() {
    let pro = |input, rate| cost(&public(), "gemini:finch-pro", [input, 1_000, 0, 0, 0, 0], rate);
    // At the threshold it is not above it: 200,000 * 1.25 + 1,000 * 10
    assert_eq!(pro(200_000, Rate::Online), Some(0.26));
    // 200,001 * 2.5 + 1,000 * 15 = 515,002.5
    assert_eq!(pro(200_001, Rate::Online), Some(0.515_002_5));
    // The second tier lists no output price: 500,001 * 5 + 1,000 * 10
    assert_eq!(pro(500_001, Rate::Online), Some(2.510_005));
    // Half of the tier.
    assert_eq!(pro(200_001, Rate::Batch), Some(0.257_501_25));
    // Cached tokens count for the threshold, and have the tier's price: 50,000 * 6 + 150,000 * 0.6 + 60,000 * 12 + 10 * 22.5
    let usage = [260_000, 10, 150_000, 60_000, 60_000, 0];
    assert_eq!(
        cost(&public(), "anthropic:heron-4", usage, Rate::Online),
        Some(1.110_225)
    );
    // `_above_100_tokens`: 101 * 0.33
    assert_eq!(
        cost(&public(), "azure:owl-mini", [101, 0, 0, 0, 0, 0], Rate::Online),
        Some(0.000_033_33)
    );
}

#[test]
fn a_tier_in_a_file_of_ones_own() {
    let table = PriceTable::parse(
        r#"
        [models."gemini:m"]
        input = 1
        output = 2.0
        batch = { input = 0.4 }
        above = [
            { tokens = 2_000, input = 10, batch = { output = 3 } },
            { tokens = 1_000, input = 5 },
        ]
        "#,
    )
    .unwrap();
    let dollars = |input, rate| cost(&table, "gemini:m", [input, 1_000, 0, 0, 0, 0], rate);
    assert_eq!(dollars(1_000, Rate::Online), Some(0.003));
    assert_eq!(dollars(1_000, Rate::Batch), Some(0.0014)); // 1,000 * 0.4 + 1,000 * half of 2
    assert_eq!(dollars(1_001, Rate::Online), Some(0.007_005));
    // Half of the tier's 5: the ordinary batch price would be too little.
    assert_eq!(dollars(1_001, Rate::Batch), Some(0.003_502_5));
    assert_eq!(dollars(2_001, Rate::Batch), Some(0.013_005)); // 2,001 * 5 + 1,000 * 3
}

#[test]
fn no_tokens_cost_nothing_and_odd_counts_do_not_break_it() {
    assert_eq!(
        PriceTable::default().cost("nobody", "nothing", &TokenUsage::ZERO, Rate::Online),
        Some(Usd::ZERO)
    );
    // More cached and written than there is input counts once: 10 * 0.075 + 0 written.
    let usage = [10, 0, 20, 20, 0, 0];
    assert_eq!(
        cost(&public(), "openai:owl-mini", usage, Rate::Online),
        Some(0.000_000_75)
    );
    let most = tokens([u64::MAX; 6]);
    assert_eq!(
        public().cost("anthropic", "heron-4", &most, Rate::Online),
        Some(Usd::from_nanos(u64::MAX))
    );
}

#[test]
fn money_is_shown_in_cents_or_in_three_digits() {
    for (dollars, text) in [
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (1_234_567.891, "$1,234,567.89"),
        (0.999, "$1.00"),
        (0.5, "$0.50"),
        (0.0123, "$0.0123"),
        (0.000_45, "$0.00045"),
        (0.012_345, "$0.0123"),
        (0.000_000_001, "$0.000000001"),
    ] {
        assert_eq!(usd(dollars).to_string(), text);
    }
    assert_eq!(Usd::from_dollars(-0.01), None);
    assert_eq!(Usd::from_dollars(f64::NAN), None);
    assert_eq!(Usd::from_dollars(f64::INFINITY), None);
    assert_eq!(serde_json::to_string(&usd(0.25)).unwrap(), "0.25");
    assert!(serde_json::from_str::<Usd>("-1").is_err());
}

proptest! {
    #[test]
    fn a_sum_does_not_depend_on_the_order(mut parts in proptest::collection::vec(0.0..10.0_f64, 1..50)) {
        let sum = |parts: &[f64]| parts.iter().map(|part| usd(*part)).sum::<Usd>();
        let forwards = sum(&parts);
        parts.reverse();
        prop_assert_eq!(sum(&parts), forwards);
        parts.sort_by(f64::total_cmp);
        prop_assert_eq!(sum(&parts), forwards);
    }

    #[test]
    fn more_tokens_never_cost_less(
        counts in proptest::array::uniform6(0..100_000_u64),
        more in 0..100_000_u64,
        batch in any::<bool>(),
    ) {
        let rate = if batch { Rate::Batch } else { Rate::Online };
        let table = public();
        let price = |counts| cost(&table, "anthropic:heron-4", counts, rate).unwrap();
        let mut larger = counts;
        larger[1] += more;
        prop_assert!(price(larger) >= price(counts));
        prop_assert!(price(counts) * 0.5 <= cost(&table, "anthropic:heron-4", counts, Rate::Online).unwrap());
    }
}
