//! A model of a provider: quotas, throttles, latency, faults, and its own ledger.

mod answer;
mod builder;
mod cache;
mod call;
mod fault;
mod hint;
mod instance;
mod ledger;
mod outgoing;
mod preset;
mod quota;
mod rejection;
mod respond;
mod server;
mod service;
mod socket;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use self::answer::{Answer, Question, Variant};
use self::builder::Config;
use self::cache::{Contents, Prefixes};
use self::quota::Meter;
use crate::prompt::Prompt;

pub use self::builder::SimulatedProviderBuilder;
pub use self::hint::{Hint, ParseHintError};
pub use self::ledger::Ledger;
pub use self::preset::{ParsePresetError, Preset};
pub use self::quota::Quota;
pub use self::server::SimulatedServer;
pub use self::service::SimulatedService;

/// A simulated provider, with two interfaces to one model: [`service`](Self::service) for virtual time, and
/// [`serve`](Self::serve), an HTTP server with the wire formats of OpenAI (chat completions and Responses), Anthropic and Gemini.
///
/// Clones share quotas and ledger. Every decision of chance follows from the seed and the call's ordinal number, so
/// that a scenario repeats itself in virtual time. The answer follows from the prompt alone, whatever the wire:
/// [`answer_to`](Self::answer_to). A prompt with a schema is answered with an instance of it. A tool is called where the
/// choice names it, and the first one where some tool has to be called, with small arguments that its schema allows; no tool is
/// called where the model decides.
///
/// Tokens are counted at four characters each. Prompt and answer are billed once the request was accepted, even if the
/// client does not get the answer; [`Ledger`] distinguishes the two.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use llm_batch::testing::{Quota, SimulatedProvider};
/// use llm_batch::{ErrorKind, LlmRequest};
/// use tower::ServiceExt;
///
/// let provider = SimulatedProvider::builder()
///     .request_quota(Quota::per_minute(1))
///     .build()
///     .unwrap();
/// let answer = provider.service().oneshot(LlmRequest::new("2 and 3?".into())).await.unwrap();
/// assert_eq!(answer.output, provider.answer_to(&"2 and 3?".into()));
/// let throttled = provider.service().oneshot(LlmRequest::new("4 and 5?".into())).await.unwrap_err();
/// assert_eq!(throttled.kind(), ErrorKind::RateLimit);
/// assert_eq!(throttled.retry_after().unwrap().as_secs(), 60);
/// assert_eq!(provider.ledger().billed_answered, answer.usage.unwrap());
/// # }
/// ```
#[derive(Clone)]
pub struct SimulatedProvider {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    clock: Option<Clock>,
    active: u64,
    contents: Contents,
    prefixes: Prefixes,
}

/// The state that is initialised by the first call.
struct Clock {
    first_call: Instant,
    requests: Option<Meter>,
    tokens: Option<Meter>,
}

/// The tokens that a call takes from the token quota when it arrives. They are never refunded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenCharge {
    /// The larger of the prompt's tokens (by its characters) and its output token limit, as documented by OpenAI.
    #[default]
    Reservation,
    /// The tokens that will be billed for the call: prompt and answer.
    Actual,
}

impl SimulatedProvider {
    /// Returns a builder.
    pub fn builder() -> SimulatedProviderBuilder {
        SimulatedProviderBuilder::new()
    }

    fn from_config(config: Config) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                state: Mutex::default(),
            }),
        }
    }

    /// Returns the provider as a strategy for virtual time.
    pub fn service(&self) -> SimulatedService {
        SimulatedService::new(self.clone())
    }

    /// Returns its calls and billed tokens so far.
    pub fn ledger(&self) -> Ledger {
        self.inner.state().ledger.clone()
    }

    /// Returns its answer to a prompt when nothing goes wrong: the text, or the arguments of the tool that has to be called.
    pub fn answer_to(&self, prompt: &Prompt) -> String {
        let question = Question::from_prompt(prompt);
        Answer::new(&question, &self.inner.config, Variant::Proper).text
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimulatedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedProvider")
            .field("seed", &self.inner.config.seed)
            .field("ledger", &self.ledger())
            .finish_non_exhaustive()
    }
}
