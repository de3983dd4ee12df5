//! One look for the holders of slices, for showing them.

use gpuslice_core::holders::{self, Holder};
use gpuslice_core::ids::SliceId;
use gpuslice_core::port::HostRead;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

/// What was found.
#[derive(Debug, Default)]
pub struct Looked {
    /// One holder of each slice that is held.
    pub held: BTreeMap<SliceId, Holder>,
    /// Slices of which nothing could be told.
    pub untold: BTreeSet<SliceId>,
}

/// Ends with that.
pub type Look = Pin<Box<dyn Future<Output = Looked> + Send>>;

/// Looks on a thread of its own.
pub fn beside(host: impl HostRead + Send + 'static, slices: Vec<SliceId>) -> Look {
    let looks = tokio::task::spawn_blocking(move || look(&host, &slices));
    Box::pin(async move { looks.await.unwrap_or_default() })
}

/// Who holds these slices. A process that cannot be looked into is shown as holding none; a step that takes a slice asks
/// again, and takes "unknown" as held.
pub fn look(host: &dyn HostRead, slices: &[SliceId]) -> Looked {
    let each = holders::find_each(host, slices);
    if let Some((slice, errno)) = each.untold.first_key_value() {
        tracing::warn!("cannot look for holders of {slice}: {errno}");
    }
    Looked { untold: each.untold.keys().copied().collect(), held: each.one_of_each() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::errno::Errno;
    use gpuslice_core::ids::MdevUuid;
    use gpuslice_core::port::LogLine;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;
    use uuid::Uuid;

    /// A host with one process and one mediated device, that tells of its processes when it is let.
    struct Slow(Receiver<()>);

    impl HostRead for Slow {
        fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
            match dir {
                "/proc" => {
                    let let_go = self.0.recv_timeout(Duration::from_secs(60));
                    let_go.map_err(|_| Errno::ETIMEDOUT)?;
                    Ok(vec!["7".to_owned()])
                }
                "/proc/7/fd" => Ok(vec!["4".to_owned()]),
                _ => Err(Errno::ENOENT),
            }
        }

        fn read(&self, _: &str) -> Result<Vec<u8>, Errno> {
            Err(Errno::ENOENT)
        }

        fn link(&self, path: &str) -> Result<String, Errno> {
            let linked = if path.starts_with("/proc/") { "/dev/vfio/3" } else { "../3" };
            Ok(linked.to_owned())
        }

        fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
            Err(Errno::ENOENT)
        }
    }

    #[tokio::test]
    async fn others_go_on_while_processes_are_looked_through() {
        let (let_go, wait) = channel();
        let slice = SliceId::Mdev(MdevUuid(Uuid::from_u128(1)));
        let look = beside(Slow(wait), vec![slice]);
        let (looked, ()) = tokio::join!(look, async { let_go.send(()).unwrap() });
        assert_eq!(looked.held.get(&slice).map(|holder| holder.pid), Some(7));
    }
}
