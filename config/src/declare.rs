//! The macro behind the list, and what it generates code against.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    suggest,
    value::{Value, shortened},
};

/// One setting, as the manual shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Dotted path, for instance `gateway.http`.
    pub path: String,
    /// What it does, one paragraph.
    pub doc: String,
    /// Its default in TOML, `None` when it is unset by default.
    pub default: Option<String>,
    /// A value in TOML that would make sense, for those whose default doesn't show one.
    pub example: Option<&'static str>,
}

/// Something wrong at a place of the file, before offsets became lines.
pub(crate) struct Finding {
    pub(crate) offset: usize,
    pub(crate) path: String,
    pub(crate) message: String,
}

/// A node of the tree of settings: a section (made by [`config!`]) or a value.
pub(crate) trait Setting: Clone {
    /// Lists the keys below `path`.
    fn describe(&self, path: &str, doc: &str, example: Option<&'static str>, keys: &mut Vec<Key>);
    /// Takes over what the file says. Whether all of it could be.
    fn read(&mut self, value: &Spanned<DeValue<'_>>, path: &str, findings: &mut Vec<Finding>) -> bool;
    /// Takes over a text from the environment or the command line; `None` when there is no such key.
    fn read_text(&mut self, path: &[&str], text: &str) -> Option<Result<(), String>>;
}

impl<T: Value> Setting for T {
    fn describe(&self, path: &str, doc: &str, example: Option<&'static str>, keys: &mut Vec<Key>) {
        keys.push(Key { path: path.into(), doc: doc.into(), default: self.to_toml(), example });
    }

    fn read(&mut self, value: &Spanned<DeValue<'_>>, path: &str, findings: &mut Vec<Finding>) -> bool {
        match T::from_toml(value) {
            Ok(read) => *self = read,
            Err(wrong) => {
                findings.push(Finding { offset: wrong.offset, path: path.into(), message: wrong.message });
                return false;
            }
        }
        true
    }

    fn read_text(&mut self, path: &[&str], text: &str) -> Option<Result<(), String>> {
        path.is_empty().then(|| T::from_text(text).map(|read| *self = read))
    }
}

/// The table a section stands for, or a finding that it isn't one.
pub(crate) fn as_section<'v, 'i>(
    value: &'v Spanned<DeValue<'i>>,
    path: &str,
    findings: &mut Vec<Finding>,
) -> Option<&'v DeTable<'i>> {
    let table = value.get_ref().as_table();
    if table.is_none() {
        let message = format!("is a section: write [{path}] on a line of its own and its keys below");
        findings.push(Finding { offset: value.span().start, path: path.into(), message });
    }
    table
}

/// The finding about a key that isn't in the list.
pub(crate) fn unknown(offset: usize, path: String) -> Finding {
    let message = suggest::unknown_key(&path);
    let path = shortened(&path);
    Finding { offset, path, message }
}

/// `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

/// A paragraph from the lines of a doc comment.
pub(crate) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Declares sections: `field: Type = default, check test, example toml;`, where all but the type may be left out.
macro_rules! config {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident { $(
            $(#[doc = $doc:literal])*
            $field:ident: $kind:ty $(= $default:expr)? $(, check $check:expr)? $(, example $example:literal)?;
        )* }
    )*) => { $(
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $section {
            $( $(#[doc = $doc])* pub $field: $kind, )*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $( $field: $crate::declare::default_of!($kind $(, $default)?), )* }
            }
        }

        impl $crate::declare::Setting for $section {
            fn describe(
                &self,
                path: &str,
                _doc: &str,
                _example: Option<&'static str>,
                keys: &mut Vec<$crate::declare::Key>,
            ) {
                $( self.$field.describe(
                    &$crate::declare::join(path, stringify!($field)),
                    &$crate::declare::paragraph(&[$($doc),*]),
                    None$(.or(Some($example)))?,
                    keys,
                ); )*
            }

            fn read(
                &mut self,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                path: &str,
                findings: &mut Vec<$crate::declare::Finding>,
            ) -> bool {
                let Some(table) = $crate::declare::as_section(value, path, findings) else { return false };
                for (key, value) in table {
                    let path = $crate::declare::join(path, key.get_ref());
                    match key.get_ref().as_ref() {
                        $( stringify!($field) => {
                            let mut next = self.$field.clone();
                            if !next.read(value, &path, findings) {
                                continue;
                            }
                            let checked: Result<(), String> = Ok(())$(.and_then(|()| ($check)(&next)))?;
                            match checked {
                                Ok(()) => self.$field = next,
                                Err(message) => {
                                    let offset = value.span().start;
                                    findings.push($crate::declare::Finding { offset, path, message });
                                }
                            }
                        } )*
                        _ => findings.push($crate::declare::unknown(key.span().start, path)),
                    }
                }
                true
            }

            fn read_text(&mut self, path: &[&str], text: &str) -> Option<Result<(), String>> {
                let (key, rest) = path.split_first()?;
                match *key {
                    $( stringify!($field) => {
                        let mut next = self.$field.clone();
                        let read = next.read_text(rest, text)?;
                        let checked: Result<(), String> = read$(.and_then(|()| ($check)(&next)))?;
                        Some(checked.map(|()| self.$field = next))
                    } )*
                    _ => None,
                }
            }
        }
    )* };
}

macro_rules! default_of {
    ($kind:ty) => {
        <$kind>::default()
    };
    ($kind:ty, $default:expr) => {
        $default
    };
}

pub(crate) use {config, default_of};
