//! The agent of the world: its own decisions what to write and its own order of writes, into the scripted libvirt.

use crate::domains::claim;
use crate::happening::Happening;
use crate::invariants::{Broken, slice_of};
use crate::libvirt::{Def, No, Print, Xml};
use crate::world::{State, World};
use gpuslice_core::domain::Domain;
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, SliceId};
use gpuslice_core::request::{Answer, Command};
use gpuslice_libvirt::daemon::Wanted;
use gpuslice_libvirt::link::LinkError;
use gpuslice_libvirt::writing::{self, Definition, Into, Plugs, Whole};
use gpuslice_sim::Kernel;
use std::cell::RefCell;

fn no(domain: &str, No(why): No) -> LinkError {
    LinkError::NotKept { domain: format!("{domain}: {why}") }
}

/// A persistent definition as it was read, and as it is by now.
struct Kept<'w> {
    read: Xml,
    now: RefCell<&'w mut Xml>,
}

impl<'w> Kept<'w> {
    fn new(definition: &'w mut Xml) -> Self {
        Self { read: definition.clone(), now: RefCell::new(definition) }
    }

    fn change(&self, change: impl FnOnce(&mut Def) -> Result<(), No>) -> Result<(), LinkError> {
        let mut now = self.now.borrow_mut();
        let new = now.change(Print::Inactive, change).map_err(|why| no(&self.read.name, why))?;
        **now = new;
        Ok(())
    }
}

impl Definition for Kept<'_> {
    fn name(&self) -> &str {
        &self.read.name
    }

    fn xml(&self) -> &str {
        self.read.text()
    }

    fn set_metadata(&self, element: Option<&str>) -> Result<(), LinkError> {
        self.change(|def| def.set_metadata(element, "gpuslice"))
    }

    fn put_in(&self, _: &str, hostdev: &str) -> Result<(), LinkError> {
        self.change(|def| def.attach(hostdev))
    }

    fn take_out(&self, alias: &str) -> Result<(), LinkError> {
        self.change(|def| def.detach(alias))
    }

    fn take_out_plain(&self, _: &str, hostdev: &str) -> Result<(), LinkError> {
        self.change(|def| def.detach_same(hostdev))
    }

    fn redefine(&self, edit: Whole<'_>) -> Result<(), LinkError> {
        let text =
            edit(self.now.borrow().text()).map_err(|e| LinkError::xml(&self.read.name, e))?;
        let new = Xml::defined(&text).map_err(|why| no(&self.read.name, why))?;
        **self.now.borrow_mut() = new;
        Ok(())
    }
}

/// A VM that runs, and its definition.
pub struct Runs<'w> {
    pub pid: u32,
    pub kernel: RefCell<&'w mut Kernel>,
    pub live: RefCell<&'w mut Xml>,
    pub definition: RefCell<&'w mut Xml>,
    /// What QEMU has opened.
    pub opened: RefCell<Vec<SliceId>>,
}

impl Runs<'_> {
    /// Both or neither; QEMU, if it is concerned, is asked before the definition is written.
    fn change(
        &self,
        into: Into,
        change: impl Fn(&mut Def) -> Result<(), No>,
        qemu: impl FnOnce(&mut Kernel, &Domain, &Domain) -> Result<(), No>,
    ) -> Result<(), LinkError> {
        let (mut live, mut definition) = (self.live.borrow_mut(), self.definition.borrow_mut());
        let both = || {
            let config = into.config.then(|| definition.change(Print::Inactive, &change));
            let config = config.transpose()?;
            if into.live {
                let new = live.change(Print::Live(self.pid), &change)?;
                qemu(&mut self.kernel.borrow_mut(), live.read(), new.read())?;
                **live = new;
            }
            if let Some(config) = config {
                **definition = config;
            }
            Ok(())
        };
        let done = both();
        done.map_err(|why| no(&live.name, why))
    }
}

impl Plugs for Runs<'_> {
    fn set_metadata(&self, element: Option<&str>, into: Into) -> Result<(), LinkError> {
        self.change(into, |def| def.set_metadata(element, "gpuslice"), |_, _, _| Ok(()))
    }

    fn plug(&self, _: &str, hostdev: &str, into: Into) -> Result<(), LinkError> {
        self.change(
            into,
            |def| def.attach(hostdev),
            |kernel, _, new| {
                let slice = slice_of(new.devices.last().unwrap());
                kernel.open(self.pid, "qemu", slice).map_err(|_| No("QEMU cannot open it"))?;
                self.opened.borrow_mut().push(slice);
                Ok(())
            },
        )
    }

    /// The guest lets go at once.
    fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError> {
        self.change(
            from,
            |def| def.detach(alias),
            |kernel, before, _| {
                let of = before.devices.iter().find(|d| d.alias.as_deref() == Some(alias));
                let slice = slice_of(of.unwrap());
                kernel.close(self.pid, slice);
                self.opened.borrow_mut().retain(|opened| *opened != slice);
                Ok(())
            },
        )
    }
}

