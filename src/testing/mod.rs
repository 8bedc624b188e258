//! Scripted fakes and a simulated provider, for tests, benches and first steps without a key.
//!
//! - [`FakeStrategy`] answers from a closure and fails according to a script.
//! - [`SimulatedProvider`] is a model of a real provider: quotas, throttles, latency, faults, and its own
//!   ledger. It has two interfaces: a tower service for virtual time, and an HTTP server with the wire formats of OpenAI,
//!   Anthropic and Gemini.

mod fake;
mod latency;
mod simulated;

pub use fake::FakeStrategy;
pub use latency::{Latency, ParseLatencyError};
pub use simulated::{
    Hint, Ledger, ParseHintError, ParsePresetError, Preset, Quota, SimulatedProvider,
    SimulatedProviderBuilder, SimulatedServer, SimulatedService, TokenCharge,
};

/// The call of a tool, in the form of a chat completion.
fn function_call(id: &str, name: &str, arguments: &str) -> serde_json::Value {
    serde_json::json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// Mixes `bytes` into `seed`: FNV-1a, which is the same on every machine and in every version.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    bytes.iter().fold(start, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The seed for the decisions about one call.
fn call_seed(seed: u64, number: u64) -> u64 {
    hash(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), &number.to_le_bytes())
}
