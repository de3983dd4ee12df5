//! How slices are made. A mechanism knows a family of kernel interfaces; everything above it is the same for all.

use crate::errno::Errno;
use crate::health::Trouble;
use crate::ids::{MdevTypeId, ParentId, PciAddress, ProfileName, Serial, SliceId};
use crate::layout::Layout;
use crate::mode::Mode;
use crate::observation::{Function, Observation, Places};
use crate::observe::Answers;
use crate::plan::Step;
use crate::port::HostRead;
use crate::refusal::{Hint, Refusal};
use crate::state::Assignment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The layouts of parents.
pub type Layouts = BTreeMap<ParentId, Layout>;

/// The mechanism of mediated devices, whose slices are made by name rather than found.
pub const MDEV: &str = "mdev";

/// The mechanism of VFs that are as the kernel makes them.
pub const SRIOV: &str = "sriov";

/// What a parent can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Of which mechanism.
    pub mechanism: &'static str,
    /// Name to ask for.
    pub profile: ProfileName,
    /// Which device.
    pub parent: ParentId,
    /// In which form.
    pub form: Form,
    /// What the device calls it.
    pub description: Option<String>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Most the parent can give of it when it gives nothing else.
    pub max: Option<u32>,
    /// Most slices of the device that one VM can have, with one of this kind among them, where its driver says so.
    pub per_vm: Option<u32>,
    /// What keeps its slices apart.
    pub isolation: Isolation,
    /// Virtual displays.
    pub heads: Option<u32>,
    /// Licence edition the vendor sells it under.
    pub edition: Option<String>,
    /// Whether a VM that runs can be moved or saved with one. `None` where it is the driver's to say, since it says so
    /// to whoever has the device open and to nobody else (VFIO_DEVICE_FEATURE_MIGRATION).
    pub migratable: Option<bool>,
}

/// What keeps slices of one device apart from each other. The order is from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// The host's driver: slices take turns on the same engines.
    Shared,
    /// The device itself: functions or partitions with memory of their own.
    Hardware,
}

impl Isolation {
    /// The word, as in domain XML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Hardware => "hardware",
        }
    }

    /// The value of a word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Shared, Self::Hardware].into_iter().find(|i| i.as_str() == word)
    }
}

/// What leaves nothing of a VM in a slice that was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaned {
    /// The slice is no more: the next one is made anew.
    ByRemoval,
    /// The host's driver clears what it takes back, and fails to take back what it cannot clear.
    ByDriver,
    /// A reset of the function, which has to be asked for to know how it ended.
    ByReset,
}

/// Form of the slices of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Existing virtual functions, in index order.
    Vfs(Vec<PciAddress>),
    /// Mediated devices made on demand.
    Mdevs {
        /// Raw type.
        type_id: MdevTypeId,
        /// How many more the kernel says it would make.
        available: u32,
        /// What may be beside it on its device, where several parents are of one and that is known.
        beside: Option<Beside>,
    },
    /// Existing virtual functions that are given the type when a VM starts.
    TypedVfs {
        /// Raw type.
        type_id: MdevTypeId,
        /// All VFs of the device, in index order.
        vfs: Arc<[PciAddress]>,
        /// How many more the device would take at once.
        left: u32,
        /// What may be beside it.
        beside: Beside,
    },
}

/// How slices of different types share a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// All there are at a time are of one size.
    OneSize,
    /// Any sizes, each in one of its places.
    Places(Arc<Places>),
    /// Each in a part of the device that is for its kind alone; in which, where that is told.
    Apart(Option<Part>),
}

/// Parts of a device that are alike. Each is for slices of one size at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What the device calls them.
    pub kind: String,
    /// How many of them there are.
    pub count: u32,
    /// How many slices of a type one of them holds.
    pub each: u32,
}

impl Part {
    /// Most slices of the type at a time.
    pub fn most(&self) -> u32 {
        self.count.saturating_mul(self.each)
    }

