//! The cost of calls: price tables.
//!
//! Prices change weekly, so none are built in. A [`PriceTable`] comes from LiteLLM's public list
//! (`model_prices_and_context_window.json`, as a [file](PriceTable::load), [bytes](PriceTable::parse) or a
//! [URL](PriceTable::fetch)), from a small file of your own, or from both, [merged](PriceTable::merge). Given to the
//! [accounting layer](crate::layer::token_accounting::TokenAccountingLayer::prices) it prices every call: the cost is in the
//! item's [report](crate::ItemReport::cost), in the [ledger](crate::layer::token_accounting::LedgerSnapshot::cost) and in the
//! [summary](crate::BatchSummary::cost). A price that is not known makes a cost that is not known; it is never zero.
//!
//! # A file of your own
//! TOML, in **US dollars per million tokens**:
//!
//! ```toml
//! # A model of one provider, by the name that `strategy` takes.
//! [models."openai:gpt-4o-mini"]
//! input = 0.15
//! output = 0.60
//! cached_input = 0.075
//! batch = { input = 0.075, output = 0.30 }
//!
//! # A model wherever it is served.
//! [models."qwen3-8b"]
//! input = 0.02
//! output = 0.05
//!
//! # Requests of more than so many input tokens are priced at these rates as a whole.
//! [models."gemini:gemini-2.5-pro"]
//! input = 1.25
//! output = 10
//! above = [{ tokens = 200_000, input = 2.5, output = 15 }]
//! ```
//!
//! | key | tokens it is for | where it is missing |
//! |---|---|---|
//! | `input` | input, but for those below | unknown |
//! | `output` | output | unknown |
//! | `cached_input` | read from the provider's prompt cache | Anthropic: 0.1 of `input`; else `input`, which is never too little |
//! | `cache_write` | written to it | Anthropic: 1.25 of `input`; OpenAI, Azure, Gemini, DeepSeek: `input`, as they bill them so unless they list a price; else unknown |
//! | `cache_write_long` | written for the longer time: an hour with Anthropic, twelve hours with OpenAI | Anthropic: twice `input`; else unknown |
//! | `reasoning` | reasoning | `output` |
//! | `batch` | any of the above, in a native batch job | OpenAI, Azure, Anthropic, Gemini: half; else unknown |
//! | `above` | any of the above and `batch`, of requests with more than `tokens` input tokens, cached ones included | the model's ordinary rate |
//!
//! In a batch job, cached tokens without a rate of their own cost with Anthropic half, and else the lower of the online rate for
//! cached tokens and the batch rate for input.
//!
//! An unknown rate only matters if there are tokens for it.
//!
//! # LiteLLM's list
//! US dollars per token. The fields that are read: `litellm_provider`, `input_cost_per_token`, `output_cost_per_token`,
//! `output_cost_per_reasoning_token`, `cache_read_input_token_cost`, `cache_creation_input_token_cost` (also with
//! `_above_1hr` and `_above_12hr`), each with `_above_..k_tokens` and with `_batches`. Everything else is skipped: service tiers
//! (flex, priority), images, audio, searches. A tier holds for the whole request once its input is above the threshold, which is
//! how LiteLLM computes it.
//!
//! # How a model is found
//! By provider and model. The provider goes by the prefix of [`strategy`](crate::provider), its OpenTelemetry name or LiteLLM's
//! (`gemini`, `gcp.gemini`). In the public list `gpt-4o-mini`, which says of itself that it is OpenAI's, is OpenAI's alone, and
//! `gemini/gemini-2.5-flash` is the model `gemini-2.5-flash` of `gemini`: the same name at another provider has another price.
//!
//! A dated name (`gpt-4o-mini-2024-07-18`, `claude-sonnet-4-5-20250929`) that no table lists has the price of the same name
//! without the date, if that one is listed for this provider and every dated version that is listed beside it costs the
//! same. Where versions have had different prices, a new one is unknown. A name without a date never has the price of a dated one. A
//! fine-tuned model of OpenAI (`ft:gpt-4o-mini-2024-07-18:team::id`) has that of `ft:gpt-4o-mini-2024-07-18`.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::error::{ErrorKind, LlmError};
use crate::usage::TokenUsage;
use crate::usd::Usd;

mod litellm;
mod models;
mod own;
mod rates;

use models::{Models, canonical};
use rates::Price;

/// The largest list that is read: 20 times LiteLLM's.
const MAX_BYTES: u64 = 64 << 20;

/// The way in which a call is made, as its price depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rate {
    /// A request that is answered at once.
    #[default]
    Online,
    /// A line of a provider's native batch job.
    Batch,
}

