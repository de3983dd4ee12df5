//! Stories of GPUs that somebody has open, that another tool keeps waiting, or of which a tool does not come to an end.

use crate::driver::Driver;
use crate::mig::{MIG, MIXED, WANTED, a100, instances, smi};
use crate::vgpu::{LAYOUT, attach, host as a40s, order, slice_state, start, vf};
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::mode::Mode;
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::Command;
use gpuslice_sim::{Fault, HostFile};

const PF: &str = "0000:41:00.0";

fn pf() -> PciAddress {
    PF.parse().unwrap()
}

/// Why the GPU is not touched.
fn quarantine(driver: &Driver) -> Option<Code> {
    driver.machine.durable().quarantines.get(&ParentId::Pci(pf())).map(|why| why.code)
}

/// A host whose GPU is to be divided, and one whose GPU is to be whole again, with what it has of instances then.
fn to_be_set() -> [(HostFile, String, &'static [&'static str]); 2] {
    let mut divided = a100();
    divided.functions[0].mdev.as_mut().unwrap().mig.as_mut().unwrap().on = true;
    let whole = MIG.split("instances").next().unwrap().to_owned() + "instances = \"off\" }";
    [(a100(), MIG.to_owned(), &WANTED), (divided, whole, &[])]
}

/// Its tool calls that done, and the change waits for a reset of the GPU.
#[test]
fn mig_of_a_gpu_that_somebody_has_open_is_set_again_and_then_says_so() {
    for (host, config, wanted) in to_be_set() {
        for ends in [true, false] {
            let mut driver = Driver::new(&host, "").unwrap();
            driver.kernel.inject(Fault::Computes { pf: pf() });
            driver.config.clone_from(&config);
            let request = driver.command(Command::Apply);
            driver.advance(2_500).unwrap();
            assert!(!driver.answers.contains_key(&request), "it is tried again");
            if ends {
                driver.kernel.clear_faults();
            }
            driver.advance(10_000).unwrap();
            let answer = driver.answers.remove(&request).unwrap();
            assert_eq!(answer.is_ok(), ends, "{answer:?}");
            if let Err(refusal) = answer {
                assert_eq!(refusal.code, Code::Held, "{refusal:?}");
                let why = refusal.causes.concat();
                assert!(why.contains("MIG mode is in pending"), "{refusal:?}");
                assert!(why.ends_with("In use by another client"), "{refusal:?}");
                let hint = "gpuslice doctor (it says who has the GPU open); then gpuslice apply";
                assert_eq!(refusal.hint.as_deref(), Some(hint));
                // Nobody has asked for what was tried after that.
                driver.advance(10_000).unwrap();
                assert_eq!(quarantine(&driver), Some(Code::Held));
                driver.kernel.clear_faults();
                order(&mut driver, Command::Apply).unwrap();
            }
            assert_eq!(instances(&mut driver), wanted);
            assert_eq!(quarantine(&driver), None);
            assert_eq!(driver.machine.observation().vfs.len(), 16);
        }
    }
}

/// Some hosts and some GPUs do not let it, others not at once.
#[test]
fn mig_of_a_gpu_that_cannot_be_reset_says_what_brings_it() {
    for says in ["Not Supported", "Timeout"] {
        let mut driver = Driver::new(&a100(), "").unwrap();
        let not_reset = Fault::NotReset { pf: pf(), says: says.to_owned() };
        driver.kernel.inject(not_reset.clone());
        driver.config = MIG.to_owned();
        let request = driver.command(Command::Apply);
        driver.advance(2_500).unwrap();
        driver.kernel.clear_faults();
        driver.advance(10_000).unwrap();
        driver.answers.remove(&request).unwrap().unwrap();
        assert_eq!(instances(&mut driver), WANTED);
        let mut driver = Driver::new(&a100(), "").unwrap();
        driver.kernel.inject(not_reset);
        driver.config = MIG.to_owned();
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::DeviceFailed, "{refusal:?}");
        assert!(refusal.one_line().contains(&format!("{PF}:{says}")), "{refusal:?}");
        let hint = "/usr/bin/nvidia-smi --gpu-reset -i 0000:41:00.0 while nothing uses it, or reboot; then gpuslice apply";
        assert_eq!(refusal.hint.as_deref(), Some(hint));
        // The card remembers what it is to be, and the fault does not stand in its way.
        driver.kernel.reboot();
        driver.restart().unwrap();
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(instances(&mut driver), WANTED);
    }
}

