use super::*;
use crate::small_disk::SmallDisk;
use gpuslice_core::holders;
use rustix::fd::AsRawFd;
use rustix::fs::mknodat;
use rustix::thread::set_thread_uid;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn tree() -> (tempfile::TempDir, SysHost) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sys/a")).unwrap();
    let host = SysHost::new(dir.path()).unwrap();
    (dir, host)
}

fn put(dir: &tempfile::TempDir, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

/// Runs as nobody: root itself is never refused by a mode. Only the thread changes its user.
fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
            }
            run()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_long_list_of_files_is_read_in_its_order() {
    let (dir, host) = tree();
    for number in 0..97 {
        put(&dir, &format!("sys/a/{number}/x"), format!("{number}x"));
        put(&dir, &format!("sys/a/{number}/y"), format!("{number}y"));
    }
    for length in [0, 1, SHARE / 2, SHARE, SHARE + 1, READERS * SHARE / 2 + 3] {
        // Each 98th folder is not there.
        let files = |at| Files { folder: format!("/sys/a/{}", at % 98), names: &["x", "y"] };
        let folders: Vec<Files> = (0..length).map(files).collect();
        let content = |at: usize, name: &str| match at % 98 {
            97 => Err(Errno::ENOENT),
            folder => Ok(format!("{folder}{name}").into_bytes()),
        };
        let want: Vec<_> =
            (0..length).flat_map(|at| [content(at, "x"), content(at, "y")]).collect();
        assert_eq!(host.read_each(&folders), want, "{length} folders");
    }
}

#[test]
fn each_file_of_a_list_is_the_one_of_its_own_folder() {
    let (dir, host) = tree();
    put(&dir, "sys/a/b/c", "1");
    put(&dir, "sys/a/d/c", "2");
    put(&dir, "sys/e/b/c", "3");
    symlink("e", dir.path().join("sys/to-e")).unwrap();
    let folders = ["a/b", "a/d", "e/b", "to-e/b", "gone/b", "a/b/c/d", "a", "a/b"];
    let files = |folder| Files { folder: format!("/sys/{folder}"), names: &["c", "b"] };
    let folders: Vec<Files> = folders.into_iter().map(files).collect();
    let alone: Vec<_> = folders.iter().flat_map(Files::paths).map(|f| host.read(&f)).collect();
    assert_eq!(host.read_each(&folders), alone);
    let count = |errno| alone.iter().filter(|read| **read == Err(errno)).count();
    // "c" of the folder "a" is not there, nor is "b" of any folder but that one, where it is a folder.
    assert_eq!([Errno::ENOENT, Errno::ENOTDIR, Errno::EISDIR].map(count), [8, 2, 1]);
    let odd = ["relative", "", "/x"].map(|f| Files { folder: f.to_owned(), names: &["y"] });
    let want = [Errno::EINVAL, Errno::ENOENT, Errno::ENOENT].map(Err);
    assert_eq!(host.read_each(&odd), want);
}

