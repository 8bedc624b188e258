//! `--dry-run`: the requests that would be sent.

use std::collections::HashMap;
use std::io::{self, Write};

use llm_batch::price::Rate;
use llm_batch::{CharacterEstimate, Estimate as _, LlmRequest, PriceTable, TokenUsage, Usd};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::compose::Composer;
use crate::exit::{Exit, UsageError};
use crate::input::{Inputs, Item};
use crate::model::Models;

/// The number of requests that are shown.
const SHOWN: u64 = 3;
/// The number of problems that are shown.
const PROBLEMS: u64 = 10;

/// Prints the first requests, and the totals of the whole input.
pub(crate) fn print(
    inputs: &Inputs,
    composer: &Composer,
    model: &Models,
    schema: Option<&Value>,
    prices: Option<&PriceTable>,
) -> Result<Exit, UsageError> {
    let mut out = io::stdout().lock();
    match write(&mut out, inputs, composer, model, schema, prices) {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::StoppedEarly),
        Err(error) => Err(UsageError::new(format!("standard output: {error}"))),
    }
}

fn write(
    out: &mut impl Write,
    inputs: &Inputs,
    composer: &Composer,
    model: &Models,
    schema: Option<&Value>,
    prices: Option<&PriceTable>,
) -> io::Result<Result<Exit, UsageError>> {
    let (mut good, mut wrong, mut tokens) = (0_u64, 0_u64, 0_u64);
    let (mut cost, mut unpriced) = (Usd::ZERO, 0_u64);
    if let Some(first) = model.first_of_several() {
        writeln!(out, "# as for {first}; --model and --api-key-env name several")?;
    }
    let mut unseen = inputs.unseen();
    for item in inputs.items() {
        let item = match item {
            Ok(item) => item,
            Err(message) => return Ok(Err(UsageError::new(message))),
        };
        unseen.note(&item);
        let Item {
            id, place, content, ..
        } = item;
        let made = content
            .and_then(|content| composer.prompt(content))
            .and_then(|prompt| {
                Ok((
                    model
                        .request_body(&prompt, schema)
                        .map_err(|error| error.to_string())?,
                    prompt,
                ))
            });
        match made {
            Ok((body, prompt)) => {
                if good < SHOWN {
                    let number = good + 1;
                    writeln!(out, "# request {number}, id {id} ({place})")?;
                    out.write_all(&pretty(&body)?)?;
                    writeln!(out, "\n")?;
                }
                good += 1;
                if let Some(prices) = prices {
                    let without_answer = LlmRequest::new(prompt.clone().with_max_output_tokens(0));
                    let input = TokenUsage::new(CharacterEstimate.estimate(&without_answer), 0);
                    let (provider, name) = model.asked(&prompt);
                    match prices.cost(provider, name, &input, Rate::Online) {
                        Some(input) => cost += input,
                        None => unpriced += 1,
                    }
                }
                tokens = tokens.saturating_add(CharacterEstimate.estimate(&LlmRequest::new(prompt)));
            }
            Err(message) => {
                if wrong < PROBLEMS {
                    eprintln!("{place}: {message}");
                }
                wrong += 1;
            }
        }
    }
    for warning in unseen.warnings() {
        eprintln!("{warning}");
    }
    writeln!(out, "items:            {good}")?;
    writeln!(out, "malformed:        {wrong}")?;
    writeln!(
        out,
        "estimated tokens: {tokens} (four characters each, and the output limit, or 256 where there is none)"
    )?;
    if prices.is_some() {
        write!(out, "estimated cost:   ")?;
        if unpriced < good || good == 0 {
            write!(out, "{cost} for the input, without cached tokens and answers")?;
        }
        if unpriced > 0 {
            let separator = if unpriced < good { "; " } else { "" };
            write!(out, "{separator}unknown for {unpriced} items")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Nothing was called.")?;
    Ok(Ok(if wrong == 0 {
        Exit::Success
    } else {
        Exit::SomeFailed
    }))
}

fn pretty(body: &[u8]) -> io::Result<Vec<u8>> {
    let body: &RawValue = serde_json::from_slice(body)?;
    Ok(serde_json::to_vec_pretty(&Shown(body))?)
}

/// JSON whose numbers are shown as they are sent: a [`Value`] would round integers beyond 64 bits.
struct Shown<'a>(&'a RawValue);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.get();
        let failed = |error: serde_json::Error| S::Error::custom(error);
        match text.chars().next() {
            Some('{') => {
                // The map has the order of the fields, the other their texts.
                let fields: Map<String, Value> = serde_json::from_str(text).map_err(failed)?;
                let texts: HashMap<String, &RawValue> = serde_json::from_str(text).map_err(failed)?;
                let shown = fields
                    .keys()
                    .filter_map(|name| Some((name, Shown(texts.get(name)?))));
                serializer.collect_map(shown)
            }
            Some('[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
                serializer.collect_seq(items.into_iter().map(Shown))
            }
            _ => self.0.serialize(serializer),
        }
    }
}
