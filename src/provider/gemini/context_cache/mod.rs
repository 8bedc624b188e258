//! A context that the provider keeps, shared by many prompts.

mod identity;
mod life;
mod remote;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::life::{Life, Times};
use self::remote::Remote;
use super::content::content_fields;
use super::server::{Server, resource_name};
use crate::error::LlmError;
use crate::prompt::{Prompt, Role};
use crate::provider::request::refuse;
use crate::provider::wire_format::Ask;

/// The provider's own default.
const DEFAULT_TIME_TO_LIVE: Duration = Duration::from_secs(3_600);

/// Longer than a call takes, so that no call is under way when its cache ends.
const DEFAULT_RENEW_BEFORE: Duration = Duration::from_secs(300);

/// A context cache of Gemini's: system text, messages and tools that the provider keeps for a while, and that many prompts
/// share at a tenth of the price. A handle: clones share the cache.
///
/// Made by [`Gemini::context_cache`](super::Gemini::context_cache). It costs nothing until the first prompt of its [`model`](Self::model) needs it (or
/// [`prepare`](Self::prepare) is called). All calls that wait for it share one search and one creation:
///
/// - The cache is known by its content and model. A live one of the same identity, made by an earlier run or by
///   another process, is adopted, with the times that the provider gives it; otherwise one is created. Identity is kept in the
///   cache's display name. If the caches cannot be listed, one is created.
/// - When less than [300 s](Self::with_renew_before) of its life remain, it is renewed in place, by one call for all. If that
///   fails, the cache stays in use, and the renewal is retried after 30 s.
/// - If the provider no longer has it when a prompt refers to it, it is replaced once, and the prompt is sent once
///   more. The refused request is a call of its own in the item's report, which is known to have cost nothing.
///
/// It stays when the program ends, since the next run may adopt it, and ends by itself after its time to live;
/// [`delete`](Self::delete) removes it before. The provider bills its storage by time. Making it is billed as input once, which is in no
/// item's account; see [`tokens`](Self::tokens).
///
/// Prompts to [`model`](Self::model) must not repeat what is in the cache: the system text and tools of the cache are left out, and any
/// others are an error before the call. Their messages come after the cached ones.
///
/// ```no_run
/// # async fn run(manual: String, questions: Vec<String>) -> Result<(), llm_batch::LlmError> {
/// use std::time::Duration;
/// use futures::StreamExt;
/// use llm_batch::provider::gemini::Gemini;
/// use llm_batch::{LlmStreamExt, Message, Prompt, StandardLayer};
/// use tower::Layer;
///
/// let content = Prompt::default()
///     .with_system("Answer from the manual only.")
///     .with_message(Message::user(manual));
/// let cache = Gemini::from_env()?
///     .context_cache("gemini-2.5-flash", content)?
///     .with_time_to_live(Duration::from_secs(1_800));
/// let model = StandardLayer::new().layer(cache.model());
/// let mut results = futures::stream::iter(questions).with_strategy(model).llm_batch(100);
/// while let Some(outcome) = results.next().await {
///     println!("{:?}", outcome.report.usage.cached_input);
/// }
/// cache.delete().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// If the cache cannot be created, the calls that wait for it fail without being sent, with the kind of the provider's
/// error, which decides on a retry. Content that the provider refuses (one below its smallest size, for instance) fails all calls at once,
/// and is not sent again.
///
/// # Cancel safety
/// A dropped call does not stop the creation for the others. If every waiting call is dropped, the creation pauses until the
/// next call.
#[derive(Clone)]
pub struct ContextCache {
    shared: Arc<Shared>,
    times: Times,
}

struct Shared {
    server: Arc<Server>,
    /// As the user named it.
    model: String,
    content: Prompt,
    remote: Arc<Remote>,
    life: Life,
}

impl ContextCache {
    pub(super) fn new(server: Arc<Server>, model: String, content: Prompt) -> Result<Self, LlmError> {
        let resource = resource_name(&model)?;
        let fields = content_fields(&content, server.options.schema_form)?;
        if fields.is_empty() {
            return Err(refuse(
                "a context cache needs content: system text, messages or tools",
            ));
        }
        let display_name = identity::display_name(&resource, &fields);
        let remote = Arc::new(Remote {
            server: Arc::clone(&server),
            model: resource,
            display_name,
            fields,
        });
        Ok(Self {
            shared: Arc::new(Shared {
                server,
                model,
                content,
                remote,
                life: Life::default(),
            }),
            times: Times {
                to_live: DEFAULT_TIME_TO_LIVE,
                renew_before: DEFAULT_RENEW_BEFORE,
            },
        })
    }

