//! The end of a run: all VMs stop, faults are mended, time passes. Then nothing may be left over.

use crate::happening::Happening;
use crate::invariants::{Broken, vfs_of};
use crate::tools::follow;
use crate::world::{State, VMS, World};
use gpuslice_core::ids::{ClaimName, MdevUuid, Owner, PciAddress, SliceId};
use gpuslice_core::port::{HostRead, link_name, read_text};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_sim::{Noise, Pace};
use std::collections::BTreeSet;

/// Longer than any timer of the machine.
const LONG: u64 = 1_300_000;

impl World {
    /// Brings the run to its end and checks what must hold there.
    pub fn finish(&mut self) -> Result<(), Broken> {
        self.quiesce()?;
        self.drivers_that_tools_left()?;
        self.settled_or_quarantined_with_a_reason()?;
        self.apply_again()?;
        // What was quarantined for its layout says only now that it has no driver.
        self.drivers_that_tools_left()?;
        self.settled(&[])?;
        self.definitions_say_what_the_daemon_says()?;
        self.nothing_leaked_after_reconcile()?;
        self.second_plan_is_empty()?;
        self.what_was_refused_starts_now()
    }

    fn quiesce(&mut self) -> Result<(), Broken> {
        self.driver.dies_after = None;
        self.driver.disk.mend();
        self.driver.deaf = false;
        self.driver.kernel.clear_faults();
        self.driver.kernel.set_noise(Noise::default());
        self.driver.kernel.set_pace(Pace::Whole);
        self.driver.kernel.settle();
        self.happen(&Happening::Lazy { on: false })?;
        self.driver.wake_up()?;
        self.happen(&Happening::LibvirtUp { tells: true })?;
        for _ in 0..40 {
            for vm in 0..VMS {
                self.happen(&Happening::Stop { vm, linger: false })?;
                self.happen(&Happening::Next { vm })?;
            }
            self.happen(&Happening::Gone)?;
            self.happen(&Happening::ForeignClose)?;
            self.driver.advance(500)?;
        }
        // A start that waits for a slice nobody may touch: its hook's patience ends.
        for vm in 0..VMS {
            self.happen(&Happening::HookDies { vm })?;
            self.happen(&Happening::Next { vm })?;
        }
        if let Some((vm, guest)) = self.guests.iter().find(|(_, g)| g.state != State::Off) {
            return Err(Broken::new("every_start_is_answered", format!("{vm}: {:?}", guest.state)));
        }
        for address in &self.place.functions {
            self.driver.kernel.plug(*address);
        }
        self.driver.advance(LONG)
    }

    /// That a tool of ours had taken a GPU off its driver stood in a record that may be lost, and of a person's tool nothing is
    /// known. A person does what the GPU's row says.
    fn drivers_that_tools_left(&mut self) -> Result<(), Broken> {
        let Some(Ok(Answer::Status(status))) = self.order(Command::Status)? else { return Ok(()) };
        let lost = |warning: &String| warning.contains("in this boot is lost");
        if !self.persons_tool_failed && !status.warnings.iter().any(lost) {
            return Ok(());
        }
        let Some(Ok(Answer::Parents { rows })) = self.order(Command::ListParents)? else {
            return Ok(());
        };
        for row in rows {
            let said = row.reason.unwrap_or_default();
            if said.contains("drivers_probe") {
                follow(&mut self.driver, &said);
            }
        }
        self.driver.wake_up()?;
        self.driver.advance(LONG)
    }

    fn settled_or_quarantined_with_a_reason(&mut self) -> Result<(), Broken> {
        let rule = "settled_or_quarantined_with_a_reason";
        let broken = |how: String| Err(Broken::new(rule, how));
        let by_hand = self.place.by_load.clone();
        self.settled(&by_hand)?;
        let durable = self.driver.machine.durable();
        for (parent, why) in &durable.quarantines {
            if why.hint.is_none() || why.message.is_empty() {
                return broken(format!("{parent}: {why:?}"));
            }
        }
        let run = self.driver.machine.runtime();
        for (slice, assignment) in &run.assignments {
            let excused = self.quarantined(&assignment.parent) && assignment.trouble.is_some();
            if !excused {
                return broken(format!("{slice} is left: {assignment:?}"));
            }
        }
        if let Some((parent, step)) = run.pending.iter().find(|(p, _)| !self.quarantined(p)) {
            return broken(format!("{parent}: {step} is pending"));
        }
        if let Some((slice, hold)) = run.foreign.iter().next() {
            return broken(format!("{slice} is still noted as held: {hold:?}"));
        }
        if let Some(under) = self.driver.under.first() {
            return broken(format!("{under:?} is still under way"));
        }
        Ok(())
    }

