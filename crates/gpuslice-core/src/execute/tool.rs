//! Vendor tools that are the one supported way to make VFs, or to set a mode.

use super::{Performed, StepError, binding, failed, kernel_log, sriov, vf_type, write};
use crate::ids::PciAddress;
use crate::observation::PF_STUB;
use crate::plan::Shown;
use crate::port::{HostRead, HostWrite, Ran, read_text};
use std::collections::BTreeSet;

/// What a run is for.
pub(super) struct Asked<'a> {
    pub(super) count: u16,
    pub(super) command: &'a [String],
    pub(super) not_ready: &'a [String],
    pub(super) in_the_way: &'a [String],
    pub(super) lock: Option<&'a str>,
    pub(super) resumed: bool,
}

/// `attribute` has a VF's type, where they are given one.
pub(super) fn run(
    host: &mut dyn HostWrite,
    pf: PciAddress,
    asked: &Asked<'_>,
    attribute: Option<&str>,
) -> Result<Performed, StepError> {
    let Asked { count: wanted, command, not_ready, in_the_way, lock, resumed } = *asked;
    give_driver(host, pf, resumed)?;
    let links = sriov::links(host, pf)?;
    let current = sriov::count(&links);
    if current == wanted {
        give_vfs_their_driver(host, pf)?;
        return Ok(Performed::Already);
    }
    // The tool would take these first, with all that is on them, and nobody was asked.
    if wanted != 0 && current != 0 {
        return Err(StepError::NotZero { pf, current });
    }
    sriov::require_free(host, pf, &links)?;
    if let Some(attribute) = attribute {
        vf_type::require_none(host, &sriov::vfs(host, pf, &links)?, attribute)?;
    }
    let lock = lock.filter(|_| wanted == 0);
    lock.map_or(Ok(()), |lock| take_lock(host, pf, lock))?;
    let said = command.join(" ");
    let before = kernel_log::newest(host);
    let ran = host.run_unbroken(command).map_err(failed(format!("run {said}")));
    let driven = give_driver(host, pf, true);
    if let Some(lock) = lock {
        give_lock_back(host, lock);
    }
    let ran = ran?;
    if ran.code == 0 && driven.is_ok() && sriov::check_count(host, pf, wanted).is_ok() {
        return Ok(Performed::Changed);
    }
    // What it left undone may be mended. Why it failed is what it says, whatever becomes of that; one that says nothing
    // has failed all the same.
    let mended = driven.and_then(|()| give_vfs_their_driver(host, pf));
    let left = match (mended, sriov::check_count(host, pf, wanted)) {
        (Err(left), _) => left,
        (Ok(()), Err(StepError::Fewer { got, .. })) if wanted == 0 => {
            StepError::NotZero { pf, current: got }
        }
        (Ok(()), Err(left @ StepError::Fewer { .. })) => left,
        (Ok(()), counted) => return counted,
    };
    if let Some(line) = kernel_log::refusing_line(host, before, not_ready) {
        let answer = format!("ended with {}{}", ran.code, super::said_last(&last_line(&ran)));
        return Err(StepError::NotReady { operation: said, answer, said: line });
    }
    Err(match complaint(said, &ran, in_the_way) {
        StepError::Tool { code: 0, .. } => left,
        complaint => complaint,
    })
}

/// Refuses while somebody has the device open, before the tool takes its VFs off their driver: then none of them is of use any
/// more. Whoever opens it now is kept waiting.
fn take_lock(host: &mut dyn HostWrite, pf: PciAddress, lock: &str) -> Result<(), StepError> {
    // Not every version has one, and the tool asks for it too.
    let said = write(host, lock, "1").ok().and_then(|_| read_text(host, lock).ok());
    let had = said.is_none_or(|said| said == "1");
    had.then_some(()).ok_or_else(|| StepError::Locked { pf, lock: lock.to_owned() })
}

/// It went with the driver, unless the tool left the driver where it was.
fn give_lock_back(host: &mut dyn HostWrite, lock: &str) {
    if read_text(host, lock).is_ok_and(|said| said == "1") {
        // What the tool said is what counts.
        let _ = write(host, lock, "0");
    }
}

/// A tool that takes the driver off the PF can fail, or be killed, before it gives it back: the PF has none then, or is under
/// the kernel's stub, where an override keeps it. It is run for none that is so. The stub is taken away only after a run that was
/// `ours`: while somebody else's is at work, it is where it has the PF.
fn give_driver(host: &mut dyn HostWrite, pf: PciAddress, ours: bool) -> Result<(), StepError> {
    let present = binding::driver(host, pf)?;
    if present.as_deref().is_some_and(|driver| driver != PF_STUB) {
        return Ok(());
    }
    if present.is_some() && !ours {
        return Err(StepError::NoDriver { pf });
    }
    let path = format!("{}/driver_override", binding::dir(pf));
    let kept = read_text(host, &path).map_err(failed(format!("read {path}")))?;
    if kept == PF_STUB {
        write(host, &path, "\n")?;
    }
    if let Some(stub) = present {
        binding::release(host, pf, &stub)?;
    }
    write(host, "/sys/bus/pci/drivers_probe", &pf.to_string())?;
    Ok(())
}

