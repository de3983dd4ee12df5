//! What outlives a process: claims and applied rules outlive the boot, assignments outlive the daemon. Documents
//! are JSON with a schema number; this module only parses and prints them.

#[cfg(test)]
mod keys;

use crate::domain::ClaimRequest;
use crate::health::{Health, LogRead};
use crate::history::Ending;
use crate::ids::{
    BootId, ClaimKey, MdevTypeId, MdevUuid, Owner, Parameters, ParentId, PciAddress, ProfileName,
    Serial, SliceId, VfIndex,
};
use crate::layout::{Layout, Match, Rule};
use crate::observation::Catalogue;
use crate::plan::Step;
use crate::refusal::Refusal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Schema written by this version. The first change since the last release after which that release could not read what is
/// written (a key or a word that is new, is gone or means something else) raises it by one; what was written before stays
/// readable. Whoever knows a lower number only says so and leaves the file alone, where a key that it does not know would be
/// corruption. `state/keys.rs` lists what is written, and a test holds the list to the types. It is the first as long as
/// nothing was released.
pub const SCHEMA: u32 = 1;

/// Kept in /var/lib/gpuslice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The boot in which a daemon last ran: in that boot there is a record of assignments, or it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// The boot in which the configuration was last taken over.
    pub applied_boot: Option<BootId>,
    /// The rules as applied; an edited configuration changes nothing before `apply` or the next boot.
    pub rules: Vec<Rule>,
    /// Parents that were realised under these rules, and so are waited for when they are absent.
    pub expected: BTreeMap<ParentId, Layout>,
    /// Vendor and device id of those, as they were then: what has the address of one later may be something else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<PciAddress, (u16, u16)>,
    /// Profiles that those offered since, or did now and then; nothing of one for which that is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offered: BTreeMap<ParentId, BTreeSet<ProfileName>>,
    /// What VMs asked for.
    pub claims: BTreeMap<ClaimKey, Claim>,
    /// Hot-plugs that have changed their claims, as long as it is not known what comes of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugs: BTreeMap<ClaimKey, Plug>,
    /// Slices that VMs were given and that their claims, having changed since, name no longer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<SliceId, Given>,
    /// Where the VFs are that claims name, or named when they were given, as last seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<PciAddress, Place>,
    /// Parents without a layout that yielded what claims ask for, when they were last here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub yielded: BTreeMap<ProfileName, BTreeSet<ParentId>>,
    /// Parents not given out because a person said so.
    pub cordons: BTreeMap<ParentId, String>,
    /// Parents not touched because of a fault.
    pub quarantines: BTreeMap<ParentId, Refusal>,
    /// Parents that the kernel's log says something against.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub health: BTreeMap<ParentId, Health>,
    /// Up to where the log was read for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_read: Option<LogRead>,
    /// Names of types of VFs as seen so far; a device in use no longer tells them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub catalogue: Catalogue,
}

impl Default for Durable {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            boot: None,
            applied_boot: None,
            rules: Vec::new(),
            expected: BTreeMap::new(),
            devices: BTreeMap::new(),
            offered: BTreeMap::new(),
            claims: BTreeMap::new(),
            plugs: BTreeMap::new(),
            given: BTreeMap::new(),
            places: BTreeMap::new(),
            yielded: BTreeMap::new(),
            cordons: BTreeMap::new(),
            quarantines: BTreeMap::new(),
            health: BTreeMap::new(),
            log_read: None,
            catalogue: Catalogue::new(),
        }
    }
}

/// Where a VF is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// On which PF.
    pub pf: PciAddress,
    /// Which of its VFs.
    pub index: VfIndex,
}

/// A request for slices that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The owner's name, for people.
    pub owner_name: String,
    /// What is asked.
    pub request: ClaimRequest,
    /// The profile it came down to.
    pub profile: ProfileName,
    /// VFs: the one each slice of the claim is to be, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub home: Vec<PciAddress>,
    /// Homes may be shared with other pooled claims.
    #[serde(default)]
    pub pool: bool,
    /// Capacity is held while the owner is stopped.
    #[serde(default)]
    pub reserve: bool,
    /// Made by a start alone: it ends with the stop, unless the domain turns out to be persistent.
    #[serde(default)]
    pub transient: bool,
    /// The owner is gone: it holds nothing any more but what its VM still has, and ends with the last of that.
    #[serde(default)]
    pub orphaned: bool,
    /// Its domain is undefined: orphaned for that, once no VM has a slice of it or is being started with one, and kept for a while
    /// all the same, since programs that manage VMs undefine one and define it again with the same UUID.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undefined: bool,
    /// Why the last start was refused, until one succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<Refusal>,
}

