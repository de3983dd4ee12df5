//! drivers/vfio/mdev beyond what the lists of conformance say.

use super::*;
use gpuslice_sim::{Outcome, Pace};

#[test]
fn a_device_is_there_in_all_its_places() {
    let mut kernel = mixed();
    kernel.write(&create(PARENT, "nvidia-562"), uuid(1).as_bytes()).unwrap();
    let device = format!("/sys/bus/mdev/devices/{}", uuid(1));
    assert_eq!(
        kernel.link(&device).unwrap(),
        format!("../../../devices/pci0000:41/0000:41:00.0/{}", uuid(1))
    );
    assert_eq!(
        kernel.link(&format!("{device}/mdev_type")).unwrap(),
        "../mdev_supported_types/nvidia-562"
    );
    assert_eq!(text(&kernel, &format!("{device}/mdev_type/device_api")), "vfio-pci");
    assert_eq!(text(&kernel, &format!("{device}/mdev_type/name")), "NVIDIA A40-8Q");
    let held_by_type = format!("{PARENT}/mdev_supported_types/nvidia-562/devices");
    assert_eq!(kernel.list(&held_by_type).unwrap(), [uuid(1)]);
    assert!(kernel.link(&format!("{device}/driver")).unwrap().ends_with("nvidia-vgpu-vfio"));
    kernel.open(7, "qemu", mdev(1)).unwrap();
    assert_eq!(kernel.holders(mdev(1)), [7]);
    let mut parents = kernel.list("/sys/class/mdev_bus").unwrap();
    parents.sort();
    assert_eq!(parents, ["0000:41:00.0", "mdpy", "mtty"]);
    assert_eq!(kernel.link("/sys/class/mdev_bus/mtty").unwrap(), "../../devices/virtual/mtty/mtty");
}

/// Only the first 36 bytes are the UUID; one more may follow, whatever it is.
#[test]
fn create_takes_36_or_37_bytes() {
    let mut kernel = mixed();
    let file = create(PARENT, "nvidia-559");
    for (data, want) in [
        (uuid(1), Ok(Written::Done)),
        (format!("{}\n", uuid(2)), Ok(Written::Done)),
        (format!("{}x", uuid(3)), Ok(Written::Done)),
        (format!("{}\n\n", uuid(4)), Err(Errno::EINVAL)),
        (uuid(5).replace('-', ""), Err(Errno::EINVAL)),
        (format!("{{{}", uuid(6).replace('-', "")), Err(Errno::EINVAL)),
        ("\u{e9}".repeat(18), Err(Errno::EINVAL)),
    ] {
        assert_eq!(kernel.write(&file, data.as_bytes()), want, "{data:?}");
    }
}

#[test]
fn equal_size_cards_offer_one_size_at_a_time() {
    let mut kernel = mixed();
    let all = |kernel: &Kernel| {
        ["nvidia-559", "nvidia-562", "nvidia-565"].map(|kind| available(kernel, PARENT, kind))
    };
    assert_eq!(all(&kernel), [12, 6, 2]);
    kernel.write(&create(PARENT, "nvidia-562"), uuid(1).as_bytes()).unwrap();
    assert_eq!(all(&kernel), [0, 5, 0]);
    let refused = kernel.write(&create(PARENT, "nvidia-559"), uuid(2).as_bytes());
    assert_eq!(refused, Err(Errno::ENOSPC));
    // The refusal comes from the driver's probe: udev saw the device come and go.
    let last = format!("{} {}", "remove", uuid(2));
    assert_eq!(told(&kernel.take_events()).last(), Some(&last));
    kernel.write(&format!("/sys/bus/mdev/devices/{}/remove", uuid(1)), b"1").unwrap();
    assert_eq!(all(&kernel), [12, 6, 2]);
}

#[test]
fn samples_count_each_in_their_way() {
    let mut kernel = mixed();
    kernel.load_module("mbochs").unwrap();
    let at = |name: &str| format!("/sys/class/mdev_bus/{name}");
    kernel.write(&create(&at("mtty"), "mtty-2"), uuid(1).as_bytes()).unwrap();
    assert_eq!(available(&kernel, &at("mtty"), "mtty-1"), 22);
    assert_eq!(available(&kernel, &at("mtty"), "mtty-2"), 11);
    kernel.write(&create(&at("mbochs"), "mbochs-large"), uuid(2).as_bytes()).unwrap();
    assert_eq!(available(&kernel, &at("mbochs"), "mbochs-small"), 48);
    kernel.write(&create(&at("mdpy"), "mdpy-hd"), uuid(3).as_bytes()).unwrap();
    assert_eq!(available(&kernel, &at("mdpy"), "mdpy-vga"), 3);
    // The core refuses mdpy's before anything is added.
    for n in 4..7 {
        kernel.write(&create(&at("mdpy"), "mdpy-hd"), uuid(n).as_bytes()).unwrap();
    }
    kernel.take_events();
    let refused = kernel.write(&create(&at("mdpy"), "mdpy-hd"), uuid(9).as_bytes());
    assert_eq!(refused, Err(Errno::EUSERS));
    assert!(kernel.take_events().is_empty());
    let types = kernel.list(&format!("{}/mdev_supported_types/mdpy-hd", at("mdpy"))).unwrap();
    assert!(!types.contains(&"description".to_owned()));
}

