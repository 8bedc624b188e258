//! The servers that can be named in a line, and how they differ, as data.
//!
//! A new one is a row of [`PRESETS`]. The tests then name each text that lists the servers and lacks it.

use reqwest::Url;

use crate::error::LlmError;
use crate::provider::misconfigured::{Misconfigured, configuration};

/// The wire that a strategy asks a server for unless the user says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Chat,
    Responses,
    /// Responses at OpenAI itself, chat completions anywhere else.
    ByHost,
}

/// The name of the field that carries the output token limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenLimitField {
    /// `max_completion_tokens`: OpenAI's own, whose reasoning models reject the other.
    #[default]
    MaxCompletionTokens,
    /// `max_tokens`: what most compatible servers know.
    MaxTokens,
}

/// A server that speaks one of OpenAI's wires.
#[derive(Debug)]
pub(super) struct Preset {
    /// The text before the colon in `PREFIX:MODEL`.
    pub(super) prefix: &'static str,
    /// The OpenTelemetry name.
    pub(super) name: &'static str,
    /// The base URL of the server; none if only the user knows it.
    pub(super) base_url: Option<&'static str>,
    /// The path that a base URL without one is given.
    pub(super) path: Option<&'static str>,
    /// The domains that identify the server, whatever its client was called.
    pub(super) domains: &'static [&'static str],
    /// The variable that overrides the base URL.
    pub(super) base_url_variable: &'static str,
    /// The variable that holds the key.
    pub(super) key_variable: &'static str,
    /// `true` if the server is of no use without a key.
    pub(super) needs_key: bool,
    /// The header that takes the key, if it is not a bearer token.
    pub(super) key_header: Option<&'static str>,
    pub(super) wire: Wire,
    /// The field for the output token limit.
    pub(super) token_limit: TokenLimitField,
    /// The field for the sampling seed.
    pub(super) seed: &'static str,
    /// `true` if a stream may be asked for its usage. A server that cannot be asked reports it anyway.
    pub(super) stream_options: bool,
    /// `true` if a JSON Schema can be sent. If not, JSON is asked for, and the schema goes into the system text.
    pub(super) json_schema: bool,
    /// `true` if it takes a JSON Schema as it is, by a grammar, and not only OpenAI's strict subset.
    pub(super) any_schema: bool,
    /// `true` if it knows the role `developer`.
    pub(super) developer_role: bool,
    /// `true` if it passes marks for the prompt cache on to the provider.
    pub(super) cache_marks: bool,
    /// `true` if it takes the reasoning of an earlier turn back in `reasoning_content`.
    pub(super) reasoning_content: bool,
    /// `true` if the server limits calls at the same time, not their rate.
    pub(super) limits_concurrency: bool,
}

impl Preset {
    /// Returns `true` if it runs on a machine of the user's own: it needs no key, and its default address is local.
    pub(super) const fn is_local(&self) -> bool {
        !self.needs_key && self.base_url.is_some()
    }
}

/// A provider that wants a key, and is like OpenAI in the rest.
const HOSTED: Preset = Preset {
    prefix: "",
    name: "",
    base_url: None,
    path: None,
    domains: &[],
    base_url_variable: "",
    key_variable: "",
    needs_key: true,
    key_header: None,
    wire: Wire::Chat,
    token_limit: TokenLimitField::MaxTokens,
    seed: "seed",
    stream_options: true,
    json_schema: true,
    any_schema: false,
    developer_role: false,
    cache_marks: false,
    reasoning_content: false,
    limits_concurrency: false,
};

/// A server on a machine of one's own, which wants no key, though it takes one.
const LOCAL: Preset = Preset {
    needs_key: false,
    any_schema: true,
    reasoning_content: true,
    ..HOSTED
};

