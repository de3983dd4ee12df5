//! Each thing that people do to a VM with a slice, with each form of slice: the right owner has it, nobody else ever, a
//! refusal has the right code, the next start works, and `gpuslice claims` tells the truth.

use crate::directed::{self, after, all, stop};
use crate::happening::Happening as H;
use crate::invariants::{slice_of, vfs_of};
use crate::world::{State, World};
use gpuslice_core::domain::{HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::ids::{ClaimName, MdevUuid, Owner, PciAddress, SliceId};
use gpuslice_core::port::HostRead;
use gpuslice_core::request::{Answer, ClaimRow, Command};
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Mdev,
    Vf,
    /// A VF that takes a type.
    Typed,
}

const FORMS: [Form; 3] = [Form::Mdev, Form::Vf, Form::Typed];
const VFS: [Form; 2] = [Form::Vf, Form::Typed];

fn off_and_running() -> impl Iterator<Item = (Form, bool)> {
    FORMS.into_iter().flat_map(|form| [(form, false), (form, true)])
}

impl Form {
    fn profile(self) -> String {
        match self {
            Self::Mdev => "nvidia-a40-4q",
            Self::Vf => "amd-74a1-vf8",
            Self::Typed => "nvidia-l40s-4q",
        }
        .to_owned()
    }

    fn vfs(self, world: &World) -> Vec<PciAddress> {
        let card = match self {
            Self::Mdev => return Vec::new(),
            Self::Vf => "0000:0c:00.0",
            Self::Typed => "0000:c1:00.0",
        };
        vfs_of(&world.driver.kernel, card.parse().unwrap())
    }

    fn attach(self, vm: u8, count: u32, pool: bool) -> H {
        H::Attach { vm, name: name(), profile: self.profile(), count, pool, reserve: false }
    }

    /// `virsh metadata`, without a device.
    fn alone(self, vm: u8) -> H {
        H::MetadataAlone { vm, name: name(), profile: self.profile(), count: 1 }
    }

    /// The first VM has a claim.
    fn claimed(self) -> World {
        after(&[self.attach(0, 1, false)])
    }
}

fn name() -> ClaimName {
    "gpu0".parse().unwrap()
}

fn devices(world: &World, vm: u8) -> BTreeSet<SliceId> {
    world.guests[&vm].domain().devices.iter().map(slice_of).collect()
}

fn rows(world: &mut World) -> Vec<ClaimRow> {
    match world.order(Command::ListClaims).unwrap() {
        Some(Ok(Answer::Claims { rows })) => rows,
        other => panic!("{other:?}"),
    }
}

/// Each claim is told as it is: whose, and what its VM has open.
fn told_truly(world: &mut World) {
    for row in rows(world) {
        let Owner::Domain(uuid) = row.claim.owner else { panic!("{row:?}") };
        let guest = world.guests.values().find(|guest| guest.domain().uuid == uuid).unwrap();
        let (pid, domain) = match guest.state {
            State::Running(pid) => (pid, guest.domain()),
            _ => {
                assert_eq!(row.slices, [], "{row:?}");
                continue;
            }
        };
        let of_claim = |d: &&HostDevice| d.our_claim().is_some_and(|(n, _)| n == row.claim.name);
        let open: BTreeSet<SliceId> =
            domain.devices.iter().filter(of_claim).map(slice_of).collect();
        assert_eq!(row.state, "attached", "{row:?}");
        assert_eq!(row.owner_name, domain.name);
        assert_eq!(row.slices.iter().copied().collect::<BTreeSet<_>>(), open, "{row:?}");
        for slice in open {
            assert_eq!(world.driver.kernel.holders(slice), [pid], "{slice}");
        }
    }
}

#[track_caller]
fn starts(world: &mut World, vm: u8) {
    goes_on(world, vm, H::Start { vm });
}

