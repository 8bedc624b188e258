//! The length of a batch compared with the shortest possible run, and the share of its calls that is rejected, for providers of
//! many kinds whose quotas it does not know; in virtual time, so it is a matter of minutes.
//!
//! `cargo bench --bench pace` prints the table beside its bars; `cargo bench --bench pace -- --help` lists the options.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

mod aimd;
mod bars;
mod client;
mod draws;
mod ideal;
mod options;
mod random;
mod report;
mod run;
mod scenario;
mod scenarios;
mod server;

use client::Policy;
use options::{HELP, Options};
use report::Entry;
use run::Measured;
use scenario::Scenario;

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --list` pass flags; there is nothing to list.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let mut selected: Vec<Scenario> = scenarios::all();
    selected.retain(|scenario| options.selects(&scenario.name, scenario.group()));
    let random = options.first_seed..options.first_seed + options.random;
    selected.extend(random.map(random::scenario));
    let asked = options
        .scenarios
        .iter()
        .filter_map(|name| name.strip_prefix("random")?.parse().ok());
    selected.extend(asked.map(random::scenario));
    if selected.is_empty() {
        eprintln!("no scenario of that name");
        return ExitCode::from(2);
    }
    let start = Instant::now();
    let entries = measure(&selected, &options);
    let held = report::print(&entries, &options);
    println!("\n{} s", start.elapsed().as_secs());
    match options.quick && !held {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Runs all scenarios, on all cores.
fn measure<'a>(scenarios: &'a [Scenario], options: &Options) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for scenario in scenarios {
        for &policy in &options.policies {
            entries.push((scenario, policy));
        }
    }
    let mut runs = Vec::new();
    for (entry, (scenario, _)) in entries.iter().enumerate() {
        // The random ones are many already.
        let seeds = match random::is_random(scenario) {
            true => 1,
            false => options.seeds,
        };
        runs.extend((0..seeds).map(|seed| (entry, options.first_seed + seed)));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut measured = Vec::new();
        while let Some(&(entry, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (scenario, policy) = entries[entry];
            measured.push((entry, seed, run::measure(scenario, policy, seed)));
        }
        measured
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut measured: Vec<(usize, u64, Measured)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().flat_map(|worker| worker.join());
        joined.flatten().collect()
    });
    assert_eq!(measured.len(), runs.len(), "a run has panicked");
    measured.sort_by_key(|(entry, seed, _)| (*entry, *seed));
    let of_entry = |(index, (scenario, policy)): (usize, (&'a Scenario, Policy))| {
        let of_it = measured.iter().filter(|(entry, ..)| *entry == index);
        let runs: Vec<Measured> = of_it.map(|(.., measured)| *measured).collect();
        Entry {
            scenario,
            policy,
            measured: Measured::mean(&runs),
        }
    };
    entries.into_iter().enumerate().map(of_entry).collect()
}