/// What a hot-plug has made of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plug {
    /// The claim since.
    pub asked: Claim,
    /// The claim before, if there was one: it is so again unless the VM has what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Claim>,
}

/// Of which claim a VM was given a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// Whose.
    pub claim: ClaimKey,
    /// Which of the claim's slices.
    pub index: u32,
    /// What it is.
    pub profile: ProfileName,
}

/// Kept in /run/gpuslice/state, stamped with the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of which boot.
    pub boot: BootId,
    /// Who has which slice.
    pub assignments: BTreeMap<SliceId, Assignment>,
    /// Those of them that left by themselves, with their GPU or its driver: whatever has such a name since is somebody else's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vanished: BTreeSet<MdevUuid>,
    /// Slices that running domains hold without a claim.
    pub foreign: BTreeMap<SliceId, ForeignHold>,
    /// Steps under way on whole parents.
    pub pending: BTreeMap<ParentId, Step>,
    /// Steps on single slices that have not come back from the kernel in their time, by the parents that are quarantined for
    /// them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stuck: BTreeMap<ParentId, BTreeSet<Step>>,
    /// Domains refused as not settled, or for what the agent mends by itself, in order.
    pub start_later: Vec<LateStart>,
    /// Domains that were let in, and of which nothing was heard since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub coming_in: BTreeMap<uuid::Uuid, Incoming>,
    /// VFs in which something of a VM may be left, and why. A reboot, and being made anew, reset them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dirty: BTreeMap<SliceId, Dirt>,
    /// Parents whose VFs have to be clean, and of whose every VF it is known whether it is.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub accounted: BTreeSet<ParentId>,
    /// An earlier record of this boot was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// VFs whose VM ended while it began to use them; of no use before all VFs of their device are made anew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wedged: BTreeSet<PciAddress>,
    /// Drivers that were seen in the kernel in this boot, and that no step of ours has unloaded since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub loaded: BTreeSet<String>,
}

/// A start that was refused and is made up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateStart {
    /// Whose.
    pub domain: uuid::Uuid,
    /// Of each slice that was awaited, the parents that could have it: it starts when one of them has come.
    pub awaits: Vec<BTreeSet<ParentId>>,
    /// What has to be so still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<OnlyIf>,
}

/// What libvirt knows of a domain and its hook does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnlyIf {
    /// It is marked to start with the host: then nobody may have asked for the start who would ask again.
    Marked,
    /// libvirt keeps it saved: a start of it is a restore, as which it was refused.
    Saved,
}

/// How a domain comes in that does not start anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Incoming {
    /// It runs on another host, and goes on there when it cannot come.
    Migrating,
    /// Out of a saved image.
    Restored,
}

/// How far a lost record has been made up for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RecordedLost")]
pub struct Lost {
    /// The devices that claims name were looked at, all of them.
    pub looked: bool,
    /// Mediated devices of which nothing can be told, of those that were there when their list could first be read: they
    /// could not be since, or are not what their claim asks for by now. Any other came later, and is of no start that was
    /// forgotten. `None` until the list could be read.
    pub hidden: Option<BTreeSet<MdevUuid>>,
    /// Functions that claims name and that were out of sight at the last reading.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unseen: BTreeSet<PciAddress>,
    /// Assignments inferred from them alone: whoever knows better is believed.
    pub guessed: BTreeSet<SliceId>,
    /// Who has asked for a start since: nothing of theirs is unknown any more.
    pub asked: BTreeSet<Owner>,
}

/// As it is recorded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedLost {
    looked: bool,
    /// Versions that did not have it took what was there when they looked.
    #[serde(default, deserialize_with = "present")]
    hidden: Option<Option<BTreeSet<MdevUuid>>>,
    #[serde(default)]
    unseen: BTreeSet<PciAddress>,
    guessed: BTreeSet<SliceId>,
    asked: BTreeSet<Owner>,
}

fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl From<RecordedLost> for Lost {
    fn from(recorded: RecordedLost) -> Self {
        let RecordedLost { looked, hidden, unseen, guessed, asked } = recorded;
        let hidden = hidden.unwrap_or_else(|| looked.then(BTreeSet::new));
        Self { looked, hidden, unseen, guessed, asked }
    }
}

impl Runtime {
    /// Nothing is assigned after a boot.
    pub fn new(boot: BootId) -> Self {
        Self {
            schema: SCHEMA,
            boot,
            assignments: BTreeMap::new(),
            vanished: BTreeSet::new(),
            foreign: BTreeMap::new(),
            pending: BTreeMap::new(),
            stuck: BTreeMap::new(),
            start_later: Vec::new(),
            coming_in: BTreeMap::new(),
            dirty: BTreeMap::new(),
            accounted: BTreeSet::new(),
            lost: None,
            wedged: BTreeSet::new(),
            loaded: BTreeSet::new(),
        }
    }
}

/// A claim bound to a slice.
///
/// ```text
///  reserved ──► prepared ──► attached ──► releasing ──► (gone)
///      └───────────┴──────────────────────────▲
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Whose.
    pub claim: ClaimKey,
    /// Which of the claim's slices.
    pub index: u32,
    /// What yields it.
    pub parent: ParentId,
    /// What it is.
    pub profile: ProfileName,
    /// The mechanism that made it and takes it back.
    pub mechanism: String,
    /// Raw type, where slices have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_id: Option<MdevTypeId>,
    /// For its driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// libvirt binds and unbinds by itself (managed='yes').
    #[serde(default)]
    pub managed: bool,
    /// Meant to be hot-plugged by the agent into a VM that runs already. No hook of libvirt tells of that: until the
    /// agent does, it is reserved or prepared.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hotplug: bool,
    /// Where in its life.
    pub phase: Phase,
    /// Why it is still here, when it should not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why it is being taken back, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl Assignment {
    /// Whether it is recorded for a claim, and no more.
    pub fn is_reserved_for(&self, key: &ClaimKey) -> bool {
        self.claim == *key && self.phase == Phase::Reserved
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Where an assignment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Recorded; the device is being made.
    Reserved,
    /// The device is ready and libvirt was told so.
    Prepared,
    /// A VM runs with it.
    Attached,
    /// Being taken back.
    Releasing,
}

impl Phase {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Prepared => "prepared",
            Self::Attached => "attached",
            Self::Releasing => "releasing",
        }
    }
}

/// Why a slice is not known to be clean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dirt {
    /// Its device.
    pub parent: ParentId,
    /// What was seen.
    pub why: String,
    /// Nobody is given it until a reset has worked, whether or not the layout asks for clean slices.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
}

/// A slice in a running domain that made no claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignHold {
    /// The domain.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// It is being started, and nobody has told that it runs: it may not have the slice open yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub starting: bool,
}

/// Why a document that is there was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No content, as after a crash of something that truncates before it writes; we never do.
    #[error("the file is empty")]
    Empty,
    /// Not the JSON it should be.
    #[error("line {line}, column {column}: {message}")]
    Corrupt {
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Written by a later version; using it could lose what that version knows.
    #[error("schema {found} is newer than the {SCHEMA} this version writes")]
    Newer {
        /// Its schema.
        found: u32,
    },
}

/// Parses a document of this schema.
///
/// # Errors
/// See [`StateError`].
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StateError> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u32,
    }
    if text.trim().is_empty() {
        return Err(StateError::Empty);
    }
    let corrupt = |error: &serde_json::Error| StateError::Corrupt {
        line: error.line(),
        column: error.column(),
        message: error.to_string(),
    };
    let Versioned { schema } = serde_json::from_str(text).map_err(|e| corrupt(&e))?;
    if schema > SCHEMA {
        return Err(StateError::Newer { found: schema });
    }
    serde_json::from_str(text).map_err(|e| corrupt(&e))
}

/// Prints a document.
///
/// # Errors
/// Never for these types, whose map keys are all texts; the signature is the serialiser's.
pub fn print<T: Serialize>(document: &T) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(document).map(|text| text + "\n")
}