#[test]
fn absent_empty_and_unreadable_are_three_answers() {
    let (dir, host) = tree();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let closed = dir.path().join("sys/closed");
    fs::create_dir(&closed).unwrap();
    let secret = put(&dir, "sys/secret", "1");
    put(&dir, "sys/empty", "");
    assert_eq!(host.list("/sys/a"), Ok(vec![]));
    assert_eq!(host.list("/sys/b"), Err(Errno::ENOENT));
    assert_eq!(host.list("/sys/empty"), Err(Errno::ENOTDIR));
    assert_eq!(host.read("/sys/empty"), Ok(vec![]));
    assert_eq!(host.read("/sys/b"), Err(Errno::ENOENT));
    assert_eq!(host.read("/sys/a"), Err(Errno::EISDIR));
    for path in [&closed, &secret] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    as_nobody(|| {
        assert_eq!(host.list("/sys/closed"), Err(Errno::EACCES));
        assert_eq!(host.read("/sys/closed/x"), Err(Errno::EACCES));
        assert_eq!(host.link("/sys/closed/x"), Err(Errno::EACCES));
        assert_eq!(host.read("/sys/secret"), Err(Errno::EACCES));
        let mut host = host.clone();
        assert_eq!(host.write("/sys/secret", b"1"), Err(Errno::EACCES));
        assert_eq!(host.load_module("a"), Err(Errno::ENOSYS));
    });
    fs::create_dir_all(dir.path().join("sys/module")).unwrap();
    fs::set_permissions(dir.path().join("sys/module"), fs::Permissions::from_mode(0o000)).unwrap();
    as_nobody(|| assert_eq!(host.clone().load_module("a"), Err(Errno::EACCES)));
    fs::set_permissions(closed, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_process_that_cannot_be_looked_into_is_not_free_of_devices() {
    let host = SysHost::new("/").unwrap();
    let _open = fs::File::open("/dev/null").unwrap();
    let nodes = BTreeSet::from(["/dev/null".to_owned()]);
    let me = std::process::id();
    let seen = holders::find(&host, &nodes).unwrap();
    assert!(seen.found.iter().any(|h| h.pid == me && !h.comm.is_empty()), "{seen:?}");
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: holders among processes that may not be looked into: this is not root");
        return;
    }
    let seen = as_nobody(|| holders::find(&host, &nodes)).unwrap();
    assert!(seen.unknown.contains(&1), "{seen:?}");
    assert!(seen.held());
}

#[test]
fn a_path_longer_than_a_page_hides_no_other_descriptor() {
    let host = SysHost::new("/").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut deepest = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    let name = "x".repeat(255);
    for _ in 0..=PAGE / name.len() {
        rustix::fs::mkdirat(&deepest, &name, Mode::RWXU).unwrap();
        deepest = rustix::fs::openat(&deepest, &name, flags, Mode::empty()).unwrap();
    }
    let link = format!("/proc/self/fd/{}", deepest.as_raw_fd());
    assert_eq!(host.link(&link), Err(Errno::ENAMETOOLONG));
    let me = std::process::id();
    let _open = fs::File::open("/dev/null").unwrap();
    let seen = holders::find(&host, &BTreeSet::from(["/dev/null".to_owned()])).unwrap();
    assert!(seen.found.iter().any(|h| h.pid == me) && !seen.unknown.contains(&me), "{seen:?}");
}

/// A device that needs no driver, under another name.
fn node(dir: &tempfile::TempDir) -> Option<String> {
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("node");
    let null = rustix::fs::makedev(1, 3);
    let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, null);
    if made.is_ok() && fs::File::open(&path).is_ok() {
        return Some(path.to_str().unwrap().to_owned());
    }
    println!("SKIPPED: holders of a node: making one takes root");
    None
}

fn holds(pid: u32, node: &str) -> bool {
    let nodes = BTreeSet::from([node.to_owned()]);
    let seen = holders::find(&SysHost::new("/").unwrap(), &nodes).unwrap();
    assert!(!seen.unknown.contains(&pid), "{seen:?}");
    seen.found.iter().any(|holder| holder.pid == pid)
}

#[test]
fn a_node_that_was_removed_is_held_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(&dir) else { return };
    let open = fs::File::open(&node).unwrap();
    fs::remove_file(&node).unwrap();
    assert!(holds(std::process::id(), &node));
    drop(open);
    assert!(!holds(std::process::id(), &node));
}

#[test]
fn who_may_not_open_a_node_does_not_hold_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(&dir) else { return };
    let open = |flags| rustix::fs::open(&node, flags | OFlags::CLOEXEC, Mode::empty());
    let refused = as_nobody(|| open(OFlags::RDWR)).map_err(errno);
    assert_eq!(refused.err(), Some(Errno::EACCES));
    let named = as_nobody(|| open(OFlags::PATH)).unwrap();
    assert_eq!(link_of(&named), node);
    assert!(!holds(std::process::id(), &node));
    let opened = open(OFlags::RDWR).unwrap();
    assert!(holds(std::process::id(), &node));
    drop(opened);
    fs::remove_file(&node).unwrap();
    assert!(!holds(std::process::id(), &node));
}

