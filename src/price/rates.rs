//! The rates of one model, and the arithmetic.

use super::Rate;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// Tokens that have a rate of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Input,
    Output,
    CachedInput,
    CacheWrite,
    CacheWriteLong,
    Reasoning,
}

impl Class {
    /// In the order of [`Rates`].
    pub(super) const ALL: [Self; 6] = [
        Self::Input,
        Self::Output,
        Self::CachedInput,
        Self::CacheWrite,
        Self::CacheWriteLong,
        Self::Reasoning,
    ];

    /// The key in a file of one's own.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::CacheWriteLong => "cache_write_long",
            Self::Reasoning => "reasoning",
        }
    }
}

/// Nano-dollars a token, by class; none where a list does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates([Option<f64>; 6]);

impl Rates {
    pub(super) fn get(&self, class: Class) -> Option<f64> {
        self.0[class as usize]
    }

    pub(super) fn set(&mut self, class: Class, nanodollars: f64) {
        self.0[class as usize] = Some(nanodollars);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Sets what is missing.
    fn fill(&mut self, class: Class, nanodollars: Option<f64>) {
        let slot = &mut self.0[class as usize];
        *slot = slot.or(nanodollars);
    }

    /// These, and those of `other` where there are none.
    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|class| self.0[class].or(other.0[class])))
    }

    /// These, but for what `other` has.
    fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|class| {
            self.0[class].filter(|_| other.0[class].is_none())
        }))
    }
}

/// The rates of larger requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tier {
    /// The number of input tokens that a request has to exceed.
    pub(super) above: u64,
    pub(super) online: Rates,
    pub(super) batch: Rates,
}

/// Every rate of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Price {
    pub(super) online: Rates,
    pub(super) batch: Rates,
    tiers: Vec<Tier>,
}

/// The charges of a provider where a list does not say.
struct Habits {
    /// Of the online price, in a batch job.
    batch: Option<f64>,
    /// `true` if the batch discount holds for cached tokens, too.
    batch_holds_for_cache: bool,
    /// Of the input price.
    cached_input: f64,
    cache_write: Option<f64>,
    cache_write_long: Option<f64>,
}

/// The habits of a provider: its price page, November 2026.
fn habits(provider: &str) -> Habits {
    let unknown = Habits {
        batch: None,
        batch_holds_for_cache: false,
        // No provider takes more for a cached token, so this is never too little.
        cached_input: 1.0,
        cache_write: None,
        cache_write_long: None,
    };
    match provider {
        "anthropic" => Habits {
            batch: Some(0.5),
            batch_holds_for_cache: true,
            cached_input: 0.1,
            cache_write: Some(1.25),
            cache_write_long: Some(2.0),
        },
        "openai" | "azure" | "gemini" => Habits {
            batch: Some(0.5),
            cache_write: Some(1.0),
            ..unknown
        },
        "deepseek" => Habits {
            cache_write: Some(1.0),
            ..unknown
        },
        _ => unknown,
    }
}

impl Price {
    /// The rates of requests above so many input tokens, or of all others.
    pub(super) fn rates_mut(&mut self, above: Option<u64>, rate: Rate) -> &mut Rates {
        let (online, batch) = match above {
            None => (&mut self.online, &mut self.batch),
            Some(above) => {
                let position = self.tiers.partition_point(|tier| tier.above < above);
                if self.tiers.get(position).is_none_or(|tier| tier.above != above) {
                    let tier = Tier {
                        above,
                        ..Tier::default()
                    };
                    self.tiers.insert(position, tier);
                }
                let tier = &mut self.tiers[position];
                (&mut tier.online, &mut tier.batch)
            }
        };
        match rate {
            Rate::Online => online,
            Rate::Batch => batch,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.online.is_empty() && self.batch.is_empty()
    }

    /// Returns the cost of a call; none if a rate is missing that it needs.
    pub(super) fn cost(&self, provider: &str, usage: &TokenUsage, rate: Rate) -> Option<Usd> {
        let rates = self.rates(&habits(provider), usage.input, rate);
        let cached = usage.cached_input.min(usage.input);
        let written = usage.cache_write.min(usage.input - cached);
        let long = usage.cache_write_long.min(written);
        let reasoning = usage.reasoning.min(usage.output);
        let mut nanos = 0.0;
        for (class, tokens) in [
            (Class::Input, usage.input - cached - written),
            (Class::CachedInput, cached),
            (Class::CacheWrite, written - long),
            (Class::CacheWriteLong, long),
            (Class::Output, usage.output - reasoning),
            (Class::Reasoning, reasoning),
        ] {
            if tokens > 0 {
                nanos += tokens as f64 * rates.get(class)?;
            }
        }
        Some(Usd::from_nanos(nanos.round() as u64))
    }

    /// The rates for a request of this size, with what the list leaves to the provider's habits.
    fn rates(&self, habits: &Habits, input: u64, rate: Rate) -> Rates {
        let tier = self.tiers.iter().rev().find(|tier| input > tier.above);
        let listed = tier.map_or(self.online, |tier| tier.online.or(self.online));
        let online = complete(listed, habits);
        if rate == Rate::Online {
            return online;
        }
        let mut batch = match tier {
            // Where the tier raises the online rate, the ordinary batch rate would be too little.
            Some(tier) => tier.batch.or(self.batch.without(tier.online)),
            None => self.batch,
        };
        let discounted = |class| Some(online.get(class)? * habits.batch?);
        batch.fill(Class::Input, discounted(Class::Input));
        batch.fill(Class::Output, discounted(Class::Output));
        if listed.get(Class::Reasoning).is_some() {
            batch.fill(Class::Reasoning, discounted(Class::Reasoning));
        }
        if habits.batch_holds_for_cache {
            batch.fill(Class::CachedInput, discounted(Class::CachedInput));
            batch.fill(Class::CacheWrite, discounted(Class::CacheWrite));
            batch.fill(Class::CacheWriteLong, discounted(Class::CacheWriteLong));
        } else {
            let cached = online.get(Class::CachedInput);
            let least = |input: f64| cached.map_or(input, |cached| cached.min(input));
            batch.fill(Class::CachedInput, batch.get(Class::Input).map(least));
            batch.fill(Class::CacheWrite, listed.get(Class::CacheWrite));
            batch.fill(Class::CacheWriteLong, listed.get(Class::CacheWriteLong));
        }
        complete(batch, habits)
    }
}

/// Online rates, or batch rates, with those that follow from others.
fn complete(mut rates: Rates, habits: &Habits) -> Rates {
    let of_input = |rates: &Rates, factor: Option<f64>| Some(rates.get(Class::Input)? * factor?);
    rates.fill(Class::CachedInput, of_input(&rates, Some(habits.cached_input)));
    rates.fill(Class::CacheWrite, of_input(&rates, habits.cache_write));
    rates.fill(Class::CacheWriteLong, of_input(&rates, habits.cache_write_long));
    rates.fill(Class::Reasoning, rates.get(Class::Output));
    rates
}
