//! JSON pointers (RFC 6901).

use std::fmt;

/// The pointer of a member: the name of a property, or the position of an element.
pub(crate) fn member(path: &str, name: impl fmt::Display) -> String {
    let name = name.to_string().replace('~', "~0").replace('/', "~1");
    format!("{path}/{name}")
}

/// The name of a member in one of a pointer's segments.
pub(crate) fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (name, pointer) in [
            ("a", "/a"),
            ("a/b", "/a~1b"),
            ("~1", "/~01"),
            ("~", "/~0"),
            ("", "/"),
        ] {
            assert_eq!(member("", name), pointer);
            assert_eq!(unescaped(pointer.strip_prefix('/').unwrap()), name);
        }
        assert_eq!(member("/a", 0), "/a/0");
    }
}
