//! The three standard streams as libvirt connects them. They may be closed: the runtime puts /dev/null there before
//! `main`, so that no other file takes their numbers.

use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_domxml::SIZE_LIMIT;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// What a pipe holds: most domains come in one read.
const PIPE: usize = 64 * 1024;

/// Reads stdin to its end, so that libvirt is never left with a broken pipe. What goes beyond the longest document
/// that would be parsed is read and dropped. An error ends the document, which then cannot be parsed.
pub fn read_all() -> Vec<u8> {
    let mut xml = Vec::with_capacity(PIPE);
    let mut surplus = Vec::with_capacity(PIPE);
    loop {
        let target = if xml.len() > SIZE_LIMIT {
            surplus.clear();
            &mut surplus
        } else {
            xml.reserve(PIPE / 2);
            &mut xml
        };
        match rustix::io::read(rustix::stdio::stdin(), spare_capacity(target)) {
            Ok(0) => return xml,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return xml,
        }
    }
}

/// Writes an edited document for libvirt.
pub fn write_all(xml: &str) -> Result<(), Refusal> {
    let lost = |why: String| {
        Refusal::new(Code::DeviceFailed, "the domain's new devices cannot be told to libvirt")
            .because(why)
    };
    let out = rustix::stdio::stdout();
    // Where stdout was closed, the runtime has put the null device, which would swallow it.
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::fstat(out).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == null
    }) {
        return Err(lost("stdout is closed".to_owned()));
    }
    let mut rest = xml.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(out, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(lost(format!("write stdout: {errno}"))),
        }
    }
    Ok(())
}
