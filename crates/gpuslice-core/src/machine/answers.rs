//! Lists: what is known, as rows.

use super::Machine;
use crate::ids::{ClaimKey, MdevTypeId, Owner, ParentId, ProfileName, SliceId};
use crate::mechanism::{MDEV, Mechanism, Offer};
use crate::observation::{Function, Vf};
use crate::refusal::{Code, Refusal};
use crate::request::{Answer, ClaimRow, ParentRow, SliceRow, StatusRow};
use crate::state::{Assignment, Claim, Phase};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn count<T>(items: impl IntoIterator<Item = T>) -> u32 {
    u32::try_from(items.into_iter().count()).unwrap_or(u32::MAX)
}

/// A slice of a claim.
type Bound<'a> = (&'a SliceId, &'a Assignment);

impl Machine {
    pub(super) fn status(&self) -> Answer {
        let waiting_for = self.waiting_for();
        let shown = self.seen.parents().filter(|p| self.shown(p));
        let devices: BTreeSet<ParentId> = shown.map(|p| self.seen.device_of(&p)).collect();
        Answer::Status(StatusRow {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settled: waiting_for.is_empty(),
            waiting_for,
            coming: self.coming(),
            writable: self.unwritten.is_empty(),
            config_errors: self.config_errors.clone(),
            parents: count(devices),
            slices: count(self.slice_rows().iter().filter(|row| row.state != "parent")),
            claims: count(&self.durable.claims),
            attached: count(self.run.assignments.values().filter(|a| a.phase == Phase::Attached)),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(self.told_quarantines())
                .chain(self.never_parked())
                .chain(self.all_that_comes_later())
                .chain(self.set_to_nothing().map(|why| why.reason()))
                .chain(self.set_aside())
                .chain(self.met_by_none())
                .chain(self.unwell())
                .chain(self.linked_unasked())
                .chain(self.seen.problems.iter().map(ToString::to_string))
                .chain(self.history_trouble())
                .collect(),
            refused: self.refused_starts.iter().cloned().collect(),
            host: self.host.clone(),
        })
    }

    /// Network cards have VFs too: a function is shown when it is a GPU, or a layout or the mdev bus names it.
    pub(super) fn shown(&self, parent: &ParentId) -> bool {
        let gpu =
            parent.pci().and_then(|a| self.seen.functions.get(&a)).is_some_and(Function::is_gpu);
        gpu || self.layouts.contains_key(parent) || self.seen.mdev_parents.contains_key(parent)
    }

    pub(super) fn list_parents(&self) -> Answer {
        let whole = self.seen.whole.keys().map(|address| ParentId::Pci(*address));
        let whole = whole.filter(|parent| self.unsliceable(parent).is_some());
        let shown = self.seen.parents().filter(|p| self.shown(p));
        let mut unparked = BTreeMap::new();
        for (device, why) in self.unparked(&self.layouts) {
            unparked.entry(device).or_insert(why.message);
        }
        let mut assigned: BTreeMap<ParentId, u32> = BTreeMap::new();
        for parent in self.run.assignments.values().map(|a| &a.parent) {
            for parent in [self.seen.pf_of(parent), Some(parent.clone())].into_iter().flatten() {
                *assigned.entry(parent).or_default() += 1;
            }
        }
        let of = |p: &ParentId| assigned.get(p).copied().unwrap_or_default();
        let present = shown.chain(whole).map(|p| self.parent_row(&p, unparked.get(&p), of(&p)));
        let absent = self.durable.expected.iter().filter(|(p, _)| self.is_away(p)).map(
            |(parent, layout)| ParentRow {
                parent: parent.clone(),
                pf: None,
                pci_id: String::new(),
                model: None,
                driver: None,
                mechanisms: Vec::new(),
                numa_node: None,
                serial: None,
                slot: None,
                vfs: None,
                total_vfs: None,
                modes: BTreeMap::new(),
                coming: BTreeMap::new(),
                layout: Some(layout.to_string()),
                state: "absent".to_owned(),
                reason: Some(self.why_away(parent)),
                assigned: of(parent),
                health: self.health_word(parent),
                health_reason: self.health_line(parent),
                dirty: 0,
            },
        );
        let mut rows: Vec<ParentRow> = present.chain(absent).collect();
        rows.sort_by(|a, b| a.parent.cmp(&b.parent));
        Answer::Parents { rows }
    }

