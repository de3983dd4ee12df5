//! Programs that are the one supported way to something: by absolute path, with an environment of our own and a
//! deadline, never through a shell.

use crate::{errno, io_errno};
use gpuslice_core::errno::Errno;
use gpuslice_core::port::Ran;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a vendor's script may call.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Most that is read of what a failing program prints, bytes.
const MOST_SAID: usize = 4096;

/// For what must not be broken off, or cannot be: whoever calls runs in a process of its own and is left behind.
pub(super) const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Which part of what a program prints is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// All of it, when it is so many bytes at most.
    Whole(usize),
    /// The end.
    End,
}

pub(super) fn run(
    program: &str,
    arguments: &[&str],
    deadline: Duration,
    part: Part,
) -> Result<Ran, Errno> {
    // Not a pipe: nothing reads while it runs, and it must not wait for a reader.
    let output = File::from(memfd_create("tool", MemfdFlags::CLOEXEC).map_err(errno)?);
    let stdout = output.try_clone().map_err(|e| io_errno(&e))?;
    let stderr = output.try_clone().map_err(|e| io_errno(&e))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|e| io_errno(&e))?;
    if let Err(error) = wait(&child, deadline) {
        // Whether it dies is the kernel's to say: inside init_module(2) not even SIGKILL ends it.
        let _ = child.kill();
        wait_in_passing(child);
        return Err(error);
    }
    let status = child.wait().map_err(|e| io_errno(&e))?;
    Ok(Ran { code: code(status), said: said(&output, part)? })
}

/// One that nobody waits for stays as a zombie, and those count as tasks of the daemon's.
fn wait_in_passing(mut child: Child) {
    let waiter = std::thread::Builder::new().name("waiter".to_owned());
    // Where no thread can be had, that is how it is.
    let _ = waiter.spawn(move || child.wait());
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1)
}

fn said(output: &File, part: Part) -> Result<String, Errno> {
    let length = output.metadata().map_err(|e| io_errno(&e))?.len();
    let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
    let from = match part {
        Part::Whole(most) if length > most => return Err(Errno::EFBIG),
        Part::Whole(_) => 0,
        Part::End => length.saturating_sub(MOST_SAID),
    };
    let mut text = vec![0; length - from];
    let got = output.read_at(&mut text, from as u64).map_err(|e| io_errno(&e))?;
    text.truncate(got);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn wait(child: &Child, deadline: Duration) -> Result<(), Errno> {
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(errno)?;
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::EINVAL)?;
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Ran, Errno> {
        run("/bin/sh", &["-c", script], Duration::from_secs(20), Part::End)
    }

    #[test]
    fn status_and_both_streams_come_back() {
        let ran = sh("echo one; echo two >&2; exit 3").unwrap();
        assert_eq!(ran, Ran { code: 3, said: "one\ntwo\n".to_owned() });
        assert_eq!(sh("kill -TERM $$").unwrap().code, 128 + 15);
    }

    #[test]
    fn of_a_long_complaint_the_end_is_kept() {
        let said = sh("i=0; while [ $i -lt 2000 ]; do echo padding; i=$((i+1)); done; echo last")
            .unwrap()
            .said;
        assert!(said.len() <= MOST_SAID && said.ends_with("\nlast\n"), "{said}");
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let answer = |most| {
            run("/bin/sh", &["-c", "echo 123456789"], Duration::from_secs(20), Part::Whole(most))
        };
        assert_eq!(answer(10).unwrap().said, "123456789\n");
        assert_eq!(answer(9), Err(Errno::EFBIG));
    }

    #[test]
    fn it_inherits_neither_environment_nor_input() {
        let ran = sh("echo \"${HOME-none} $LC_ALL $PWD\"; cat").unwrap();
        assert_eq!(ran.said, "none C /\n");
    }

    #[test]
    fn one_that_is_not_there_is_no_failure_of_its_own() {
        assert_eq!(run("/nowhere", &[], Duration::from_secs(1), Part::End), Err(Errno::ENOENT));
    }

    #[test]
    fn one_that_does_not_end_is_given_up() {
        let ended = run("/bin/sleep", &["1000"], Duration::from_millis(20), Part::End);
        assert_eq!(ended, Err(Errno::ETIMEDOUT));
    }

    #[test]
    fn one_that_was_given_up_is_gone() {
        let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap();
        let ended = run("/bin/sleep", &["1000"], Duration::from_millis(20), Part::End);
        assert_eq!(ended, Err(Errno::ETIMEDOUT));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !children().is_empty() {
            assert!(Instant::now() < deadline, "still there: {}", children());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