fn link_of(fd: &OwnedFd) -> String {
    SysHost::new("/").unwrap().link(&format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

/// Libvirt gives each QEMU its own `/dev`, and anybody may give himself one where user namespaces are allowed.
#[test]
fn in_a_file_system_of_its_own_a_process_holds_the_node_and_no_other_file_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(&dir) else { return };
    let folder = dir.path().to_str().unwrap();
    let own = |make: &str| {
        let script = format!("mount -t tmpfs x {folder} && {make} && exec 3<{node} && echo && cat");
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
        let holds = holds(child.id(), &node);
        child.kill().unwrap();
        child.wait().unwrap();
        holds
    };
    assert!(own(&format!("mknod {node} c 1 3")));
    assert!(!own(&format!("mknod {node} c 1 5")));
    assert!(!own(&format!("touch {node}")));
}

#[test]
fn content_is_whole_at_every_length() {
    let (dir, host) = tree();
    for length in [1, 2, 4095, 4096, 4097, 8191, 8192, 8193, 12288, READ_LIMIT] {
        let content: Vec<u8> = (0..length).map(|i| i.to_le_bytes()[0]).collect();
        put(&dir, "sys/x", &content);
        put(&dir, "etc/x", &content);
        assert_eq!(host.read("/sys/x").unwrap(), content, "{length}");
        assert_eq!(host.read("/etc/x").unwrap(), content, "{length}");
    }
    put(&dir, "sys/x", vec![0; READ_LIMIT + 1]);
    assert_eq!(host.read("/sys/x"), Err(Errno::EFBIG));
}

#[test]
fn files_of_proc_are_read_past_short_reads() {
    let host = SysHost::new("/").unwrap();
    // One record a mapping, a page or less a read.
    let text = String::from_utf8(host.read("/proc/self/smaps").unwrap_or_default()).unwrap();
    assert!(text.len() > 8192 && text.ends_with('\n'), "{}", text.len());
    assert!(text.contains("[stack]"));
}

#[test]
fn all_names_of_a_large_directory() {
    let (dir, host) = tree();
    let want: BTreeSet<String> = (0..3000).map(|i| format!("0000:{i:02x}:00.0-{i}")).collect();
    for name in &want {
        put(&dir, &format!("sys/a/{name}"), "");
    }
    let got: Vec<_> = host.list("/sys/a").unwrap();
    assert_eq!(got.len(), want.len());
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), want);
}

#[test]
fn odd_names_and_targets_hide_nothing() {
    let (dir, host) = tree();
    put(&dir, "sys/a/.hidden", "");
    fs::write(dir.path().join("sys/a").join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    let mut names = host.list("/sys/a").unwrap();
    names.sort();
    assert_eq!(names, [".hidden", "\u{fffd}"]);
    symlink(std::ffi::OsStr::from_bytes(b"../\xff"), dir.path().join("sys/link")).unwrap();
    assert_eq!(host.link("/sys/link"), Ok("../\u{fffd}".to_owned()));
}

#[test]
fn links_are_told_as_stored() {
    let (dir, host) = tree();
    symlink("../nowhere/vfio-pci", dir.path().join("sys/a/driver")).unwrap();
    assert_eq!(host.link("/sys/a/driver"), Ok("../nowhere/vfio-pci".to_owned()));
    assert_eq!(host.link("/sys/a"), Err(Errno::EINVAL));
    assert_eq!(host.link("/sys/a/other"), Err(Errno::ENOENT));
    let longest = "x".repeat(4095);
    symlink(&longest, dir.path().join("sys/a/long")).unwrap();
    assert_eq!(host.link("/sys/a/long"), Ok(longest));
}

#[test]
fn writes_neither_make_nor_shorten_files() {
    let (dir, mut host) = tree();
    let path = put(&dir, "sys/a/sriov_numvfs", "16\n");
    assert_eq!(host.write("/sys/a/sriov_numvfs", b"8"), Ok(Written::Done));
    assert_eq!(fs::read_to_string(&path).unwrap(), "86\n");
    assert_eq!(host.write("/sys/a/other", b"8"), Err(Errno::ENOENT));
    assert!(!dir.path().join("sys/a/other").exists());
    assert_eq!(host.write("/sys/a", b"8"), Err(Errno::EISDIR));
}

#[test]
fn a_write_taken_in_part_is_a_failure() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    fs::create_dir(disk.path().join("sys")).unwrap();
    fs::write(disk.path().join("sys/x"), "").unwrap();
    let mut host = SysHost::new(disk.path()).unwrap();
    assert_eq!(host.write("/sys/x", &vec![b'x'; 2 * SmallDisk::SIZE]), Err(Errno::EIO));
}