    /// Why a GPU yields no slices.
    pub(super) fn unsliceable(&self, parent: &ParentId) -> Option<Refusal> {
        self.mechanisms.iter().find_map(|m| m.unsliceable(&self.seen, parent))
    }

    /// With what of its layout's `park` is not so, and how many of its slices are somebody's.
    fn parent_row(&self, parent: &ParentId, unparked: Option<&String>, assigned: u32) -> ParentRow {
        let function = parent
            .pci()
            .and_then(|a| self.seen.functions.get(&a).or_else(|| self.seen.whole.get(&a)));
        let sriov = function.and_then(|f| f.sriov.as_ref());
        let (state, reason) = self.parent_state(parent, function, unparked);
        let mechanisms = self.mechanisms.iter().filter(|m| m.applies(&self.seen, parent));
        ParentRow {
            parent: parent.clone(),
            pf: self.seen.pf_of(parent),
            pci_id: function
                .map(|f| format!("{:04x}:{:04x}", f.vendor, f.device))
                .unwrap_or_default(),
            model: function.and_then(|f| f.model).map(str::to_owned),
            driver: function.and_then(|f| f.driver.clone()),
            mechanisms: mechanisms.map(|m| m.name().to_owned()).collect(),
            numa_node: function.and_then(|f| f.numa_node),
            serial: function.and_then(|f| f.serial).map(|s| s.to_string()),
            slot: function.and_then(|f| f.slot.clone()),
            vfs: sriov.map(|s| count(&s.vfs)),
            total_vfs: sriov.map(|s| u32::from(s.total)),
            modes: self
                .seen
                .modes
                .get(parent)
                .into_iter()
                .flatten()
                .filter_map(|(mode, state)| {
                    Some((mode.to_string(), state.current.as_ref()?.to_string()))
                })
                .collect(),
            coming: self.coming_of(parent),
            layout: self.layouts.get(parent).map(ToString::to_string),
            state: state.to_owned(),
            reason,
            assigned,
            health: self.health_word(parent),
            health_reason: self.health_line(parent),
            dirty: count(self.run.dirty.values().filter(|dirt| dirt.parent == *parent)),
        }
    }

    fn health_word(&self, parent: &ParentId) -> String {
        let health = self.durable.health.get(parent);
        health.map_or("ok", |health| health.severity.as_str()).to_owned()
    }

    fn health_line(&self, parent: &ParentId) -> Option<String> {
        Some(self.durable.health.get(parent)?.shown(self.run.boot))
    }

    fn parent_state(
        &self,
        parent: &ParentId,
        function: Option<&Function>,
        unparked: Option<&String>,
    ) -> (&'static str, Option<String>) {
        let pf = self.seen.pf_of(parent);
        if let Some(why) = self.quarantine_over(parent) {
            let causes = why.causes.iter().map(|cause| format!(": {cause}"));
            return ("quarantined", Some(format!("{why}{}", causes.collect::<String>())));
        }
        if let Some(step) = self.run.pending.get(parent) {
            return ("reshaping", Some(step.to_string()));
        }
        let cordons = &self.durable.cordons;
        if let Some(reason) = cordons.get(parent).or_else(|| cordons.get(pf.as_ref()?)) {
            let unmet = self.layouts.get(parent).filter(|layout| !self.realised(parent, layout));
            let lacks = unmet.and_then(|_| self.lacking(parent));
            let told = [Some(reason.clone()), lacks].into_iter().flatten();
            let told: Vec<String> = told.filter(|text| !text.is_empty()).collect();
            return ("cordoned", (!told.is_empty()).then(|| told.join("; ")));
        }
        match self.layouts.get(parent) {
            None if self.seen.mdev_parents.contains_key(parent) => ("ok", None),
            None => match self.unsliceable(parent) {
                Some(why) => ("unsliceable", Some(why.reason())),
                None => ("no-layout", None),
            },
            Some(layout) if self.drifted(parent) => {
                ("drift", Some(format!("it should have {layout}; gpuslice apply makes it so")))
            }
            Some(layout) => {
                let realised = self.realised(parent, layout);
                match function {
                    _ if realised => {
                        let nothing = || Some(self.offers_nothing(parent)?.reason());
                        let reason = self.kept_back(parent).or_else(nothing);
                        let reason = reason.or_else(|| self.comes_later(parent, layout));
                        ("ok", reason.or_else(|| unparked.cloned()))
                    }
                    _ => ("waiting", self.lacking(parent)),
                }
            }
        }
    }