/// OpenAI itself.
pub(super) const OPENAI: Preset = Preset {
    prefix: "openai",
    name: "openai",
    base_url: Some("https://api.openai.com/v1"),
    domains: &["openai.com"],
    base_url_variable: "OPENAI_BASE_URL",
    key_variable: "OPENAI_API_KEY",
    wire: Wire::ByHost,
    // Its reasoning models reject the older field.
    token_limit: TokenLimitField::MaxCompletionTokens,
    developer_role: true,
    ..HOSTED
};

/// Every known server. Local ports are the servers' documented defaults.
pub(super) const PRESETS: &[Preset] = &[
    OPENAI,
    Preset {
        prefix: "openai-chat",
        wire: Wire::Chat,
        ..OPENAI
    },
    Preset {
        prefix: "openai-responses",
        wire: Wire::Responses,
        ..OPENAI
    },
    Preset {
        prefix: "openai-compatible",
        name: "openai-compatible",
        base_url_variable: "OPENAI_COMPATIBLE_BASE_URL",
        key_variable: "OPENAI_COMPATIBLE_API_KEY",
        // It may stand for OpenAI.
        any_schema: false,
        ..LOCAL
    },
    Preset {
        prefix: "azure",
        name: "azure.ai.openai",
        path: Some("/openai/v1"),
        domains: &[
            "openai.azure.com",
            "services.ai.azure.com",
            "cognitiveservices.azure.com",
        ],
        // The name that OpenAI's own clients read.
        base_url_variable: "AZURE_OPENAI_ENDPOINT",
        key_variable: "AZURE_OPENAI_API_KEY",
        key_header: Some("api-key"),
        developer_role: true,
        token_limit: TokenLimitField::MaxCompletionTokens,
        ..HOSTED
    },
    Preset {
        prefix: "openrouter",
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        domains: &["openrouter.ai"],
        base_url_variable: "OPENROUTER_BASE_URL",
        key_variable: "OPENROUTER_API_KEY",
        cache_marks: true,
        ..HOSTED
    },
    Preset {
        prefix: "deepseek",
        name: "deepseek",
        base_url: Some("https://api.deepseek.com"),
        domains: &["deepseek.com"],
        base_url_variable: "DEEPSEEK_BASE_URL",
        key_variable: "DEEPSEEK_API_KEY",
        json_schema: false,
        reasoning_content: true,
        limits_concurrency: true,
        ..HOSTED
    },
    Preset {
        prefix: "groq",
        name: "groq",
        base_url: Some("https://api.groq.com/openai/v1"),
        domains: &["groq.com"],
        base_url_variable: "GROQ_BASE_URL",
        key_variable: "GROQ_API_KEY",
        token_limit: TokenLimitField::MaxCompletionTokens,
        ..HOSTED
    },
    Preset {
        prefix: "mistral",
        name: "mistral_ai",
        base_url: Some("https://api.mistral.ai/v1"),
        domains: &["mistral.ai"],
        base_url_variable: "MISTRAL_BASE_URL",
        key_variable: "MISTRAL_API_KEY",
        // It rejects fields that it does not know.
        seed: "random_seed",
        stream_options: false,
        ..HOSTED
    },
    Preset {
        prefix: "xai",
        name: "x_ai",
        base_url: Some("https://api.x.ai/v1"),
        domains: &["x.ai"],
        base_url_variable: "XAI_BASE_URL",
        key_variable: "XAI_API_KEY",
        token_limit: TokenLimitField::MaxCompletionTokens,
        ..HOSTED
    },
    Preset {
        prefix: "ollama",
        name: "ollama",
        base_url: Some("http://localhost:11434/v1"),
        base_url_variable: "OLLAMA_BASE_URL",
        key_variable: "OLLAMA_API_KEY",
        ..LOCAL
    },
    Preset {
        prefix: "vllm",
        name: "vllm",
        base_url: Some("http://localhost:8000/v1"),
        base_url_variable: "VLLM_BASE_URL",
        key_variable: "VLLM_API_KEY",
        ..LOCAL
    },
    Preset {
        prefix: "llamacpp",
        name: "llamacpp",
        base_url: Some("http://localhost:8080/v1"),
        base_url_variable: "LLAMACPP_BASE_URL",
        key_variable: "LLAMACPP_API_KEY",
        ..LOCAL
    },
    Preset {
        prefix: "lmstudio",
        name: "lmstudio",
        base_url: Some("http://localhost:1234/v1"),
        base_url_variable: "LMSTUDIO_BASE_URL",
        key_variable: "LMSTUDIO_API_KEY",
        ..LOCAL
    },
];

