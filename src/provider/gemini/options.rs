//! Settings that only this provider has.

use serde::Serialize;

/// The version of the API that a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ApiVersion {
    /// `v1`, which Google's own clients call since 2026.
    V1,
    /// `v1beta`: the only one that knows the `-latest` aliases, and that most gateways serve.
    V1Beta,
}

impl ApiVersion {
    /// The name in addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta => "v1beta",
        }
    }
}

/// The form in which a prompt's output schema is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchemaForm {
    /// As JSON Schema, in `responseJsonSchema`.
    #[default]
    JsonSchema,
    /// In the provider's older form, a subset of OpenAPI 3, in `responseSchema`: for models and gateways that know no other. It
    /// knows no recursion; what it cannot say is left out.
    OpenApi,
}

/// A category of the provider's safety filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum HarmCategory {
    /// Insults, threats.
    #[serde(rename = "HARM_CATEGORY_HARASSMENT")]
    Harassment,
    /// Hate against groups of people.
    #[serde(rename = "HARM_CATEGORY_HATE_SPEECH")]
    HateSpeech,
    /// Sexual content.
    #[serde(rename = "HARM_CATEGORY_SEXUALLY_EXPLICIT")]
    SexuallyExplicit,
    /// Content that facilitates harm.
    #[serde(rename = "HARM_CATEGORY_DANGEROUS_CONTENT")]
    DangerousContent,
}

/// The probability of harm from which on the filter blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum HarmBlockThreshold {
    /// The filter is off.
    #[serde(rename = "OFF")]
    Off,
    /// Nothing is blocked.
    #[serde(rename = "BLOCK_NONE")]
    None,
    /// High probability only.
    #[serde(rename = "BLOCK_ONLY_HIGH")]
    OnlyHigh,
    /// Medium and high.
    #[serde(rename = "BLOCK_MEDIUM_AND_ABOVE")]
    MediumAndAbove,
    /// Low, medium and high.
    #[serde(rename = "BLOCK_LOW_AND_ABOVE")]
    LowAndAbove,
}

/// The thinking level, for models that take one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum ThinkingLevel {
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    XHigh,
}

/// One entry of `safetySettings`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct SafetySetting {
    pub(super) category: HarmCategory,
    pub(super) threshold: HarmBlockThreshold,
}

/// `thinkingConfig`; what was not set is not sent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThinkingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) include_thoughts: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking_budget: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking_level: Option<ThinkingLevel>,
}

impl ThinkingConfig {
    pub(super) const fn is_set(&self) -> bool {
        self.include_thoughts.is_some() || self.thinking_budget.is_some() || self.thinking_level.is_some()
    }
}

/// The options that a client adds to every question.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) schema_form: SchemaForm,
    pub(super) safety: Vec<SafetySetting>,
    pub(super) thinking: ThinkingConfig,
}