/// A start, of whatever kind, until the VM runs.
#[track_caller]
fn goes_on(world: &mut World, vm: u8, begin: H) {
    world.refusals.clear();
    all(world, &[begin, H::Next { vm }, H::Next { vm }]);
    let state = world.guests[&vm].state;
    assert!(matches!(state, State::Running(_)), "{state:?}: {:?}", world.refusals);
    told_truly(world);
}

#[track_caller]
fn refused(world: &mut World, vm: u8, code: &str) {
    directed::refused(world, vm, code);
    told_truly(world);
}

/// After long enough that its slice is not taken for wedged.
fn ends(world: &mut World, vm: u8) {
    all(world, &[H::Advance { ms: 20_000 }]);
    all(world, &stop(vm));
    told_truly(world);
}

#[test]
fn a_rename_changes_nothing_but_the_name() {
    for form in FORMS {
        let mut world = form.claimed();
        let had = devices(&world, 0);
        all(&mut world, &[H::Rename { vm: 0 }, H::Seen { vm: 0 }]);
        assert_eq!(rows(&mut world)[0].owner_name, "vm0-new");
        starts(&mut world, 0);
        assert_eq!(devices(&world, 0), had);
        world.finish().unwrap();
    }
}

/// virt-clone, and a definition from another domain's dumpxml.
#[test]
fn a_copy_is_refused_until_it_has_a_device_of_its_own() {
    for form in FORMS {
        for original_runs in [false, true] {
            let mut world = form.claimed();
            if original_runs {
                starts(&mut world, 0);
            }
            all(&mut world, &[H::Clone { from: 0, to: 1 }]);
            refused(&mut world, 1, "claim-copied");
            all(&mut world, &[H::Seen { vm: 1 }]);
            starts(&mut world, 1);
            assert!(devices(&world, 0).is_disjoint(&devices(&world, 1)));
            if !original_runs {
                starts(&mut world, 0);
            }
            world.finish().unwrap();
        }
    }
}

#[test]
fn a_snapshot_without_the_claim_ends_it() {
    for form in FORMS {
        let mut world = after(&[H::Snapshot { vm: 0 }, form.attach(0, 1, false)]);
        starts(&mut world, 0);
        ends(&mut world, 0);
        all(&mut world, &[H::Revert { vm: 0 }, H::Seen { vm: 0 }]);
        assert_eq!(rows(&mut world), []);
        starts(&mut world, 0);
        world.finish().unwrap();
    }
}

#[test]
fn a_snapshot_with_a_claim_that_ended_has_it_again_and_nobody_elses_device() {
    for form in FORMS {
        let mut world = form.claimed();
        let end = H::Detach { vm: 0, name: name(), force: false };
        all(&mut world, &[H::Snapshot { vm: 0 }, end, form.attach(1, 1, false)]);
        all(&mut world, &[H::Revert { vm: 0 }]);
        if form != Form::Mdev {
            assert_eq!(devices(&world, 0), devices(&world, 1));
            refused(&mut world, 0, "claim-copied");
        }
        all(&mut world, &[H::Seen { vm: 0 }]);
        starts(&mut world, 1);
        starts(&mut world, 0);
        assert!(devices(&world, 0).is_disjoint(&devices(&world, 1)));
        world.finish().unwrap();
    }
}

#[test]
fn a_running_one_that_is_reverted_has_its_device_again() {
    for form in FORMS {
        let mut world = form.claimed();
        starts(&mut world, 0);
        all(&mut world, &[H::Snapshot { vm: 0 }]);
        let had = devices(&world, 0);
        ends(&mut world, 0);
        all(&mut world, &[H::Revert { vm: 0 }]);
        starts(&mut world, 0);
        assert_eq!(devices(&world, 0), had);
        world.finish().unwrap();
    }
}