/// The OpenTelemetry names of other hosts that speak chat completions.
const OTHER_HOSTS: &[(&str, &str)] = &[
    ("perplexity.ai", "perplexity"),
    ("cohere.com", "cohere"),
    ("googleapis.com", "gcp.gemini"),
];

/// The server with this prefix.
pub(super) fn find(prefix: &str) -> Result<&'static Preset, LlmError> {
    PRESETS
        .iter()
        .find(|preset| preset.prefix == prefix)
        .ok_or_else(|| {
            configuration(
                Misconfigured::UnknownProvider,
                format!(
                    "{prefix:?} is not a known server; servers are {}",
                    prefixes().join(", ")
                ),
            )
        })
}

/// Returns `true` if a host is in a domain.
fn is_in(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The server that an address identifies.
pub(super) fn at(url: &Url) -> Option<&'static Preset> {
    let host = url.host_str()?;
    PRESETS
        .iter()
        .find(|preset| preset.domains.iter().any(|domain| is_in(host, domain)))
}

/// The OpenTelemetry name of the host at an address that does not belong to a preset.
pub(super) fn other_name(url: &Url) -> Option<&'static str> {
    let host = url.host_str()?;
    OTHER_HOSTS
        .iter()
        .find_map(|(domain, name)| is_in(host, domain).then_some(*name))
}

/// Returns `true` if the address is OpenAI's own, of any region.
pub(super) fn is_openai(url: &Url) -> bool {
    url.host_str().is_some_and(|host| is_in(host, "api.openai.com"))
}

/// Returns `true` if a server has this prefix.
pub(crate) fn is_prefix(prefix: &str) -> bool {
    PRESETS.iter().any(|preset| preset.prefix == prefix)
}