    /// What of the layouts' `park` a person has to mend.
    fn never_parked(&self) -> impl Iterator<Item = String> {
        let lasting = |why: &Refusal| why.code != Code::NoCapacity;
        let unparked = self.unparked(&self.layouts).into_iter().map(|(_, why)| why);
        unparked.filter(lasting).map(|why| why.reason())
    }

    pub(super) fn list_slices(&self) -> Answer {
        Answer::Slices { rows: self.slice_rows() }
    }

    fn slice_rows(&self) -> Vec<SliceRow> {
        let mut rows = Vec::new();
        let held_back = self.held_back();
        for (address, function) in &self.seen.functions {
            let parent = ParentId::Pci(*address);
            let Some(sriov) = function.sriov.as_ref().filter(|_| self.shown(&parent)) else {
                continue;
            };
            if sriov.vfs.is_empty() {
                continue;
            }
            let offers: Vec<Offer> = self.offers_of(&parent).collect();
            let offered: BTreeMap<Option<&MdevTypeId>, &Offer> =
                offers.iter().map(|o| (o.form.type_id(), o)).collect();
            for (index, address) in &sriov.vfs {
                let Some(vf) = self.seen.vfs.get(address) else {
                    continue;
                };
                let slice = SliceId::Vf(*address);
                let (mut state, claim, holder) = self.slice_state(slice, &parent, Some(vf));
                if held_back.contains_key(&slice) && state == "free" {
                    "dirty".clone_into(&mut state);
                }
                let type_id = vf.choice.as_ref().and_then(|c| c.current.as_ref());
                let offer = offered.get(&type_id);
                let mechanism = offer.map(|offer| offer.mechanism);
                let mechanism = mechanism.unwrap_or_else(|| self.maker_of_vfs(&parent));
                let typed_by_another = type_id.is_some() && state == "foreign" && holder.is_none();
                let maker = self.mechanism(&parent).filter(|_| typed_by_another);
                let type_attribute = maker.and_then(Mechanism::type_attribute);
                rows.push(SliceRow {
                    slice,
                    address: Some(*address),
                    parent: parent.clone(),
                    vf_index: Some(u32::from(index.0)),
                    profile: offer.map(|o| o.profile.clone()),
                    mechanism: mechanism.to_owned(),
                    driver: vf.driver.clone(),
                    iommu_group: vf.iommu_group,
                    state,
                    claim,
                    holder,
                    holder_pid: self.process_with(slice),
                    vmid: self.guest_with(slice),
                    type_attribute: type_attribute.map(ToOwned::to_owned),
                    dirty: self.run.dirty.get(&slice).map(|dirt| dirt.why.clone()),
                });
            }
        }
        // Of the types that are used: a large host has thousands of others.
        let mut profiles = BTreeMap::new();
        rows.extend(self.seen.mdevs.iter().map(|(uuid, mdev)| {
            let profile: &Option<ProfileName> = profiles
                .entry((&mdev.parent, &mdev.type_id))
                .or_insert_with(|| self.profile_of(&mdev.parent, &mdev.type_id));
            let slice = SliceId::Mdev(*uuid);
            let (state, claim, holder) = self.slice_state(slice, &mdev.parent, None);
            SliceRow {
                slice,
                address: None,
                parent: mdev.parent.clone(),
                vf_index: None,
                profile: profile.clone(),
                mechanism: MDEV.to_owned(),
                driver: None,
                iommu_group: mdev.iommu_group,
                state,
                claim,
                holder,
                holder_pid: self.process_with(slice),
                vmid: self.guest_with(slice),
                type_attribute: None,
                dirty: None,
            }
        }));
        rows
    }

