//! What a record says besides its text: of which connection, of which request.

use std::fmt::Write;

use log::Record;
use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use serde_json::{Map, Value as Json};

use super::bounded_text::{BoundedText, replace_control};

/// Fields of one line; those beyond are left out.
const FIELDS_MAX: usize = 8;
/// Bytes of a field's text; the rest is cut off.
const TEXT_BYTES_MAX: usize = 256;
/// What each line in JSON has by itself.
const RESERVED: [&str; 4] = ["time", "level", "target", "message"];

/// The fields of a record by their names; those without a value are left out.
pub(super) fn collect(record: &Record<'_>) -> Map<String, Json> {
    let mut fields = Fields(Map::new());
    // Its only fault is that of a visitor, and this one has none.
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
    let mut room = BoundedText::new(TEXT_BYTES_MAX, replace_control);
    // It fails when it is full.
    let _ = write!(room, "{value}");
    room.into_text()
}
