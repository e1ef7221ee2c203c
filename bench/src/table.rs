//! The one form of every result: rows of repeated figures, and how many times better ours are, pair by pair.

use std::fmt::Write;

use serde_json::{Value, json};

/// One figure, and what else was seen while it was taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// Further columns: name and figure.
    pub(crate) more: Vec<(&'static str, f64)>,
}

impl Sample {
    pub(crate) fn new(value: f64) -> Self {
        Self { value, more: vec![] }
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: f64) -> Self {
        self.more.push((name, value));
        self
    }
}

/// Which figures are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A way of doing the thing, and its figure of each round; none where it failed.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Ours are compared with everybody else's.
    pub(crate) ours: bool,
    pub(crate) samples: Vec<Option<Sample>>,
}

/// A comparison, or a list of our own figures.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { title: title.into(), unit, better, rows: vec![], notes: vec![] }
    }

    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// How many times better `ours` is than `other`: the median over the rounds.
    fn ratio(&self, ours: &Row, other: &Row) -> Option<f64> {
        let pairs = ours.samples.iter().zip(&other.samples);
        let quotients = pairs.filter_map(|(ours, other)| {
            let (ours, other) = (ours.as_ref()?.value, other.as_ref()?.value);
            Some(if self.better == Better::Higher { ours / other } else { other / ours })
        });
        median(quotients.filter(|quotient| quotient.is_finite()).collect())
    }

    fn ours(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.ours).collect()
    }

    /// Names of the further columns, in the order they came up.
    fn more(&self) -> Vec<&'static str> {
        let mut names = vec![];
        let all = self.rows.iter().flat_map(|row| row.samples.iter().flatten()).flat_map(|sample| &sample.more);
        all.for_each(|(name, _)| {
            if !names.contains(name) {
                names.push(*name);
            }
        });
        names
    }

    pub(crate) fn markdown(&self) -> String {
        let (more, ours) = (self.more(), self.ours());
        let compared = ours.len() < self.rows.len();
        let ratios: Vec<_> = ours.iter().filter(|_| compared).collect();
        let mut head = vec![self.title.clone()];
        head.extend(["min", "median", "max"].map(|name| format!("{name}, {}", self.unit)));
        head.extend(more.iter().map(|name| (*name).to_owned()));
        head.extend(ratios.iter().map(|row| format!("{} : it", row.name)));
        let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
        for row in &self.rows {
            let mut cells = vec![row.shown_name()];
            cells.extend(spread(row.values()).map_or_else(|| vec!["failed".into(); 3], |all| all.map(digits).to_vec()));
            cells.extend(more.iter().map(|name| median(row.further(name)).map_or_else(String::new, digits)));
            let ratio = |ours: &Row| self.ratio(ours, row).filter(|_| !row.ours);
            cells.extend(ratios.iter().map(|ours| ratio(ours).map_or_else(String::new, |ratio| format!("{ratio:.2}"))));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let values: Vec<_> = row.samples.iter().map(|sample| sample.as_ref().map(|sample| sample.value)).collect();
            let more = self.more().into_iter().map(|name| (name.to_owned(), json!(row.further(name))));
            let ratios = self.ours().into_iter().filter(|_| !row.ours);
            let ratios = ratios.map(|ours| (ours.name.clone(), json!(self.ratio(ours, row))));
            json!({
                "name": row.name, "ours": row.ours, "values": values, "median": median(row.values()),
                "more": more.collect::<serde_json::Map<_, _>>(), "times_better": ratios.collect::<serde_json::Map<_, _>>(),
            })
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "unit": self.unit, "rows": rows, "notes": self.notes })
    }
}

impl Row {
    fn values(&self) -> Vec<f64> {
        self.samples.iter().flatten().map(|sample| sample.value).collect()
    }

    /// Every figure of a further column.
    pub(crate) fn further(&self, name: &str) -> Vec<f64> {
        let all = self.samples.iter().flatten().flat_map(|sample| &sample.more);
        all.filter(|(found, _)| *found == name).map(|(_, value)| *value).collect()
    }

    /// The name, and how often it failed when it did.
    fn shown_name(&self) -> String {
        match self.samples.iter().filter(|sample| sample.is_none()).count() {
            0 => self.name.clone(),
            failed => format!("{} (failed {failed} of {})", self.name, self.samples.len()),
        }
    }
}

/// The middle figure, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

fn spread(values: Vec<f64>) -> Option<[f64; 3]> {
    let min = values.iter().copied().min_by(f64::total_cmp)?;
    let max = values.iter().copied().max_by(f64::total_cmp)?;
    Some([min, median(values)?, max])
}

/// About three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        below if below >= 100.0 => format!("{value:.0}"),
        below if below >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ours: bool, values: &[f64]) -> Row {
        Row { name: name.into(), ours, samples: values.iter().map(|value| Some(Sample::new(*value))).collect() }
    }

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let mut table = Table::new("a", "s", Better::Lower);
        // Each round the other takes twice as long, whatever the machine did in that round.
        table.rows = vec![row("mhc", true, &[1.0, 5.0, 1.0]), row("other", false, &[2.0, 10.0, 2.0])];
        assert_eq!(table.ratio(&table.rows[0], &table.rows[1]), Some(2.0));
        table.better = Better::Higher;
        assert_eq!(table.ratio(&table.rows[0], &table.rows[1]), Some(0.5));
    }

    #[test]
    fn a_failure_is_shown_and_left_out() {
        let mut table = Table::new("a", "s", Better::Lower);
        let mut failed = row("other", false, &[3.0]);
        failed.samples.push(None);
        table.rows = vec![row("mhc", true, &[1.0, 1.0]), failed];
        assert_eq!(table.ratio(&table.rows[0], &table.rows[1]), Some(3.0));
        assert!(table.markdown().contains("other (failed 1 of 2) | 3.00"), "{}", table.markdown());
    }
}
