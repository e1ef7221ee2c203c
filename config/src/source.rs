//! Where settings come from: flags, environment, file, defaults; and what is printed about them.

use std::{fs, io, path::Path, thread};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Config, FILE_NAME, Key, LoadError, Mistake,
    declare::{Finding, Setting},
    suggest,
};

/// Start of the names of settings in the environment.
pub const ENVIRONMENT_PREFIX: &str = "MHC_";
/// Longest file that is read.
pub const MAX_FILE_BYTES: usize = 64 << 10;
/// Dotted keys nest tables as deep as the file is long, and the `toml` crate guards only brackets: taking such
/// a tree apart needs this much stack at worst. It is reserved, not used.
const PARSER_STACK_BYTES: usize = 128 << 20;
/// Most mistakes that are listed.
const MAX_MISTAKES: usize = 100;

/// The sources above the file.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Variables of the environment, all of them: those that aren't settings are passed over.
    pub environment: Vec<(String, String)>,
    /// Keys and values from the command line, such as `("gateway.http", "127.0.0.1:0")`.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// The environment of this process, no flags. Variables that aren't Unicode can't be settings.
    pub fn from_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        Self { environment: std::env::vars_os().filter_map(text).collect(), flags: Vec::new() }
    }
}

/// The settings of the file in `home` under those of `sources`. A missing file is an empty one.
pub fn load(home: &Path, sources: &Sources) -> Result<Config, LoadError> {
    let path = home.join(FILE_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(LoadError::Unreadable { path, source }),
    };
    let (mut config, mut mistakes) = match text_of(&bytes) {
        Ok(text) => read(text),
        Err(mistake) => (Config::default(), vec![mistake]),
    };
    config.overlay(sources, &mut mistakes);
    if mistakes.is_empty() { Ok(config) } else { Err(LoadError::Mistakes { path, mistakes }) }
}

/// The settings a file with this text gives, the rest at their defaults; or each mistake in it.
pub fn parse(text: &str) -> Result<Config, Vec<Mistake>> {
    let (config, mistakes) = read(text);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

/// Every setting, in the order of the list.
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    Config::default().describe("", "", None, &mut keys);
    keys
}

/// The variable that sets the key at `path`: `gateway.http` is `MHC_GATEWAY__HTTP`.
pub fn environment_name(path: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// A file with every setting commented out, beside what it does and its default.
pub fn example() -> String {
    let mut out = String::from(
        "# Settings of an MHC node. Take the # away in front of a setting to change it.\n\
         # Flags of the command line go before the environment, that before this file.\n",
    );
    let mut section = String::new();
    for key in keys() {
        let (path, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        if path != section {
            out.push_str(&format!("\n[{path}]\n"));
            section = path.into();
        }
        out.push_str(&entry(&key, name));
    }
    out
}

fn entry(key: &Key, name: &str) -> String {
    let variable = environment_name(&key.path);
    let default = key.default.as_deref().unwrap_or("not set");
    let shown = key.example.or(key.default.as_deref()).unwrap_or_default();
    format!("\n{}# Default: {default}. Environment: {variable}\n#{name} = {shown}\n", wrapped(&key.doc))
}

/// `text` as comment lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = vec!["#".into()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 100 => *line = format!("{line} {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

impl Config {
    /// Lays the environment and then the flags over these settings.
    fn overlay(&mut self, sources: &Sources, mistakes: &mut Vec<Mistake>) {
        let keys = keys();
        for (variable, value) in &sources.environment {
            match keys.iter().find(|key| environment_name(&key.path) == *variable) {
                Some(key) => self.set(&key.path, value, variable, mistakes),
                None => mistakes.extend(misspelt_variable(variable)),
            }
        }
        for (path, value) in &sources.flags {
            self.set(path, value, path, mistakes);
        }
    }

    fn set(&mut self, path: &str, text: &str, called: &str, mistakes: &mut Vec<Mistake>) {
        let segments: Vec<&str> = path.split('.').collect();
        let message = match self.read_text(&segments, text) {
            Some(Ok(())) => return,
            Some(Err(message)) => message,
            None => suggest::unknown_key(path),
        };
        mistakes.push(Mistake { line: None, key: called.into(), message });
    }
}

/// A variable that has the shape of a setting in a section (`MHC_A__B`) and is none.
fn misspelt_variable(variable: &str) -> Option<Mistake> {
    let path = variable.strip_prefix(ENVIRONMENT_PREFIX).filter(|rest| rest.contains("__"))?;
    let message = suggest::unknown_key(&path.replace("__", ".").to_ascii_lowercase());
    Some(Mistake { line: None, key: variable.into(), message })
}

/// `bytes` as text, without the mark some editors put first.
fn text_of(bytes: &[u8]) -> Result<&str, Mistake> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_of(&bytes[..error.valid_up_to()]);
        Mistake { line: Some(line), key: String::new(), message: "isn't UTF-8 text".into() }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The line that comes after `before`, from 1.
fn line_of(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn read(text: &str) -> (Config, Vec<Mistake>) {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file is {} bytes long; at most {MAX_FILE_BYTES} are read", text.len());
        return (Config::default(), vec![Mistake { line: Some(1), key: String::new(), message }]);
    }
    let parser = thread::Builder::new().name("config".into()).stack_size(PARSER_STACK_BYTES);
    let parsed = thread::scope(|scope| {
        let running = parser.spawn_scoped(scope, || read_here(text)).ok()?;
        running.join().ok()
    });
    parsed.unwrap_or_else(|| {
        let message = "the file couldn't be read: no memory for the parser".into();
        (Config::default(), vec![Mistake { line: Some(1), key: String::new(), message }])
    })
}

/// Reads with the stack of the thread it is called on.
fn read_here(text: &str) -> (Config, Vec<Mistake>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line = |offset: usize| Some(line_of(&text.as_bytes()[..offset.min(text.len())]));
    let syntax = |error: &toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        Mistake { line: line(offset), key: key_at(text, offset), message: error.message().into() }
    };
    let mut mistakes: Vec<Mistake> = errors.iter().take(MAX_MISTAKES).map(syntax).collect();
    // The parser goes on guessing behind a mistake: the first of a line is the one to mend.
    mistakes.dedup_by_key(|mistake| mistake.line);
    let (mut config, mut findings) = (Config::default(), Vec::new());
    let span = table.span();
    config.read(&Spanned::new(span, DeValue::Table(table.into_inner())), "", &mut findings);
    let broken: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
    let finding = |Finding { offset, path, message }| Mistake { line: line(offset), key: path, message };
    let findings = findings.into_iter().take(MAX_MISTAKES).map(finding);
    mistakes.extend(findings.filter(|mistake| !broken.contains(&mistake.line)));
    mistakes.sort_by_key(|mistake| mistake.line);
    mistakes.truncate(MAX_MISTAKES);
    (config, mistakes)
}

/// The key on the line at `offset` as it is written, when the line has the look of a setting.
fn key_at(text: &str, offset: usize) -> String {
    let bytes = text.as_bytes();
    let start = bytes[..offset.min(bytes.len())].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let key = line.split('=').next().unwrap_or_default().trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    if key.len() <= 100 && key.chars().all(plain) { key.into() } else { String::new() }
}
