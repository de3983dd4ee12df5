//! Whatever the bytes: no crash, and a document that is read is printed and read the same.

use gpuslice_core::state::{Durable, Runtime, parse, print};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    round::<Durable>(text);
    round::<Runtime>(text);
}

fn round<T: DeserializeOwned + Serialize + PartialEq + Debug>(text: &str) {
    if let Ok(document) = parse::<T>(text) {
        let printed = print(&document).expect("what was read can be printed");
        assert_eq!(parse::<T>(&printed).expect("its own print"), document);
    }
}
