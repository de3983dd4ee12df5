use super::*;
use crate::ids::Serial;

fn errors(text: &str) -> Vec<String> {
    match parse(&[("a.toml".to_owned(), text.to_owned())]) {
        Ok(config) => panic!("accepted {text:?} as {config:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn reads_every_key() {
    let text = r#"
placement = "spread"
on-error = "warn"
[[gpu]]
match = { address = "41:00.0", vendor-device = "1002:74a1", model = "MI300X", driver = "gim", serial = "ab-cd-ef-01-23-45-67-89" }
layout = { vfs = 8 }
[[gpu]]
match = { driver = "igb" }
layout = { vfs = "all", bind = "vfio-pci" }
"#;
    let config = parse(&[("x.toml".into(), text.into())]).unwrap();
    assert_eq!((config.placement, config.on_error), (Strategy::Spread, OnError::Warn));
    assert_eq!(Config::default().on_error, OnError::Cordon);
    let [first, second] = config.rules.as_slice() else { panic!("{config:?}") };
    assert_eq!(first.matches.address.unwrap().to_string(), "0000:41:00.0");
    assert_eq!(first.matches.vendor_device, Some((0x1002, 0x74a1)));
    assert_eq!(first.matches.model.as_deref(), Some("mi300x"));
    assert_eq!(first.matches.serial, Some(Serial::Number(0xabcd_ef01_2345_6789)));
    assert_eq!(
        first.layout,
        Layout {
            vfs: VfCount::Exactly(8),
            bind: None,
            modes: Modes::new(),
            wipe: Wipe::Usual,
            park: BTreeMap::new()
        }
    );
    assert_eq!(first.origin, "x.toml:4");
    assert_eq!(second.layout.vfs, VfCount::All);
    assert_eq!(second.layout.bind.as_deref(), Some("vfio-pci"));
}

#[test]
fn modes_are_words_numbers_or_lists() {
    let read = |layout: &str| {
        let text = format!("[[gpu]]\nmatch = {{ driver = \"gim\" }}\nlayout = {{ {layout} }}");
        parse(&[("a.toml".into(), text)]).unwrap().rules.remove(0).layout
    };
    let layout = read("vfs = 8, compute = \"CPX\", memory = \"nps4\"");
    assert_eq!(layout.to_string(), "vfs=8 compute=CPX memory=nps4");
    assert_eq!(layout.modes.get(&Mode::Memory), Some(&"NPS4".parse().unwrap()));
    let layout = read("compute = [\"3g.20gb\", \"1g.5gb\"], memory = 4");
    assert_eq!(layout.to_string(), "vfs=0 compute=1g.5gb,3g.20gb memory=4");
    let layout = read("vfs = 8, wipe = \"required\", compute = \"CPX\"");
    assert_eq!(layout.to_string(), "vfs=8 wipe=required compute=CPX");
    assert_eq!(layout.wipe, Wipe::Required);
    // What a daemon before this one recorded has none.
    let old: Layout = serde_json::from_str("{\"vfs\":{\"exactly\":8}}").unwrap();
    assert_eq!(old, read("vfs = 8"));
    for (bad, said) in [
        ("compute = true", "`compute`: expected a text"),
        ("compute = [1]", "`compute`: expected a text"),
        ("compute = \"../x\"", "`compute`: only letters"),
        ("compute = []", "`compute`: only letters"),
        ("conpute = \"CPX\"", "did you mean `compute`?"),
    ] {
        let text = format!("[[gpu]]\nmatch = {{ driver = \"gim\" }}\nlayout = {{ {bad} }}");
        let errors = errors(&text);
        assert!(errors[0].contains(said), "{bad}: {errors:?}");
    }
}

#[test]
fn what_is_parked_needs_no_vfs_and_is_counted() {
    let text =
        "[[gpu]]\nmatch = { model = \"t4\" }\nlayout = { park = { nvidia-t4-8q = 1, b = 0x2 } }";
    let layout = parse(&[("a.toml".into(), text.into())]).unwrap().rules[0].layout.clone();
    assert_eq!(layout.to_string(), "vfs=0 park:b=2 park:nvidia-t4-8q=1");
    for (bad, said) in [
        ("parc = {}", "a.toml:3:12: unknown key `parc`; did you mean `park`?"),
        ("vfs = 1, park = 1", "a.toml:3:28: `park` must be a table of profiles"),
        ("park = { p = 0 }", "a.toml:3:25: `park` of p must be a number from 1 to 16"),
        ("park = { p = 17 }", "a.toml:3:25: `park` of p must be"),
        ("park = { p = \"1\" }", "a.toml:3:25: `park` of p must be"),
        ("park = { \"no such\" = 1 }", "a.toml:3:21: `park`: "),
        ("park = {}", "a layout needs `vfs`"),
    ] {
        let errors =
            errors(&format!("[[gpu]]\nmatch = {{ driver = \"x\" }}\nlayout = {{ {bad} }}"));
        assert!(errors[0].contains(said), "{bad}: {errors:?}");
    }
}

#[test]
fn empty_is_a_configuration() {
    assert_eq!(parse(&[]).unwrap(), Config::default());
    assert_eq!(parse(&[("a".into(), String::new())]).unwrap(), Config::default());
}

#[test]
fn each_mistake_names_its_line_and_key() {
    let gpu = |inner: &str| format!("[[gpu]]\n{inner}\n");
    let good_match = "match = { driver = \"x\" }";
    for (text, want) in [
        (
            "placment = \"pack\"".to_owned(),
            "a.toml:1:1: unknown key `placment`; did you mean `placement`?",
        ),
        (
            "\nzzz = 1".to_owned(),
            "a.toml:2:1: unknown key `zzz`; known here: placement, on-error, gpu",
        ),
        ("on-error = true".to_owned(), "a.toml:1:12: `on-error` must be \"cordon\" or \"warn\""),
        (
            "on-eror = \"warn\"".to_owned(),
            "a.toml:1:1: unknown key `on-eror`; did you mean `on-error`?",
        ),
        ("placement = \"x\"".to_owned(), "a.toml:1:13: `placement` must be \"pack\" or \"spread\""),
        ("gpu = 1".to_owned(), "a.toml:1:7: `gpu` must be written as [[gpu]]"),
        (gpu("layout = { vfs = 1 }"), "a.toml:1:1: a [[gpu]] needs `match`"),
        (gpu(good_match), "a.toml:1:1: a [[gpu]] needs `layout`"),
        (gpu("match = {}\nlayout = { vfs = 1 }"), "a.toml:2:9: `match` is empty"),
        (gpu(&format!("{good_match}\nlayout = {{}}")), "a.toml:3:10: a layout needs `vfs`"),
        (
            gpu(&format!("{good_match}\nlayout = {{ vfs = -1 }}")),
            "a.toml:3:18: `vfs` is -1; expected 0 to 65535",
        ),
        (gpu(&format!("{good_match}\nlayout = {{ vfs = 70000 }}")), "a.toml:3:18: `vfs` is 70000"),
        (
            gpu(&format!("{good_match}\nlayout = {{ vfs = \"most\" }}")),
            "a.toml:3:18: `vfs` must be",
        ),
        (
            gpu(&format!("{good_match}\nlayout = {{ vf = 1 }}")),
            "a.toml:3:12: unknown key `vf`; did you mean `vfs`?",
        ),
        (
            gpu(&format!("{good_match}\nlayout = {{ vfs = 1, bind = \"../x\" }}")),
            "a.toml:3:28: `bind` must be",
        ),
        (
            gpu(&format!("{good_match}\nlayout = {{ vfs = 1, wipe = true }}")),
            "a.toml:3:28: `wipe` must be \"required\"",
        ),
        (
            gpu(&format!("{good_match}\nlayout = {{ vfs = 1, wipe = \"maybe\" }}")),
            "a.toml:3:28: `wipe` must be \"required\"",
        ),
        (
            gpu("match = { address = \"4:0\" }\nlayout = { vfs = 1 }"),
            "a.toml:2:21: `address` is \"4:0\"; expected e.g. 0000:41:00.0",
        ),
        (
            gpu("match = { model = \"mi 300x\" }\nlayout = { vfs = 1 }"),
            "a.toml:2:19: `model` is \"mi 300x\"; expected e.g. mi300x",
        ),
        (
            gpu("match = { slot = \"a/b\" }\nlayout = { vfs = 1 }"),
            "a.toml:2:18: `slot` is \"a/b\"; expected e.g. 3, a name below /sys/bus/pci/slots",
        ),
        (
            gpu("match = { slot = 3 }\nlayout = { vfs = 1 }"),
            "a.toml:2:18: `slot` must be a text in quotes",
        ),
        (
            gpu("match = { slots = \"3\" }\nlayout = { vfs = 1 }"),
            "a.toml:2:11: unknown key `slots`; did you mean `slot`?",
        ),
        (
            gpu("match = { serial = 5 }\nlayout = { vfs = 1 }"),
            "a.toml:2:20: `serial` must be a text in quotes",
        ),
        ("[[gpu]".to_owned(), "a.toml:1:"),
        ("a = \"\u{0}\"".to_owned(), "a.toml:1:"),
    ] {
        let all = errors(&text);
        assert!(all[0].starts_with(want), "{text:?}: {all:?}, wanted {want:?}");
        assert_eq!(all.len(), 1, "{text:?}: {all:?}");
    }
}

#[test]
fn all_mistakes_of_all_files_are_told() {
    let files = [("a.toml".into(), "x = 1\ny = 2".into()), ("b.toml".into(), "z = 3".into())];
    let all = parse(&files).unwrap_err();
    assert_eq!(all.len(), 3);
    assert_eq!((all[2].file.as_str(), all[2].place.map(|place| place.line)), ("b.toml", Some(1)));
}
