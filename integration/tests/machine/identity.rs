//! What people do to domains besides starting them: renames, snapshots, saved images, definitions that come and go, and
//! edits of XML by hand. libvirt tells the hook and the agent of it as it does of all else.

use crate::calls;
use crate::domains::claim;
use crate::happening::Happening as H;
use crate::invariants::Broken;
use crate::libvirt::{Print, Xml};
use crate::people;
use crate::world::{State, World};
use gpuslice_core::machine::HookOperation;
use gpuslice_hook_proto::Operation;
use gpuslice_qemu_hook::verdict::Verdict;

/// XML of a domain that is somewhere else than in its definition.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Of an image that it was saved to.
    image: Option<Xml>,
    /// Of a snapshot.
    snapshot: Option<Xml>,
    /// What it was when it was undefined.
    pub definition: Option<Xml>,
}

impl World {
    pub fn happen_identity(&mut self, what: &H) -> Result<(), Broken> {
        match what.clone() {
            H::Rename { vm } => self.edit(vm, |xml| Xml::defined(&people::renamed(xml.text()))),
            H::Define { vm } => {
                let shut_off = self.guests[&vm].state == State::Off;
                if let Some(xml) = self.kept(vm).definition.take().filter(|_| shut_off) {
                    self.edit(vm, |_| Xml::defined(xml.text()));
                    return self.seen(vm);
                }
            }
            H::Snapshot { vm } => {
                let definition = self.guests[&vm].definition.clone();
                self.kept(vm).snapshot = Some(definition);
            }
            H::Revert { vm } => {
                if let Some(xml) = self.kept(vm).snapshot.clone() {
                    self.edit(vm, |_| Ok(xml));
                }
            }
            H::Save { vm } => {
                if let State::Running(_) = self.guests[&vm].state {
                    let image = self.guests[&vm].domain().image();
                    self.kept(vm).image = Some(image);
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
                self.edit(vm, |xml| Xml::defined(&people::without_hostdevs(xml.text())));
            }
            // libvirt refuses a domain with one device twice.
            H::HostdevMoved { vm, vf } => {
                self.edit(vm, |xml| Xml::defined(&people::moved(xml.text(), vf)));
            }
            H::Managed { vm } => {
                self.edit(vm, |xml| Xml::defined(&people::managed(xml.text(), true)));
            }
            H::NotManaged { vm } => {
                self.edit(vm, |xml| Xml::defined(&people::managed(xml.text(), false)));
            }
            H::MetadataGone { vm } => {
                self.edit(vm, |xml| Xml::defined(&people::without_metadata(xml.text())));
            }
            H::MetadataAlone { vm, name, profile, count } => self.edit(vm, |xml| {
                let mut claims = xml.claims.clone();
                claims.retain(|c| c.name != name);
                claims.push(claim(&name, &profile, count));
                let element = people::claims_written(&claims);
                // virsh metadata --key gpus
                let new =
                    xml.change(Print::Inactive, |d| d.set_metadata(Some(&element), "gpus"))?;
                assert_eq!(new.claims, claims);
                Ok(new)
            }),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn kept(&mut self, vm: u8) -> &mut Kept {
        &mut self.guests.get_mut(&vm).unwrap().kept
    }

    /// `virsh restore`, or the start of a domain that has a saved image: the hook is shown the image's XML, and what it
    /// answers is what starts.
    fn restore(&mut self, vm: u8) -> Result<(), Broken> {
        if !self.libvirt_up || self.guests[&vm].state != State::Off {
            return Ok(());
        }
        let Some(image) = self.guests[&vm].kept.image.clone() else { return Ok(()) };
        let request = self.ask(calls::told(Operation::Restore, "-", &image));
        self.driver.drain()?;
        let Some(answer) = self.driver.told.remove(&request) else {
            // It waits for what may never come; the hook's patience ends.
            self.driver.hook_gone(request);
            return self.driver.drain();
        };
        let image = match calls::heeded(Operation::Restore, &image, answer) {
            Verdict::Pass => image,
            Verdict::Edited(text) => match image.instead(&text) {
                Ok(instead) => instead,
                Err(why) => {
                    return Err(Broken::new("libvirt_takes_the_hook_s_xml", format!("{why:?}")));
                }
            },
            Verdict::Refused(refusal) => {
                *self.refusals.entry(refusal.code).or_default() += 1;
                return Ok(());
            }
        };
        self.kept(vm).image = None;
        self.begin(vm, &image);
        Ok(())
    }
}

/// Whether libvirt waits for what the hook says, and does not go on when it is refused.
pub fn may_be_refused(operation: HookOperation) -> bool {
    matches!(operation, HookOperation::Prepare | HookOperation::Migrate | HookOperation::Restore)
}
