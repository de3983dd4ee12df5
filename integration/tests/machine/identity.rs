//! What people do to domains besides starting them: renames, snapshots, saved images, definitions that come and go, and
//! edits of XML by hand. libvirt tells the hook and the agent of it as it does of all else.

use crate::domains::claim;
use crate::happening::Happening as H;
use crate::invariants::Broken;
use crate::world::{State, World};
use gpuslice_core::domain::{Domain, HostDeviceSource};
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use std::collections::BTreeMap;

/// XML of a domain that is somewhere else than in its definition.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Of an image that it was saved to.
    image: Option<Domain>,
    /// Of a snapshot.
    snapshot: Option<Domain>,
    /// What it was when it was undefined.
    pub definition: Option<Domain>,
}

impl World {
    pub fn happen_identity(&mut self, what: &H) -> Result<(), Broken> {
        match what.clone() {
            H::Rename { vm } => self.edit(vm, |domain| {
                domain.name = match domain.name.strip_suffix("-new") {
                    Some(old) => old.to_owned(),
                    None => format!("{}-new", domain.name),
                };
            }),
            H::Define { vm } => {
                let shut_off = self.guests[&vm].state == State::Off;
                if let Some(domain) = self.kept(vm).definition.take().filter(|_| shut_off) {
                    self.edit(vm, |now| *now = domain.clone());
                    return self.seen(vm);
                }
            }
            H::Snapshot { vm } => {
                let domain = self.guests[&vm].domain.clone();
                self.kept(vm).snapshot = Some(domain);
            }
            H::Revert { vm } => {
                if let Some(domain) = self.kept(vm).snapshot.clone() {
                    self.edit(vm, |now| *now = domain.clone());
                }
            }
            H::Save { vm } => {
                if let State::Running(_) = self.guests[&vm].state {
                    let domain = self.guests[&vm].domain.clone();
                    self.kept(vm).image = Some(domain);
                    self.stop(vm, false);
                }
            }
            H::Restore { vm } => return self.restore(vm),
            H::MigrateAway { vm } => {
                if let State::Running(_) = self.guests[&vm].state {
                    self.stop(vm, false);
                    self.guests.get_mut(&vm).unwrap().state = State::Left;
                }
            }
            H::HostdevGone { vm } => {
                self.edit(vm, |domain| domain.devices.retain(|d| d.our_claim().is_none()));
            }
            H::HostdevMoved { vm, vf } => self.edit(vm, |domain| {
                let source = HostDeviceSource::Pci(vf);
                // libvirt refuses a domain with one device twice.
                let twice = domain.devices.iter().any(|d| d.source == source);
                let mut ours = domain.devices.iter_mut().filter(|d| d.our_claim().is_some());
                if let Some(device) = ours.next().filter(|_| !twice) {
                    device.source = source;
                }
            }),
            H::Managed { vm } => {
                self.edit(vm, |domain| domain.devices.iter_mut().for_each(|d| d.managed = true));
            }
            H::NotManaged { vm } => {
                self.edit(vm, |domain| domain.devices.iter_mut().for_each(|d| d.managed = false));
            }
            H::MetadataGone { vm } => self.edit(vm, |domain| domain.claims.clear()),
            H::MetadataAlone { vm, name, profile, count } => self.edit(vm, |domain| {
                domain.claims.retain(|c| c.name != name);
                domain.claims.push(claim(&name, &profile, count));
            }),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn kept(&mut self, vm: u8) -> &mut Kept {
        &mut self.guests.get_mut(&vm).unwrap().kept
    }

    /// The definition of a domain that does not run.
    fn edit(&mut self, vm: u8, edit: impl FnOnce(&mut Domain)) {
        let guest = self.guests.get_mut(&vm).unwrap();
        if guest.state == State::Off {
            edit(&mut guest.domain);
        }
    }

    /// `virsh restore`, or the start of a domain that has a saved image: the hook is shown the image's XML, and what it
    /// answers is what starts.
    fn restore(&mut self, vm: u8) -> Result<(), Broken> {
        if !self.libvirt_up || self.guests[&vm].state != State::Off {
            return Ok(());
        }
        let Some(image) = self.guests[&vm].kept.image.clone() else { return Ok(()) };
        let call = HookCall { operation: HookOperation::Restore, domain: image.clone() };
        let request = self.driver.hook(call);
        self.driver.drain()?;
        let edits = match self.driver.told.remove(&request) {
            Some(HookAnswer::Proceed) => BTreeMap::new(),
            Some(HookAnswer::Remap(edits)) => edits,
            Some(HookAnswer::Refuse(refusal)) => {
                *self.refusals.entry(refusal.code).or_default() += 1;
                return Ok(());
            }
            // It waits for what may never come; the hook's patience ends.
            None => {
                self.driver.hook_gone(request);
                return self.driver.drain();
            }
        };
        self.kept(vm).image = None;
        self.edit(vm, |domain| *domain = with_edits(image, &edits));
        self.start(vm);
        Ok(())
    }
}

/// Whether libvirt waits for what the hook says, and does not go on when it is refused.
pub fn may_be_refused(operation: HookOperation) -> bool {
    matches!(operation, HookOperation::Prepare | HookOperation::Migrate | HookOperation::Restore)
}

fn with_edits(mut domain: Domain, edits: &BTreeMap<PciAddress, PciAddress>) -> Domain {
    for device in &mut domain.devices {
        if let HostDeviceSource::Pci(address) = &mut device.source
            && let Some(new) = edits.get(address)
        {
            *address = *new;
        }
    }
    domain
}
