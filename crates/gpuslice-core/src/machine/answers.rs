//! Lists: what is known, as rows.

use super::Machine;
use crate::ids::{ClaimKey, MdevTypeId, MdevUuid, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::{Form, Offer};
use crate::observation::{Function, Mdev, Vf};
use crate::placement;
use crate::refusal::{Code, Refusal};
use crate::request::{Answer, ClaimRow, ParentRow, ProfileRow, SliceRow, StatusRow, TypeRow};
use crate::state::{Assignment, Claim, Phase};
use std::collections::{BTreeMap, BTreeSet};

fn count<T>(items: impl IntoIterator<Item = T>) -> u32 {
    u32::try_from(items.into_iter().count()).unwrap_or(u32::MAX)
}

impl Machine {
    pub(super) fn status(&self) -> Answer {
        let waiting_for = self.waiting_for();
        let problems = self.seen.problems.iter().map(ToString::to_string);
        let quarantines = self.durable.quarantines.iter();
        let quarantines = quarantines.map(|(parent, why)| {
            format!("{parent} is quarantined: {}: {}", why.code, why.reason())
        });
        Answer::Status(StatusRow {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settled: waiting_for.is_empty(),
            waiting_for,
            writable: self.unwritten.is_empty(),
            config_errors: self.config_errors.clone(),
            parents: count(self.seen.parents().filter(|p| self.shown(p))),
            slices: count(self.slice_rows()),
            claims: count(&self.durable.claims),
            attached: count(self.run.assignments.values().filter(|a| a.phase == Phase::Attached)),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(quarantines)
                .chain(self.never_parked())
                .chain(self.unwell())
                .chain(problems)
                .chain(self.history_trouble())
                .collect(),
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
        let present = shown.chain(whole).map(|p| self.parent_row(&p));
        let absent = self.durable.expected.iter().filter(|(p, _)| !self.seen.has_parent(p)).map(
            |(parent, layout)| ParentRow {
                parent: parent.clone(),
                pci_id: String::new(),
                model: None,
                driver: None,
                mechanisms: Vec::new(),
                numa_node: None,
                serial: None,
                vfs: None,
                total_vfs: None,
                modes: BTreeMap::new(),
                layout: Some(layout.to_string()),
                state: "absent".to_owned(),
                reason: Some("it had this layout, and is not on the host now".to_owned()),
                assigned: count(self.run.assignments.values().filter(|a| a.parent == *parent)),
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

    fn parent_row(&self, parent: &ParentId) -> ParentRow {
        let function = parent
            .pci()
            .and_then(|a| self.seen.functions.get(&a).or_else(|| self.seen.whole.get(&a)));
        let sriov = function.and_then(|f| f.sriov.as_ref());
        let (state, reason) = self.parent_state(parent, function);
        let mechanisms = self.mechanisms.iter().filter(|m| m.applies(&self.seen, parent));
        ParentRow {
            parent: parent.clone(),
            pci_id: function
                .map(|f| format!("{:04x}:{:04x}", f.vendor, f.device))
                .unwrap_or_default(),
            model: function.and_then(|f| f.model).map(str::to_owned),
            driver: function.and_then(|f| f.driver.clone()),
            mechanisms: mechanisms.map(|m| m.name().to_owned()).collect(),
            numa_node: function.and_then(|f| f.numa_node),
            serial: function.and_then(|f| f.serial).map(|s| format!("{s:016x}")),
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
            layout: self.layouts.get(parent).map(ToString::to_string),
            state: state.to_owned(),
            reason,
            assigned: count(self.run.assignments.values().filter(|a| a.parent == *parent)),
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
    ) -> (&'static str, Option<String>) {
        if let Some(why) = self.durable.quarantines.get(parent) {
            let causes = why.causes.iter().map(|cause| format!(": {cause}"));
            return ("quarantined", Some(format!("{why}{}", causes.collect::<String>())));
        }
        if let Some(step) = self.run.pending.get(parent) {
            return ("reshaping", Some(step.to_string()));
        }
        if let Some(reason) = self.durable.cordons.get(parent) {
            return ("cordoned", (!reason.is_empty()).then(|| reason.clone()));
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
                        ("ok", self.kept_back(parent).or_else(|| self.lacks_parked(parent)))
                    }
                    Some(f) if f.driver.is_none() => {
                        ("waiting", Some("no driver is bound".to_owned()))
                    }
                    _ => ("waiting", None),
                }
            }
        }
    }

    /// What is kept back of a parent until its VFs are made anew.
    fn kept_back(&self, parent: &ParentId) -> Option<String> {
        let vfs = self.unusable(parent);
        let first = placement::unusable(&self.run.wedged, *vfs.first()?);
        let more = vfs.len().saturating_sub(1);
        let others = if more == 0 { String::new() } else { format!(", and {more} more") };
        Some(format!("{first}{others}; its VFs are made anew when nobody uses them"))
    }

    /// What of its layout's `park` is not so.
    fn lacks_parked(&self, parent: &ParentId) -> Option<String> {
        let layout = self.layouts.get(parent).filter(|layout| !layout.park.is_empty())?;
        let one = BTreeMap::from([(parent.clone(), layout.clone())]);
        let mut unparked = self.unparked(&one).into_iter();
        unparked.find(|(device, _)| device == parent).map(|(_, why)| why.message)
    }

    /// What of the layouts' `park` a person has to mend.
    fn never_parked(&self) -> impl Iterator<Item = String> {
        let lasting = |why: &Refusal| why.code != Code::NoCapacity;
        let unparked = self.unparked(&self.layouts).into_iter().map(|(_, why)| why);
        unparked.filter(lasting).map(|why| why.reason())
    }

    pub(super) fn list_profiles(&self) -> Answer {
        Answer::Profiles { rows: self.profile_rows() }
    }

    pub(super) fn profile_rows(&self) -> Vec<ProfileRow> {
        let mut used: BTreeMap<&ProfileName, u32> = BTreeMap::new();
        for assignment in self.run.assignments.values() {
            *used.entry(&assignment.profile).or_default() += 1;
        }
        let mut rows: BTreeMap<ProfileName, ProfileRow> = BTreeMap::new();
        let held_back = self.held_back();
        for offer in self.offers() {
            let usable = !self.durable.quarantines.contains_key(&offer.parent)
                && !self.durable.cordons.contains_key(&offer.parent);
            let free = if usable { self.free_of(&offer, &held_back) } else { 0 };
            let row = rows.entry(offer.profile.clone()).or_insert_with(|| ProfileRow {
                profile: offer.profile.clone(),
                mechanism: offer.mechanism.to_owned(),
                type_id: offer.form.type_id().cloned(),
                description: offer.description.clone(),
                memory: offer.memory,
                share: offer.max.map(|max| format!("1/{max}")),
                isolation: offer.isolation.as_str().to_owned(),
                heads: offer.heads,
                edition: offer.edition.clone(),
                max: Some(0),
                free: 0,
                used: used.get(&offer.profile).copied().unwrap_or_default(),
                parents: Vec::new(),
                pick: Vec::new(),
            });
            row.pick.extend(self.to_pick(&offer, usable, &held_back));
            row.free = row.free.saturating_add(free);
            row.max = row.max.zip(offer.max).map(|(a, b)| a.saturating_add(b));
            row.parents.push(offer.parent);
        }
        rows.into_values().collect()
    }

    pub(super) fn free_of(&self, offer: &Offer, held_back: &BTreeMap<SliceId, Refusal>) -> u32 {
        match &offer.form {
            // What is parked makes room for a start.
            Form::Mdevs { available, .. } => available.saturating_add(count(self.parked_as(offer))),
            Form::TypedVfs { left, .. } => *left,
            Form::Vfs(vfs) => count(vfs.iter().filter(|vf| self.is_free(**vf, held_back))),
        }
    }

    fn is_free(&self, address: PciAddress, held_back: &BTreeMap<SliceId, Refusal>) -> bool {
        let slice = SliceId::Vf(address);
        let given = self.run.assignments.contains_key(&slice)
            || self.run.foreign.contains_key(&slice)
            || self.held.contains_key(&slice)
            || held_back.contains_key(&slice);
        let vf = self.seen.vfs.get(&address);
        !given && vf.is_some_and(|vf| vf.driver.is_none() || vf.on_vfio())
    }

    /// What a person can pick of an offer: all that is parked, and one VF, since the others look alike.
    fn to_pick(
        &self,
        offer: &Offer,
        usable: bool,
        held_back: &BTreeMap<SliceId, Refusal>,
    ) -> Vec<SliceId> {
        let Form::Vfs(vfs) = &offer.form else { return self.parked_as(offer).collect() };
        let of_nobody = |vf: &&PciAddress| {
            let named = |claim: &Claim| !claim.orphaned && claim.home.contains(vf);
            self.is_free(**vf, held_back) && !self.durable.claims.values().any(named)
        };
        let first = vfs.iter().filter(|_| usable).find(of_nobody);
        first.map(|vf| SliceId::Vf(*vf)).into_iter().collect()
    }

    fn parked_as(&self, offer: &Offer) -> impl Iterator<Item = SliceId> {
        let of_offer = |(uuid, mdev): (&MdevUuid, &Mdev)| {
            let (parent, type_id) = (&offer.parent, offer.form.type_id());
            (uuid.is_parked() && mdev.parent == *parent && Some(&mdev.type_id) == type_id)
                .then_some(SliceId::Mdev(*uuid))
        };
        let there = self.seen.mdevs.iter().filter_map(of_offer);
        there.filter(|slice| self.is_parked(*slice)).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn list_types(&self) -> Answer {
        let rows = self.seen.mdev_parents.iter().flat_map(|(parent, device)| {
            device.types.iter().map(|(type_id, of_type)| TypeRow {
                parent: parent.clone(),
                type_id: type_id.clone(),
                name: of_type.fixed.name.clone(),
                description: of_type.fixed.description.clone(),
                device_api: of_type.fixed.device_api.clone(),
                available_instances: of_type.available,
            })
        });
        Answer::Types { rows: rows.collect() }
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
                let mechanism = match (offer, &vf.choice) {
                    (Some(offer), _) => offer.mechanism,
                    (None, Some(_)) => self.mechanism(&parent).map_or("sriov", |m| m.name()),
                    (None, None) => "sriov",
                };
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
                mechanism: "mdev".to_owned(),
                driver: None,
                iommu_group: mdev.iommu_group,
                state,
                claim,
                holder,
                dirty: None,
            }
        }));
        rows
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
            _ if self.durable.quarantines.contains_key(parent) => "quarantined",
            _ if self.is_parked(slice) => "parked",
            // An mdev nobody asked us for is somebody else's.
            (SliceId::Mdev(_), _) => "foreign",
            // So is a type nobody asked us for.
            (_, Some(Vf { choice: Some(choice), .. })) if choice.current.is_some() => "foreign",
            (_, Some(Vf { choice: Some(choice), .. })) if choice.broken => "quarantined",
            (_, Some(vf)) if vf.driver.is_some() && !vf.on_vfio() => "host",
            _ if self.durable.cordons.contains_key(parent) => "cordoned",
            _ => "free",
        };
        (state.to_owned(), None, None)
    }

    pub(super) fn list_claims(&self) -> Answer {
        let mut rows: Vec<ClaimRow> =
            self.durable.claims.iter().map(|(key, claim)| self.claim_row(key, claim)).collect();
        // A slice still on its way back after its claim ended.
        let left: BTreeSet<&ClaimKey> = self
            .run
            .assignments
            .values()
            .map(|a| &a.claim)
            .filter(|k| !self.durable.claims.contains_key(k))
            .collect();
        rows.extend(left.into_iter().filter_map(|key| self.ended_row(key)));
        Answer::Claims { rows }
    }

    fn bound(&self, key: &ClaimKey) -> impl Iterator<Item = (&SliceId, &Assignment)> {
        self.run.assignments.iter().filter(move |(_, a)| a.claim == *key)
    }

    pub(super) fn claim_row(&self, key: &ClaimKey, claim: &Claim) -> ClaimRow {
        let slices: Vec<SliceId> = self.bound(key).map(|(slice, _)| *slice).collect();
        let gone: Vec<String> = self
            .bound(key)
            .filter(|(slice, a)| a.phase != Phase::Reserved && !self.exists(**slice))
            .map(|(slice, a)| format!("{slice} left the host with {}", a.parent))
            .collect();
        let phase = self.bound(key).map(|(_, a)| a.phase.as_str()).next();
        let missing_home = claim.home.iter().find(|a| !self.seen.vfs.contains_key(a));
        let (state, reason) = match (phase, missing_home) {
            _ if !gone.is_empty() => ("lost", Some(gone.join(", "))),
            (Some(phase), _) => (phase, self.bound(key).find_map(|(_, a)| a.trouble.clone())),
            _ if claim.undefined => ("orphaned", Some("its domain is undefined".to_owned())),
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
            last_refusal: claim.last_refusal.clone(),
        }
    }

    fn ended_row(&self, key: &ClaimKey) -> Option<ClaimRow> {
        let bound: Vec<(&SliceId, &Assignment)> = self.bound(key).collect();
        let (_, first) = bound.first()?;
        Some(ClaimRow {
            claim: key.clone(),
            owner_name: key.owner.to_string(),
            profile: first.profile.clone(),
            count: count(&bound),
            state: "releasing".to_owned(),
            reason: bound.iter().find_map(|(_, a)| a.trouble.clone()),
            slices: bound.iter().map(|(slice, _)| **slice).collect(),
            home: Vec::new(),
            pool: false,
            reserve: false,
            last_refusal: None,
        })
    }
}
