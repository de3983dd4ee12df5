//! Stories of hosts on which several GPUs are cordoned: what is said is the cordon, and lifting as many as the hint names mends it.

use crate::domains::claim;
use crate::driver::Driver;
use crate::ready::to_start;
use crate::tools::follow;
use crate::vgpu::{asking, attach, attach_several, call, one_gpu, order, vf};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_sim::HostFile;

const TWO: &str = "amd-74a1-vf2";

const A40S: &str = include_str!("../../../examples/hosts/a40-mdev.toml");
const ALL: &str = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";

/// When a boot has brought what it brings.
const TEN_MINUTES: u64 = 600_000;

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
    for (text, config) in [(mdev, ""), (A40S, ALL)] {
        for (count, gpus) in [(1, 1), (3, 2)] {
            let mut driver = made(text, config);
            let domain = attach_several(&mut driver, 1, "nvidia-a40-24q", count);
            starts(&mut driver, &domain, gpus);
        }
    }
}

fn is_there(driver: &mut Driver, gpu: &ParentId, there: bool) {
    let address: PciAddress = gpu.pci().unwrap();
    match there {
        true => driver.kernel.plug(address),
        false => driver.kernel.unplug(address),
    };
    driver.advance(30_000).unwrap();
}

fn not_settled(driver: &mut Driver, domain: &Domain) -> Refusal {
    let refusal = call(driver, domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal:?}");
    assert!(refusal.causes[0].contains("cordoned"), "{refusal:?}");
    refusal
}

/// It is known to be of use, and comes by itself.
#[test]
fn a_start_waits_for_a_gpu_that_is_away_while_all_others_are_cordoned() {
    let mut driver = made(A40S, ALL);
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    let away: ParentId = "0000:41:00.0".parse().unwrap();
    drain(&mut driver);
    order(&mut driver, Command::Uncordon { parent: away.clone() }).unwrap();
    is_there(&mut driver, &away, false);
    let refusal = not_settled(&mut driver, &domain);
    assert_eq!(refusal.message, format!("waiting for {away} to appear"));
    let hint = refusal.hint.unwrap();
    assert!(hint.starts_with("gpuslice wait --settled") && !hint.contains("; or "), "{hint}");
    assert!(to_start(&mut driver).is_empty());
    is_there(&mut driver, &away, true);
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    call(&mut driver, &domain, Prepare).unwrap();
    let given = driver.machine.runtime().assignments.values().next().unwrap();
    assert_eq!(driver.machine.observation().device_of(&given.parent), away);
}

/// It would give nothing out when it has come.
#[test]
fn a_start_does_not_wait_for_a_gpu_that_is_cordoned_as_the_others_are() {
    let mut driver = made(A40S, ALL);
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    drain(&mut driver);
    is_there(&mut driver, &"0000:41:00.0".parse().unwrap(), false);
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    uncordons(&mut driver, &refusal, 1);
    call(&mut driver, &domain, Prepare).unwrap();
}

/// It may as well never come, so what else mends it is told too.
#[test]
fn a_start_is_told_of_a_cordon_beside_a_gpu_of_which_nothing_is_known() {
    let never = ALL.replace("model = \"a40\"", "address = \"0000:ee:00.0\"");
    let mut driver = made(A40S, &format!("{ALL}{never}"));
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    drain(&mut driver);
    let hint = not_settled(&mut driver, &domain).hint.unwrap();
    let (wait, other) = hint.split_once("; or ").unwrap();
    assert!(wait.starts_with("gpuslice wait --settled"), "{hint}");
    driver.advance(TEN_MINUTES).unwrap();
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some(other));
    uncordons(&mut driver, &refusal, 1);
    call(&mut driver, &domain, Prepare).unwrap();
}

/// No other serves it, whatever is to come; who has no home yet may wait for that.
#[test]
fn a_start_whose_home_is_on_a_cordoned_gpu_waits_for_no_other() {
    let mut driver = drained();
    let cards: Vec<ParentId> = driver.machine.durable().cordons.keys().take(2).cloned().collect();
    for parent in &cards {
        order(&mut driver, Command::Uncordon { parent: parent.clone() }).unwrap();
    }
    let domain = attach(&mut driver, 1, TWO);
    let home = driver.machine.observation().device_of(&ParentId::Pci(vf(&domain)));
    order(&mut driver, Command::Cordon { parent: home.clone(), reason: "loud".to_owned() })
        .unwrap();
    let other = cards.iter().find(|card| **card != home).unwrap();
    is_there(&mut driver, other, false);
    let refusal = order(&mut driver, asking(2, request(TWO, 1))).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal:?}");
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some(format!("gpuslice uncordon {home}").as_str()));
    uncordons(&mut driver, &refusal, 1);
    call(&mut driver, &domain, Prepare).unwrap();
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