    /// But for those whose driver a person has to load anew.
    fn settled(&mut self, but: &[PciAddress]) -> Result<(), Broken> {
        let broken = |how: String| Err(Broken::new("settled", how));
        let Some(Ok(Answer::Status(status))) = self.order(Command::Status)? else {
            return broken("no status".to_owned());
        };
        let excused =
            |waits: &String| but.iter().any(|address| waits.starts_with(&address.to_string()));
        let settled = status.settled
            || !status.waiting_for.is_empty() && status.waiting_for.iter().all(excused);
        if settled && status.writable { Ok(()) } else { broken(format!("{status:?}")) }
    }

    /// A card's quarantine covers its VFs.
    fn quarantined(&self, parent: &gpuslice_core::ids::ParentId) -> bool {
        let durable = self.driver.machine.durable();
        let seen = self.driver.machine.observation();
        let pf = parent.pci().and_then(|a| seen.vfs.get(&a)).map(|vf| vf.pf);
        durable.quarantines.contains_key(parent)
            || pf.is_some_and(|pf| {
                durable.quarantines.contains_key(&gpuslice_core::ids::ParentId::Pci(pf))
            })
    }

    /// A person mends what is left: others' devices go, cordons and quarantines are lifted, the layout is applied.
    fn apply_again(&mut self) -> Result<(), Broken> {
        for slice in self.driver.foreign_mdevs.clone() {
            if let SliceId::Mdev(uuid) = slice {
                self.happen(&Happening::ForeignMdevGone { uuid })?;
            }
        }
        let durable = self.driver.machine.durable();
        let kept: Vec<_> =
            durable.cordons.keys().chain(durable.quarantines.keys()).cloned().collect();
        for parent in kept {
            let outcome = self.order(Command::Uncordon { parent: parent.clone() })?;
            if !matches!(outcome, Some(Ok(_))) {
                return Err(Broken::new("uncordon_works", format!("{parent}: {outcome:?}")));
            }
        }
        self.driver.advance(LONG)?;
        if self.place.cannot_be(&self.driver.config) {
            self.place.config(0).clone_into(&mut self.driver.config);
        }
        // The reading that comes with the order may tell what a reconcile mends by itself; VFs that a driver of the host has
        // are a person's to give.
        let (mut reshaped, mut given) = (false, BTreeSet::new());
        loop {
            let request = self.driver.command(Command::Apply);
            self.driver.advance(LONG)?;
            match self.driver.answers.remove(&request) {
                Some(Ok(Answer::Plan(_))) => return Ok(()),
                Some(Err(Refusal { code: Code::Reshaping, .. })) if !reshaped => reshaped = true,
                Some(Err(Refusal { code: Code::HostDriver, hint: Some(way), .. }))
                    if way.contains("unbind") && given.insert(way.clone()) =>
                {
                    follow(&mut self.driver, &way);
                }
                other => {
                    return Err(Broken::new("apply_works_when_nothing_runs", format!("{other:?}")));
                }
            }
        }
    }

    /// The agent has looked at all: what is claimed is asked for, and no device of ours is without its claim.
    fn definitions_say_what_the_daemon_says(&mut self) -> Result<(), Broken> {
        let broken = |how: String| Err(Broken::new("definitions_say_what_the_daemon_says", how));
        for vm in 0..VMS {
            self.happen(&Happening::Seen { vm })?;
            let domain = self.guests[&vm].definition.read();
            let asks = |name: &ClaimName| domain.claims.iter().any(|claim| claim.name == *name);
            let durable = self.driver.machine.durable().claims.iter();
            let mut own =
                durable.filter(|(key, c)| key.owner == Owner::Domain(domain.uuid) && !c.orphaned);
            if let Some((key, claim)) = own.find(|(key, _)| !asks(&key.name)) {
                return broken(format!("{key} is in no XML: {claim:?}"));
            }
            let mut ours = domain.devices.iter().filter_map(|d| d.our_claim());
            if let Some((name, _)) = ours.find(|(name, _)| !asks(name)) {
                return broken(format!("vm{vm} has a device of {name}, and no claim"));
            }
        }
        Ok(())
    }

