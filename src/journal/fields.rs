//! Key-value fields of a log record, such as `connection` and `request`.

use std::fmt::Write;

use log::Record;
use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use serde_json::{Map, Value as Json};

use super::bounded_text::{BoundedText, replace_control};

/// Maximum number of fields of a line; further ones are left out.
const FIELDS_MAX: usize = 8;
/// Maximum bytes of a field's name or text value; longer ones are truncated.
const TEXT_BYTES_MAX: usize = 256;
/// Names that each JSON line has already.
const RESERVED: [&str; 4] = ["time", "level", "target", "message"];

/// Collects the fields of a record by name; fields without a value are left out.
pub(super) fn collect(record: &Record<'_>) -> Map<String, Json> {
    let mut fields = Fields(Map::new());
    // `visit` fails only if the visitor does, which this one does not.
    let _ = record.key_values().visit(&mut fields);
    fields.0
}

struct Fields(Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if self.0.len() < FIELDS_MAX && !RESERVED.contains(&key.as_str()) {
            let mut field = Field(Json::Null);
            value.visit(&mut field)?;
            if field.0 != Json::Null {
                self.0.insert(text(key.as_str()), field.0);
            }
        }
        Ok(())
    }
}

struct Field(Json);

impl VisitValue<'_> for Field {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.0 = text(value).into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
}

fn text(value: impl std::fmt::Display) -> String {
    let mut bounded = BoundedText::new(TEXT_BYTES_MAX, replace_control);
    // Fails when the text is full.
    let _ = write!(bounded, "{value}");
    bounded.into_text()
}
