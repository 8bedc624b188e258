//! The request body.

use serde_json::{Map, Value, json};

use super::options::{CacheTtl, Options, Thinking};
use crate::error::LlmError;
use crate::prompt::{Message, Part, Role};
use crate::provider::body::RawBody;
use crate::provider::request::{refuse, write};
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// The output token limit of a prompt that sets none.
const DEFAULT_MAX_TOKENS: u32 = 8_192;

/// The version since which the API refuses sampling parameters. Versions are dates, so they compare as text.
const WITHOUT_SAMPLING: &str = "2026-10-21";

/// The body of a request.
pub(super) fn body(ask: &Ask<'_>, options: &Options) -> Result<Vec<u8>, LlmError> {
    match ask.prompt.raw_body() {
        Some(raw) => write(&RawBody {
            ask,
            raw,
            names_model: true,
            added: if ask.streamed {
                &[("stream", Value::Bool(true))]
            } else {
                &[]
            },
        }),
        None => write(&prompt_body(ask, options)?),
    }
}

/// Returns `true` if no answer is wanted: such a call only fills the prompt cache.
pub(super) fn wants_nothing(ask: &Ask<'_>) -> bool {
    let field = |fields: &Map<String, Value>| fields.get("max_tokens").and_then(Value::as_u64);
    let (prompt, defaults) = (ask.prompt, ask.defaults);
    let limit = match prompt.raw_body() {
        Some(raw) => field(prompt.extra()).or_else(|| field(raw)),
        None => field(prompt.extra())
            .or_else(|| field(defaults.extra()))
            .or_else(|| prompt.max_output_tokens().map(u64::from))
            .or_else(|| defaults.max_output_tokens().map(u64::from)),
    };
    limit == Some(0)
}

fn prompt_body(ask: &Ask<'_>, options: &Options) -> Result<Map<String, Value>, LlmError> {
    let (prompt, defaults) = (ask.prompt, ask.defaults);
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);

    set("model", ask.model.into());
    let max_tokens = prompt.max_output_tokens().or(defaults.max_output_tokens());
    let budget = match options.thinking {
        Some(Thinking::Enabled { budget_tokens }) => budget_tokens,
        _ => 0,
    };
    let max_tokens = max_tokens.unwrap_or_else(|| DEFAULT_MAX_TOKENS.saturating_add(budget));
    set("max_tokens", max_tokens.into());
    if let Some(text) = prompt.system().or(defaults.system()) {
        set("system", system(text, options.system_cache));
    }
    let messages: Vec<_> = prompt.messages().iter().map(message).collect::<Result<_, _>>()?;
    set("messages", messages.into());

    let sampling = [
        ("temperature", prompt.temperature().or(defaults.temperature())),
        ("top_p", prompt.top_p().or(defaults.top_p())),
    ];
    for (name, value) in sampling {
        let Some(value) = value else { continue };
        if options.version.as_str() >= WITHOUT_SAMPLING {
            return Err(refuse(format!(
                "anthropic-version {} takes no {name}; leave it out, or set the client's version to 2023-06-01",
                options.version
            )));
        }
        set(name, value.into());
    }
    if prompt.seed().or(defaults.seed()).is_some() {
        return Err(refuse("Anthropic's models take no seed; leave it out"));
    }
    let stop = [prompt.stop(), defaults.stop()]
        .into_iter()
        .find(|stop| !stop.is_empty());
    if let Some(stop) = stop {
        set("stop_sequences", stop.into());
    }
    if let Some(thinking) = options.thinking {
        set("thinking", json!(thinking));
    }
    if let Some(config) = output_config(ask, options)? {
        set("output_config", config);
    }
    if let Some(ttl) = options.prefix_cache {
        set("cache_control", cache_control(ttl));
    }
    if ask.streamed {
        set("stream", true.into());
    }
    for (name, value) in defaults.extra().iter().chain(prompt.extra()) {
        match (body.get_mut(name), value) {
            // Merged, so that the schema in it is kept.
            (Some(Value::Object(ours)), Value::Object(more)) if name == "output_config" => {
                ours.extend(more.clone());
            }
            _ => {
                body.insert(name.clone(), value.clone());
            }
        }
    }
    Ok(body)
}

fn output_config(ask: &Ask<'_>, options: &Options) -> Result<Option<Value>, LlmError> {
    let mut config = Map::new();
    if let Some(schema) = ask.output_schema() {
        let schema = for_wire(schema, Dialect::Anthropic)?;
        config.insert(
            "format".to_owned(),
            json!({ "type": "json_schema", "schema": schema }),
        );
    }
    if let Some(effort) = options.effort {
        config.insert("effort".to_owned(), json!(effort));
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}

fn system(text: &str, cache: Option<CacheTtl>) -> Value {
    match cache {
        None => text.into(),
        Some(ttl) => json!([{ "type": "text", "text": text, "cache_control": cache_control(ttl) }]),
    }
}

/// A mark for the prompt cache. Five minutes is what is meant without a time.
fn cache_control(ttl: CacheTtl) -> Value {
    match ttl {
        CacheTtl::FiveMinutes => json!({ "type": "ephemeral" }),
        CacheTtl::OneHour => json!({ "type": "ephemeral", "ttl": ttl }),
    }
}

fn message(message: &Message) -> Result<Value, LlmError> {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let content: Value = match message.content.as_slice() {
        [Part::Text { text }] => text.as_str().into(),
        parts => parts.iter().map(part).collect::<Result<Vec<_>, _>>()?.into(),
    };
    Ok(json!({ "role": role, "content": content }))
}

fn part(part: &Part) -> Result<Value, LlmError> {
    match part {
        Part::Text { text } => Ok(json!({ "type": "text", "text": text })),
        Part::Image { url } => Ok(json!({ "type": "image", "source": image_source(url)? })),
        Part::Json { value } => Ok(value.clone()),
    }
}

fn image_source(url: &str) -> Result<Value, LlmError> {
    // Nothing of the URL goes into a message: it is long, or may be signed.
    let malformed = |what: &str| refuse(format!("an image {what}"));
    let scheme = url.split(':').next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
        return Ok(json!({ "type": "url", "url": url }));
    }
    if !scheme.eq_ignore_ascii_case("data") {
        return Err(malformed("is neither an https: nor a data: URL"));
    }
    // `data:image/png;base64,AAAA`
    let rest = url.get("data:".len()..).unwrap_or_default();
    let (kind, data) = rest
        .split_once(',')
        .ok_or_else(|| malformed("is a data: URL without data"))?;
    let (media_type, encoding) = kind.split_once(';').unwrap_or((kind, ""));
    if !encoding
        .rsplit(';')
        .next()
        .is_some_and(|word| word.trim().eq_ignore_ascii_case("base64"))
    {
        return Err(malformed(
            "is a data: URL that is not in base64; write data:image/png;base64,...",
        ));
    }
    if media_type.trim().is_empty() {
        return Err(malformed(
            "is a data: URL without a media type; write data:image/png;base64,...",
        ));
    }
    Ok(json!({ "type": "base64", "media_type": media_type.trim(), "data": data }))
}
