//! The types a setting can have: how each is read from TOML and from plain text, and written back.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use toml::{
    Spanned,
    de::{DeArray, DeValue},
};

use crate::Role;

/// A value that isn't of the type its key wants.
pub(crate) struct Wrong {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

/// The type of a setting.
pub(crate) trait Value: Sized + Clone {
    /// What is expected, to be read after "expected ".
    const EXPECTED: &'static str;
    /// From the file.
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong>;
    /// From the environment or the command line.
    fn from_text(text: &str) -> Result<Self, String>;
    /// As the file would have it; `None` for nothing.
    fn to_toml(&self) -> Option<String>;
}

fn wrong<T: Value>(value: &Spanned<DeValue<'_>>) -> Wrong {
    let message = format!("expected {}, found {}", T::EXPECTED, found(value.get_ref()));
    Wrong { offset: value.span().start, message }
}

/// Names a value without repeating all of a long one.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", shortened(text)),
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}

/// The start of `text`, enough to find it by.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// A basic string of TOML. Everything that can't stand in one is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        value.get_ref().as_bool().ok_or_else(|| wrong::<Self>(value))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(expected::<Self>(text)),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

fn expected<T: Value>(text: &str) -> String {
    format!("expected {}, found {:?}", T::EXPECTED, shortened(text))
}

macro_rules! integers {
    ($($kind:ty: $expected:literal),*) => { $(
        impl Value for $kind {
            const EXPECTED: &'static str = $expected;

            fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
                let number = value.get_ref().as_integer();
                let number = number.and_then(|number| Self::from_str_radix(number.as_str(), number.radix()).ok());
                number.ok_or_else(|| wrong::<Self>(value))
            }

            fn from_text(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| expected::<Self>(text))
            }

            fn to_toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )* };
}

integers! {
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number, 0 or more"
}

/// Types that stand as a string in the file: how to read and print each.
macro_rules! texts {
    ($($kind:ty: $expected:literal, $parse:expr, $print:expr;)*) => { $(
        impl Value for $kind {
            const EXPECTED: &'static str = $expected;

            fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
                let parse: fn(&str) -> Option<Self> = $parse;
                value.get_ref().as_str().and_then(parse).ok_or_else(|| wrong::<Self>(value))
            }

            fn from_text(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Option<Self> = $parse;
                parse(text).ok_or_else(|| expected::<Self>(text))
            }

            fn to_toml(&self) -> Option<String> {
                let print: fn(&Self) -> String = $print;
                Some(quoted(&print(self)))
            }
        }
    )* };
}

texts! {
    String: "a text in quotes", |text| Some(text.into()), Self::clone;
    IpAddr: "an IP address such as \"127.0.0.1\"", |text| text.parse().ok(), Self::to_string;
    SocketAddr: "an address and port such as \"127.0.0.1:8480\"", |text| text.parse().ok(), Self::to_string;
    PathBuf: "a path in quotes", |text| (!text.is_empty()).then(|| text.into()), |path| path.display().to_string();
    Role: "\"relay\"", |text| (text == "relay").then_some(Self::Relay), |_| "relay".into();
}

impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        T::from_toml(value).map(Some)
    }

    /// An empty text unsets it.
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::from_text(text).map(Some) }
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_toml)
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = "a list in brackets";

    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let list: &DeArray<'_> = value.get_ref().as_array().ok_or_else(|| wrong::<Self>(value))?;
        list.iter().map(T::from_toml).collect()
    }

    /// Separated by commas.
    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect()
    }

    fn to_toml(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::to_toml).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}
