//! The command line.

use crate::client::Policy;

pub(crate) const HELP: &str = "\
The suite of the pace: the crate's default against providers whose quotas it does not know, in virtual time.

cargo bench --bench pace -- [OPTIONS]

  --seeds N          runs of each scenario [8]
  --first-seed N     the first seed, and the number of the first random scenario [1]
  --group X          only the scenarios of this letter; may be repeated
  --scenario X       only this scenario (such as B9, or random17); may be repeated
  --random N         so many random scenarios, one run each [300; with --group, --scenario or --quick 0]
  --policy X,Y       default, classic, semaphore, tower, aimd [default]
  --baselines        all policies
  --verbose          a line for each scenario
  --quick            one seed against loose bars; exit status 1 if one does not hold
";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) seeds: u64,
    pub(crate) first_seed: u64,
    pub(crate) groups: Vec<String>,
    pub(crate) scenarios: Vec<String>,
    pub(crate) random: u64,
    pub(crate) policies: Vec<Policy>,
    pub(crate) verbose: bool,
    pub(crate) quick: bool,
}

impl Options {
    /// `None`: the help was asked for.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        let (mut seeds, mut random) = (None, None);
        let mut options = Self {
            seeds: 8,
            first_seed: 1,
            groups: Vec::new(),
            scenarios: Vec::new(),
            random: 0,
            policies: vec![Policy::Default],
            verbose: false,
            quick: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--seeds" => seeds = Some(number(&value()?)?.max(1)),
                "--first-seed" => options.first_seed = number(&value()?)?,
                "--group" => options.groups.push(value()?),
                "--scenario" => options.scenarios.push(value()?),
                "--random" => random = Some(number(&value()?)?),
                "--policy" => options.policies = policies(&value()?)?,
                "--baselines" => options.policies = Policy::ALL.into(),
                "--verbose" => options.verbose = true,
                "--quick" => options.quick = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        let some = options.quick || !options.groups.is_empty() || !options.scenarios.is_empty();
        options.seeds = seeds.unwrap_or(if options.quick { 1 } else { options.seeds });
        options.random = random.unwrap_or(if some { 0 } else { 300 });
        Ok(Some(options))
    }

    pub(crate) fn selects(&self, name: &str, group: &str) -> bool {
        let all = self.groups.is_empty() && self.scenarios.is_empty();
        let named = |list: &[String], it: &str| list.iter().any(|name| name.eq_ignore_ascii_case(it));
        all || named(&self.groups, group) || named(&self.scenarios, name)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn policies(names: &str) -> Result<Vec<Policy>, String> {
    let mut policies = Vec::new();
    for name in names.split(',') {
        let named = Policy::named(name);
        if named.is_empty() {
            return Err(format!("unknown policy {name}"));
        }
        policies.extend(named);
    }
    Ok(policies)
}