    fn nothing_leaked_after_reconcile(&mut self) -> Result<(), Broken> {
        let broken = |how: String| Err(Broken::new("nothing_leaked_after_reconcile", how));
        let (durable, run) = (self.driver.machine.durable(), self.driver.machine.runtime());
        if let Some((slice, assignment)) = run.assignments.iter().next() {
            return broken(format!("{slice}: {assignment:?}"));
        }
        if self.driver.disk.durable() != *durable
            || self.driver.disk.runtime().as_ref() != Some(run)
        {
            return broken("the disk says otherwise".to_owned());
        }
        if let Some((key, _)) =
            durable.claims.iter().find(|(_, c)| c.transient || c.orphaned && !c.undefined)
        {
            return broken(format!("claim {key} outlived its owner"));
        }
        let kernel = &self.driver.kernel;
        let parks = self.driver.config.contains("park");
        let names = kernel.list("/sys/bus/mdev/devices").unwrap_or_default();
        let parked = |name: &&String| parks && name.parse().is_ok_and(MdevUuid::is_parked);
        if let Some(uuid) = names.iter().find(|name| !parked(name)) {
            return broken(format!("mdev {uuid}"));
        }
        for vf in kernel.pfs().into_iter().flat_map(|pf| vfs_of(kernel, pf)) {
            let dir = format!("/sys/bus/pci/devices/{vf}");
            let driver = link_name(kernel, &format!("{dir}/driver")).unwrap();
            let set = read_text(kernel, &format!("{dir}/driver_override")).unwrap();
            let bound = driver.as_deref() == Some("vfio-pci") || set == "vfio-pci";
            let meant = self.bound_from_the_start || self.by_hand.contains(&vf);
            let typed = read_text(kernel, &format!("{dir}/nvidia/current_vgpu_type"));
            if typed.as_ref().is_ok_and(|now| now != "0") {
                return broken(format!("{vf} has type {typed:?}"));
            }
            if bound && !meant {
                return broken(format!("{vf} is bound to {driver:?}, override {set}"));
            }
        }
        Ok(())
    }

    fn second_plan_is_empty(&mut self) -> Result<(), Broken> {
        let rule = "second_plan_is_empty";
        match self.order(Command::Plan)? {
            Some(Ok(Answer::Plan(plan))) if !plan.changed && plan.blockers.is_empty() => {}
            other => return Err(Broken::new(rule, format!("{other:?}"))),
        }
        let before = (self.driver.executed, self.driver.disk.durable());
        self.driver.restart()?;
        self.driver.advance(LONG)?;
        if (self.driver.executed, self.driver.disk.durable()) == before {
            return Ok(());
        }
        Err(Broken::new(rule, "a daemon that starts anew does something"))
    }

    /// Every profile said to be free can be had, and is free again after.
    fn what_was_refused_starts_now(&mut self) -> Result<(), Broken> {
        let rule = "what_was_refused_starts_now";
        for vm in 0..VMS {
            self.happen(&Happening::Undefine { vm })?;
        }
        let Some(Ok(Answer::Profiles { rows })) = self.order(Command::ListProfiles)? else {
            return Err(Broken::new(rule, "no profiles"));
        };
        let name: ClaimName = "last".parse().unwrap();
        for row in rows.iter().filter(|row| row.free > 0) {
            let profile = row.profile.to_string();
            let begin = if row.mechanism == "mdev" {
                Happening::Declare { vm: 0, name: name.clone(), profile: profile.clone(), count: 1 }
            } else {
                let (pool, reserve) = (false, false);
                let (name, profile) = (name.clone(), profile.clone());
                Happening::Attach { vm: 0, name, profile, count: 1, pool, reserve }
            };
            self.happen(&begin)?;
            self.happen(&Happening::Start { vm: 0 })?;
            self.driver.advance(1000)?;
            self.refusals.clear();
            self.happen(&Happening::Next { vm: 0 })?;
            self.happen(&Happening::Next { vm: 0 })?;
            let state = self.guests[&0].state;
            if !matches!(state, State::Running(_)) {
                let how = format!("{profile}: {state:?}, refused {:?}", self.refusals);
                return Err(Broken::new(rule, how));
            }
            // One that ended at once could leave a VF that is kept back.
            self.driver.advance(20_000)?;
            self.happen(&Happening::Stop { vm: 0, linger: false })?;
            self.happen(&Happening::Next { vm: 0 })?;
            self.driver.advance(60_000)?;
            self.happen(&Happening::Undefine { vm: 0 })?;
            let again: Option<Outcome> = self.order(Command::ListProfiles)?;
            let free = match &again {
                Some(Ok(Answer::Profiles { rows })) => {
                    rows.iter().find(|r| r.profile == row.profile).map(|r| r.free)
                }
                _ => None,
            };
            if free != Some(row.free) {
                return Err(Broken::new(rule, format!("{profile}: {free:?} of {} back", row.free)));
            }
        }
        Ok(())
    }
}
