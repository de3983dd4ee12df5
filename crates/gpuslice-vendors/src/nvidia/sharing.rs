//! How the types of a GPU share it, as it is set: the same in both frameworks, of which one has the types on its VFs as mediated
//! devices and the other as what a VF can be.

use super::modes::{MIXED, OFF};
use super::names::{Size, instance, size};
use gpuslice_core::ids::{MdevTypeId, ParentId};
use gpuslice_core::mechanism::{Beside, Part};
use gpuslice_core::mode::{Mode, ModeValue};
use gpuslice_core::observation::{Observation, Places, TypeFacts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of one GPU.
pub(crate) struct Sharing<'a> {
    /// Gigabytes of the largest type, which takes the whole GPU.
    whole: Option<u32>,
    vfs: usize,
    /// Whether MIG is on, and what it divides the GPU into, where that is told.
    divided: Option<&'a ModeValue>,
    /// GPU instances by name.
    instances: BTreeMap<&'a str, u32>,
    mixed: bool,
    facts: Option<&'a BTreeMap<MdevTypeId, TypeFacts>>,
}

impl<'a> Sharing<'a> {
    /// Of a PF with so many VFs, and types of these names.
    pub(super) fn of<'n>(
        seen: &'a Observation,
        pf: &ParentId,
        vfs: usize,
        names: impl Iterator<Item = &'n str>,
    ) -> Self {
        let divided = seen.mode(pf, Mode::Instances);
        let mut instances = BTreeMap::new();
        for name in divided.into_iter().flat_map(|list| list.parts()) {
            *instances.entry(name).or_default() += 1;
        }
        let kind = pf.pci().and_then(|address| seen.functions.get(&address)?.kind);
        let slices = names.filter_map(size).filter(|size| size.mig.is_none());
        Self {
            whole: slices.map(|size| size.gb).max(),
            vfs,
            divided,
            instances,
            mixed: seen.mode(pf, Mode::Sizes).is_some_and(|sizes| sizes.is(MIXED)),
            facts: kind.and_then(|kind| seen.facts.get(&kind)),
        }
    }

    /// What is told of a type.
    pub(super) fn facts(&self, type_id: &MdevTypeId) -> Option<&'a TypeFacts> {
        self.facts?.get(type_id)
    }

    /// Bytes of a type's framebuffer.
    pub(crate) fn memory(&self, type_id: &MdevTypeId, name: &str) -> Option<u64> {
        let told = self.facts(type_id).and_then(|facts| facts.memory);
        told.or_else(|| size(name).map(Size::bytes))
    }

    /// Where one can be in the grid of a GPU.
    pub(super) fn places(&self, type_id: &MdevTypeId) -> Option<&'a Arc<Places>> {
        self.facts(type_id)?.places.as_ref()
    }

    /// Most of a type that there can be, and what may be beside it.
    pub(crate) fn of_type(&self, type_id: &MdevTypeId, name: &str) -> (Option<u32>, Beside) {
        let of = size(name);
        if of.is_some_and(|of| of.mig.is_some()) {
            let part = self.part(type_id, name);
            // Where there is no instance of its kind it cannot be; where none are told, nobody knows.
            let most = part.as_ref().map(Part::most).or(self.divided.map(|_| 0));
            return (most, Beside::Apart(part));
        }
        if self.divided.is_some_and(|now| !now.is(OFF)) {
            return (Some(0), Beside::OneSize);
        }
        match self.places(type_id).filter(|_| self.mixed && of.is_some()) {
            Some(grid) => {
                let most = u32::try_from(grid.starts.len().min(self.vfs)).unwrap_or(u32::MAX);
                (Some(most), Beside::Places(Arc::clone(grid)))
            }
            None => (self.max(type_id, of), Beside::OneSize),
        }
    }

    /// The GPU instances a type is in. The tool says which by the number of their profile; where it does not, those of so many
    /// compute slices that have the room, of several sizes the smallest.
    pub(super) fn part(&self, type_id: &MdevTypeId, name: &str) -> Option<Part> {
        let of = size(name)?;
        let facts = self.facts(type_id);
        let told = facts.and_then(|facts| facts.part.as_deref());
        let parts = self.instances.iter().filter_map(|(name, count)| {
            let (slices, gb, beside) = instance(name)?;
            let has_room = || of.mig == Some(slices) && of.beside == beside && gb >= of.gb;
            let kin = told.map_or_else(has_room, |part| part == *name);
            kin.then_some((gb, *name, *count))
        });
        let (gb, kind, count) = parts.min()?;
        // It can be less than the part's memory has room for.
        let fits = || {
            let fits = (u64::from(gb) << 30).checked_div(of.bytes()).unwrap_or_default();
            u32::try_from(fits).unwrap_or(u32::MAX)
        };
        let each = facts.and_then(|facts| facts.per_part).unwrap_or_else(fits).max(1);
        Some(Part { kind: kind.to_owned(), count, each })
    }

    /// Most of one type on an otherwise empty GPU: what the tool tells, which can be less than its memory has room for; where
    /// it does not, the largest type takes the whole GPU. None can be more than there are VFs.
    fn max(&self, type_id: &MdevTypeId, of: Option<Size>) -> Option<u32> {
        let fits = || {
            let fits = u64::from(self.whole?) * (1 << 30) / of?.bytes();
            Some(u32::try_from(fits).unwrap_or(u32::MAX))
        };
        let told = self.facts(type_id).and_then(|facts| facts.most);
        Some(told.or_else(fits)?.min(u32::try_from(self.vfs).unwrap_or(u32::MAX)))
    }
}