    /// The process that has it where nothing else is known of who does.
    fn process_with(&self, slice: SliceId) -> Option<u32> {
        let known = self.run.assignments.contains_key(&slice)
            || self.run.foreign.contains_key(&slice)
            || self.guest_with(slice).is_some();
        self.held.get(&slice).filter(|_| !known).map(|holder| holder.pid)
    }

    /// The guest of Proxmox VE that has it without a claim.
    fn guest_with(&self, slice: SliceId) -> Option<u32> {
        if self.run.assignments.contains_key(&slice) {
            return None;
        }
        match self.run.foreign.get(&slice).map(|hold| &hold.owner) {
            Some(Owner::Vmid(vmid)) => Some(*vmid),
            Some(Owner::Domain(_) | Owner::External(_)) => None,
            None => slice.mdev().and_then(|uuid| uuid.proxmox_guest()),
        }
    }

    /// Slices that are given to nobody of ours, with who has each, as the list of slices says it.
    pub(super) fn without_a_claim(&self) -> impl Iterator<Item = (SliceId, ParentId, String)> {
        let vfs = self.seen.vfs.iter().filter_map(|(address, vf)| {
            let slice = SliceId::Vf(*address);
            let known = self.run.foreign.contains_key(&slice) || self.held.contains_key(&slice);
            known.then_some((slice, ParentId::Pci(vf.pf), Some(vf)))
        });
        let mdevs = self.seen.mdevs.iter();
        let mdevs = mdevs.map(|(uuid, mdev)| (SliceId::Mdev(*uuid), mdev.parent.clone(), None));
        vfs.chain(mdevs).filter_map(|(slice, parent, vf)| {
            let (state, claim, holder) = self.slice_state(slice, &parent, vf);
            let foreign = state == "foreign" && claim.is_none();
            foreign.then(|| (slice, parent, holder.unwrap_or_else(|| "another program".to_owned())))
        })
    }

    fn slice_state(
        &self,
        slice: SliceId,
        parent: &ParentId,
        vf: Option<&Vf>,
    ) -> (String, Option<ClaimKey>, Option<String>) {
        if let Some(assignment) = self.run.assignments.get(&slice) {
            let holder = Some(self.owner_name(&assignment.claim));
            return (assignment.phase.as_str().to_owned(), Some(assignment.claim.clone()), holder);
        }
        if let Some(hold) = self.run.foreign.get(&slice) {
            return ("foreign".to_owned(), None, Some(hold.name.clone()));
        }
        if let SliceId::Mdev(uuid) = slice
            && let Some(vmid) = uuid.proxmox_guest()
        {
            return ("foreign".to_owned(), None, Some(format!("VM {vmid} of Proxmox VE")));
        }
        if let Some(holder) = self.held.get(&slice) {
            return (
                "foreign".to_owned(),
                None,
                Some(format!("{} (pid {})", holder.comm, holder.pid)),
            );
        }
        let state = match (slice, vf) {
            _ if self.makes_mediated_devices(slice) => "parent",
            _ if self.durable.quarantines.contains_key(parent) => "quarantined",
            _ if self.is_parked(slice) => "parked",
            // An mdev nobody asked us for is somebody else's.
            (SliceId::Mdev(_), _) => "foreign",
            // So is a type nobody asked us for.
            (_, Some(Vf { choice: Some(choice), .. })) if choice.current.is_some() => "foreign",
            (_, Some(Vf { choice: Some(choice), .. })) if choice.broken => "quarantined",
            (_, Some(vf)) if vf.by_host().is_some() => "host",
            _ if self.durable.cordons.contains_key(parent) => "cordoned",
            _ => "free",
        };
        (state.to_owned(), None, None)
    }

