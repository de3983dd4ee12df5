//! Stories of hosts on which several GPUs are cordoned: what is said is the cordon, and lifting as many as the hint names mends it.

use crate::domains::claim;
use crate::driver::Driver;
use crate::tools::follow;
use crate::vgpu::{asking, attach, attach_several, call, one_gpu, order};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::ids::ParentId;
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_sim::HostFile;

const TWO: &str = "amd-74a1-vf2";

/// Eight GPUs with two VFs each, all of them drained.
fn drained() -> Driver {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let config = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = 2 }\n";
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), config).unwrap();
    driver.advance(10_000).unwrap();
    drain(&mut driver);
    driver
}

fn drain(driver: &mut Driver) {
    let reason = "firmware".to_owned();
    order(driver, Command::Drain { parents: vec![], reason, wait_ms: None }).unwrap();
}

/// Two GPUs that make mediated devices by themselves, or VFs that do; all of them drained.
fn made(text: &str, config: &str) -> Driver {
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), config).unwrap();
    driver.advance(30_000).unwrap();
    driver
}

fn asks(driver: &mut Driver, request: ClaimRequest) -> Outcome {
    order(driver, asking(1, request))
}

fn request(profile: &str, count: u32) -> ClaimRequest {
    claim(&"gpu0".parse().unwrap(), profile, count)
}

/// Does what the hint says, which is nothing but that.
fn uncordons(driver: &mut Driver, refusal: &Refusal, gpus: usize) {
    assert_eq!(refusal.code, Code::Cordoned, "{refusal:?}");
    let hint = refusal.hint.clone().unwrap();
    let named: Vec<ParentId> = hint
        .split(", then ")
        .map(|step| step.strip_prefix("gpuslice uncordon ").expect(&hint).parse().unwrap())
        .collect();
    assert_eq!(named.len(), gpus, "{hint}");
    for parent in named {
        order(driver, Command::Uncordon { parent }).unwrap();
    }
}

#[test]
fn as_many_are_uncordoned_as_a_claim_needs() {
    for (count, gpus) in [(1, 1), (2, 1), (3, 2), (16, 8)] {
        let mut driver = drained();
        let refusal = asks(&mut driver, request(TWO, count)).unwrap_err();
        assert!(refusal.causes[0].ends_with(" is cordoned: firmware"), "{refusal:?}");
        assert_eq!(refusal.causes.last().unwrap(), "and 4 more");
        uncordons(&mut driver, &refusal, gpus);
        asks(&mut driver, request(TWO, count)).unwrap();
    }
}

#[test]
fn those_that_are_to_be_of_one_fabric_have_one_uncordoned() {
    let mut driver = drained();
    let two = ClaimRequest { same_fabric: true, ..request(TWO, 2) };
    let refusal = asks(&mut driver, two.clone()).unwrap_err();
    uncordons(&mut driver, &refusal, 1);
    asks(&mut driver, two).unwrap();
}

/// What somebody has there is of no use to another, given out or not.
#[test]
fn a_gpu_that_is_full_is_left_cordoned() {
    let mut driver = drained();
    let cards: Vec<ParentId> = driver.machine.durable().cordons.keys().take(2).cloned().collect();
    order(&mut driver, Command::Uncordon { parent: cards[0].clone() }).unwrap();
    order(&mut driver, asking(2, request(TWO, 2))).unwrap();
    order(&mut driver, Command::Cordon { parent: cards[0].clone(), reason: "loud".to_owned() })
        .unwrap();
    let refusal = asks(&mut driver, request(TWO, 1)).unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some(format!("gpuslice uncordon {}", cards[1]).as_str()));
    uncordons(&mut driver, &refusal, 1);
    asks(&mut driver, request(TWO, 1)).unwrap();
}

/// Whose end makes room is told as long as there is somebody, since a cordon has a reason.
#[test]
fn who_has_what_is_given_out_is_told_first() {
    let mut driver = drained();
    let card = driver.machine.durable().cordons.keys().next().unwrap().clone();
    order(&mut driver, Command::Uncordon { parent: card }).unwrap();
    order(&mut driver, asking(2, request(TWO, 2))).unwrap();
    let refusal = asks(&mut driver, request(TWO, 1)).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert_eq!(refusal.hint.as_deref(), Some("gpuslice detach vm2 gpu0"));
    assert!(refusal.causes[0].contains("is cordoned"), "{refusal:?}");
}

/// A start, of which what it carries says nothing of a GPU.
fn starts(driver: &mut Driver, domain: &Domain, gpus: usize) {
    drain(driver);
    let refusal = call(driver, domain, Prepare).unwrap_err();
    uncordons(driver, &refusal, gpus);
    call(driver, domain, Prepare).unwrap();
}

#[test]
fn a_start_of_mediated_devices_has_as_many_uncordoned() {
    let mdev = include_str!("../../../examples/hosts/mdev.toml");
    let a40 = include_str!("../../../examples/hosts/a40-mdev.toml");
    let all = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";
    for (text, config) in [(mdev, ""), (a40, all)] {
        for (count, gpus) in [(1, 1), (3, 2)] {
            let mut driver = made(text, config);
            let domain = attach_several(&mut driver, 1, "nvidia-a40-24q", count);
            starts(&mut driver, &domain, gpus);
        }
    }
}

/// What is held for another makes no room where nothing is given out.
#[test]
fn whose_claim_holds_some_is_not_told_to_end_it() {
    let mut driver = made(include_str!("../../../examples/hosts/mdev.toml"), "");
    let Command::Claim { owner, owner_name, request, pool, dry_run, .. } =
        asking(2, request("nvidia-a40-24q", 1))
    else {
        panic!()
    };
    let reserve = Some(true);
    let held = Command::Claim { owner, owner_name, request, pool, reserve, dry_run };
    order(&mut driver, held).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    starts(&mut driver, &domain, 1);
}

/// The one GPU that there is says it itself.
#[test]
fn a_vf_that_takes_a_type_says_so_of_its_gpu() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    starts(&mut driver, &domain, 1);
}

/// Nothing mends that by itself, cordoned or not.
#[test]
fn one_that_lost_its_driver_says_so_beside_why_it_is_cordoned() {
    let mut driver = one_gpu();
    drain(&mut driver);
    let pf = *driver.machine.observation().functions.keys().next().unwrap();
    let unbind = "/sys/bus/pci/drivers/nvidia/unbind";
    driver.kernel.write(unbind, pf.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(120_000).unwrap();
    let row = |driver: &mut Driver| match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { mut rows } => rows.remove(0),
        other => panic!("{other:?}"),
    };
    let bare = row(&mut driver);
    let reason = bare.reason.unwrap();
    assert_eq!(bare.state, "cordoned");
    assert!(reason.starts_with("firmware; "), "{reason}");
    follow(&mut driver, &reason);
    driver.advance(120_000).unwrap();
    let mended = row(&mut driver);
    assert_eq!((&*mended.state, mended.reason.as_deref()), ("cordoned", Some("firmware")));
}
