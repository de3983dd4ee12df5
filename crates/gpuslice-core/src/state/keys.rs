//! What stands in the documents, beside the types that say it: who adds a key or a word learns here what that means for a
//! version before.

use super::{
    Assignment, Claim, Dirt, Durable, ForeignHold, Given, Incoming, LateStart, Phase, Place, Plug,
    RecordedLost, Runtime, SCHEMA, StoredRule,
};
use crate::domain::ClaimRequest;
use crate::health::{Health, LogRead, Severity};
use crate::history::Ending;
use crate::layout::{Layout, Wipe};
use crate::mode::Mode;
use crate::numa::Pinned;
use crate::plan::{Shown, Step};
use crate::port::LogLine;
use crate::refusal::{Code, Refusal};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;

/// As of this schema.
const RECORDED: (u32, &str) = (
    1,
    "claims.json: schema boot applied_boot rules expected devices offered claims plugs given places yielded cordons \
     quarantines health log_read catalogue\n\
     assignments.json: schema boot assignments vanished foreign pending stuck start_later coming_in dirty accounted lost wedged loaded\n\
     assignment: claim index parent profile mechanism type_id parameters managed hotplug phase trouble ending\n\
     phase: reserved prepared attached releasing\n\
     ending: stopped migrated start-failed detached released vanished started-again gpu-gone rebooted mistaken \
     taken-over unknown\n\
     foreign: owner name starting\n\
     dirt: parent why held\n\
     late_start: domain awaits only\n\
     incoming: migrating restored\n\
     lost: looked hidden unseen guessed asked\n\
     claim: owner_name request profile home pool reserve transient orphaned undefined last_refusal\n\
     request: name profile count same_fabric prefer_numa require_numa memory_min isolation_min parameters\n\
     require_numa: memory cpus\n\
     plug: asked before\n\
     given: claim index profile\n\
     place: pf index\n\
     rule: address vendor_device model driver serial slot layout origin\n\
     layout: vfs bind modes wipe park\n\
     wipe: usual required\n\
     mode: compute memory instances sizes fabric-sharing scheduler\n\
     refusal: code message causes hint\n\
     code: no-capacity other-numa-node no-profile bad-request claim-copied not-settled held taken reshaping \
     cordoned quarantined host-driver dirty absent foreign unknown other-driver not-in-xml managed \
     device-failed device-stuck state-unwritable output-unwritable bad-config in-use not-permitted unreachable timeout \
     unsliceable unsupported\n\
     health: severity line at_us boot cordons lost_vfs\n\
     severity: degraded failed\n\
     log_read: boot sequence unplaced\n\
     line: sequence at_us text\n\
     step: load-module set-autoprobe set-num-vfs run-vf-tool write-config unload-driver load-driver set-mode \
     run-mode-tool give-vf-type set-parameters take-vf-type bind unbind require-unheld reset create-mdev \
     remove-mdev\n\
     shown: by lines\n\
    ",
);

/// The fields or variants that a type would read, as an error, since there is nothing to read.
#[derive(Debug, Default)]
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl std::error::Error for Names {}

impl Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::default()
    }
}

/// Has nothing to read.
struct Asked;

impl<'de> Deserializer<'de> for Asked {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names::default())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(variants))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn names<T: for<'de> Deserialize<'de>>(what: &str) -> String {
    let names = T::deserialize(Asked).err().unwrap_or_default();
    assert!(!names.0.is_empty(), "{what} tells no names");
    format!("{what}: {names}\n")
}

/// The words of a type that says them only when it refuses another.
fn steps() -> String {
    let refused = serde_json::from_str::<Step>(r#"{"step":"?"}"#).unwrap_err().to_string();
    let words: Vec<&str> = refused.split('`').skip(3).step_by(2).collect();
    format!("step: {}\n", words.join(" "))
}

#[test]
fn who_writes_other_keys_or_words_than_before_has_thought_of_the_schema() {
    let written = [
        names::<Durable>("claims.json"),
        names::<Runtime>("assignments.json"),
        names::<Assignment>("assignment"),
        names::<Phase>("phase"),
        names::<Ending>("ending"),
        names::<ForeignHold>("foreign"),
        names::<Dirt>("dirt"),
        names::<LateStart>("late_start"),
        names::<Incoming>("incoming"),
        names::<RecordedLost>("lost"),
        names::<Claim>("claim"),
        names::<ClaimRequest>("request"),
        names::<Pinned>("require_numa"),
        names::<Plug>("plug"),
        names::<Given>("given"),
        names::<Place>("place"),
        names::<StoredRule>("rule"),
        names::<Layout>("layout"),
        names::<Wipe>("wipe"),
        names::<Mode>("mode"),
        names::<Refusal>("refusal"),
        names::<Code>("code"),
        names::<Health>("health"),
        names::<Severity>("severity"),
        names::<LogRead>("log_read"),
        names::<LogLine>("line"),
        steps(),
        names::<Shown>("shown"),
    ]
    .concat();
    assert_eq!(
        (SCHEMA, written.as_str()),
        RECORDED,
        "a version that does not know this takes the file for corrupt: see SCHEMA, then record it here"
    );
}