/// Nothing is asked meanwhile, so what somebody has set on the GPU is not known before the other one's tool has ended.
#[test]
fn what_a_person_set_outlives_new_vfs_that_are_due_while_another_gpu_is_set() {
    let all = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let other = "[[gpu]]\nmatch = { address = \"0000:c1:00.0\" }\n\
        layout = { vfs = \"all\", sizes = \"mixed\" }\n";
    let mut driver = Driver::new(&a100(), all).unwrap();
    driver.advance(10_000).unwrap();
    (driver.config, driver.lazy) = (format!("{other}{all}"), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let [under] = driver.under.as_slice() else { panic!("{:?}", driver.under) };
    assert!(matches!(under.step, Step::RunModeTool { .. }), "{}", under.step);
    smi(&mut driver, &["-i", PF, "-mig", "1"]);
    smi(&mut driver, &["mig", "-i", PF, "-cgi", "3g.40gb,1g.10gb", "-C"]);
    let of_pf = |(_, vf): &(&PciAddress, &gpuslice_core::observation::Vf)| vf.pf == pf();
    let bare = *driver.machine.observation().vfs.iter().find(of_pf).unwrap().0;
    driver.kernel.write("/sys/bus/pci/drivers/nvidia/unbind", bare.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(80_000).unwrap();
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(10_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(slice_state(&mut driver, bare), "free");
    assert_eq!(instances(&mut driver), ["1g.10gb", "3g.40gb"]);
}

/// Its VFs are about to go, and were looked at when the layout was ordered.
#[test]
fn no_vm_starts_on_a_gpu_that_waits_for_its_turn() {
    let mut two = a40s();
    two.functions.truncate(2);
    let mut driver = Driver::new(&two, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    // Each fills a GPU.
    let domains = [1, 2].map(|vm| attach(&mut driver, vm, "nvidia-a40-48q"));
    (driver.config, driver.lazy) = (LAYOUT.replace("\"all\"", "0"), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let [under] = driver.under.as_slice() else { panic!("{:?}", driver.under) };
    let Step::RunVfTool { pf: at_work, .. } = under.step else { panic!("{}", under.step) };
    let waits = domains.iter().find(|domain| vf(domain).bus() != at_work.bus()).unwrap();
    let refusal = start(&mut driver, waits).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal:?}");
    assert!(refusal.causes.concat().contains("sriov-manage -d"), "{refusal:?}");
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(10_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 0);
}

/// What stands before the break is no sign that the rest is not there.
#[test]
fn a_gpu_of_which_the_tool_breaks_off_is_told_of_by_none() {
    let mut two = a40s();
    two.functions.truncate(2);
    let mut driver = Driver::new(&two, MIXED).unwrap();
    driver.advance(10_000).unwrap();
    driver.kernel.reboot();
    driver.kernel.inject(Fault::BreaksOff { pf: pf() });
    driver.restart().unwrap();
    driver.advance(120_000).unwrap();
    let sizes = |driver: &Driver, gpu: &str| {
        let modes = driver.machine.observation().modes.get(&gpu.parse().unwrap())?;
        modes.get(&Mode::Sizes)?.current.as_ref().map(ToString::to_string)
    };
    assert_eq!(quarantine(&driver), None);
    assert_eq!(sizes(&driver, PF), None);
    // The one behind it was asked about alone.
    assert_eq!(sizes(&driver, "0000:61:00.0").as_deref(), Some("mixed"));
    // Who applies has it asked again, and all follows from that.
    driver.kernel.clear_faults();
    driver.command(Command::Apply);
    driver.advance(10_000).unwrap();
    assert_eq!(sizes(&driver, PF).as_deref(), Some("mixed"));
}
