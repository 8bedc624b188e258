//! The table.

use crate::bars::{self, Bar};
use crate::client::Policy;
use crate::options::Options;
use crate::random::is_random;
use crate::run::Measured;
use crate::scenario::Scenario;

/// The measures of a scenario with a policy.
pub(crate) struct Entry<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) policy: Policy,
    pub(crate) measured: Measured,
}

/// The mark of a bar that does not hold.
const MARK: &str = " !";

/// Prints everything; returns whether the default policy reached all bars.
pub(crate) fn print(entries: &[Entry<'_>], options: &Options) -> bool {
    let of = |policy: Policy| -> Vec<&Entry<'_>> {
        entries.iter().filter(|entry| entry.policy == policy).collect()
    };
    let mut held = true;
    if options.policies.contains(&Policy::Default) {
        held = print_default(&of(Policy::Default), options);
    }
    if options.policies != [Policy::Default] {
        print_comparison(entries, options);
    }
    held
}

fn print_default(entries: &[&Entry<'_>], options: &Options) -> bool {
    let (random, named): (Vec<&Entry<'_>>, Vec<&Entry<'_>>) =
        entries.iter().partition(|entry| is_random(entry.scenario));
    if options.verbose {
        println!(
            "Ratio of the makespan to the ideal, in the mean over {} seeds and the worst of them; rejected calls per 100 \
             accepted ones; rejections of the item with the most; items that failed a run.\n",
            options.seeds
        );
        println!("| scenario | ratio | worst seed | throttled % | worst item | lost | ideal |");
        println!("|---|---|---|---|---|---|---|");
        for entry in entries {
            print_scenario(entry);
        }
        println!();
    }
    let mut held = true;
    if !named.is_empty() {
        println!(
            "| scenarios | | ratio: mean | bar | p90 | worst | worst seed | bar | throttled %: mean | bar | worst | worst item | lost a run | does not hold |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        let main: Vec<&Entry<'_>> = named
            .iter()
            .copied()
            .filter(|entry| entry.scenario.in_main_set)
            .collect();
        if main.len() > 50 {
            held &= print_main(&main, options);
        }
        let mut bars: Vec<Bar> = Vec::new();
        for entry in &named {
            if !bars.iter().any(|bar| bar.row == entry.scenario.bar.row) {
                bars.push(entry.scenario.bar);
            }
        }
        for bar in bars {
            let of_row: Vec<&Entry<'_>> = named
                .iter()
                .copied()
                .filter(|entry| entry.scenario.bar.row == bar.row)
                .collect();
            held &= print_row(bar, &of_row, options);
        }
    }
    if !random.is_empty() {
        println!();
        held &= print_random(&random, options);
    }
    held
}

/// Bars have two decimals.
fn rounded_up(bar: f64) -> f64 {
    bar + 0.005
}

/// For information: the bars are those of rows.
fn print_scenario(entry: &Entry<'_>) {
    let (scenario, measured) = (entry.scenario, &entry.measured);
    println!(
        "| {} {} | {:.3} | {:.3} | {:.2} | {} | {:.1} | {:.0} s |",
        scenario.name,
        scenario.about,
        measured.ratio,
        measured.worst_ratio,
        measured.throttled,
        measured.worst_item,
        measured.lost,
        measured.ideal,
    );
}

fn shown(bar: f64) -> String {
    match bar.is_finite() {
        // At most three decimals.
        true => format!("{}", (bar * 1_000.0).round() / 1_000.0),
        false => "-".to_owned(),
    }
}

/// Mean, 90th percentile and maximum.
struct Spread {
    mean: f64,
    p90: f64,
    worst: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
            p90: quantile(&values, 0.9),
            worst: quantile(&values, 1.0),
        }
    }
}

/// Of sorted values: the smallest that is not below this share of them.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(position.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