    /// How many more slices of so many bytes there can be beside others in these parts: how large those are, how many of them
    /// one part holds, and how many there are.
    pub fn left(&self, size: u64, there: impl IntoIterator<Item = (u64, u32, u32)>) -> u32 {
        let mut sizes: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for (size, each, count) in there {
            let (of_each, sum) = sizes.entry(size).or_default();
            (*of_each, *sum) = (each, sum.saturating_add(count));
        }
        let (_, same) = sizes.remove(&size).unwrap_or_default();
        let taken: u32 = sizes.values().map(|(each, count)| count.div_ceil((*each).max(1))).sum();
        let parts = self.count.saturating_sub(taken);
        parts.saturating_mul(self.each).saturating_sub(same)
    }
}

impl Form {
    /// Raw type, where slices have one.
    pub fn type_id(&self) -> Option<&MdevTypeId> {
        match self {
            Self::Vfs(_) => None,
            Self::Mdevs { type_id, .. } | Self::TypedVfs { type_id, .. } => Some(type_id),
        }
    }

    /// The VFs that slices of this form are; none for mediated devices.
    pub fn vfs(&self) -> &[PciAddress] {
        match self {
            Self::Vfs(vfs) => vfs,
            Self::TypedVfs { vfs, .. } => vfs,
            Self::Mdevs { .. } => &[],
        }
    }

    /// Whether they are made as mediated devices.
    pub fn is_mdevs(&self) -> bool {
        matches!(self, Self::Mdevs { .. })
    }
}

/// Parents whose slices reach each other's memory without the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// What a person knows it by.
    pub name: String,
    /// All of it, also what offers nothing now.
    pub parents: BTreeSet<ParentId>,
}

impl Fabric {
    /// Of a parent that is linked to no other.
    pub fn alone(parent: ParentId) -> Self {
        Self { name: parent.to_string(), parents: BTreeSet::from([parent]) }
    }
}

/// A file in which a driver shows which GPU it has.
#[derive(Debug, Clone)]
pub struct SerialFile {
    /// Its path.
    pub path: String,
    /// What it says; `None` when it is no such file's text.
    pub read: fn(&str) -> Option<ShownSerial>,
}

/// What a driver shows of which GPU it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownSerial {
    /// Nothing as long as the GPU is at rest, or has none.
    NotYet,
    /// This.
    Is(Serial),
}

/// A family of kernel interfaces. Pure: it reads the observation and answers with steps.
pub trait Mechanism: Send + Sync {
    /// Its word in the vocabulary: `sriov`, `mdev`.
    fn name(&self) -> &'static str;