/// A world in which the first VM is saved.
fn saved(form: Form) -> World {
    let mut world = form.claimed();
    starts(&mut world, 0);
    all(&mut world, &[H::Advance { ms: 20_000 }, H::Save { vm: 0 }, H::Next { vm: 0 }]);
    all(&mut world, &[H::Advance { ms: 10_001 }]);
    told_truly(&mut world);
    world
}

#[test]
fn a_saved_one_goes_on_with_its_device() {
    for form in FORMS {
        let mut world = saved(form);
        let had = devices(&world, 0);
        goes_on(&mut world, 0, H::Restore { vm: 0 });
        assert_eq!(devices(&world, 0), had);
        world.finish().unwrap();
    }
}

#[test]
fn a_saved_one_whose_vf_is_anothers_gets_another_or_is_refused() {
    for form in VFS {
        let mut world = saved(form);
        let had = devices(&world, 0);
        let others = u32::try_from(form.vfs(&world).len()).unwrap() - 1;
        all(&mut world, &[H::Undefine { vm: 0 }, form.attach(1, others, false)]);
        all(&mut world, &[form.attach(2, 1, false)]);
        assert_eq!(devices(&world, 2), had);
        world.refusals.clear();
        all(&mut world, &[H::Restore { vm: 0 }]);
        let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
        assert_eq!((world.guests[&0].state, codes), (State::Off, vec!["no-capacity"]));
        all(&mut world, &[H::Detach { vm: 1, name: name(), force: false }]);
        goes_on(&mut world, 0, H::Restore { vm: 0 });
        assert_ne!(devices(&world, 0), had);
        starts(&mut world, 2);
        world.finish().unwrap();
    }
}

#[test]
fn a_saved_one_whose_mdev_another_program_made_is_refused() {
    let mut world = saved(Form::Mdev);
    let uuid = MdevUuid::for_claim(world.guests[&0].domain().uuid, &name(), 0);
    let (parent, type_id) = ("0000:41:00.0".parse().unwrap(), "nvidia-558".parse().unwrap());
    world.refusals.clear();
    all(&mut world, &[H::ForeignMdev { parent, type_id, uuid }, H::Restore { vm: 0 }]);
    let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((world.guests[&0].state, codes), (State::Off, vec!["foreign"]));
    all(&mut world, &[H::ForeignMdevGone { uuid }]);
    goes_on(&mut world, 0, H::Restore { vm: 0 });
    world.finish().unwrap();
}

/// The definition of the first VM is edited, of one that runs too: it goes on with what it has, and then it ends.
#[track_caller]
fn edited(world: &mut World, runs: bool, edit: H) {
    if runs {
        starts(world, 0);
    }
    let had = devices(world, 0);
    all(world, &[edit]);
    if runs {
        assert_eq!(devices(world, 0), had);
        told_truly(world);
        ends(world, 0);
    }
}

/// What its start is refused for the agent mends, and it runs with what it had.
fn comes_back(world: &mut World, refused_as: &str, had: &BTreeSet<SliceId>) {
    refused(world, 0, refused_as);
    all(world, &[H::Seen { vm: 0 }]);
    assert_eq!(devices(world, 0), *had);
    starts(world, 0);
    world.finish().unwrap();
}

#[test]
fn a_device_that_is_taken_out_by_hand_comes_back() {
    for form in FORMS {
        for (ran_before, runs) in [(false, false), (true, false), (false, true)] {
            let mut world = form.claimed();
            let had = devices(&world, 0);
            if ran_before {
                starts(&mut world, 0);
                ends(&mut world, 0);
            }
            edited(&mut world, runs, H::HostdevGone { vm: 0 });
            comes_back(&mut world, "not-in-xml", &had);
        }
    }
}

#[test]
fn a_device_that_is_changed_by_hand_to_a_free_one_is_its_home() {
    for (form, runs) in off_and_running().filter(|(form, _)| *form != Form::Mdev) {
        let mut world = form.claimed();
        let free = *form.vfs(&world).last().unwrap();
        assert!(!devices(&world, 0).contains(&SliceId::Vf(free)));
        edited(&mut world, runs, H::HostdevMoved { vm: 0, vf: free });
        starts(&mut world, 0);
        assert_eq!(rows(&mut world)[0].home, [free]);
        world.finish().unwrap();
    }
}

