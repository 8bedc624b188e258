//! Doors for the fuzz targets. They exist under `cfg(fuzzing)` alone.
#![allow(missing_docs)]

use std::sync::OnceLock;

use tokio::runtime::Runtime;

use crate::provider::Model;
use crate::provider::wire;

/// One model of every wire.
fn models() -> &'static [Model] {
    static MODELS: OnceLock<Vec<Model>> = OnceLock::new();
    MODELS.get_or_init(|| {
        ["openai-chat:m", "openai-responses:m", "anthropic:m", "gemini:m"]
            .into_iter()
            .filter_map(|name| {
                let builder = Model::builder(name).base_url("http://localhost").api_key("key");
                builder.build().ok()
            })
            .collect()
    })
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime")
    })
}

pub fn duration(text: &str) {
    let _ = wire::parse_wait(text, std::time::SystemTime::UNIX_EPOCH);
}

/// The first byte chooses the wire, the second the status.
pub fn reply(data: &[u8]) {
    let [wire, status, body @ ..] = data else { return };
    const STATUSES: [u16; 8] = [200, 400, 401, 403, 404, 429, 500, 529];
    let models = models();
    let model = &models[usize::from(*wire) % models.len()];
    model.read_for_fuzzing(STATUSES[usize::from(*status) % STATUSES.len()], body);
}

/// The first byte chooses the wire.
pub fn events(data: &[u8]) {
    let [wire, body @ ..] = data else { return };
    let models = models();
    let model = &models[usize::from(*wire) % models.len()];
    runtime().block_on(model.read_events_for_fuzzing(body));
}
