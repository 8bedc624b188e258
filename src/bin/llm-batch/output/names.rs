//! From ids to the names of files: no two ids share one, on any file system.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;

/// File systems take 255 bytes. Room is left for an ending, a number and the mark of a temporary file.
const LONGEST: usize = 200;

/// The part of a name that stays readable where it is too long.
const READABLE: usize = 120;

/// Names that Windows has for devices, whatever their ending.
const DEVICES: [&str; 6] = ["aux", "con", "conin$", "conout$", "nul", "prn"];

/// The name of one file for an id that may be any text. Other ids have other names.
///
/// Characters that some file systems reject are written as `%` and two digits for each byte; a name that is too long ends in a hash.
pub(super) fn flat(id: &str) -> String {
    format!("{}.txt", component(id))
}

/// The path for an id that is the path of a file: the same, with each part as every file system takes it.
pub(super) fn path(id: &str) -> String {
    let parts: Vec<_> = id.split('/').map(component).collect();
    parts.join("/")
}

/// A name that only this item has, beside `name`.
pub(super) fn numbered(name: &str, index: u64) -> String {
    with_mark(name, &index.to_string())
}

/// The name with `~` and a mark before its ending. No id gives such a name.
fn with_mark(name: &str, mark: &str) -> String {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].rfind('.').filter(|dot| *dot > 0) {
        Some(dot) => {
            let (stem, ending) = name.split_at(start + dot);
            format!("{stem}~{mark}{ending}")
        }
        None => format!("{name}~{mark}"),
    }
}

/// The name of an earlier answer whose own name a new one takes.
pub(super) fn old(name: &str, number: u32) -> String {
    match number {
        1 => with_mark(name, "old"),
        number => with_mark(name, &format!("old{number}")),
    }
}

/// The form that names share if some file system treats them as equal: those of macOS and Windows ignore case, and macOS
/// the two forms of an accented letter.
pub(super) fn folded(name: &str) -> String {
    let lower: String = name.nfkc().flat_map(char::to_lowercase).collect();
    // Capitals that have one small letter in common, such as the Greek sigmas.
    let upper: String = lower.chars().flat_map(char::to_uppercase).collect();
    upper.nfkc().collect()
}

fn component(text: &str) -> String {
    if text.is_empty() {
        // Alone, it is the beginning of no encoded byte.
        return "%".to_owned();
    }
    let mut name = String::with_capacity(text.len());
    let device = device(text);
    let last = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    for (place, character) in text.char_indices() {
        let is_hidden = matches!(character, '.' | ' ');
        let is_end = (place == 0 || place == last) && is_hidden;
        if is_safe(character) && !is_end && !(place == 0 && device) {
            name.push(character);
        } else {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if name.len() > LONGEST {
        let end = (0..=READABLE).rev().find(|end| name.is_char_boundary(*end));
        name.truncate(end.unwrap_or(0));
        name.push('~');
        for byte in &Sha256::digest(text)[..16] {
            let _ = write!(name, "{byte:02x}");
        }
    }
    name
}

fn is_safe(character: char) -> bool {
    match character {
        // `~` begins the numbers and the hashes.
        '%' | '~' | '<' | '>' | ':' | '"' | '/' | '\\' | '|' | '?' | '*' => false,
        // Not to be seen, and ignored by some file systems.
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => false,
        other => !other.is_control(),
    }
}

fn device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().trim_end();
    let stem = stem.to_ascii_lowercase();
    let port = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    let is_digit = |c: char| c.is_ascii_digit() || matches!(c, '\u{b9}' | '\u{b2}' | '\u{b3}');
    let is_port = port.is_some_and(|port| port.chars().count() == 1 && port.chars().all(is_digit));
    is_port || DEVICES.contains(&&*stem)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn ids_are_names_that_every_file_system_takes() {
        for (id, name) in [
            ("7", "7.txt"),
            ("x", "x.txt"),
            ("x.txt", "x.txt.txt"),
            ("a:b", "a%3Ab.txt"),
            ("a_b", "a_b.txt"),
            ("https://ex.com/a", "https%3A%2F%2Fex.com%2Fa.txt"),
            ("100 %", "100 %25.txt"),
            ("", "%.txt"),
            (".", "%2E.txt"),
            ("..", "%2E%2E.txt"),
            (".hidden", "%2Ehidden.txt"),
            ("end. ", "end.%20.txt"),
            ("nul", "%6Eul.txt"),
            ("COM1.log", "%43OM1.log.txt"),
            ("com10", "com10.txt"),
            ("a\nb\u{200b}", "a%0Ab%E2%80%8B.txt"),
            ("Straße 東京", "Straße 東京.txt"),
        ] {
            assert_eq!(flat(id), name, "{id}");
        }
    }

    #[test]
    fn paths_stay_paths_inside_the_folder() {
        for (id, name) in [
            ("a/b.txt", "a/b.txt"),
            ("README", "README"),
            ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
            ("/etc/x.md", "%/etc/x.md"),
            ("a//b", "a/%/b"),
            ("aux/con.c", "%61ux/%63on.c"),
        ] {
            assert_eq!(path(id), name, "{id}");
        }
    }

    #[test]
    fn long_names_end_in_a_hash() {
        let (one, other) = ("x".repeat(300), "x".repeat(301));
        assert!(flat(&one).len() < 200 && flat(&one).starts_with("xxx"));
        assert_ne!(flat(&one), flat(&other));
        assert!(flat(&"東".repeat(100)).len() < 200);
    }

    #[test]
    fn names_that_some_file_system_takes_for_one_are_folded() {
        for (one, other) in [
            ("Q1", "q1"),
            ("\u{e9}", "e\u{301}"),
            ("\u{212b}", "\u{e5}"),
            ("ΟΔΟΣ", "οδος"),
        ] {
            assert_eq!(folded(one), folded(other), "{one}");
        }
        assert_ne!(folded("a"), folded("b"));
        assert_eq!(numbered("a/b.c.txt", 4), "a/b.c~4.txt");
        assert_eq!(numbered("a.b/c", 4), "a.b/c~4");
        assert_eq!(old("a/b.txt", 1), "a/b~old.txt");
        assert_eq!(old("a/b.txt", 2), "a/b~old2.txt");
    }

    proptest::proptest! {
        #[test]
        fn no_two_ids_share_a_name(ids in proptest::collection::hash_set("[a.% ~:/A]{0,4}|\\PC{0,3}", 0..50)) {
            let mut flats = HashMap::new();
            let mut paths = HashMap::new();
            for id in &ids {
                let name = flat(id);
                proptest::prop_assert!(!name.contains('/') && !name.starts_with('.'));
                proptest::prop_assert_eq!(flats.insert(name, id), None);
                let path = path(id);
                proptest::prop_assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
                proptest::prop_assert_eq!(paths.insert(path, id), None);
            }
        }
    }
}
