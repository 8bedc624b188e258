//! `--prices`.

use llm_batch::PriceTable;

use crate::exit::UsageError;

/// Reads the prices from a file or a URL.
pub(crate) fn read(from: Option<&str>) -> Result<Option<PriceTable>, UsageError> {
    let Some(from) = from else { return Ok(None) };
    let table = if from.starts_with("https://") || from.starts_with("http://") {
        crate::runtime()?.block_on(PriceTable::fetch(from))
    } else {
        PriceTable::load(from)
    };
    table
        .map(Some)
        .map_err(|error| UsageError::new(format!("--prices: {}", error.message())))
}