/// The VFs get theirs last of all, which is that of the PF. By its name, since what probes a PF may leave its VFs alone. The
/// stub, which has been told their ids too, may have taken some.
fn give_vfs_their_driver(host: &mut dyn HostWrite, pf: PciAddress) -> Result<(), StepError> {
    let Some(name) = binding::driver(host, pf)? else { return Ok(()) };
    for vf in sriov::vfs(host, pf, &sriov::links(host, pf)?)? {
        if binding::driver(host, vf)?.as_deref() == Some(PF_STUB) {
            binding::release(host, vf, PF_STUB)?;
        }
        if binding::driver(host, vf)?.is_none() {
            let bound = write(host, &format!("/sys/bus/pci/drivers/{name}/bind"), &vf.to_string());
            // Somebody may have been faster.
            if binding::driver(host, vf)?.is_none() {
                bound?;
            }
        }
    }
    Ok(())
}

/// Why a tool has not done what it was run for. That somebody has the device open it may say in any line, however it ended.
fn complaint(command: String, ran: &Ran, in_the_way: &[String]) -> StepError {
    let code = ran.code;
    let says = |line: &&str| in_the_way.iter().any(|word| line.contains(word.as_str()));
    match ran.said.lines().find(says) {
        Some(line) => StepError::Opened { command, code, said: told(line) },
        None => StepError::Tool { command, code, said: last_line(ran) },
    }
}

fn last_line(ran: &Ran) -> String {
    told(lines(ran).next_back().unwrap_or_default())
}

/// Those with something in them.
fn lines(ran: &Ran) -> impl DoubleEndedIterator<Item = &str> {
    ran.said.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// As much of it as is told.
fn told(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

pub(super) fn set_mode(
    host: &mut dyn HostWrite,
    device: PciAddress,
    command: &[String],
    in_the_way: &[String],
    shown: &Shown,
    disturbs: &BTreeSet<PciAddress>,
) -> Result<Performed, StepError> {
    if check_mode(host, shown)? == Performed::Changed {
        return Ok(Performed::Already);
    }
    for pf in disturbs {
        let links = sriov::links(host, *pf)?;
        sriov::require_unopened(host, *pf, &links)?;
    }
    let said = command.join(" ");
    let ran = host.run(command).map_err(failed(format!("run {said}")))?;
    match check_mode(host, shown)? {
        // The tool has returned: what it did not do by now it will not do.
        Performed::NotYet => Err(match complaint(said, &ran, in_the_way) {
            // Any of its lines may tell why, and the last one that all is done.
            StepError::Tool { command, code: 0, .. } => {
                let all = told(&lines(&ran).collect::<Vec<_>>().join("; "));
                let all = super::said_last(&all);
                let state = format!("is not as {command} should have left it{all}");
                StepError::Unchanged { object: device.to_string(), state }
            }
            complaint => complaint,
        }),
        so => Ok(so),
    }
}

/// A tool that has nothing to list may call that a failure, so what it says counts and not how it ends.
pub(super) fn check_mode(host: &dyn HostRead, shown: &Shown) -> Result<Performed, StepError> {
    let ran = host.ask(&shown.by).map_err(failed(format!("run {}", shown.by.join(" "))))?;
    let lines: Vec<Vec<&str>> =
        ran.said.lines().map(|line| line.split_whitespace().collect()).collect();
    // What cannot be listed is not nothing.
    let lists = ran.code == 0 || ran.said.contains("instances found");
    let so = shown.lines.iter().all(|(text, count)| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let says = |line: &&Vec<&str>| line.windows(words.len()).any(|part| part == words);
        (lists || *count > 0) && lines.iter().filter(says).count() == usize::from(*count)
    });
    Ok(if so { Performed::Changed } else { Performed::NotYet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_device_open_is_told_by_any_line_and_else_by_the_last() {
        let words = ["unbindLock".to_owned(), "another client".to_owned()];
        for (code, said, told, is_open) in [
            (1, "Cannot obtain unbindLock", "tool ended with 1: Cannot obtain unbindLock", true),
            (1, "no unbindLock\nawk: no file\n", "tool ended with 1: no unbindLock", true),
            (
                0,
                "Warning: another client \nAll done.",
                "tool ended with 0: Warning: another client",
                true,
            ),
            (3, "Making\n  Not Supported\n\n", "tool ended with 3: Not Supported", false),
            (137, "", "tool ended with 137", false),
        ] {
            let ran = Ran { code, said: said.to_owned() };
            let complaint = complaint("tool".to_owned(), &ran, &words);
            assert_eq!(complaint.to_string(), told);
            assert_eq!(matches!(complaint, StepError::Opened { .. }), is_open, "{said}");
        }
    }
}
