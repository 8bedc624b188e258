//! Which failures of OpenAI's wires mean what, beside the rows that hold for every provider.

use crate::provider::wire::Row;

pub(super) const RULES: &[Row] = &[];
