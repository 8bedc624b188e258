//! Bodies as text: where they begin, and what an error quotes of them.

/// Characters of a body that is not JSON which an error quotes.
const EXCERPT: usize = 300;

/// The body without the blank lines and the byte order mark that some servers begin replies with.
pub(crate) fn trim(body: &[u8]) -> &[u8] {
    let body = body.trim_ascii_start();
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The beginning of a body that is not JSON, as one line; of a web page its title.
pub(crate) fn excerpt(body: &[u8]) -> String {
    // Enough for any title; a page may be large.
    let head = &body[..body.len().min(16 * 1024)];
    let text = String::from_utf8_lossy(head);
    let text = text.trim();
    if text.starts_with('<') {
        let lower = text.to_ascii_lowercase();
        let title = lower.find("<title").and_then(|start| {
            let start = start + lower[start..].find('>')? + 1;
            let end = start + lower[start..].find("</title")?;
            Some(text[start..end].trim())
        });
        return match title {
            Some(title) if !title.is_empty() => format!("a web page titled {:?}", cut(title)),
            _ => "a web page".to_owned(),
        };
    }
    cut(text)
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(EXCERPT).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn arbitrary_pages_never_panic(rest in "(<title|>|</title|İ|ß|\\PC){0,20}") {
            let _ = excerpt(format!("<{rest}").as_bytes());
        }
    }
}