// Rules are configuration first; their stored form is the same words.
impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        StoredRule {
            address: self.matches.address,
            vendor_device: self.matches.vendor_device,
            model: self.matches.model.clone(),
            driver: self.matches.driver.clone(),
            serial: self.matches.serial,
            slot: self.matches.slot.clone(),
            layout: self.layout.clone(),
            origin: self.origin.clone(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let StoredRule { address, vendor_device, model, driver, serial, slot, layout, origin } =
            StoredRule::deserialize(deserializer)?;
        Ok(Self {
            matches: Match { address, vendor_device, model, driver, serial, slot },
            layout,
            origin,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<PciAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vendor_device: Option<(u16, u16)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<Serial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    layout: Layout,
    origin: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Durable {
        let mut durable = Durable::default();
        let key: ClaimKey = "6ba7b810-9dad-11d1-80b4-00c04fd430c8/gpu0".parse().unwrap();
        let request: ClaimRequest =
            serde_json::from_str(r#"{"name":"gpu0","profile":"mtty-2"}"#).unwrap();
        durable.claims.insert(
            key,
            Claim {
                owner_name: "win11".into(),
                profile: "mtty-2".parse().unwrap(),
                request,
                home: vec!["0000:41:00.4".parse().unwrap()],
                pool: false,
                reserve: true,
                transient: false,
                orphaned: false,
                undefined: false,
                last_refusal: None,
            },
        );
        let rules = "[[gpu]]\nmatch={driver=\"igb\",serial=\"0011223344556677\",slot=\"3\"}\nlayout={vfs=\"all\"}";
        durable.rules = crate::config::parse(&[("a".into(), rules.into())]).unwrap().rules;
        durable
    }

    #[test]
    fn round_trips() {
        let durable = example();
        assert_eq!(parse::<Durable>(&print(&durable).unwrap()), Ok(durable));
    }

    #[test]
    fn truncated_at_every_byte_is_never_taken() {
        let text = print(&example()).unwrap();
        let text = text.trim_end();
        for cut in 1..text.len() {
            assert!(
                matches!(parse::<Durable>(&text[..cut]), Err(StateError::Corrupt { .. })),
                "cut at {cut}"
            );
        }
        assert_eq!(parse::<Durable>(""), Err(StateError::Empty));
        assert_eq!(parse::<Durable>(" \n"), Err(StateError::Empty));
    }

    #[test]
    fn a_loss_that_was_recorded_without_them_hides_no_mdevs_once_it_was_looked() {
        let read = |looked: bool, hidden: &str| {
            let text = format!(r#"{{"looked":{looked}{hidden},"guessed":[],"asked":[]}}"#);
            serde_json::from_str::<Lost>(&text).unwrap().hidden
        };
        assert_eq!((read(true, ""), read(false, "")), (Some(BTreeSet::new()), None));
        assert_eq!(read(true, r#","hidden":null"#), None);
        for looked in [false, true] {
            let uuid = MdevUuid(uuid::Uuid::from_u128(7));
            for hidden in [None, Some(BTreeSet::from([uuid]))] {
                let lost = Lost { looked, hidden, ..Lost::default() };
                let text = serde_json::to_string(&lost).unwrap();
                assert_eq!(serde_json::from_str::<Lost>(&text).unwrap(), lost);
            }
        }
    }

    #[test]
    fn a_hold_that_was_recorded_before_it_was_known_to_be_of_a_start_is_of_a_vm_that_runs() {
        let owner = "vmid:100".parse().unwrap();
        let hold = ForeignHold { owner, name: "win11".into(), starting: false };
        let text = r#"{"owner":"vmid:100","name":"win11"}"#;
        assert_eq!(serde_json::from_str::<ForeignHold>(text).unwrap(), hold);
        assert_eq!(serde_json::to_string(&hold).unwrap(), text);
        let hold = ForeignHold { starting: true, ..hold };
        let text = serde_json::to_string(&hold).unwrap();
        assert_eq!(serde_json::from_str::<ForeignHold>(&text).unwrap(), hold);
    }

    #[test]
    fn a_newer_schema_is_told_even_when_its_fields_are_unknown() {
        let text = r#"{"schema": 2, "novelty": true}"#;
        assert_eq!(parse::<Durable>(text), Err(StateError::Newer { found: 2 }));
    }

    #[test]
    fn unknown_fields_are_corruption_not_ignored() {
        let text = print(&Durable::default()).unwrap().replacen("\"claims\"", "\"clams\"", 1);
        assert!(matches!(parse::<Durable>(&text), Err(StateError::Corrupt { .. })));
    }
}