#[test]
fn roots() {
    assert_eq!(SysHost::new("/").unwrap().root(), "/");
    assert_eq!(SysHost::new("/tmp/x/").unwrap().root(), "/tmp/x");
    assert!(SysHost::new("x").unwrap().root().ends_with("/x"));
    assert!(SysHost::new("x").unwrap().root().starts_with('/'));
    assert_eq!(SysHost::new(""), Err(Errno::EINVAL));
    let host = SysHost::new("/").unwrap();
    assert_eq!(host.read("sys/x"), Err(Errno::EINVAL));
    assert_eq!(host.read("/sys/x\0y"), Err(Errno::EINVAL));
}

#[test]
fn a_file_of_settings_is_replaced_whole() {
    let (dir, mut host) = tree();
    let file = put(&dir, "etc/modprobe.d/gpuslice-x.conf", "old and longer\n");
    host.replace("/etc/modprobe.d/gpuslice-x.conf", b"new\n").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new\n");
    host.replace("/etc/modprobe.d/gpuslice-y.conf", b"").unwrap();
    let mut names = host.list("/etc/modprobe.d").unwrap();
    names.sort();
    assert_eq!(names, ["gpuslice-x.conf", "gpuslice-y.conf"]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(host.replace("/etc/none/x.conf", b"x"), Err(Errno::ENOENT));
}

#[test]
fn a_full_disk_leaves_the_old_settings() {
    let Some(disk) = SmallDisk::mount() else { return };
    let old = vec![b'a'; 1000];
    fs::write(disk.path().join("x.conf"), &old).unwrap();
    let mut host = SysHost::new(disk.path()).unwrap();
    assert_eq!(host.replace("/x.conf", &vec![b'b'; 2 * SmallDisk::SIZE]), Err(Errno::ENOSPC));
    assert_eq!(fs::read(disk.path().join("x.conf")).unwrap(), old);
    assert_eq!(host.list("/").unwrap(), ["x.conf"]);
}

/// `nvidia-smi -q` says about 14 KiB of each GPU.
#[test]
fn what_a_tool_says_of_many_gpus_comes_whole() {
    let host = SysHost::new("/").unwrap();
    let say = |gpus: u32| {
        let script = "gpu=0; while [ $gpu -lt $0 ]; do printf 'GPU %s\\n%14000s\\n' $gpu end; \
                      gpu=$((gpu+1)); done";
        host.ask(&["/bin/sh", "-c", script, &gpus.to_string()].map(str::to_owned))
    };
    let said = say(16).unwrap().said;
    let gpus: Vec<&str> = said.lines().filter(|line| line.starts_with("GPU ")).collect();
    assert_eq!((gpus.len(), gpus.last().copied()), (16, Some("GPU 15")));
    assert!(said.ends_with("end\n") && said.len() > 16 * 14_000, "{}", said.len());
    assert_eq!(say(400), Err(Errno::EFBIG));
}
