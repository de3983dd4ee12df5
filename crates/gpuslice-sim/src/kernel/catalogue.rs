//! The types of a card and what is left of each: a budget, equal sizes, places on a grid, or GPU instances. All
//! frameworks of a card draw on one, so all that a reader sees of capacity is computed here.

use crate::host_file::MdevRule;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use std::collections::BTreeMap;

/// The types of a parent and the budget they draw on.
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Directory prefix: the parent's driver.
    pub(crate) prefix: String,
    /// Driver on the mdev bus.
    pub(crate) driver: String,
    /// Who shares the budget; parents of one card do.
    pub(crate) pool: String,
    /// The PF, of a card.
    pub(crate) card: Option<PciAddress>,
    pub(crate) budget: u64,
    pub(crate) rule: MdevRule,
    /// At most so many on one parent.
    pub(crate) per_parent: Option<u32>,
    /// What a full parent answers.
    pub(crate) full: Errno,
    /// The driver has no `get_available`: the core counts, and refuses before the device is added.
    pub(crate) core_counts: bool,
    pub(crate) types: Vec<Type>,
    /// Where a device of a size may begin when sizes are mixed, in units of a GiB, by size in MiB.
    pub(crate) grid: BTreeMap<u64, Vec<u32>>,
}

/// One type.
#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) cost: u64,
    pub(crate) max: Option<u32>,
    pub(crate) description: Option<String>,
    /// The profile of the GPU instance it needs.
    pub(crate) gi_profile: Option<u32>,
    /// Most in one GPU instance, where that is fewer than fit.
    pub(crate) per_gi: Option<u32>,
    /// Most of the card that one process can have open.
    pub(crate) per_vm: Option<u32>,
}

/// Where on its card a device is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    /// In which GPU instance.
    pub(crate) instance: Option<u32>,
    /// Placement id, from the begin of the card or of its instance.
    pub(crate) start: u32,
}

/// A device there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// Index of its type.
    pub(crate) kind: usize,
    pub(crate) spot: Spot,
}

/// A GPU instance there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) profile: u32,
    /// First of its memory slices.
    pub(crate) start: u32,
    pub(crate) memory_mib: u64,
}

/// How a card is set, as far as that decides what fits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    pub(crate) mig: bool,
    /// Sizes may be mixed.
    pub(crate) mixed: bool,
    pub(crate) instances: BTreeMap<u32, Instance>,
}

/// What is left of a type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) left: u64,
    /// Where the next would be.
    pub(crate) first: Spot,
}

/// Placement units of a size.
pub(crate) fn units(mib: u64) -> u32 {
    u32::try_from(mib / 1024).unwrap_or(u32::MAX)
}

impl Catalogue {
    /// How many more of a type fit beside what is there.
    pub(crate) fn room(&self, made: &[Made], kind: usize, set: &Setting) -> Room {
        let Some(wanted) = self.types.get(kind) else {
            return Room::default();
        };
        match wanted.gi_profile {
            profile if profile.is_some() != set.mig => Room::default(),
            Some(profile) => self.in_instances(made, wanted, profile, set),
            None if set.mixed => self.on_grid(made, wanted),
            None => self.of_budget(made, kind, wanted),
        }
    }

    fn cost(&self, made: &Made) -> u64 {
        self.types.get(made.kind).map_or(0, |of| of.cost)
    }

    /// Whether a device of a size can begin there.
    pub(crate) fn free(&self, made: &[Made], at: Spot, cost: u64) -> bool {
        let end = u64::from(at.start) + u64::from(units(cost));
        made.iter().filter(|m| m.spot.instance == at.instance).all(|m| {
            let there = u64::from(m.spot.start);
            end <= there || there + u64::from(units(self.cost(m))) <= u64::from(at.start)
        })
    }

    fn of_budget(&self, made: &[Made], kind: usize, wanted: &Type) -> Room {
        let in_the_way = |m: &Made| match self.rule {
            MdevRule::Mixed => false,
            MdevRule::SameType => m.kind != kind,
            MdevRule::SameSize => self.cost(m) != wanted.cost,
        };
        if made.iter().any(in_the_way) {
            return Room::default();
        }
        let drawn: u64 = made.iter().map(|m| self.cost(m)).sum();
        // Where all are of one size the bound is on them together.
        let counts = |m: &&Made| match self.rule {
            MdevRule::SameSize => true,
            MdevRule::SameType | MdevRule::Mixed => m.kind == kind,
        };
        let own = made.iter().filter(counts).count() as u64;
        let fits = self.budget.saturating_sub(drawn) / wanted.cost;
        let left = wanted.max.map_or(fits, |max| fits.min(u64::from(max).saturating_sub(own)));
        let first = self.first(made, None, wanted);
        Room { left, first }
    }

    /// The first multiple of its size at which a device fits.
    fn first(&self, made: &[Made], instance: Option<u32>, wanted: &Type) -> Spot {
        let step = units(wanted.cost).max(1);
        let starts = (0..=made.len()).map(|n| u32::try_from(n).unwrap_or(0).saturating_mul(step));
        let mut spots = starts.map(|start| Spot { instance, start });
        spots.find(|spot| self.free(made, *spot, wanted.cost)).unwrap_or_default()
    }

    fn on_grid(&self, made: &[Made], wanted: &Type) -> Room {
        let ids = self.grid.get(&wanted.cost).map(Vec::as_slice).unwrap_or_default();
        let spots = ids.iter().map(|start| Spot { instance: None, start: *start });
        let free: Vec<Spot> = spots.filter(|spot| self.free(made, *spot, wanted.cost)).collect();
        Room { left: free.len() as u64, first: free.first().copied().unwrap_or_default() }
    }

    /// An instance holds one size at a time.
    fn in_instances(&self, made: &[Made], wanted: &Type, profile: u32, set: &Setting) -> Room {
        let mut room = Room::default();
        for (id, instance) in set.instances.iter().filter(|(_, i)| i.profile == profile) {
            let here = made.iter().filter(|m| m.spot.instance == Some(*id));
            if here.clone().any(|m| self.cost(m) != wanted.cost) {
                continue;
            }
            let fit = instance.memory_mib / wanted.cost;
            let fit = wanted.per_gi.map_or(fit, |most| fit.min(u64::from(most)));
            let left = fit.saturating_sub(here.count() as u64);
            if left > 0 && room.left == 0 {
                room.first = self.first(made, Some(*id), wanted);
            }
            room.left += left;
        }
        room
    }
}
