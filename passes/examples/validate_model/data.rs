//! Tables of published measurements.

use csv::{ReaderBuilder, StringRecord};

/// A row of a table, its fields by the names of the header.
pub(crate) struct Record {
    header: StringRecord,
    fields: StringRecord,
}

impl Record {
    /// A field; empty where the table has no such column.
    pub(crate) fn text(&self, column: &str) -> &str {
        let at = self.header.iter().position(|name| name == column);
        at.and_then(|at| self.fields.get(at)).unwrap_or_default()
    }

    /// A number; not one where the field is empty.
    pub(crate) fn number(&self, column: &str) -> f64 {
        self.text(column).parse().unwrap_or(f64::NAN)
    }
}

/// The rows of a table in `data/published/`; its first lines, after `#`, say where it is from.
pub(crate) fn read(table: &str) -> Result<Vec<Record>, csv::Error> {
    let path = crate::root().join("data/published").join(table).with_extension("csv");
    let text = std::fs::read_to_string(path)?;
    // Fields may begin with the same character: pull requests do.
    let lines = text.lines().skip_while(|line| line.starts_with("# "));
    let table: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut reader = ReaderBuilder::new().from_reader(table.as_bytes());
    let header = reader.headers()?.clone();
    let records = reader.into_records();
    records.map(|fields| Ok(Record { header: header.clone(), fields: fields? })).collect()
}