fn ratios(entries: &[&Entry<'_>]) -> Vec<f64> {
    entries.iter().map(|entry| entry.measured.ratio).collect()
}

fn throttles(entries: &[&Entry<'_>]) -> Vec<f64> {
    entries.iter().map(|entry| entry.measured.throttled).collect()
}

fn worst_item(entries: &[&Entry<'_>]) -> u32 {
    let items = entries.iter().map(|entry| entry.measured.worst_item);
    items.max().unwrap_or(0)
}

fn lost(entries: &[&Entry<'_>]) -> f64 {
    entries.iter().map(|entry| entry.measured.lost).sum()
}

/// The scenario in which a value is highest, with that value.
fn worst<'a>(entries: &[&Entry<'a>], value: fn(&Measured) -> f64) -> (&'a str, f64) {
    let of = |entry: &&Entry<'a>| (entry.scenario.name.as_str(), value(&entry.measured));
    let worst = entries.iter().map(of).max_by(|a, b| a.1.total_cmp(&b.1));
    worst.unwrap_or(("", f64::NAN))
}

/// The names of the checks that fail.
fn failed(checks: &[(bool, &'static str)]) -> Vec<&'static str> {
    let failed = checks.iter().filter(|(fails, _)| *fails);
    failed.map(|(_, what)| *what).collect()
}

fn print_main(entries: &[&Entry<'_>], options: &Options) -> bool {
    let (ratio, throttled) = (Spread::of(ratios(entries)), Spread::of(throttles(entries)));
    let (item, lost) = (worst_item(entries), lost(entries));
    let slack = if options.quick { bars::SLACK } else { 1.0 };
    let loose = |bar: f64| 1.0 + (bar - 1.0) * slack;
    let failed = failed(&[
        (ratio.mean > rounded_up(loose(bars::MAIN_MEAN)), "mean"),
        (ratio.p90 > rounded_up(loose(bars::MAIN_P90)), "p90"),
        (throttled.mean > bars::MAIN_THROTTLED * slack, "throttled"),
        (
            f64::from(item) > f64::from(bars::MAIN_WORST_ITEM) * slack,
            "worst item",
        ),
        (lost > 0.0, "lost"),
    ]);
    let (name, seed) = worst(entries, |measured| measured.worst_ratio);
    println!(
        "| **all of B to M** | {} | {:.3} | {}, p90 {} | {:.3} | {:.3} {} | {seed:.3} {name} | - | {:.2} | {} | {:.1} | \
         {item} (bar {}) | {lost:.1} | {}{} |",
        entries.len(),
        ratio.mean,
        shown(loose(bars::MAIN_MEAN)),
        shown(loose(bars::MAIN_P90)),
        ratio.p90,
        ratio.worst,
        worst(entries, |measured| measured.ratio).0,
        throttled.mean,
        shown(bars::MAIN_THROTTLED * slack),
        throttled.worst,
        shown(f64::from(bars::MAIN_WORST_ITEM) * slack),
        failed.join(", "),
        if failed.is_empty() { "" } else { MARK },
    );
    failed.is_empty()
}

/// The row as a whole has to reach its bar.
fn print_row(bar: Bar, entries: &[&Entry<'_>], options: &Options) -> bool {
    let bar = if options.quick { bar.loose() } else { bar };
    let (ratio, throttled) = (Spread::of(ratios(entries)), Spread::of(throttles(entries)));
    let (name, seed) = worst(entries, |measured| measured.worst_ratio);
    let items: f64 = entries.iter().map(|entry| f64::from(entry.measured.items)).sum();
    let failed = failed(&[
        (ratio.mean > rounded_up(bar.ratio), "ratio"),
        (seed > rounded_up(bar.worst_seed), "worst seed"),
        (throttled.mean > bar.throttled, "throttled"),
        (lost(entries) > bar.lost * items, "lost"),
    ]);
    println!(
        "| {} | {} | {:.3} | {} | {:.3} | {:.3} {} | {seed:.3} {name} | {} | {:.2} | {} | {:.1} | {} | {:.1} | {}{} |",
        bar.row,
        entries.len(),
        ratio.mean,
        shown(bar.ratio),
        ratio.p90,
        ratio.worst,
        worst(entries, |measured| measured.ratio).0,
        shown(bar.worst_seed),
        throttled.mean,
        shown(bar.throttled),
        throttled.worst,
        worst_item(entries),
        lost(entries),
        failed.join(", "),
        if failed.is_empty() { "" } else { MARK },
    );
    failed.is_empty()
}

fn print_random(entries: &[&Entry<'_>], options: &Options) -> bool {
    let mut ratios = ratios(entries);
    ratios.sort_by(f64::total_cmp);
    let mut throttles = throttles(entries);
    throttles.sort_by(f64::total_cmp);
    let slack = if options.quick { bars::SLACK } else { 1.0 };
    println!("| {} random scenarios | measured | bar | |", entries.len());
    println!("|---|---|---|---|");
    let mut held = true;
    for (share, bar) in bars::RANDOM {
        let bar = 1.0 + (bar - 1.0) * slack;
        let value = quantile(&ratios, share);
        let holds = value <= rounded_up(bar);
        held &= holds;
        let mark = if holds { "" } else { MARK };
        println!(
            "| ratio, p{:.0} | {value:.3} | {} |{mark} |",
            100.0 * share,
            shown(bar)
        );
    }
    let bar = bars::RANDOM_THROTTLED * slack;
    let value = quantile(&throttles, 0.9);
    let holds = value <= bar;
    held &= holds;
    let mark = if holds { "" } else { MARK };
    println!("| throttled %, p90 | {value:.2} | {bar} |{mark} |");
    let mut worst: Vec<&&Entry<'_>> = entries.iter().collect();
    worst.sort_by(|a, b| b.measured.ratio.total_cmp(&a.measured.ratio));
    println!(
        "| items lost in a run: mean, and at most | {:.2}, {:.0} | - | |",
        lost(entries) / entries.len() as f64,
        entries
            .iter()
            .map(|entry| entry.measured.lost)
            .fold(0.0, f64::max)
    );
    println!(
        "| rejections of one item, at most | {} | - | |",
        worst_item(entries)
    );
    let worst: Vec<String> = worst
        .iter()
        .take(5)
        .map(|entry| format!("{} {:.2}", entry.scenario.name, entry.measured.ratio))
        .collect();
    println!("| the longest | {} | | |", worst.join(", "));
    held
}

/// The policies side by side.
fn print_comparison(entries: &[Entry<'_>], options: &Options) {
    println!("\nRatio in the mean (the worst), throttled %, items lost a run.\n");
    let names: Vec<&str> = options.policies.iter().map(|policy| policy.name()).collect();
    println!("| scenarios | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    let mut rows: Vec<(String, Vec<&Scenario>)> = Vec::new();
    for entry in entries {
        let scenario = entry.scenario;
        let mut keys = vec![scenario.bar.row.to_owned()];
        if scenario.in_main_set {
            keys.push("all of B to M".to_owned());
        }
        if options.verbose && !is_random(scenario) {
            keys.push(format!("{} {}", scenario.name, scenario.about));
        }
        for key in keys {
            match rows.iter_mut().find(|(row, _)| *row == key) {
                Some((_, of_row)) => of_row.push(scenario),
                None => rows.push((key, vec![scenario])),
            }
        }
    }
    for (row, scenarios) in rows {
        let cells = options.policies.iter().map(|policy| {
            let of_cell: Vec<&Entry<'_>> = entries
                .iter()
                .filter(|entry| entry.policy == *policy)
                .filter(|entry| {
                    scenarios
                        .iter()
                        .any(|scenario| std::ptr::eq(*scenario, entry.scenario))
                })
                .collect();
            let (ratio, throttled) = (Spread::of(ratios(&of_cell)), Spread::of(throttles(&of_cell)));
            format!(
                "{:.2} ({:.1}), {:.1}, {:.0}",
                ratio.mean,
                ratio.worst,
                throttled.mean,
                lost(&of_cell)
            )
        });
        let cells: Vec<String> = cells.collect();
        println!("| {row} | {} |", cells.join(" | "));
    }
}
