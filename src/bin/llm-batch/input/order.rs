//! A sample of the items, and their order.
//!
//! Both go by a number drawn for each id, not by positions: the same input and seed give the same items, and a line that is
//! added elsewhere does not change what is drawn of the others, but where it takes a place itself.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};

use super::identity::draw;
use super::item::Item;

/// The settings of `--sample`, `--shuffle` and `--sample-seed`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) sample: Option<usize>,
    pub(super) shuffle: bool,
    pub(super) seed: u64,
}

pub(super) type Items = Box<dyn Iterator<Item = Result<Item, String>> + Send>;

impl Order {
    /// Applies it. An input that cannot be read to its end gives its error and no items.
    pub(super) fn apply(self, items: Items) -> Items {
        let Self {
            sample,
            shuffle,
            seed,
        } = self;
        match (sample, shuffle) {
            (None, false) => items,
            (Some(count), _) => when_read(move || {
                let mut drawn = sampled(items, count, seed)?;
                if !shuffle {
                    drawn.sort_by_key(|drawn| drawn.item.index);
                }
                Ok(Box::new(drawn.into_iter().map(|drawn| Ok(drawn.item))))
            }),
            (None, true) => when_read(move || shuffled(items, seed)),
        }
    }
}

/// Does its work when the first item is asked for: until then nothing is read.
fn when_read(read: impl FnOnce() -> Result<Items, String> + Send + 'static) -> Items {
    let begin = std::iter::once_with(move || {
        read().unwrap_or_else(|message| Box::new(std::iter::once(Err(message))))
    });
    Box::new(begin.flatten())
}

/// An item with its number; the lowest ones are drawn.
struct Drawn {
    number: u64,
    item: Item,
}

impl Drawn {
    fn key(&self) -> (u64, u64) {
        (self.number, self.item.index)
    }
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Drawn {}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// The sample by its numbers. Only so many items are in memory.
fn sampled(items: Items, count: usize, seed: u64) -> Result<Vec<Drawn>, String> {
    let mut drawn = BinaryHeap::new();
    for item in items {
        let item = item?;
        let number = draw(seed, &item.id);
        drawn.push(Drawn { number, item });
        if drawn.len() > count {
            drawn.pop();
        }
    }
    Ok(drawn.into_sorted_vec())
}

/// All items by their numbers. They wait in a temporary file without a name; in memory are three numbers for each.
fn shuffled(items: Items, seed: u64) -> Result<Items, String> {
    let failed = |error: io::Error| format!("the input cannot be copied for --shuffle: {error}");
    let mut file = BufWriter::new(tempfile::tempfile().map_err(failed)?);
    let (mut order, mut end) = (Vec::new(), 0_u64);
    for item in items {
        let item = item?;
        let bytes = serde_json::to_vec(&item).map_err(|error| failed(error.into()))?;
        file.write_all(&bytes).map_err(failed)?;
        order.push((draw(seed, &item.id), end, bytes.len()));
        end += bytes.len() as u64;
    }
    let mut file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    order.sort_unstable();
    Ok(Box::new(order.into_iter().map(move |(_, start, length)| {
        read_back(&mut file, start, length).map_err(failed)
    })))
}

fn read_back(file: &mut File, start: u64, length: usize) -> io::Result<Item> {
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