#[test]
fn a_device_that_is_changed_by_hand_to_anothers_is_refused() {
    for form in VFS {
        for (other_runs, runs) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut world = form.claimed();
            let had = devices(&world, 0);
            all(&mut world, &[form.attach(1, 1, false)]);
            if other_runs {
                starts(&mut world, 1);
            }
            let vf = devices(&world, 1).first().unwrap().pci().unwrap();
            edited(&mut world, runs, H::HostdevMoved { vm: 0, vf });
            comes_back(&mut world, "claim-copied", &had);
        }
    }
}

#[test]
fn managed_by_hand_is_refused_where_it_breaks_the_device() {
    for (form, runs) in off_and_running() {
        let mut world = form.claimed();
        edited(&mut world, runs, H::Managed { vm: 0 });
        if form == Form::Typed {
            refused(&mut world, 0, "managed");
            all(&mut world, &[H::NotManaged { vm: 0 }]);
        }
        starts(&mut world, 0);
        world.finish().unwrap();
    }
}

#[test]
fn metadata_that_is_removed_by_hand_ends_the_claim() {
    for (form, runs) in off_and_running() {
        let mut world = form.claimed();
        edited(&mut world, runs, H::MetadataGone { vm: 0 });
        refused(&mut world, 0, "not-in-xml");
        all(&mut world, &[H::Seen { vm: 0 }]);
        assert_eq!((rows(&mut world), devices(&world, 0)), (vec![], BTreeSet::new()));
        starts(&mut world, 0);
        world.finish().unwrap();
    }
}

#[test]
fn metadata_alone_is_completed() {
    for (form, runs) in off_and_running() {
        let mut world = after(&[]);
        edited(&mut world, runs, form.alone(0));
        refused(&mut world, 0, "not-in-xml");
        all(&mut world, &[H::Seen { vm: 0 }]);
        starts(&mut world, 0);
        assert_eq!(devices(&world, 0).len(), 1);
        world.finish().unwrap();
    }
}

#[test]
fn one_that_is_undefined_and_defined_again_has_its_device() {
    for form in FORMS {
        for runs_on in [false, true] {
            let mut world = form.claimed();
            let had = devices(&world, 0);
            if runs_on {
                starts(&mut world, 0);
                all(&mut world, &[H::Undefine { vm: 0 }]);
                told_truly(&mut world);
                ends(&mut world, 0);
            } else {
                all(&mut world, &[H::Undefine { vm: 0 }]);
                assert_eq!(rows(&mut world)[0].state, "orphaned");
            }
            all(&mut world, &[H::Define { vm: 0 }]);
            assert_eq!(rows(&mut world)[0].state, "idle");
            starts(&mut world, 0);
            assert_eq!(devices(&world, 0), had);
            world.finish().unwrap();
        }
    }
}

