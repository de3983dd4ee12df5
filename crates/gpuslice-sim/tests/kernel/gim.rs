//! AMD's drivers: the file that GIM keeps, modes, refusals that look like success.

use super::*;

const GPU: &str = "/sys/bus/pci/devices/0000:0c:00.0";
const OTHER: &str = "/sys/bus/pci/devices/0000:df:00.0";
const OPTIONS: &str = "/etc/modprobe.d/gim.conf";

fn hive() -> Kernel {
    let text = include_str!("../../../../examples/hosts/mi300x-8.toml");
    Kernel::from_host(&HostFile::parse(text).unwrap())
}

fn load(kernel: &mut Kernel, options: &str) {
    kernel.replace(OPTIONS, format!("options gim {options}\n").as_bytes()).unwrap();
    kernel.load_module("gim").unwrap();
    kernel.advance(10_000);
}

fn reload(kernel: &mut Kernel, options: &str) {
    kernel.unload_module("gim").unwrap();
    load(kernel, options);
}

fn log(kernel: &Kernel) -> Vec<String> {
    kernel.kernel_log().unwrap().into_iter().map(|line| line.text).collect()
}

fn memory(kernel: &Kernel, gpu: &str) -> String {
    let text = text(kernel, &format!("{gpu}/memory_partition_mode"));
    text.lines().next().unwrap().to_owned()
}

fn compute(kernel: &Kernel, gpu: &str) -> String {
    text(kernel, &format!("{gpu}/spatial_partition_mode"))
}

#[test]
fn the_file_is_never_cut_and_a_stray_word_loses_what_it_held() {
    let mut kernel = hive();
    load(&mut kernel, "vf_num=1,8");
    let first = "vf_num=1,8\naccelerator_partition_mode=9\nmemory_partition_mode=9";
    assert_eq!(text(&kernel, "/etc/gim_config"), first);
    reload(&mut kernel, "vf_num=8");
    let kept = text(&kernel, "/etc/gim_config");
    assert!(kept.starts_with("vf_num=8\naccelerator_partition_mode=0\nmemory_partition_mode=0\n"));
    assert_eq!(kept.lines().last(), Some("9"), "{kept:?}");
    reload(&mut kernel, "log_level=1");
    assert!(log(&kernel).iter().any(|line| line.starts_with("unknown token: 9")));
    // The number is lost with it.
    assert_eq!(kernel.list(GPU).unwrap().iter().filter(|n| n.starts_with("virtfn")).count(), 1);
}

#[test]
fn a_memory_mode_is_the_hive_s_and_resets_the_compute_mode() {
    let mut kernel = hive();
    load(&mut kernel, "vf_num=4");
    assert_eq!(
        (memory(&kernel, GPU), compute(&kernel, GPU)),
        ("memory_partition_mode: NPS1".into(), "QPX".into())
    );
    // By position: CPX is the second that four VFs can have.
    echo(&mut kernel, "1", &format!("{GPU}/accelerator_partition_profile")).unwrap();
    assert_eq!(compute(&kernel, OTHER), "CPX");
    // NPS8 is taken for NPS4; it is so only after the reset.
    echo(&mut kernel, "nps8", &format!("{GPU}/memory_partition_mode")).unwrap();
    assert_eq!(memory(&kernel, GPU), "memory_partition_mode: NPS1");
    kernel.advance(3_000);
    for gpu in [GPU, OTHER] {
        assert_eq!(memory(&kernel, gpu), "memory_partition_mode: NPS4");
        assert_eq!(compute(&kernel, gpu), "QPX");
    }
    kernel.reboot();
    load(&mut kernel, "vf_num=4");
    assert_eq!(memory(&kernel, GPU), "memory_partition_mode: NPS4");
    // Modes belong to a number of VFs.
    reload(&mut kernel, "vf_num=1");
    assert_eq!(
        (memory(&kernel, GPU), compute(&kernel, GPU)),
        ("memory_partition_mode: NPS1".into(), "SPX".into())
    );
}

#[test]
fn a_refusal_is_no_error_of_the_write() {
    let mut kernel = hive();
    load(&mut kernel, "vf_num=8");
    let vf = vf("0000:df:02.0");
    bind(&mut kernel, "0000:df:02.0");
    kernel.open(77, "qemu", vf).unwrap();
    echo(&mut kernel, "NPS4", &format!("{GPU}/memory_partition_mode")).unwrap();
    let last = log(&kernel);
    assert_eq!(last.last().unwrap(), "Failed to set mp mode NPS4");
    assert!(last[last.len() - 2].contains("not allowed when active VM/VFs running"));
    kernel.kill(77);
    echo(&mut kernel, "7", &format!("{GPU}/accelerator_partition_profile")).unwrap();
    let last = log(&kernel);
    assert_eq!(last.last().unwrap(), "Failed to set accelerator_partition_profile profile_index=7");
    for (file, bad) in [("memory_partition_mode", "NPS3"), ("accelerator_partition_profile", "CPX")]
    {
        assert_eq!(echo(&mut kernel, bad, &format!("{GPU}/{file}")), Err(Errno::EINVAL));
    }
}

#[test]
fn reading_one_file_resets_the_gpu_and_is_counted() {
    let mut kernel = hive();
    load(&mut kernel, "vf_num=1");
    assert_eq!(kernel.gpu_resets_by_reading(), 0);
    assert!(text(&kernel, &format!("{GPU}/reset_gpu")).ends_with("reset completed"));
    assert_eq!(kernel.clone().gpu_resets_by_reading(), 1);
}

#[test]
fn files_come_and_go_with_the_driver() {
    let mut kernel = hive();
    let there = |kernel: &Kernel| kernel.list(GPU).unwrap().contains(&"guard_status".to_owned());
    assert!(!there(&kernel));
    load(&mut kernel, "vf_num=2");
    assert!(there(&kernel));
    let guard = text(&kernel, &format!("{GPU}/guard_status"));
    // Six kinds below four headings.
    assert_eq!(guard.lines().nth(1).unwrap().matches("[0:0:0]").count(), 6);
    let config = text(&kernel, &format!("{GPU}/accelerator_partition_profile_config"));
    assert!(config.contains("DPX") && !config.contains("SPX"), "{config}");
    kernel.unload_module("gim").unwrap();
    kernel.settle();
    assert!(!there(&kernel));
}