/// The prices of tokens, by provider and model. See the [module](self) for where prices come from and how a model is found.
///
/// A handle: clones are cheap.
///
/// ```
/// use llm_batch::price::{PriceTable, Rate};
/// use llm_batch::TokenUsage;
///
/// let prices = PriceTable::parse(
///     r#"
///     [models."openai:gpt-4o-mini"]
///     input = 0.15          # US dollars per million tokens
///     cached_input = 0.075
///     output = 0.60
///     "#,
/// )?;
/// let mut usage = TokenUsage::new(1_000_000, 100_000);
/// usage.cached_input = 200_000;
/// // 800,000 * 0.15 + 200,000 * 0.075 + 100,000 * 0.60, per million
/// let cost = prices.cost("openai", "gpt-4o-mini", &usage, Rate::Online).unwrap();
/// assert_eq!(cost.to_string(), "$0.195");
/// assert_eq!(prices.cost("openai", "gpt-unheard-of", &usage, Rate::Online), None);
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Default)]
pub struct PriceTable {
    // The first one outranks the others.
    lists: Vec<Arc<Models>>,
}

impl PriceTable {
    /// Reads LiteLLM's JSON or a TOML file of your own, whichever `text` is.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if it is neither, holds no price at all, or holds one that is not a number of at least 0; the
    /// message names the model. In TOML also for a key that is not known.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, LlmError> {
        let bytes = text.as_ref();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let models = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => litellm::read(bytes)?,
            _ => own::read(bytes)?,
        };
        if models.len() == 0 {
            return Err(wrong("there is no price in it"));
        }
        Ok(Self {
            lists: vec![Arc::new(models)],
        })
    }

    /// [Reads](Self::parse) a file, of 64 MiB at most. It blocks, for some milliseconds.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if the file cannot be read. The message names the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LlmError> {
        let path = path.as_ref();
        let named = |message: String| wrong(format!("prices of {}: {message}", path.display()));
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| named(error.to_string()))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(named(too_large()));
        }
        Self::parse(bytes).map_err(|error| named(error.message().to_owned()))
    }

    /// Fetches a list from a URL, once, and [reads](Self::parse) it; within a minute, and of 64 MiB at most. LiteLLM's is at
    /// `https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), llm_batch::LlmError> {
    /// use llm_batch::PriceTable;
    ///
    /// let public = PriceTable::fetch(
    ///     "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json",
    /// )
    /// .await?;
    /// let prices = public.merge(PriceTable::load("our-prices.toml")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if the list cannot be fetched. The message names host and path.
    ///
    /// # Cancel safety
    /// Dropped, it leaves nothing behind.
    #[cfg(feature = "reqwest")]
    #[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
    pub async fn fetch(url: &str) -> Result<Self, LlmError> {
        let url =
            reqwest::Url::parse(url).map_err(|error| wrong(format!("the URL of the prices: {error}")))?;
        // Without what may be a secret: user, password, query.
        let name = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
        let named = |message: String| wrong(format!("prices of {name}: {message}"));
        let bytes = download(url)
            .await
            .map_err(|error| named(error.message().to_owned()))?;
        Self::parse(bytes).map_err(|error| named(error.message().to_owned()))
    }

    /// Both tables. Where both know a model, the prices of `other` count, whole.
    ///
    /// ```
    /// use llm_batch::price::{PriceTable, Rate};
    /// use llm_batch::TokenUsage;
    ///
    /// let public = PriceTable::parse(
    ///     r#"{"m": {"litellm_provider": "openai", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6}}"#,
    /// )?;
    /// let ours = PriceTable::parse("models.m = { input = 1.0, output = 4.0 }")?;
    /// let prices = public.merge(ours);
    /// let cost = prices.cost("openai", "m", &TokenUsage::new(1_000_000, 0), Rate::Online);
    /// assert_eq!(cost.unwrap().to_string(), "$1.00");
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    #[must_use]
    pub fn merge(mut self, mut other: Self) -> Self {
        other.lists.append(&mut self.lists);
        other
    }

    /// Returns what one call cost, or would cost. No tokens cost nothing. `None` if the model is not listed, or a rate is
    /// not known for which there are tokens.
    ///
    /// It is for one call, not for the sum of many: a tier depends on the size of the request.
    pub fn cost(&self, provider: &str, model: &str, usage: &TokenUsage, rate: Rate) -> Option<Usd> {
        if usage.total() == 0 {
            return Some(Usd::ZERO);
        }
        let provider = canonical(provider);
        self.find(provider, model)?.cost(provider, usage, rate)
    }

    fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        let model = models::listed_name(model);
        let mut lists = self.lists.iter();
        lists
            .find_map(|list| list.get(provider, model))
            .or_else(|| self.lists.iter().find_map(|list| list.undated(provider, model)))
    }
}

impl fmt::Debug for PriceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<_> = self.lists.iter().map(|list| list.len()).collect();
        f.debug_struct("PriceTable").field("models", &models).finish()
    }
}

#[cfg(feature = "reqwest")]
async fn download(url: reqwest::Url) -> Result<Vec<u8>, LlmError> {
    use std::time::Duration;

    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        wrong(format!("{error}{}", cause.unwrap_or_default()))
    };
    let client = reqwest::Client::builder()
        .user_agent(concat!("llm-batch/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(60))
        .build()
        .map_err(failed)?;
    let mut response = client.get(url).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(wrong(format!("the server answered {}", response.status())));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if (bytes.len() + chunk.len()) as u64 > MAX_BYTES {
            return Err(wrong(too_large()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large() -> String {
    format!("a list of more than {} MiB is not read", MAX_BYTES >> 20)
}

fn wrong(message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::Configuration, message.into())
}
