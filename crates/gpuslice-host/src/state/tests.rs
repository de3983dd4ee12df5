use super::*;
use crate::small_disk::SmallDisk;
use rustix::fs::{CWD, FileType};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path().join("state")).unwrap();
    (dir, state)
}

/// Opens what was just let go. A test beside this one may be about to start a program, and until its exec the
/// copy of the descriptor keeps the lock.
fn open_again(path: &Path) -> StateDir {
    loop {
        match StateDir::open(path) {
            Err(StateError::InUse { holder, .. }) if holder == Some(std::process::id()) => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn all_names(state: &StateDir) -> Vec<String> {
    let mut names = names(state.reopen().unwrap()).unwrap();
    names.sort();
    names
}

#[test]
fn what_is_saved_is_loaded_and_nothing_else_is_left() {
    let (_dir, state) = state();
    assert_eq!(state.load("claims.json"), Loaded::Absent);
    // The rest of a save that was killed.
    fs::write(state.path().join(".claims.json.new"), "x".repeat(9999)).unwrap();
    for text in ["{\"a\":1}", "{}", "ä", &"x".repeat(100_000)] {
        state.save("claims.json", text).unwrap();
        assert_eq!(state.load("claims.json"), Loaded::Present(text.to_owned()));
    }
    assert_eq!(all_names(&state), ["claims.json"]);
    assert_eq!(mode(&state.path().join("claims.json")), 0o600);
    assert_eq!(mode(state.path()), 0o700);
}

#[test]
fn what_there_is_has_five_answers() {
    let (_dir, state) = state();
    let path = state.path().join("x");
    fs::write(&path, "").unwrap();
    assert_eq!(state.load("x"), Loaded::Empty);
    let whole = "{\"name\":\"gpu ä\"}";
    for cut in 1..whole.len() {
        fs::write(&path, &whole.as_bytes()[..cut]).unwrap();
        let want = match whole.get(..cut) {
            Some(text) => Loaded::Present(text.to_owned()),
            None => Loaded::NotText,
        };
        assert_eq!(state.load("x"), want);
    }
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(state.load("x"), Loaded::Unreadable(Errno::ELOOP));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(state.load("x"), Loaded::Unreadable(Errno::EISDIR));
    fs::remove_dir(&path).unwrap();
    assert_eq!(state.load("x"), Loaded::Absent);
}

#[test]
fn a_fifo_in_its_place_does_not_block() {
    let (_dir, state) = state();
    let path = state.path().join("x");
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(state.load("x"), Loaded::Empty);
}

#[test]
fn what_could_not_be_loaded_again_is_not_saved() {
    let (_dir, state) = state();
    state.save("x", "{}").unwrap();
    assert!(state.save("x", &" ".repeat((64 << 20) + 1)).is_err());
    assert_eq!(state.load("x"), Loaded::Present("{}".to_owned()));
}

#[test]
fn names_stay_in_the_directory() {
    let (_dir, state) = state();
    for name in ["", ".", "..", "a/b", "../x", "/etc/x", ".x.new", "A", "a\n", "a b"] {
        let want = StateError::Name { name: name.to_owned() };
        assert_eq!(state.save(name, ""), Err(want.clone()), "{name:?}");
        assert_eq!(state.set_aside(name), Err(want));
        assert_eq!(state.load(name), Loaded::Unreadable(Errno::EINVAL));
    }
}

#[test]
fn the_second_is_told_who_has_it() {
    let (_dir, state) = state();
    let path = state.path().to_owned();
    let error = StateDir::open(&path).unwrap_err();
    let holder = Some(std::process::id());
    assert_eq!(error, StateError::InUse { path: path.clone(), holder });
    let text = format!("lock {}: in use by process {}", path.display(), std::process::id());
    assert_eq!(error.to_string(), text);
    drop(state);
    open_again(&path);
}

#[test]
fn an_open_directory_is_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    StateDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn another_users_directory_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a state directory of another user: giving one away takes root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
    let path = dir.path().to_owned();
    let error = StateDir::open(&path).unwrap_err();
    assert_eq!(error, StateError::NotOurs { path, uid: 65534 });
}

#[test]
fn parents_are_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/state");
    let error = StateDir::open(&path).unwrap_err();
    let text = format!("create {}: no such file or directory (ENOENT)", path.display());
    assert_eq!(error.to_string(), text);
    fs::write(dir.path().join("a"), "").unwrap();
    let error = StateDir::open(dir.path().join("a")).unwrap_err();
    assert!(matches!(
        error,
        StateError::Kernel { operation: Operation::Open, errno: Errno::ENOTDIR, .. }
    ));
}

#[test]
fn corrupt_ones_are_kept_but_not_all() {
    let (_dir, state) = state();
    state.save("x", "other document").unwrap();
    assert_eq!(state.last_aside("claims.json"), Ok(None));
    for n in 1..=7 {
        state.save("claims.json", &format!("corrupt {n}")).unwrap();
        let aside = state.set_aside("claims.json").unwrap();
        assert_eq!(aside, state.path().join(format!("claims.json.corrupt-{n}")));
        assert_eq!(state.last_aside("claims.json"), Ok(Some(aside.clone())));
        assert_eq!(fs::read_to_string(aside).unwrap(), format!("corrupt {n}"));
        assert_eq!(state.load("claims.json"), Loaded::Absent);
    }
    let kept: Vec<_> = (4..=7).map(|n| format!("claims.json.corrupt-{n}")).collect();
    assert_eq!(all_names(&state), [kept, vec!["x".to_owned()]].concat());
    let error = state.set_aside("claims.json").unwrap_err();
    assert!(matches!(
        error,
        StateError::Kernel { operation: Operation::Rename, errno: Errno::ENOENT, .. }
    ));
    assert_eq!(all_names(&state).len(), KEPT + 1);
    // Who has looked at it gave it another name.
    for n in 4..=7 {
        let name = |end: &str| state.path().join(format!("claims.json.corrupt-{n}{end}"));
        fs::rename(name(""), name(".seen")).unwrap();
    }
    assert_eq!(state.last_aside("claims.json"), Ok(None));
    assert_eq!(state.last_aside("x"), Ok(None));
}

#[test]
fn a_full_disk_leaves_the_old_document() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let state = StateDir::open(disk.path().join("state")).unwrap();
    state.save("x", "old").unwrap();
    let error = state.save("x", &"x".repeat(2 * SmallDisk::SIZE)).unwrap_err();
    let want = StateError::Kernel {
        operation: Operation::Write,
        path: state.path().join(".x.new"),
        errno: Errno::ENOSPC,
    };
    assert_eq!(error, want);
    assert_eq!(state.load("x"), Loaded::Present("old".to_owned()));
    assert_eq!(all_names(&state), ["x"]);
    // A process that another test has just forked has the file open until it is another program.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = state.save("x", "new") {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

#[test]
fn a_read_only_disk_can_still_be_read() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.path().join("state");
    StateDir::open(&path).unwrap().save("x", "old").unwrap();
    disk.make_read_only();
    let state = open_again(&path);
    assert_eq!(state.load("x"), Loaded::Present("old".to_owned()));
    let refused = |result: Result<(), StateError>| match result {
        Err(StateError::Kernel { errno, .. }) => errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(state.save("x", "new")), Errno::EROFS);
    assert_eq!(refused(state.set_aside("x").map(drop)), Errno::EROFS);
    assert_eq!(state.load("x"), Loaded::Present("old".to_owned()));
    drop(state);
    let error = StateDir::open(disk.path().join("other")).unwrap_err();
    assert!(matches!(
        error,
        StateError::Kernel { operation: Operation::Create, errno: Errno::EROFS, .. }
    ));
}

#[test]
fn what_must_not_be_read_is_not_absent() {
    let (dir, state) = state();
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    state.save("x", "secret").unwrap();
    fs::set_permissions(state.path().join("x"), fs::Permissions::from_mode(0o000)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
            }
            state.load("x")
        });
        assert_eq!(reader.join().unwrap(), Loaded::Unreadable(Errno::EACCES));
    });
}
