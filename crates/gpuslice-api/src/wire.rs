//! Rows of the model as D-Bus dictionaries (`a{sv}`) and back, through their serde form, so that `--json`, the
//! socket and the bus say the same words.
//!
//! What is `null` in JSON is an absent key. Whole numbers are `t`, or `x` when negative; on the way in any
//! integer is taken. A list has the type of its elements (`as`, `at`, `aa{sv}`), `av` when they differ; an empty
//! list is `as`, or `aa{sv}` under the keys in [`LISTS_OF_ROWS`], so that a key's type does not change with what is
//! in it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use zbus::zvariant::{Array, Dict as WireDict, OwnedValue, Signature, Value};

/// An `a{sv}`.
pub type Dict = BTreeMap<String, OwnedValue>;

/// Keys whose lists hold dictionaries even when empty.
const LISTS_OF_ROWS: &[&str] = &[
    "adopted",
    "blockers",
    "claims",
    "devices",
    "layouts",
    "overruled",
    "refused",
    "rows",
    "steps",
    "unparked",
];

/// A value that one of both forms cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A list with a hole.
    #[error("list {key:?} holds a null, which D-Bus has no form for")]
    NullInList {
        /// Under which key.
        key: String,
    },
    /// Something else than an object where a dictionary is meant.
    #[error("{what} is not an object of named values")]
    NotAnObject {
        /// JSON or D-Bus words for it.
        what: String,
    },
    /// A D-Bus type that the model does not use.
    #[error("value of D-Bus type {signature} is not part of this interface")]
    Foreign {
        /// Its signature.
        signature: String,
    },
    /// zvariant refused to build the value.
    #[error("cannot build the D-Bus value of {key:?}")]
    Build {
        /// Under which key.
        key: String,
        /// Why.
        #[source]
        source: zbus::zvariant::Error,
    },
    /// Well formed, but not the type meant.
    #[error("cannot read it as {what}")]
    Shape {
        /// The Rust type's name.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The dictionary of a row.
///
/// # Errors
/// The value is not an object, or holds what D-Bus cannot.
pub fn to_dict<T: Serialize>(row: &T) -> Result<Dict, WireError> {
    let json = serde_json::to_value(row)
        .map_err(|source| WireError::Shape { what: std::any::type_name::<T>(), source })?;
    match json {
        Json::Object(fields) => json_to_dict(fields),
        other => Err(WireError::NotAnObject { what: other.to_string() }),
    }
}

/// The row a dictionary stands for.
///
/// # Errors
/// It holds a D-Bus type outside this interface, or is not a `T`.
pub fn from_dict<T: DeserializeOwned>(dict: &Dict) -> Result<T, WireError> {
    from_json(dict_to_json(dict)?)
}

pub(crate) fn from_json<T: DeserializeOwned>(json: Json) -> Result<T, WireError> {
    serde_json::from_value(json)
        .map_err(|source| WireError::Shape { what: std::any::type_name::<T>(), source })
}

pub(crate) fn json_to_dict(fields: serde_json::Map<String, Json>) -> Result<Dict, WireError> {
    let mut dict = Dict::new();
    for (key, json) in fields {
        if let Some(value) = to_value(&key, json)? {
            let value = value.try_into_owned().map_err(build(&key))?;
            dict.insert(key, value);
        }
    }
    Ok(dict)
}

pub(crate) fn dict_to_json(dict: &Dict) -> Result<Json, WireError> {
    let fields = dict
        .iter()
        .map(|(key, value)| Ok((key.clone(), to_json(value)?)))
        .collect::<Result<_, WireError>>()?;
    Ok(Json::Object(fields))
}

fn build(key: &str) -> impl FnOnce(zbus::zvariant::Error) -> WireError {
    let key = key.to_owned();
    move |source| WireError::Build { key, source }
}

fn to_value(key: &str, json: Json) -> Result<Option<Value<'static>>, WireError> {
    Ok(Some(match json {
        Json::Null => return Ok(None),
        Json::Bool(flag) => Value::Bool(flag),
        Json::String(text) => Value::Str(text.into()),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => Value::U64(whole),
            (None, Some(negative)) => Value::I64(negative),
            (None, None) => Value::F64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => Value::Array(to_array(key, items)?),
        Json::Object(fields) => Value::Dict(to_wire_dict(key, fields)?),
    }))
}

fn to_wire_dict(
    outer: &str,
    fields: serde_json::Map<String, Json>,
) -> Result<WireDict<'static, 'static>, WireError> {
    let mut dict = WireDict::new(&Signature::Str, &Signature::Variant);
    for (key, json) in fields {
        if let Some(value) = to_value(&key, json)? {
            dict.append(Value::Str(key.into()), Value::Value(Box::new(value)))
                .map_err(build(outer))?;
        }
    }
    Ok(dict)
}

fn to_array(key: &str, items: Vec<Json>) -> Result<Array<'static>, WireError> {
    let values = items
        .into_iter()
        .map(|item| {
            to_value(key, item)?.ok_or_else(|| WireError::NullInList { key: key.to_owned() })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let element = element_signature(key, &values);
    let mut array = Array::new(&element);
    for value in values {
        let value =
            if element == Signature::Variant { Value::Value(Box::new(value)) } else { value };
        array.append(value).map_err(build(key))?;
    }
    Ok(array)
}

fn element_signature(key: &str, values: &[Value<'static>]) -> Signature {
    let mut signatures = values.iter().map(Value::value_signature);
    match signatures.next() {
        None if LISTS_OF_ROWS.contains(&key) => Signature::dict(Signature::Str, Signature::Variant),
        None => Signature::Str,
        Some(first) if signatures.all(|other| other == first) => first.clone(),
        Some(_) => Signature::Variant,
    }
}

fn to_json(value: &Value<'_>) -> Result<Json, WireError> {
    Ok(match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::U8(n) => Json::from(*n),
        Value::U16(n) => Json::from(*n),
        Value::U32(n) => Json::from(*n),
        Value::U64(n) => Json::from(*n),
        Value::I16(n) => Json::from(*n),
        Value::I32(n) => Json::from(*n),
        Value::I64(n) => Json::from(*n),
        Value::F64(n) => Json::from(*n),
        Value::Str(text) => Json::from(text.as_str()),
        Value::ObjectPath(path) => Json::from(path.as_str()),
        Value::Value(inner) => to_json(inner)?,
        Value::Array(array) => array.iter().map(to_json).collect::<Result<_, _>>()?,
        Value::Dict(dict) => {
            let mut fields = serde_json::Map::new();
            for (key, value) in dict.iter() {
                let Json::String(key) = to_json(key)? else {
                    return Err(WireError::NotAnObject {
                        what: format!("dictionary of type {}", dict.signature()),
                    });
                };
                fields.insert(key, to_json(value)?);
            }
            Json::Object(fields)
        }
        other => {
            return Err(WireError::Foreign { signature: other.value_signature().to_string() });
        }
    })
}
