use super::thread::{Ear, start};
use super::*;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

/// A device that takes a made-up event without anything changing; `None`, with a line that says so, where that
/// is not permitted.
fn make_event() -> Option<()> {
    let path = "/sys/devices/virtual/mem/null/uevent";
    let made =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"change"));
    if let Err(error) = &made {
        println!("SKIPPED: uevents of a real kernel: write {path}: {error}");
    }
    made.ok()
}

fn memory_devices(buffer: usize) -> Ear {
    Ear { source: Source::Kernel, buffer, wanted: |subsystem| subsystem == "mem" }
}

fn listen(ear: Ear, tell: impl FnMut(UeventNote) + Send + 'static) -> Uevents {
    let (stop, thread) = start(ear, tell).unwrap();
    Uevents { stop, thread: Some(thread) }
}

#[test]
fn an_event_made_after_listen_is_told() {
    let (tell, told) = mpsc::channel();
    let uevents = listen(memory_devices(1 << 20), move |note| drop(tell.send(note)));
    let Some(()) = make_event() else { return };
    let note = told.recv_timeout(Duration::from_secs(60)).unwrap();
    let event = Uevent {
        action: "change".to_owned(),
        subsystem: "mem".to_owned(),
        name: "null".to_owned(),
        driver: None,
        mdev_state: None,
    };
    assert_eq!(note, UeventNote::Event(event));
    drop(uevents);
    // The thread is gone, and the channel with it; the other test's events may still be in it.
    while told.recv().is_ok() {}
}

#[test]
fn lost_events_mean_look_again() {
    let (tell, told) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let mut first = true;
    let _uevents = listen(memory_devices(1), move |note| {
        tell.send(note).unwrap();
        if std::mem::take(&mut first) {
            wait.recv().unwrap();
        }
    });
    // The thread is busy with the first while the others overflow the smallest buffer there is.
    let made = (0..200).all(|_| make_event().is_some());
    go_on.send(()).unwrap();
    if !made {
        return;
    }
    let until_rescan = |told: &mpsc::Receiver<UeventNote>| loop {
        if told.recv_timeout(Duration::from_secs(60)).unwrap() == UeventNote::Rescan {
            break;
        }
    };
    until_rescan(&told);
    // And it listens on.
    make_event().unwrap();
    while !matches!(told.recv_timeout(Duration::from_secs(60)).unwrap(), UeventNote::Event(_)) {}
}

#[test]
fn only_what_concerns_gpus_is_told() {
    let (tell, told) = mpsc::channel();
    let uevents = Uevents::listen(Source::Kernel, move |note| drop(tell.send(note))).unwrap();
    let seen = listen_for_one();
    drop(uevents);
    if seen {
        let others: Vec<_> = told
            .iter()
            .filter(|note| matches!(note, UeventNote::Event(e) if e.subsystem == "mem"))
            .collect();
        assert_eq!(others, []);
    }
    for subsystem in ["pci", "mdev", "vfio", "vfio-dev"] {
        assert!(super::thread::concerns_gpus(subsystem));
    }
    assert!(!super::thread::concerns_gpus("block"));
}

/// Makes an event and waits until a listener that wants it has it.
fn listen_for_one() -> bool {
    let (tell, told) = mpsc::channel();
    let _uevents = listen(memory_devices(1 << 20), move |note| drop(tell.send(note)));
    make_event().is_some() && told.recv_timeout(Duration::from_secs(60)).is_ok()
}

#[test]
fn both_sources_start_and_stop() {
    for source in [Source::Udev, Source::Kernel, Source::detect()] {
        drop(Uevents::listen(source, |_| {}).unwrap());
    }
}
