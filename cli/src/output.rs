//! What commands print: JSON for programs, aligned text for people.
//!
//! Texts from the network are shown on a terminal, so characters that could steer it are taken out. Values are
//! shown by the unit at the end of their name, as everywhere in MHC.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::failure::Failure;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether a program reads it.
    pub(crate) json: bool,
}

/// A column of a table: its heading and the key of its values.
pub(crate) type Column = (&'static str, &'static str);

impl Output {
    /// Prints `value` for programs, or what `text` makes of it for people.
    pub(crate) fn result(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        if self.json { line(&value.to_string()) } else { line(text(value).trim_end()) }
    }

    /// Prints a whole text, as a JSON string for programs.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        if self.json { line(&serde_json::json!({ "text": text }).to_string()) } else { line(text.trim_end()) }
    }
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Says something beside the result, on stderr.
pub(crate) fn remark(text: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether colours are welcome, as far as the environment says.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether people look at stdout in colour.
pub(crate) fn coloured_stdout() -> bool {
    colours() && io::stdout().is_terminal()
}

/// `text` without characters that steer a terminal or turn the direction of what follows.
pub(crate) fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// One line a key, values aligned; objects within are told by dotted keys.
pub(crate) fn pairs(value: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    aligned(&rows)
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let Some(fields) = value.as_object() else {
        rows.push(vec![path.into(), cell(path, value)]);
        return;
    };
    for (key, value) in fields {
        flatten(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, rows);
    }
}

/// A table of the objects in `list`; `empty` when there are none.
pub(crate) fn table(list: &Value, columns: &[Column], empty: &str) -> String {
    let Some(items) = list.as_array().filter(|items| !items.is_empty()) else { return empty.into() };
    let heading = columns.iter().map(|(heading, _)| heading.to_string()).collect();
    let row = |item: &Value| columns.iter().map(|(_, key)| cell(key, &item[*key])).collect();
    aligned(&std::iter::once(heading).chain(items.iter().map(row)).collect::<Vec<_>>())
}

/// Rows with their columns below each other.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A value in words, by the unit in its key.
pub(crate) fn cell(key: &str, value: &Value) -> String {
    let key = key.rsplit('.').next().unwrap_or(key);
    match value {
        Value::Null => "-".into(),
        Value::String(text) => plain(text),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.into(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.contains("bytes") => size(bytes),
            Some(ms) if key.ends_with("duration_ms") => duration(ms / 1000),
            Some(ms) if key.ends_with("_ms") => format!("{ms} ms"),
            Some(seconds) if key.ends_with("_s") => duration(seconds),
            _ => number.to_string(),
        },
        Value::Array(items) => items.iter().map(|item| cell(key, item)).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(_, value)| !value.is_null());
            shown.map(|(key, value)| cell(key, value)).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Bytes in the unit that reads best.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10) as usize;
    let in_unit = bytes as f64 / 1024f64.powi(exponent as i32);
    format!("{in_unit:.1} {}", UNITS[exponent - 1])
}

/// Seconds as hours, minutes and seconds.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes, seconds) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds:02}s"),
        (0, ..) => format!("{hours}h {minutes:02}m {seconds:02}s"),
        _ => format!("{days}d {hours}h {minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_and_durations_read_well() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (5 << 20, "5.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [(0, "0s"), (61, "1m 01s"), (3600, "1h 00m 00s"), (90_061, "1d 1h 01m")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn cells_go_by_the_unit_of_their_key() {
        let cases = [
            ("bytes", json!(2048), "2.0 KiB"),
            ("local.bytes", json!(0), "0 B"),
            ("bytes_in", json!(2048), "2.0 KiB"),
            ("rtt_ms", json!(12), "12 ms"),
            ("duration_ms", json!(61_500), "1m 01s"),
            ("uptime_s", json!(5), "5s"),
            ("peers", json!(3), "3"),
            ("x", json!(null), "-"),
            ("x", json!(true), "yes"),
            ("x", json!(["a", "b"]), "a, b"),
            ("x", json!({"bytes": 1024, "complete": false, "none": null}), "1.0 KiB no"),
            ("title", json!("a\u{1b}[2Jb\nc\u{202e}d"), "a [2Jb c d"),
        ];
        for (key, value, text) in cases {
            assert_eq!(cell(key, &value), text, "{key} {value}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let list = json!([{"id": "a", "bytes": 1024}, {"id": "é-long", "bytes": 1}]);
        let text = table(&list, &[("ID", "id"), ("SIZE", "bytes")], "nothing");
        assert_eq!(text, "ID      SIZE\na       1.0 KiB\né-long  1 B\n");
        assert_eq!(table(&json!([]), &[("ID", "id")], "nothing"), "nothing");
        assert_eq!(pairs(&json!({"a": 1, "bc": {"d": null}})), "a     1\nbc.d  -\n");
    }
}