    /// Sets how long the provider keeps the cache after its making and after each renewal; the default is an hour. Whole seconds,
    /// rounded up. To be set before handles are cloned.
    #[must_use]
    pub fn with_time_to_live(mut self, time: Duration) -> Self {
        self.times.to_live = time;
        self
    }

    /// Sets how much of its life may be left when the cache is renewed; the default is 300 s, and never more than half of the life that
    /// the provider gave it last. To be set before handles are cloned.
    #[must_use]
    pub fn with_renew_before(mut self, rest: Duration) -> Self {
        self.times.renew_before = rest;
        self
    }

    /// Creates the cache now, if it does not exist yet, instead of with the first prompt.
    ///
    /// # Errors
    /// As the calls that wait for it.
    pub async fn prepare(&self) -> Result<(), LlmError> {
        self.current(None).await.map(drop)
    }

    /// The provider's name of the cache, while one is known.
    pub fn name(&self) -> Option<String> {
        Some(self.shared.life.live()?.name.to_string())
    }

    /// The tokens in the cache, if one is known and the provider reported them.
    pub fn tokens(&self) -> Option<u64> {
        self.shared.life.live()?.tokens
    }

    /// Deletes the cache at the provider, once for any number of calls, and ends this handle and its clones: later calls fail
    /// unsent. Does nothing at the provider if no cache was made or adopted. A cache that is already gone is not an error.
    ///
    /// Calls under way are not waited for: delete when the batch is done.
    ///
    /// # Errors
    /// The provider's; a later call tries again.
    ///
    /// # Cancel safety
    /// If it is dropped early, the removal pauses until `delete` is called again.
    pub async fn delete(&self) -> Result<(), LlmError> {
        self.shared.life.delete(&self.shared.remote).await
    }

    /// The server that keeps it.
    pub(super) fn server(&self) -> &Arc<Server> {
        &self.shared.server
    }

    /// The model that it is for, as the user named it.
    pub(super) fn model_name(&self) -> &str {
        &self.shared.model
    }

    /// The name of a live cache, another one than `gone`.
    pub(super) async fn current(&self, gone: Option<Arc<str>>) -> Result<Arc<str>, LlmError> {
        self.shared
            .life
            .current(&self.shared.remote, self.times, gone)
            .await
    }

    /// Checks that the question can be asked over the cache: the same model, and no system text or tools of its own.
    pub(super) fn check(&self, ask: &Ask<'_>) -> Result<(), LlmError> {
        if resource_name(ask.model)? != self.shared.remote.model {
            return Err(refuse(format!(
                "the context cache belongs to {}, and the prompt asks {}; send it without the cache",
                self.shared.model, ask.model
            )));
        }
        if ask.prompt.raw_body().is_some() {
            return Ok(());
        }
        let content = &self.shared.content;
        let system = ask.prompt.system().or(ask.defaults.system());
        let mut messages = ask.prompt.messages().iter();
        let own_system = system.is_some() && system != content.system()
            || messages.any(|message| matches!(message.role, Role::System | Role::Developer));
        if own_system {
            return Err(refuse(
                "the system text stands in the context cache, and no prompt can have another; leave it out of the \
                 prompt, or put it into the cache",
            ));
        }
        let own_tools = !ask.tools().is_empty() && ask.tools() != content.tools();
        if own_tools || ask.tool_choice().is_some() {
            return Err(refuse(
                "tools and their choice stand in the context cache, and no prompt can have others; leave them out of the \
                 prompt, or put them into the cache (the choice as the extra field `toolConfig`)",
            ));
        }
        for name in ["systemInstruction", "tools", "toolConfig"] {
            let own = ask.prompt.extra().get(name).or(ask.defaults.extra().get(name));
            if own.is_some() && own != content.extra().get(name) {
                return Err(refuse(format!(
                    "`{name}` stands in the context cache, and no prompt can have another; leave it out of the prompt, \
                     or put it into the cache"
                )));
            }
        }
        Ok(())
    }
}

/// Without the content, which may be long and private.
impl fmt::Debug for ContextCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextCache")
            .field("model", &self.shared.model)
            .field("display_name", &self.shared.remote.display_name)
            .field("life", &self.shared.life)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
