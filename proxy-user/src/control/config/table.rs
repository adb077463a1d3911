//! One table of the file: its keys, each read as the type that it must have.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::field::{At, Field, Strings};
use super::keys::{Key, Section};
use super::report::{Report, quote};
use super::syntax;
use super::unknown::unknown_key;

/// One table of the file while it is read.
pub(super) struct Table<'r, 'd, 't> {
    section: &'static Section,
    pub(super) at: usize,
    pub(super) entries: &'r DeTable<'d>,
    pub(super) report: &'r mut Report<'t>,
}

impl<'r, 'd, 't> Table<'r, 'd, 't> {
    /// Starts to read a table, and reports the keys that its section does not have.
    pub(super) fn open(
        section: &'static Section,
        at: usize,
        entries: &'r DeTable<'d>,
        report: &'r mut Report<'t>,
    ) -> Self {
        let table = Self { section, at, entries, report };
        for key in entries.keys() {
            let name = key.get_ref();
            if section.keys.iter().any(|known| known.name == name) {
                continue;
            }
            table.report.fault(key.span().start, |_| unknown_key(name, section));
        }
        table
    }

    /// Reads `key` with `read`, and reports it when it is not there.
    pub(super) fn required<T>(&mut self, key: &Key, read: impl Fn(&mut Self, &Key) -> Field<T>) -> Field<T> {
        let field = read(self, key);
        if field.is_absent() {
            let what = format!("this {} has no '{}'", self.section, key.name);
            self.report.error(self.at, what, format_args!("add {} = {}", key.name, key.example));
            return Field::Wrong;
        }
        field
    }

    pub(super) fn string(&mut self, key: &Key) -> Field<String> {
        let Some(value) = self.entries.get(key.name) else { return Field::Absent };
        match value.get_ref() {
            DeValue::String(text) => {
                let at = value.span().start;
                let text = self.report.keep(at, syntax::literal(text));
                text.map_or(Field::Wrong, |text| Field::Given(At { at, value: text.to_owned() }))
            }
            other => self.wrong_type(key, value, "a string", other),
        }
    }

    pub(super) fn number(&mut self, key: &Key) -> Field<i64> {
        let Some(value) = self.entries.get(key.name) else { return Field::Absent };
        match value.get_ref() {
            DeValue::Integer(number) => {
                // What does not fit is larger than any bound.
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
                Field::Given(At { at: value.span().start, value: parsed })
            }
            other => self.wrong_type(key, value, "a whole number", other),
        }
    }

    pub(super) fn boolean(&mut self, key: &Key) -> Field<bool> {
        let Some(value) = self.entries.get(key.name) else { return Field::Absent };
        match value.get_ref() {
            DeValue::Boolean(on) => Field::Given(At { at: value.span().start, value: *on }),
            other => self.wrong_type(key, value, "true or false", other),
        }
    }

    /// A string; for a plain number the error says which string it would be.
    pub(super) fn duration(&mut self, key: &Key) -> Field<String> {
        match self.entries.get(key.name) {
            Some(value) if value.get_ref().is_integer() => {
                let number = value.get_ref().as_integer().map(ToString::to_string).unwrap_or_default();
                self.report.error(
                    value.span().start,
                    format_args!("'{}' is a number without a unit", key.name),
                    format_args!(
                        "write it as a string with ms, s, m or h, such as {}",
                        quote(&(number + "s"))
                    ),
                );
                Field::Wrong
            }
            _ => self.string(key),
        }
    }

    /// An array of strings with at least one entry, or one string alone.
    pub(super) fn strings(&mut self, key: &Key) -> Strings {
        let Some(value) = self.entries.get(key.name) else { return Field::Absent };
        let at = value.span().start;
        let list = match value.get_ref() {
            DeValue::String(text) => vec![At { at, value: text.to_string() }],
            DeValue::Array(list) if list.is_empty() => {
                let way_out = format!("write {} = {}", key.name, key.example);
                self.report.error(at, format_args!("'{}' is empty", key.name), way_out);
                return Field::Wrong;
            }
            DeValue::Array(list) => list.iter().filter_map(|entry| self.entry(key, entry)).collect(),
            other => return self.wrong_type(key, value, "an array of strings", other),
        };
        Field::Given(At { at, value: list })
    }

    fn entry(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<At<String>> {
        let at = value.span().start;
        if let DeValue::String(text) = value.get_ref() {
            return Some(At { at, value: text.to_string() });
        }
        self.report.error(
            at,
            format_args!("an entry of '{}' must be a string, not {}", key.name, article(value.get_ref())),
            format_args!("write {} = {}", key.name, key.example),
        );
        None
    }

    pub(super) fn wrong_type<T>(
        &mut self,
        key: &Key,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        found: &DeValue<'_>,
    ) -> Field<T> {
        self.report.error(
            value.span().start,
            format_args!("'{}' must be {wanted}, not {}", key.name, article(found)),
            format_args!("write {} = {}", key.name, key.example),
        );
        Field::Wrong
    }
}

/// The type of a value as words in a sentence.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
