//! A list of prices by provider and model, and the names of both.

use std::collections::{BTreeMap, HashMap};

use super::rates::Price;

/// The provider of a price that holds wherever the model is served.
pub(super) const ANY: &str = "";

/// One list of prices.
#[derive(Debug, Default)]
pub(super) struct Models {
    // By provider; a map of each that is sorted by model, so that the dated versions of one stand together.
    providers: HashMap<String, BTreeMap<String, Price>>,
    len: usize,
}

impl Models {
    pub(super) fn insert(&mut self, provider: &str, model: &str, price: Price) {
        let models = self.providers.entry(canonical(provider).to_owned()).or_default();
        if models.insert(model.to_owned(), price).is_none() {
            self.len += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The price listed under this very name, for the provider or else for any.
    pub(super) fn get(&self, provider: &str, model: &str) -> Option<&Price> {
        [provider, ANY]
            .into_iter()
            .find_map(|provider| self.providers.get(provider)?.get(model))
    }

    /// The price of a dated model's name without the date, where that is safe: every dated version that is listed costs
    /// the same.
    pub(super) fn undated(&self, provider: &str, model: &str) -> Option<&Price> {
        let name = without_date(model)?;
        [provider, ANY].into_iter().find_map(|provider| {
            let models = self.providers.get(provider)?;
            let price = models.get(name)?;
            models
                .range(name.to_owned()..)
                .take_while(|(other, _)| other.starts_with(name))
                .filter(|(other, _)| without_date(other) == Some(name))
                .all(|(_, other)| other == price)
                .then_some(price)
        })
    }
}

/// The one name of a provider that has several: prefix, OpenTelemetry's, LiteLLM's.
pub(super) fn canonical(provider: &str) -> &str {
    match provider {
        "openai-chat" | "openai-responses" | "text-completion-openai" => "openai",
        "azure.ai.openai" | "azure.ai.inference" => "azure",
        "gcp.gemini" | "google" => "gemini",
        "gcp.vertex_ai" => "vertex_ai",
        // LiteLLM says whose models they are: vertex_ai-language-models, vertex_ai-anthropic_models.
        name if name.starts_with("vertex_ai-") => "vertex_ai",
        "mistral_ai" => "mistral",
        "x_ai" => "xai",
        "cohere_chat" => "cohere",
        name => name,
    }
}

/// A model's name as lists have it: without Gemini's `models/`, and of a fine-tuned model of OpenAI what it was made of.
pub(super) fn listed_name(model: &str) -> &str {
    let model = model.strip_prefix("models/").unwrap_or(model);
    if !model.starts_with("ft:") {
        return model;
    }
    match model.match_indices(':').nth(1) {
        Some((end, _)) => &model[..end],
        None => model,
    }
}

/// The name before a date at its end: `-2024-07-18` or `-20250929`.
fn without_date(model: &str) -> Option<&str> {
    [11, 9].into_iter().find_map(|length| {
        let (name, date) = model.split_at_checked(model.len().checked_sub(length)?)?;
        let digits = date.strip_prefix('-')?;
        let compact = match digits.as_bytes() {
            [_, _, _, _, b'-', _, _, b'-', _, _] => digits.replace('-', ""),
            [_, _, _, _, _, _, _, _] => digits.to_owned(),
            _ => return None,
        };
        if compact.len() != 8 || !compact.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let date: u32 = compact.parse().ok()?;
        let (year, month, day) = (date / 10_000, date / 100 % 100, date % 100);
        let is_date = (2020..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        (is_date && !name.is_empty()).then_some(name)
    })
}