#[test]
fn one_that_is_defined_again_without_a_home_gets_one_when_there_is_one() {
    for form in VFS {
        let mut world = form.claimed();
        let had = devices(&world, 0);
        let others = u32::try_from(form.vfs(&world).len()).unwrap() - 1;
        all(&mut world, &[H::Undefine { vm: 0 }, form.attach(1, others, false)]);
        all(&mut world, &[form.attach(2, 1, false), H::Define { vm: 0 }]);
        let row = rows(&mut world).into_iter().find(|row| row.owner_name == "vm0").unwrap();
        assert_eq!((row.state.as_str(), row.home), ("idle", vec![]));
        assert_eq!(row.last_refusal.unwrap().code.as_str(), "no-capacity");
        refused(&mut world, 0, "taken");
        // Longer than an undefined one is kept.
        all(&mut world, &[H::Advance { ms: 2 * 24 * 60 * 60 * 1000 }]);
        assert_eq!(rows(&mut world).len(), 3);
        all(&mut world, &[H::Seen { vm: 0 }]);
        all(&mut world, &[H::Detach { vm: 1, name: name(), force: false }]);
        match world.order(Command::AgentWork).unwrap() {
            Some(Ok(Answer::AgentWork { look_again, .. })) => {
                assert_eq!(look_again, [world.guests[&0].domain().uuid]);
            }
            other => panic!("{other:?}"),
        }
        all(&mut world, &[H::Seen { vm: 0 }]);
        assert_ne!(devices(&world, 0), had);
        starts(&mut world, 0);
        starts(&mut world, 2);
        world.finish().unwrap();
    }
}

#[test]
fn a_transient_one_has_its_claim_as_long_as_it_runs() {
    for form in FORMS {
        let mut world = after(&[form.alone(0)]);
        let guest = world.guests.get(&0).unwrap();
        let source = match form.vfs(&world).first() {
            Some(vf) => HostDeviceSource::Pci(*vf),
            None => HostDeviceSource::Mdev(MdevUuid::for_claim(guest.domain().uuid, &name(), 0)),
        };
        let device = HostDevice { source, alias: Some(alias_for(&name(), 0)), managed: false };
        world.define(0, |domain| domain.devices.push(device));
        starts(&mut world, 0);
        assert_eq!(rows(&mut world).len(), 1);
        ends(&mut world, 0);
        assert_eq!(rows(&mut world), []);
        world.finish().unwrap();
    }
}

#[test]
fn of_two_on_one_pooled_vf_one_runs() {
    for form in VFS {
        let mut world = after(&[]);
        let others = u32::try_from(form.vfs(&world).len()).unwrap() - 1;
        all(&mut world, &[form.attach(2, others, false)]);
        all(&mut world, &[form.attach(0, 1, true), form.attach(1, 1, true)]);
        assert_eq!(devices(&world, 0), devices(&world, 1));
        all(&mut world, &[H::Start { vm: 0 }, H::Start { vm: 1 }]);
        for _ in 0..2 {
            all(&mut world, &[H::Next { vm: 0 }, H::Next { vm: 1 }]);
        }
        let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
        assert_eq!(codes, ["taken"]);
        told_truly(&mut world);
        ends(&mut world, 0);
        starts(&mut world, 1);
        world.finish().unwrap();
    }
}

/// libvirt-guests stops all VMs at once, and the host goes down; QEMUs may take long to end.
#[test]
fn a_shutdown_of_all_leaves_nothing() {
    let begin = [Form::Mdev, Form::Vf, Form::Typed, Form::Mdev, Form::Vf];
    let all_vms = || (0..5).zip(begin);
    let mut world =
        after(&all_vms().map(|(vm, form)| form.attach(vm, 1, false)).collect::<Vec<_>>());
    for (vm, _) in all_vms() {
        starts(&mut world, vm);
    }
    all(&mut world, &[H::Advance { ms: 20_000 }]);
    for (vm, _) in all_vms() {
        all(&mut world, &[H::Stop { vm, linger: true }]);
    }
    for (vm, _) in all_vms() {
        all(&mut world, &[H::Next { vm }]);
    }
    all(&mut world, &[H::LibvirtDown]);
    assert!(rows(&mut world).iter().all(|row| row.state == "releasing"));
    all(&mut world, &[H::Gone, H::Advance { ms: 11_000 }]);
    assert!(rows(&mut world).iter().all(|row| row.state == "idle"));
    assert_eq!(world.driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default().len(), 0);
    all(&mut world, &[H::LibvirtUp { tells: true }]);
    for (vm, _) in all_vms() {
        starts(&mut world, vm);
    }
    world.finish().unwrap();
}
