//! Stories of claims of more slices than their host has: nobody is told to end what another VM has, since that makes no room.

use crate::domains::claim;
use crate::driver::Driver;
use crate::vgpu::{asking, attach, attach_several, call, order};
use gpuslice_core::machine::HookOperation::{Prepare, Started};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Outcome;
use gpuslice_sim::HostFile;

const WHOLE: &str = "nvidia-a40-48q";
const ALL: &str = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";

/// Four A40 whose VFs take a type.
fn typed() -> Driver {
    four(include_str!("../../../examples/hosts/a40-vfio.toml"))
}

/// The same whose VFs make mediated devices.
fn made() -> Driver {
    four(include_str!("../../../examples/hosts/a40-mdev.toml"))
}

fn four(text: &str) -> Driver {
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), ALL).unwrap();
    driver.advance(60_000).unwrap();
    driver
}

/// Another VM that runs with a part of a GPU.
fn runs(driver: &mut Driver, vm: u128) {
    let other = attach(driver, vm, "nvidia-a40-8q");
    call(driver, &other, Prepare).unwrap();
    call(driver, &other, Started).unwrap();
}

fn asks(driver: &mut Driver, count: u32) -> Outcome {
    order(driver, asking(1, claim(&"gpu0".parse().unwrap(), WHOLE, count)))
}

/// How many its hint asks for, and nothing else.
fn fewer(refusal: &Refusal) -> u32 {
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert!(refusal.message.contains("wanted 9, more than the 4 that this host can run at once"));
    let hint = refusal.hint.as_deref().unwrap();
    let count = hint.strip_prefix("gpuslice attach vm1 nvidia-a40-48q --name gpu0 --count ");
    count.expect(hint).parse().unwrap()
}

#[test]
fn who_asks_for_more_homes_than_there_are_is_told_how_many_there_are() {
    for others in 0..3 {
        let mut driver = typed();
        for vm in 2..2 + others {
            runs(&mut driver, vm);
        }
        let refusal = asks(&mut driver, 9).unwrap_err();
        assert_eq!(fewer(&refusal), 4, "{others} others");
        asks(&mut driver, 4).unwrap();
    }
}

/// Where all of a GPU is another's home there is no home, and the first that could be one is made free.
#[test]
fn who_could_have_none_is_told_whose_end_makes_room_for_one() {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let config = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = 1 }\n";
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), config).unwrap();
    driver.advance(10_000).unwrap();
    let of =
        |vm: u128, count: u32| asking(vm, claim(&"gpu0".parse().unwrap(), "amd-74a1-vf1", count));
    order(&mut driver, of(2, 8)).unwrap();
    let refusal = order(&mut driver, of(1, 9)).unwrap_err();
    let told =
        "gpuslice detach vm2 gpu0, then gpuslice attach vm1 amd-74a1-vf1 --name gpu0 --count 1";
    assert_eq!(refusal.hint.as_deref(), Some(told));
}

#[test]
fn who_starts_with_more_than_there_are_is_told_how_many_are_free() {
    for others in 0..3 {
        let mut driver = made();
        for vm in 2..2 + others {
            runs(&mut driver, vm);
        }
        let nine = attach_several(&mut driver, 1, WHOLE, 9);
        let refusal = call(&mut driver, &nine, Prepare).unwrap_err();
        let free = fewer(&refusal);
        // The parts of two VMs are on one GPU.
        assert_eq!(free, if others == 0 { 4 } else { 3 });
        let fewer = attach_several(&mut driver, 1, WHOLE, free);
        call(&mut driver, &fewer, Prepare).unwrap();
    }
}
