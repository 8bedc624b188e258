//! The `Idempotency-Key` of a request: one key for one body.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use crate::item::Item;
use crate::prompt::IDEMPOTENCY_KEY;

/// The requests that an item has sent with a key, as hashes of address and body, in order.
#[derive(Default)]
struct Keyed(Vec<(HeaderValue, u64)>);

/// Gives a key that the item has sent with another body the number of this body: providers refuse a key that comes with
/// two. The first body has the key as it is, and a body that was sent before has the key that it had.
pub(super) fn number_key(headers: &mut HeaderMap, url: &Url, body: &[u8], item: &Item) {
    let Some(key) = headers.get_mut(IDEMPOTENCY_KEY) else {
        return;
    };
    let mut hash = DefaultHasher::new();
    (url, body).hash(&mut hash);
    let hash = hash.finish();
    let number = item.state().update(|Keyed(sent): &mut Keyed| {
        let mut bodies = sent.iter().filter(|(other, _)| other == key);
        if let Some(number) = bodies.position(|(_, other)| *other == hash) {
            return number;
        }
        let number = sent.iter().filter(|(other, _)| other == key).count();
        sent.push((key.clone(), hash));
        number
    });
    if number == 0 {
        return;
    }
    let numbered = [key.as_bytes(), format!("-{}", number + 1).as_bytes()].concat();
    if let Ok(mut numbered) = HeaderValue::from_bytes(&numbered) {
        numbered.set_sensitive(true);
        *key = numbered;
    }
}