/// device_del takes it off the bus, then waits for its user; its UUID and its share stay taken.
#[test]
fn remove_sleeps_while_the_device_is_held() {
    let mut kernel = mixed();
    kernel.write(&create(PARENT, "nvidia-565"), uuid(1).as_bytes()).unwrap();
    kernel.open(9, "qemu", mdev(1)).unwrap();
    let file = format!("/sys/bus/mdev/devices/{}/remove", uuid(1));
    assert_eq!(kernel.write(&file, b"1\n"), Ok(Written::Blocked));
    assert_eq!(kernel.write(&file, b"1\n"), Err(Errno::ENOENT));
    assert!(kernel.list(&format!("{PARENT}/{}", uuid(1))).is_ok());
    assert_eq!(available(&kernel, PARENT, "nvidia-565"), 1);
    let again = kernel.write(&create(PARENT, "nvidia-565"), uuid(1).as_bytes());
    assert_eq!(again, Err(Errno::EEXIST));
    kernel.kill(9);
    assert_eq!(kernel.poll_blocked()[0].file, file);
    assert_eq!(available(&kernel, PARENT, "nvidia-565"), 2);
    assert_eq!(kernel.list(&format!("{PARENT}/{}", uuid(1))), Err(Errno::ENOENT));
}

#[test]
fn mdev_type_is_not_there_yet_at_the_add_event() {
    let mut kernel = mixed();
    kernel.set_pace(Pace::Steps);
    kernel.write(&create(PARENT, "nvidia-565"), uuid(1).as_bytes()).unwrap();
    let link = format!("/sys/bus/mdev/devices/{}/mdev_type", uuid(1));
    let mut seen = Vec::new();
    while kernel.step() {
        seen.extend(
            told(&kernel.take_events()).into_iter().map(|e| (e, kernel.link(&link).is_ok())),
        );
    }
    assert_eq!(seen, [(format!("add {}", uuid(1)), false), (format!("bind {}", uuid(1)), false)]);
    assert!(kernel.link(&link).is_ok());
}

#[test]
fn a_reload_destroys_children_without_asking_but_waits_for_their_users() {
    let mut kernel = mixed();
    for n in [1, 2] {
        kernel.write(&create(PARENT, "nvidia-565"), uuid(n).as_bytes()).unwrap();
    }
    kernel.open(9, "qemu", mdev(2)).unwrap();
    kernel.take_events();
    assert_eq!(kernel.reload_driver("nvidia"), Outcome::Blocked);
    assert!(!kernel.list("/sys/class/mdev_bus").unwrap().contains(&"0000:41:00.0".to_owned()));
    let refused = kernel.write(&create(PARENT, "nvidia-565"), uuid(3).as_bytes());
    assert_eq!(refused, Err(Errno::ENODEV));
    kernel.kill(9);
    let states: Vec<String> = kernel
        .take_events()
        .iter()
        .filter_map(|e| e.property("MDEV_STATE").map(str::to_owned))
        .collect();
    assert_eq!(states, ["unregistered", "registered"]);
    assert_eq!(kernel.list("/sys/bus/mdev/devices").unwrap(), [""; 0]);
    assert_eq!(available(&kernel, PARENT, "nvidia-565"), 2);
}

#[test]
fn a_parent_on_a_vf_goes_with_it_and_shares_its_cards_budget() {
    let text = include_str!("../conformance/plain.toml");
    let mut kernel = Kernel::from_host(&HostFile::parse(text).unwrap());
    let pf = "/sys/bus/pci/devices/0006:00:00.0";
    echo(&mut kernel, "4", &format!("{pf}/sriov_numvfs")).unwrap();
    let at = |n: u32| format!("{pf}/virtfn{n}");
    for n in [0, 1] {
        assert_eq!(available(&kernel, &at(n), "nvidia-560"), 1);
        kernel.write(&create(&at(n), "nvidia-560"), uuid(n.into()).as_bytes()).unwrap();
        assert_eq!(available(&kernel, &at(n), "nvidia-557"), 0, "one device each");
    }
    assert_eq!(available(&kernel, &at(2), "nvidia-557"), 0, "the card is full");
    echo(&mut kernel, "0", &format!("{pf}/sriov_numvfs")).unwrap();
    assert_eq!(kernel.list("/sys/bus/mdev/devices").unwrap(), [""; 0]);
}

/// Some drivers of NVIDIA take a vGPU away some time after its VM has ended, and whoever removes it first gets there
/// before them.
#[test]
fn a_driver_that_removes_what_its_vm_left() {
    let text = include_str!("../../../../examples/hosts/mixed.toml");
    let mut host = HostFile::parse(text).unwrap();
    let card = host.functions.iter_mut().find_map(|f| f.mdev.as_mut()).unwrap();
    card.removes_after_ms = Some(4000);
    let mut kernel = Kernel::from_host(&host);
    for n in [1, 2] {
        kernel.write(&create(PARENT, "nvidia-562"), uuid(n).as_bytes()).unwrap();
        kernel.open(7, "qemu", mdev(n)).unwrap();
    }
    kernel.kill(7);
    echo(&mut kernel, "1", &format!("/sys/bus/mdev/devices/{}/remove", uuid(2))).unwrap();
    kernel.advance(3999);
    assert_eq!(available(&kernel, PARENT, "nvidia-562"), 5);
    kernel.advance(1);
    assert_eq!(available(&kernel, PARENT, "nvidia-562"), 6);
    assert!(kernel.list("/sys/bus/mdev/devices").unwrap().is_empty());
}
