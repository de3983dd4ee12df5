//! Claims of more slices than this host has, whoever has them: nobody's end makes room for so many.

use super::Machine;
use crate::hint;
use crate::ids::{ClaimKey, ProfileName};
use crate::numa::Within;
use crate::observation::Function;
use crate::placement::Wanted;
use crate::refusal::Hint;
use std::collections::BTreeSet;

impl Machine {
    /// The most of a profile that a claim could have on some NUMA nodes if it were all free, where it asks for more.
    pub(super) fn fewer_than(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<u32> {
        let view = self.view();
        let in_one_vm = view.most_of_each(key, profile);
        let devices = view.devices_offering(profile);
        let near = devices.iter().filter(|device| self.is_within(device, within));
        let each = near.map(|device| {
            let all = self.most_on(profile, &|on| on == device)?;
            Some(in_one_vm.get(device).map_or(all, |most| all.min(*most)))
        });
        let all = each.reduce(|all, more| Some(all?.saturating_add(more?)))??;
        // What a driver makes counts, whatever it says.
        let there = self.free_and_used_beside(key, profile, &|on| self.is_within(on, within));
        let most = there.map_or(all, |(free, used)| all.max(free.saturating_add(used)));
        (1..count).contains(&most).then_some(most)
    }

    /// That there are fewer.
    pub(super) fn too_many(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Option<String> {
        let most = self.fewer_than(key, profile, count, &Within::Anywhere)?;
        Some(format!(
            "{profile}: wanted {count}, more than the {most} that this host can run at once"
        ))
    }

    /// As many of what a claim asks for as there are at all.
    pub(super) fn at_most(&self, key: &ClaimKey, profile: &ProfileName, count: u32) -> u32 {
        self.fewer_than(key, profile, count, &Within::Anywhere).unwrap_or(count)
    }

    /// Has a claim ask for what it can have, where it asks for more than there is.
    pub(super) fn ask_for_fewer(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<Hint> {
        let most = self.fewer_than(key, profile, count, within)?;
        self.ask_for_most(key, profile, most, within)
    }

    /// Has it ask for so many, or as many of them as are free.
    pub(super) fn ask_for_most(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        most: u32,
        within: &Within,
    ) -> Option<Hint> {
        if self.another(profile, within) {
            return None;
        }
        let wanted = Wanted { within, ..Wanted::anywhere(profile, key) };
        let attach = |count: u32| hint!("{} --count {}", self.attach_again(key, profile), count);
        match self.could_have(&wanted, most, &self.durable.cordons) {
            0 => {
                let room = self.room_by_ends(key, profile, 1, within);
                let room = room.or_else(|| self.uncordon_for(&wanted, 1))?;
                Some(hint!("{}, then {}", room, attach(1)))
            }
            free => Some(attach(free)),
        }
    }

    /// Whether a GPU that could be cut into the same has no layout.
    pub(super) fn another(&self, profile: &ProfileName, within: &Within) -> bool {
        let devices = self.view().devices_offering(profile);
        let kind = |function: &Function| (function.vendor, function.device);
        let functions = devices.iter().filter_map(|device| self.seen.functions.get(&device.pci()?));
        let kinds: BTreeSet<_> = functions.map(kind).collect();
        self.bare()
            .any(|(_, function)| kinds.contains(&kind(function)) && within.has(function.numa_node))
    }
}