/// Every prefix.
pub(crate) fn prefixes() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.prefix).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The row of a table in a file's docs whose first cell is `PREFIX:`.
    fn row<'a>(docs: &'a str, prefix: &str) -> Vec<&'a str> {
        let start = format!("| `{prefix}:` |");
        let line = docs
            .lines()
            .map(|line| line.trim_start_matches(['/', '!', ' ']))
            .find(|line| line.starts_with(&start))
            .unwrap_or_else(|| panic!("no row for {prefix}"));
        line.trim_matches('|').split(" | ").map(str::trim).collect()
    }

    #[test]
    fn the_documented_table_is_the_data() {
        let docs = include_str!("../strategy.rs");
        for preset in PRESETS {
            let row = row(docs, preset.prefix);
            let base_url = preset
                .base_url
                .map_or("none".to_owned(), |url| format!("`{url}`"));
            assert_eq!(row[1], base_url, "{}", preset.prefix);
            for variable in [preset.base_url_variable, preset.key_variable] {
                assert!(row[2].contains(&format!("`{variable}`")), "{variable}: {row:?}");
            }
        }
    }

    #[test]
    fn nothing_else_is_documented() {
        let others = ["anthropic", "gemini"];
        for docs in [
            include_str!("../strategy.rs"),
            include_str!("mod.rs"),
            include_str!("../../../README.md"),
        ] {
            let mut listed = Vec::new();
            for line in docs.lines() {
                let line = line.trim_start_matches(['/', '!', ' ']);
                let cell = line.strip_prefix("| ").and_then(|row| row.split(" | ").next());
                let prefixes = cell.into_iter().flat_map(|cell| cell.split('`'));
                listed.extend(prefixes.filter_map(|code| code.strip_suffix(':')));
            }
            for prefix in &listed {
                assert!(is_prefix(prefix) || others.contains(prefix), "{prefix}");
            }
            assert!(listed.contains(&"lmstudio"), "{listed:?}");
        }
    }

    #[test]
    fn the_readme_lists_every_server() {
        let readme = include_str!("../../../README.md");
        let (_, table) = readme.split_once("| prefix | API |").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        for preset in PRESETS {
            let row = table
                .lines()
                .find(|row| row.contains(&format!("`{}:`", preset.prefix)));
            let row = row.unwrap_or_else(|| panic!("no row for {}", preset.prefix));
            let is_local = row.contains("on your own machine");
            assert_eq!(is_local, preset.is_local(), "{}", preset.prefix);
        }
    }

    #[test]
    fn the_documented_differences_are_the_data() {
        let docs = include_str!("mod.rs");
        for preset in PRESETS {
            let row = row(docs, preset.prefix);
            assert_eq!(row[1], format!("`{}`", preset.name));
            let wire = match preset.wire {
                Wire::Chat => "chat",
                Wire::Responses => "Responses",
                Wire::ByHost => "Responses at OpenAI, else chat",
            };
            assert_eq!(row[2], wire, "{}", preset.prefix);
            let token_limit = match preset.token_limit {
                TokenLimitField::MaxCompletionTokens => "`max_completion_tokens`",
                TokenLimitField::MaxTokens => "`max_tokens`",
            };
            assert_eq!(row[3], token_limit, "{}", preset.prefix);
            for (differs, word) in [
                (preset.key_header.is_some(), "`api-key`"),
                (preset.seed != "seed", "`random_seed`"),
                (!preset.stream_options, "`stream_options`"),
                (!preset.json_schema, "`json_object`"),
                (preset.limits_concurrency, "at the same time"),
                (preset.path.is_some(), "`/openai/v1`"),
                (preset.developer_role, "`developer`"),
                (preset.cache_marks, "`cache_control`"),
                (preset.reasoning_content, "`reasoning_content`"),
            ] {
                assert_eq!(row[4].contains(word), differs, "{word}: {row:?}");
            }
        }
    }

    #[test]
    fn local_servers_are_those_at_localhost() {
        for preset in PRESETS {
            let at_localhost = preset
                .base_url
                .is_some_and(|url| Url::parse(url).unwrap().host_str() == Some("localhost"));
            assert_eq!(preset.is_local(), at_localhost, "{}", preset.prefix);
        }
    }

    #[test]
    fn prefixes_and_variables_are_unique() {
        for (number, preset) in PRESETS.iter().enumerate() {
            for other in &PRESETS[number + 1..] {
                assert_ne!(preset.prefix, other.prefix);
                if preset.name != other.name {
                    assert_ne!(preset.base_url_variable, other.base_url_variable);
                    assert_ne!(preset.key_variable, other.key_variable);
                }
            }
            // A base URL identifies its own server.
            if let Some(url) = preset.base_url.map(|url| Url::parse(url).unwrap())
                && preset.needs_key
            {
                assert_eq!(at(&url).unwrap().name, preset.name);
            }
        }
    }

    #[test]
    fn hosts_tell_their_servers() {
        let name = |url: &str| at(&Url::parse(url).unwrap()).map(|preset| preset.name);
        assert_eq!(name("https://eu.api.openai.com/v1"), Some("openai"));
        assert_eq!(name("https://mine.openai.azure.com"), Some("azure.ai.openai"));
        assert_eq!(name("https://api.groq.com/openai/v1"), Some("groq"));
        assert_eq!(name("https://notx.ai/v1"), None);
        assert_eq!(name("http://localhost:8000/v1"), None);
    }
}
