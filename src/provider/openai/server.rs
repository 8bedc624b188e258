//! A server, as its client and the wires know it.

use std::fmt;

use super::presets::{Preset, TokenLimitField, Wire};
use crate::provider::settings::Client;

/// A server as its client knows it; the wires share it.
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) provider: String,
    pub(super) preset: &'static Preset,
    pub(super) token_limit: TokenLimitField,
    /// The wire that is asked for if the user does not say.
    pub(super) wire: Wire,
}

/// Shown as the client that has it.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("client", &self.client)
            .field("provider", &self.provider)
            .field("token_limit", &self.token_limit)
            .field("wire", &self.wire)
            .finish()
    }
}
