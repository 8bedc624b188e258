//! Gemini's context caches: create, list, extend, delete.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::super::SimulatedProvider;
use super::super::answer::{join, tokens};
use super::super::cache::Content;
use super::super::rejection::Rejection;
use super::gemini::{field, prompt_texts};

type Answer = Result<Value, Box<Rejection>>;

const DEFAULT_LIFE: Duration = Duration::from_secs(3_600);
/// The maximum lifetime: beyond any use, and small enough for a date.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
const LONGEST_DISPLAY_NAME: usize = 128;
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1_000;

impl SimulatedProvider {
    pub(in super::super) fn create_content(&self, body: &Map<String, Value>) -> Answer {
        let model = match body.get("model").and_then(Value::as_str) {
            Some(model) => model.strip_prefix("models/").unwrap_or(model).to_owned(),
            None => {
                return Err(
                    Rejection::invalid("* CreateCachedContentRequest.model: model is required\n").into(),
                );
            }
        };
        let display_name = field(body, "displayName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if display_name.chars().count() > LONGEST_DISPLAY_NAME {
            let message = format!("display_name must be at most {LONGEST_DISPLAY_NAME} characters long.");
            return Err(Rejection::invalid(message).into());
        }
        let life = life(body)?.unwrap_or(DEFAULT_LIFE);
        let text = join(prompt_texts(body).into_iter());
        let (count, minimum) = (tokens(&text), self.inner.config.cache_minimum);
        if count < minimum {
            let message = format!(
                "Cached content is too small. total_token_count={count}, min_total_token_count={minimum}"
            );
            return Err(Rejection::invalid(message).into());
        }
        let mut state = self.inner.state();
        state.ledger.caches_created += 1;
        state.ledger.cache_creation_tokens += count;
        let content = state
            .contents
            .create(model, display_name.to_owned(), text, count, life);
        Ok(written(&content))
    }

    /// A page of the existing caches; `token` is the position of its first entry.
    pub(in super::super) fn list_contents(&self, size: Option<&str>, token: Option<&str>) -> Answer {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok());
        let (start, size) = (number(token).unwrap_or(0), number(size).unwrap_or(0));
        let size = if size == 0 { PAGE } else { size.min(LARGEST_PAGE) };
        let mut state = self.inner.state();
        let mut rest = state.contents.list().skip(start);
        let page: Vec<_> = rest.by_ref().take(size).map(written).collect();
        let mut list = json!({});
        if rest.next().is_some() {
            list["nextPageToken"] = (start + size).to_string().into();
        }
        if !page.is_empty() {
            list["cachedContents"] = page.into();
        }
        Ok(list)
    }

    pub(in super::super) fn get_content(&self, id: &str) -> Answer {
        let mut state = self.inner.state();
        let found = state.contents.get(&name(id)).map(written);
        Ok(found.ok_or_else(Rejection::no_cache)?)
    }

    pub(in super::super) fn patch_content(&self, id: &str, body: &Map<String, Value>) -> Answer {
        let Some(life) = life(body)? else {
            let message = "Only the expiration may be changed: set ttl or expireTime.";
            return Err(Rejection::invalid(message).into());
        };
        let mut state = self.inner.state();
        let found = state.contents.keep_for(&name(id), life).map(written);
        Ok(found.ok_or_else(Rejection::no_cache)?)
    }

    pub(in super::super) fn delete_content(&self, id: &str) -> Answer {
        let deleted = self.inner.state().contents.delete(&name(id));
        deleted.ok_or_else(Rejection::no_cache)?;
        Ok(json!({}))
    }
}

fn name(id: &str) -> String {
    format!("cachedContents/{id}")
}

/// Returns the requested lifetime from now: `ttl` such as `3.5s`, or until the given expiry time.
fn life(body: &Map<String, Value>) -> Result<Option<Duration>, Box<Rejection>> {
    let text = |name: &str| field(body, name).and_then(Value::as_str);
    let life = match (text("ttl"), text("expireTime")) {
        (Some(ttl), _) => {
            let seconds = ttl.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        (None, Some(moment)) => humantime::parse_rfc3339_weak(moment)
            .ok()
            .and_then(|moment| moment.duration_since(SystemTime::now()).ok()),
        (None, None) => return Ok(None),
    };
    match life.filter(|life| !life.is_zero() && *life <= LONGEST_LIFE) {
        Some(life) => Ok(Some(life)),
        None => Err(Rejection::invalid("The expiration must be in the future, within ten years.").into()),
    }
}

fn written(content: &Content) -> Value {
    let time = |time| humantime::format_rfc3339_micros(time).to_string();
    json!({
        "name": content.name(),
        "model": format!("models/{}", content.model),
        "createTime": time(content.created),
        "updateTime": time(content.updated),
        "expireTime": time(content.expires),
        "displayName": content.display_name,
        "usageMetadata": {"totalTokenCount": content.tokens},
    })
}