    /// Our word for a product of the vendor whose GPUs it knows, from the PF's PCI ids.
    fn model(&self, _vendor: u16, _device: u16) -> Option<&'static str> {
        None
    }

    /// The driver that makes the slices of a GPU, of one that no driver has.
    fn maker(&self, _: &Observation, _: PciAddress, _: &Function) -> Option<&'static str> {
        None
    }

    /// Where a driver shows which GPU it has: asked of one without a Device Serial Number, until it is known.
    fn serial(&self, _function: PciAddress, _driver: &str) -> Option<SerialFile> {
        None
    }

    /// Reads what only this mechanism knows to read, into the reading of everything else.
    fn observe(&self, _host: &dyn HostRead, _tools: &mut Answers, _seen: &mut Observation) {}

    /// Whether the parent is of this kind.
    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool;

    /// What the parent offers as it is now.
    fn offers(&self, seen: &Observation, parent: &ParentId, layout: Option<&Layout>) -> Vec<Offer>;

    /// The offer of one type alone, where there are many.
    fn offer_of(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layout: Option<&Layout>,
        type_id: &MdevTypeId,
    ) -> Option<Offer> {
        let offers = self.offers(seen, parent, layout);
        offers.into_iter().find(|offer| offer.form.type_id() == Some(type_id))
    }

    /// The profile of that offer, for lists of many slices.
    fn profile_of(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layout: Option<&Layout>,
        type_id: &MdevTypeId,
    ) -> Option<ProfileName> {
        self.offer_of(seen, parent, layout, type_id).map(|offer| offer.profile)
    }

    /// What a line of the kernel's log says against a device of this mechanism. Asked of each line there is, so the
    /// first look at one of somebody else is the last.
    fn trouble(&self, _line: &str) -> Option<Trouble> {
        None
    }

    /// Modes that a layout may set on the parent.
    fn modes(&self, _seen: &Observation, _parent: &ParentId) -> &'static [Mode] {
        &[]
    }

    /// Why a GPU of this host yields no slices, whatever its layout says, and what works instead.
    fn unsliceable(&self, _seen: &Observation, _parent: &ParentId) -> Option<Refusal> {
        None
    }

    /// Parents that only change together: a step for one disturbs all. The parent itself is one of them.
    fn together(&self, _seen: &Observation, parent: &ParentId) -> BTreeSet<ParentId> {
        BTreeSet::from([parent.clone()])
    }

    /// The fabric a parent is part of, where that can be told.
    fn fabric(&self, _seen: &Observation, _parent: &ParentId) -> Option<Fabric> {
        None
    }

    /// Steps from what is seen to the parent's layout; none when it is so, or when it can only come by itself. With
    /// `reshape` the way may lead over taking slices away, without it never. Of parents that change together one has
    /// the steps of all.
    ///
    /// # Errors
    /// When the parent can never be so.
    fn layout_steps(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layouts: &Layouts,
        reshape: bool,
    ) -> Result<Vec<Step>, Refusal>;

    /// Whether the parent is as the layout says.
    fn realised(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> bool;

    /// Whether its driver says of any VF what it is or can be. One that says nothing of all of them may not know yet, and
    /// no event tells when it does.
    fn lists_types(&self, _seen: &Observation, _parent: &ParentId) -> bool {
        true
    }

    /// Words in the kernel's log by which the driver that makes devices of a type says that it has not made its GPU ready yet.
    fn not_ready(&self, _type_id: &MdevTypeId) -> Vec<String> {
        Vec::new()
    }

    /// The driver that may remove a slice of a type by itself when its VM has ended, and is given the time for it.
    fn removed_by(&self, _type_id: &MdevTypeId) -> Option<&'static str> {
        None
    }

    /// Whether a tool of its vendor may have the parent off its driver just now, and give it back: what can be set is that
    /// driver's to say. Of one without any driver nobody has to say so.
    fn is_between_drivers(&self, _seen: &Observation, _parent: &ParentId) -> bool {
        false
    }

    /// Whether a driver has the parent that never makes it as any layout says, and that gives it back when a person says so:
    /// nobody waits for that.
    fn is_given_away(&self, _seen: &Observation, _parent: &ParentId) -> bool {
        false
    }

    /// What of a layout says nothing of the parent, which is as the layout says without it.
    fn ignores(&self, _seen: &Observation, _parent: &ParentId, _layout: &Layout) -> Option<String> {
        None
    }

    /// Why a parent that is as its layout says has slices and offers no profile.
    fn offers_nothing(&self, _seen: &Observation, _parent: &ParentId) -> Option<Refusal> {
        None
    }

    /// What mends it that a driver refused a number of VFs (`sriov_numvfs`), where its answer tells and the kernel's log does
    /// not.
    fn mends_count(&self, _pf: PciAddress, _driver: &str, _errno: Errno) -> Option<Hint> {
        None
    }

    /// What mends it that a tool of its vendor's did not set the parent, where the tool's own words tell.
    fn mends_mode(&self, _parent: &ParentId, _said: &str) -> Option<Hint> {
        None
    }

    /// What a parent lacks that is not as its layout says, where that is more than time.
    fn lacks(&self, _seen: &Observation, _parent: &ParentId) -> Option<String> {
        None
    }

    /// What cleans its slices between two VMs.
    fn cleaned(&self) -> Cleaned;

    /// Below a VF: the attribute that has its type, `0` for none, where VFs are given one.
    fn type_attribute(&self) -> Option<&'static str> {
        None
    }

    /// Steps that make a slice ready for a VM, on a parent with this layout.
    fn prepare_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step>;

    /// The parameter that says where on its device a slice is to be, in units of the device.
    fn place_parameter(&self) -> Option<&'static str> {
        None
    }

    /// Milliseconds after its start in which a VM that is killed leaves its slice wedged, with nothing in the kernel that
    /// tells: of no use until all VFs of the device are made anew.
    fn fragile_ms(&self) -> Option<u64> {
        None
    }

    /// Steps that take it back. Must be right from every state in between.
    fn release_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step>;
}
