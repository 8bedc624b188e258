//! The fields that a template names, found in its text before any item is there.

use std::collections::{BTreeSet, HashSet};

use super::ROW;

/// The fields that a template uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// Names that an item must have.
    pub(super) required: BTreeSet<String>,
    /// `true` if `row` stands alone.
    pub(super) has_bare_row: bool,
    /// `true` if a field of `row` is named: `row.name`, `row["name"]`.
    pub(super) has_field_of_row: bool,
}

impl Fields {
    /// Reads them from a template. `free` are the variables that the template does not set itself.
    pub(super) fn new(source: &str, free: &HashSet<String>) -> Self {
        let mut fields = Self::default();
        let mut optional = HashSet::new();
        for expression in expressions(source) {
            fields.read(expression, free, &mut optional);
        }
        fields.required.retain(|name| !optional.contains(name));
        fields
    }

    fn read(&mut self, expression: &str, free: &HashSet<String>, optional: &mut HashSet<String>) {
        let (mut rest, mut follows_dot) = (expression, false);
        while let Some(first) = rest.chars().next() {
            if matches!(first, '"' | '\'') {
                rest = text(rest).map_or("", |(_, after)| after);
            } else if is_in_name(first) {
                let (name, after) = word(rest);
                rest = after;
                let is_argument =
                    after.trim_start().starts_with('=') && !after.trim_start().starts_with("==");
                if !follows_dot && !is_argument && free.contains(name) {
                    rest = self.read_name(name, after, optional);
                }
            } else {
                rest = &rest[first.len_utf8()..];
            }
            follows_dot = first == '.' || (follows_dot && first.is_whitespace());
        }
    }

    /// Reads what begins with a free name. Returns what is left.
    fn read_name<'a>(&mut self, name: &str, after: &'a str, optional: &mut HashSet<String>) -> &'a str {
        if name != ROW {
            self.require(name, after, optional);
            return after;
        }
        match field_of_row(after) {
            Some((field, after)) => {
                self.has_field_of_row = true;
                self.require(field, after, optional);
                after
            }
            None if after.trim_start().starts_with(['[', '.']) => {
                // A field that is named while the template is filled in, or a method.
                self.has_field_of_row = true;
                after
            }
            None => {
                self.has_bare_row = true;
                after
            }
        }
    }

    fn require(&mut self, name: &str, after: &str, optional: &mut HashSet<String>) {
        if may_be_missing(after) {
            optional.insert(name.to_owned());
        }
        self.required.insert(name.to_owned());
    }
}

/// The insides of `{{ }}` and `{% %}`, but for what stands between `{% raw %}` and `{% endraw %}`.
fn expressions(source: &str) -> Vec<&str> {
    let (mut rest, mut found, mut is_raw) = (source, Vec::new(), false);
    while let Some(begin) = [rest.find("{{"), rest.find("{%")].into_iter().flatten().min() {
        let closing = if rest[begin..].starts_with("{{") {
            "}}"
        } else {
            "%}"
        };
        let inside = &rest[begin + 2..];
        let end = inside.find(closing).unwrap_or(inside.len());
        let (inside, after) = (&inside[..end], inside.get(end + 2..).unwrap_or_default());
        let statement = inside.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        match (closing, statement) {
            ("%}", "raw") if !is_raw => is_raw = true,
            ("%}", "endraw") => is_raw = false,
            // Braces in a raw text close nothing.
            _ if is_raw => {
                rest = &rest[begin + 2..];
                continue;
            }
            _ => found.push(inside),
        }
        rest = after;
    }
    found
}

/// The field that is named behind `row`, and what follows it.
fn field_of_row(after: &str) -> Option<(&str, &str)> {
    let after = after.trim_start();
    if let Some(subscript) = after.strip_prefix('[') {
        let (name, after) = text(subscript.trim_start())?;
        return Some((name, after.trim_start().strip_prefix(']')?));
    }
    let (name, after) = word(after.strip_prefix('.')?.trim_start());
    let is_method = after.trim_start().starts_with('(');
    (!name.is_empty() && !is_method).then_some((name, after))
}

/// A quoted text without escapes, and what follows it.
fn text(rest: &str) -> Option<(&str, &str)> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (text, after) = rest[1..].split_once(quote)?;
    (!text.contains('\\')).then_some((text, after))
}

fn word(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(|c| !is_in_name(c)).unwrap_or(rest.len()))
}

fn is_in_name(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// Returns `true` if what follows a name covers the case that it is missing.
fn may_be_missing(after: &str) -> bool {
    let after = after.trim_start();
    if let Some(filter) = after.strip_prefix('|') {
        return matches!(word(filter.trim_start()).0, "default" | "d");
    }
    let (first, after) = word(after);
    let (second, after) = word(after.trim_start());
    let test = if second == "not" {
        word(after.trim_start()).0
    } else {
        second
    };
    first == "is" && matches!(test, "defined" | "undefined")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, free: &[&str]) -> Fields {
        Fields::new(source, &free.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn fields_are_found_wherever_they_are_named() {
        for (source, free, required) in [
            ("{{a}} {{ b|upper }} a {b} c", &["a", "b"][..], &["a", "b"][..]),
            (
                "{{ row[\"first name\"] }} {{ row['x'] }} {{ row.y.z }}",
                &["row"],
                &["first name", "x", "y"],
            ),
            (
                "{% raw %}{{ a }} {% b %}{{ row['c'] }}{% endraw %}{{d}}",
                &["d", "row"],
                &["d"],
            ),
            (
                "{{ a|default('x') }} {% if b is defined %}{{b}}{% endif %} {{c}}",
                &["a", "b", "c"],
                &["c"],
            ),
            (
                "{{ row['n'] is not defined }} {{ row.items() }} {{ row[k] }}",
                &["row", "k"],
                &["k"],
            ),
            (
                "{% for x in list %}{{ x.a }}{% endfor %} {{ 'b' }}",
                &["list"],
                &["list"],
            ),
            ("{{ o.a }} {{ f(a=1) }} {{ b == 1 }}", &["o", "b"], &["b", "o"]),
        ] {
            let expected: BTreeSet<_> = required.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(of(source, free).required, expected, "{source}");
        }
    }

    #[test]
    fn a_row_alone_differs_from_its_fields() {
        for (source, bare, field) in [
            ("{{ row }} {{ row|tojson }}", true, false),
            ("{{ row['a'] }} {{ row . b }}", false, true),
            ("{{row}} {{row.a}}", true, true),
            ("row {{ 'row' }} {{ o.row }}", false, false),
        ] {
            let fields = of(source, &["row", "o"]);
            assert_eq!(
                (fields.has_bare_row, fields.has_field_of_row),
                (bare, field),
                "{source}"
            );
        }
    }
}
