//! `--header`: a header for every request, written out or from the environment.

use std::env::{self, VarError};
use std::fmt;

/// A header as typed: checked later, as clap would show a wrong one, and its value may be a secret.
#[derive(Clone)]
pub(crate) struct Header(String);

impl Header {
    /// The name and the value. The client checks them.
    pub(crate) fn parse(&self) -> Result<(&str, Value<'_>), String> {
        let wrong = "--header: write a header as 'Name: value', or as Name=env:VARIABLE";
        let end = self.0.find([':', '=']).ok_or(wrong)?;
        let (name, rest) = self.0.split_at(end);
        let value = match rest.strip_prefix(':') {
            Some(value) if value.trim_start().starts_with("env:") => {
                return Err("--header: write Name=env:VARIABLE for a value of the environment".to_owned());
            }
            Some(value) => Value::Written(value.trim()),
            // No name of a header has an equals sign.
            None => Value::Variable(rest.strip_prefix("=env:").ok_or(wrong)?.trim()),
        };
        Ok((name.trim(), value))
    }
}

/// The place of a header's value.
pub(crate) enum Value<'a> {
    Written(&'a str),
    /// In the environment variable of this name.
    Variable(&'a str),
}

impl Value<'_> {
    pub(crate) const fn is_variable(&self) -> bool {
        matches!(self, Self::Variable(_))
    }

    /// The value itself, which is never shown. `name` is the header's.
    pub(crate) fn read(&self, name: &str) -> Result<String, String> {
        match self {
            Self::Written(value) => Ok((*value).to_owned()),
            Self::Variable("") => Err(format!("--header {name}=env: names no environment variable")),
            Self::Variable(variable) => match env::var(variable).as_deref().map(str::trim) {
                Ok("") => Err(format!(
                    "--header {name}: the environment variable {variable} is empty"
                )),
                Ok(value) => Ok(value.to_owned()),
                Err(VarError::NotPresent) => Err(format!(
                    "--header {name}: the environment variable {variable} is not set"
                )),
                Err(VarError::NotUnicode(_)) => Err(format!(
                    "--header {name}: the environment variable {variable} does not hold text"
                )),
            },
        }
    }
}

impl From<String> for Header {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Header(***)")
    }
}
