//! Stories of devices passed through whole while others have slices of them.

use crate::directed::{after, all, attach, declare, refused, run, runs, stop};
use crate::happening::Happening as H;
use crate::invariants::vfs_of;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::request::Command;

fn whole(vm: u8, address: &str) -> H {
    let address: PciAddress = address.parse().unwrap();
    H::Plain { vm, slice: SliceId::Function(address), managed: true }
}

#[test]
fn a_gpu_whose_slices_others_have_is_not_taken_whole() {
    for (begin, gpu) in [(attach(0), "0000:0c:00.0"), (declare(0), "0000:41:00.0")] {
        let mut world = after(&[begin, whole(1, gpu)]);
        all(&mut world, &run(0));
        assert!(runs(&world, 0), "{:?}", world.refusals);
        refused(&mut world, 1, "taken");
        // It is the user's own affair as soon as nobody has any.
        all(&mut world, &stop(0));
        world.refusals.clear();
        all(&mut world, &[H::Start { vm: 1 }]);
        assert!(world.refusals.is_empty(), "{:?}", world.refusals);
        world.finish().unwrap();
    }
}

#[test]
fn nor_is_a_vf_that_makes_the_mdev_of_another() {
    let mut world = after(&[]);
    let pf = "0000:81:00.0";
    world.driver.config =
        format!("[[gpu]]\nmatch = {{ address = \"{pf}\" }}\nlayout = {{ vfs = 3 }}\n");
    world.driver.command(Command::Apply);
    world.driver.advance(1000).unwrap();
    for vm in [0, 1, 2] {
        all(&mut world, &[declare(vm)]);
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    let vfs = vfs_of(&world.driver.kernel, pf.parse().unwrap());
    let parents = world.driver.machine.observation().mdevs.values();
    let parent = parents.filter_map(|mdev| mdev.parent.pci()).find(|vf| vfs.contains(vf)).unwrap();
    all(&mut world, &[whole(3, &parent.to_string())]);
    refused(&mut world, 3, "taken");
    let other = vfs.into_iter().find(|vf| *vf != parent).unwrap();
    world.define(3, |domain| domain.devices.clear());
    all(&mut world, &[whole(3, &other.to_string())]);
    world.refusals.clear();
    all(&mut world, &[H::Start { vm: 3 }]);
    assert!(world.refusals.is_empty(), "{:?}", world.refusals);
    world.finish().unwrap();
}
