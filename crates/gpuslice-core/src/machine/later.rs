//! What is set and not so before a driver is loaded again: drivers of the host are not loaded anew for it. Until then the
//! parent serves as it is, which is neither drift nor anything to wait for.

use super::Machine;
use crate::ids::ParentId;
use crate::layout::Layout;
use crate::mode::{Mode, ModeValue};
use std::collections::BTreeMap;

impl Machine {
    /// Modes of a parent that the next load makes another, as a row shows them.
    pub(super) fn coming_of(&self, parent: &ParentId) -> BTreeMap<String, String> {
        let coming = self.seen.coming(parent);
        coming.map(|(mode, _, value, _)| (mode.to_string(), value.to_string())).collect()
    }

    /// What of a parent's layout waits for a load.
    pub(super) fn comes_later(&self, parent: &ParentId, layout: &Layout) -> Option<String> {
        let coming = self.seen.coming(parent);
        let asked = coming.filter(|(mode, ..)| layout.modes.contains_key(mode));
        let each = asked.map(|(mode, now, value, driver)| said(mode, now, value, driver));
        Some(each.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    }

    /// The same of all layouts.
    pub(super) fn all_that_comes_later(&self) -> impl Iterator<Item = String> {
        self.layouts.iter().filter_map(|(parent, layout)| {
            Some(format!("{parent}: {}", self.comes_later(parent, layout)?))
        })
    }

    /// What of a layout that is not applied yet would wait for one.
    pub(super) fn would_come_later(
        &self,
        parent: &ParentId,
        layout: &Layout,
    ) -> impl Iterator<Item = String> {
        let states = self.seen.modes.get(parent);
        layout.modes.iter().filter_map(move |(mode, wanted)| {
            let state = states?.get(mode)?;
            let (now, load) = (state.current.as_ref(), state.at_load.as_ref()?);
            let text = || format!("{parent}: {}", said(*mode, now, wanted, load.driver));
            (now != Some(wanted)).then(text)
        })
    }
}

fn said(mode: Mode, now: Option<&ModeValue>, value: &ModeValue, driver: &str) -> String {
    let now = now.map_or("not told", ModeValue::as_str);
    format!("{mode} is {now}, {value} with the next load of {driver}")
}