impl World {
    fn written(&mut self, vm: u8) -> Kept<'_> {
        Kept::new(&mut self.guests.get_mut(&vm).unwrap().definition)
    }

    /// libvirt gives a definition to nobody while it starts or stops a domain.
    fn can_be_written(&self, vm: u8) -> bool {
        matches!(self.guests[&vm].state, State::Off | State::Running(_))
    }

    pub fn attach(
        &mut self,
        vm: u8,
        name: &ClaimName,
        profile: &str,
        count: u32,
        (pool, reserve): (bool, bool),
    ) -> Result<(), Broken> {
        let domain = self.guests[&vm].definition.read().clone();
        let request = claim(name, profile, count);
        let outcome = self.order(Command::Claim {
            owner: Owner::Domain(domain.uuid),
            owner_name: domain.name,
            request: request.clone(),
            pool: Some(pool),
            reserve: Some(reserve),
            dry_run: false,
        })?;
        let Some(Ok(Answer::Claimed { devices, .. })) = outcome else { return Ok(()) };
        if !self.can_be_written(vm) {
            return Ok(());
        }
        taken(writing::put(&self.written(vm), &request, &devices))?;
        Ok(())
    }

    pub fn detach(&mut self, vm: u8, name: &ClaimName, force: bool) -> Result<(), Broken> {
        let owner = Owner::Domain(self.guests[&vm].definition.uuid);
        let key = ClaimKey { owner, name: name.clone() };
        let outcome = self.order(Command::Unclaim { key, force })?;
        if matches!(outcome, Some(Ok(_))) && self.can_be_written(vm) {
            self.take_out(vm, name)?;
        }
        Ok(())
    }

    /// Takes a claim out of the definition.
    pub fn take_out(&mut self, vm: u8, name: &ClaimName) -> Result<(), Broken> {
        taken(writing::take_out(&self.written(vm), name)).map(drop)
    }

    /// The agent looks, and once more when it has written. A device that was made ready meanwhile has other slices to write.
    pub fn seen(&mut self, vm: u8) -> Result<(), Broken> {
        let steps = self.driver.executed;
        let wrote = self.seen_once(vm, None)?;
        let same = self.driver.executed == steps;
        if wrote && self.seen_once(vm, None)? && (same || self.seen_once(vm, None)?) {
            let definition = self.guests[&vm].definition.text();
            return Err(Broken::new("what_the_agent_writes_is_as_it_was_to_be", definition));
        }
        Ok(())
    }

    /// A person writes between the agent's question and what it writes.
    pub fn seen_meanwhile(&mut self, vm: u8, edit: &Happening) -> Result<(), Broken> {
        self.seen_once(vm, Some(edit)).map(drop)
    }

    fn seen_once(&mut self, vm: u8, meanwhile: Option<&Happening>) -> Result<bool, Broken> {
        let guest = &self.guests[&vm];
        let (domain, shut_off) = (guest.definition.read().clone(), guest.state == State::Off);
        let live = guest.live.as_ref().filter(|_| matches!(guest.state, State::Running(_)));
        if let Some(live) = live {
            let domain = live.read().clone();
            self.order(Command::DomainRuns { domain })?;
        }
        let outcome = self.order(Command::DomainSeen { domain, shut_off })?;
        let Some(Ok(Answer::Domain { devices, adopted, refused })) = outcome else {
            return Ok(false);
        };
        if !shut_off {
            return Ok(false);
        }
        let wanted = Wanted { devices, adopted, refused };
        let Some(edit) = meanwhile else {
            let made = writing::complete(&self.written(vm), wanted);
            return taken(made).map(|made| !made.is_empty());
        };
        self.act(edit)?;
        let before = self.guests[&vm].definition.clone();
        match writing::complete(&self.written(vm), wanted) {
            Ok(made) => Ok(!made.is_empty()),
            // What a person has put in may be in the way of what was to be written before.
            Err(_) if self.guests[&vm].definition.same(&before) => Ok(false),
            Err(error) => Err(Broken::new("what_fails_is_taken_back", error.to_string())),
        }
    }
}

/// Nothing here keeps libvirt from taking what the agent writes.
fn taken<T>(written: Result<T, LinkError>) -> Result<T, Broken> {
    written.map_err(|error| Broken::new("libvirt_takes_what_the_agent_writes", error.to_string()))
}