    /// Whether a VF is no slice, since its driver makes some of it.
    fn makes_mediated_devices(&self, slice: SliceId) -> bool {
        let vf = slice.pci().map(ParentId::Pci);
        vf.is_some_and(|vf| self.seen.mdev_parents.contains_key(&vf))
    }

    pub(super) fn list_claims(&self) -> Answer {
        let mut bound: BTreeMap<&ClaimKey, Vec<Bound<'_>>> = BTreeMap::new();
        for (slice, a) in &self.run.assignments {
            bound.entry(&a.claim).or_default().push((slice, a));
        }
        let claims = self.durable.claims.iter();
        let mut rows: Vec<ClaimRow> = claims
            .map(|(key, claim)| self.row_of(key, claim, &bound.remove(key).unwrap_or_default()))
            .collect();
        // A slice still on its way back after its claim ended.
        rows.extend(bound.into_iter().filter_map(|(key, bound)| ended_row(key, &bound)));
        Answer::Claims { rows }
    }

    pub(super) fn claim_row(&self, key: &ClaimKey, claim: &Claim) -> ClaimRow {
        let bound = self.run.assignments.iter().filter(|(_, a)| a.claim == *key);
        self.row_of(key, claim, &bound.collect::<Vec<_>>())
    }

    fn row_of(&self, key: &ClaimKey, claim: &Claim, bound: &[Bound<'_>]) -> ClaimRow {
        let slices: Vec<SliceId> = bound.iter().map(|(slice, _)| **slice).collect();
        let gone: Vec<String> = bound
            .iter()
            .filter(|(slice, a)| a.phase != Phase::Reserved && !self.exists(**slice))
            .map(|(slice, a)| format!("{slice} left the host with {}", a.parent))
            .collect();
        let phase = bound.first().map(|(_, a)| a.phase.as_str());
        let missing_home = claim.home.iter().find(|a| !self.seen.vfs.contains_key(a));
        let (state, reason) = match (phase, missing_home) {
            _ if !gone.is_empty() => ("lost", Some(gone.join(", "))),
            (Some(phase), _) => (phase, bound.iter().find_map(|(_, a)| a.trouble.clone())),
            _ if claim.orphaned && claim.undefined => {
                ("orphaned", Some("its domain is undefined".to_owned()))
            }
            _ if claim.orphaned => ("orphaned", Some("it was given up".to_owned())),
            (None, Some(home)) => ("idle", Some(format!("its home VF {home} is not on the host"))),
            (None, None) => ("idle", None),
        };
        ClaimRow {
            claim: key.clone(),
            owner_name: claim.owner_name.clone(),
            profile: claim.profile.clone(),
            count: claim.request.count,
            state: state.to_owned(),
            reason,
            slices,
            home: claim.home.clone(),
            pool: claim.pool,
            reserve: claim.reserve,
            request: claim.request.asks_for_more().then(|| Box::new(claim.request.clone())),
            last_refusal: claim.last_refusal.clone(),
        }
    }
}

fn ended_row(key: &ClaimKey, bound: &[Bound<'_>]) -> Option<ClaimRow> {
    let (_, first) = bound.first()?;
    Some(ClaimRow {
        claim: key.clone(),
        owner_name: key.owner.to_string(),
        profile: first.profile.clone(),
        count: count(bound),
        state: "releasing".to_owned(),
        reason: bound.iter().find_map(|(_, a)| a.trouble.clone()),
        slices: bound.iter().map(|(slice, _)| **slice).collect(),
        home: Vec::new(),
        pool: false,
        reserve: false,
        request: None,
        last_refusal: None,
    })
}
