//! What options say and how they are read, by the forms that NVIDIA's guide and driver have.

use super::*;

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn word(key: u32) -> String {
    value(key).unwrap().to_string()
}

#[test]
fn keys_are_the_words_of_layouts() {
    for (text, key) in [
        ("best-effort", 0),
        ("equal-share", 0x01),
        ("fixed-share", 0x11),
        // The guide's own example of a time slice, and the same of the other policy by the driver's bits.
        ("equal-share-3ms", 0x0003_0003),
        ("fixed-share-24ms", 0x0018_0013),
        ("fixed-share-30ms", 0x001e_0013),
    ] {
        assert_eq!(key_of(&text.parse().unwrap()), Some(key), "{text}");
        assert_eq!(word(key), text);
    }
    assert_eq!(key_of(&"Equal-Share-1MS".parse().unwrap()), Some(0x0001_0003));
    for bad in ["turbo", "equal-share-0ms", "equal-share-31ms", "equal-share-3", "best-effort-3ms"]
    {
        assert_eq!(key_of(&bad.parse().unwrap()), None, "{bad}");
    }
}

#[test]
fn what_a_person_set_is_told_as_it_is() {
    // Not enabled, whatever else it says.
    assert_eq!(word(0x0003_0010), "best-effort");
    // Where sources differ in what the bits mean.
    assert_eq!(word(0x0003_0001), "equal-share+0x30001");
    assert_eq!(word(0x3c3c_0011), "fixed-share+0x3c3c0011");
    assert_eq!(word(0x03), "equal-share+0x3");
    // Taken for the longest.
    assert_eq!(word(0x00ff_0003), "equal-share-30ms");
    assert_eq!(word(0x21), "0x21");
}

#[test]
fn numbers_are_read_as_the_kernel_reads_them() {
    for (text, number_is) in
        [("0x11", 17), ("0X1", 1), ("17", 17), ("021", 17), ("1x", 1), ("x", 0), ("-1", 0), ("", 0)]
    {
        assert_eq!(number(text), number_is, "{text}");
    }
}

#[test]
fn the_key_of_a_gpu_wins_over_the_one_for_all() {
    let given = |for_all: &str, for_each: &str| Given {
        for_all: for_all.to_owned(),
        for_each: for_each.to_owned(),
    };
    let of = |given: &Given| given.of(at("0000:41:00.0"));
    assert_eq!(of(&given("", "")), 0);
    assert_eq!(of(&given("ForceP2P=0x11;RmPVMRL=0x01", "")), 1);
    assert_eq!(of(&given("RmPVMRL=0x01; rmpvmrl = 17", "")), 17);
    let both = given("RmPVMRL=0x01", "pci=0000:41:00.0;RmPVMRL=0x11;pci=0000:61:00.0;RmPVMRL=0");
    assert_eq!(of(&both), 17);
    assert_eq!(both.of(at("0000:61:00.0")), 0);
    assert_eq!(both.of(at("0000:81:00.0")), 1);
    // Forms of an address, and what is nobody's.
    for each in ["pci=41:0;RmPVMRL=3", "pci=0:41:00;RmPVMRL=3", "pci = 0000:41:00.0 ; RmPVMRL = 3"]
    {
        assert_eq!(of(&given("", each)), 3, "{each}");
    }
    for none in [
        "RmPVMRL=3",
        "pci=0000:41:00.1;RmPVMRL=3",
        "pci=0000:41:00.0;RmPVMRL=3=4",
        "pci=0000:41:00.0;RmPVMRL",
        "pci=0000:41:00.0;pci=x;RmPVMRL=3",
        "PCI=0000:41:00.0;RmPVMRL=3",
    ] {
        assert_eq!(of(&given("", none)), 0, "{none}");
    }
}

#[test]
fn what_the_module_was_told_is_read_from_its_file() {
    let text = "EnableMSI: 1\nRegistryDwords: \"ForceP2P=0x11\"\n\
                RegistryDwordsPerDevice: \"pci=0000:41:00.0;RmPVMRL=0x01\"\nRmMsg: \"\"";
    let read = parse_told(text).unwrap();
    assert_eq!(read.for_all, "ForceP2P=0x11");
    assert_eq!(read.for_each, "pci=0000:41:00.0;RmPVMRL=0x01");
    assert_eq!(parse_told("RegistryDwords: \"\""), Some(Given::default()));
    for bad in ["", "EnableMSI: 1", "RegistryDwords: x", "RegistryDwords: \"\nRmMsg: \"\""] {
        assert_eq!(parse_told(bad), None, "{bad}");
    }
    assert_eq!(parse_told("RegistryDwords: \"\"\nRegistryDwordsPerDevice: \"pci="), None);
}

#[test]
fn what_is_written_is_read_back() {
    let entries_of = BTreeMap::from([(at("0000:41:00.0"), 1), (at("10000:61:00.0"), 0x0018_0013)]);
    let text = content(&option(&entries_of));
    assert_eq!(
        text.lines().nth(1).unwrap(),
        "options nvidia NVreg_RegistryDwordsPerDevice=\
         \"pci=0000:41:00.0;RmPVMRL=0x01;pci=10000:61:00.0;RmPVMRL=0x180013\""
    );
    assert_eq!(entries(written(&text).unwrap()).collect::<BTreeMap<_, _>>(), entries_of);
    assert_eq!(written(&content(&option(&BTreeMap::new()))), None);
}

/// Of so many GPUs, one to a bus, each with the same key.
fn of_many(count: u8, key: u32) -> BTreeMap<PciAddress, u32> {
    let gpu = |bus| PciAddress::new(0, bus, 0, 0).unwrap();
    (0..count).map(|bus| (gpu(bus), key)).collect()
}

#[test]
fn addresses_are_short_where_they_would_not_fit_in_full() {
    assert_eq!(option(&of_many(30, 0x001e_0003)).len(), 30 * 34 - 1);
    for (count, key) in [(31, 0x001e_0003), (40, 0x001e_0013), (50, 0x11)] {
        let entries_of = of_many(count, key);
        let option = option(&entries_of);
        assert!(option.starts_with("pci=0:0;RmPVMRL="), "{option}");
        assert!(option.len() <= MOST_BYTES, "{}", option.len());
        assert_eq!(entries(&option).collect::<BTreeMap<_, _>>(), entries_of);
    }
    assert_eq!(short(at("0009:01:00.0")), "9:1:0");
    assert_eq!(short(at("0000:01:1f.0")), "1:1f");
    assert_eq!(short(at("0000:01:00.1")), "0000:01:00.1");
}
