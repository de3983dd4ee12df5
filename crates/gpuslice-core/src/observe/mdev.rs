//! Mediated devices and their parents (Documentation/driver-api/vfio-mediated-device.rst).

use super::{Observer, PAGE, named, note, parse_decimal, parsed, pci};
use crate::errno::Errno;
use crate::ids::{MdevTypeId, MdevUuid, ParentId};
use crate::observation::{
    FixedType, Mdev, MdevParent, MdevType, Observation, ProblemKind, ReadProblem,
};
use crate::port::{Files, HostRead, text_of};
use std::collections::BTreeSet;
use std::sync::Arc;

const PARENTS: &str = "/sys/class/mdev_bus";
const DEVICES: &str = "/sys/bus/mdev/devices";

pub(super) fn read(host: &dyn HostRead, observer: &mut Observer, seen: &mut Observation) {
    // Both directories are absent until the mdev module is loaded.
    let mut entries = Vec::new();
    for name in names(host, seen, PARENTS) {
        if let Some(id) = named::<ParentId>(&name) {
            list_types(host, observer, seen, &id, &name, &mut entries);
            seen.mdev_parents.insert(id, MdevParent::default());
        }
    }
    read_types(host, observer, seen, entries);
    for name in names(host, seen, DEVICES) {
        if let Some(uuid) = named(&name) {
            read_device(host, seen, uuid);
        }
    }
}

fn names(host: &dyn HostRead, seen: &mut Observation, dir: &str) -> Vec<String> {
    host.list(dir).unwrap_or_else(|errno| {
        note(seen, dir, errno);
        Vec::new()
    })
}

/// An entry of a parent's `mdev_supported_types`.
struct Entry {
    parent: ParentId,
    type_id: MdevTypeId,
    /// What is known of it from before.
    fixed: Option<Arc<FixedType>>,
}

/// A file, as folder and name, and what reading it gave.
type Content<'f> = ((&'f str, &'static str), Result<Vec<u8>, Errno>);

/// What changes comes first.
const ATTRIBUTES: &[&str] = &["available_instances", "device_api", "name", "description"];
const CHANGING: &[&str] = &["available_instances"];

fn list_types(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    id: &ParentId,
    name: &str,
    entries: &mut Vec<(Entry, Files)>,
) {
    // A VF as parent belongs to its PF; a PCI parent without SR-IOV is known only from here.
    if let Some(address) = id.pci()
        && !seen.functions.contains_key(&address)
        && !seen.vfs.contains_key(&address)
        && let Some(function) = seen
            .whole
            .remove(&address)
            .or_else(|| pci::read_common(host, observer, seen, address, pci::Known::default()))
    {
        seen.functions.insert(address, function);
    }
    let dir = format!("{PARENTS}/{name}/mdev_supported_types");
    for type_name in names(host, seen, &dir) {
        if let Ok(type_id) = type_name.parse::<MdevTypeId>() {
            let key = (id.clone(), type_id);
            let fixed = observer.types.get(&key).map(Arc::clone);
            let (parent, type_id) = key;
            let names = if fixed.is_some() { CHANGING } else { ATTRIBUTES };
            let files = Files { folder: format!("{dir}/{type_name}"), names };
            entries.push((Entry { parent, type_id, fixed }, files));
        }
    }
}

/// Thousands of files on a large host, so all of them are asked for at once.
fn read_types(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    entries: Vec<(Entry, Files)>,
) {
    let (entries, folders): (Vec<Entry>, Vec<Files>) = entries.into_iter().unzip();
    let files = folders.iter().flat_map(|f| f.names.iter().map(|name| (f.folder.as_str(), *name)));
    let mut contents = files.zip(host.read_each(&folders));
    // A hundred VFs of one model say the same of the same types.
    let mut alike: BTreeSet<Arc<FixedType>> = match entries.iter().all(|e| e.fixed.is_some()) {
        true => BTreeSet::new(),
        false => observer.types.values().cloned().collect(),
    };
    for Entry { parent, type_id, fixed } in entries {
        let available = next(&mut contents, seen, parse_decimal);
        let fixed = fixed.or_else(|| {
            let problems = seen.problems.len();
            let fixed = read_fixed(&mut contents, seen)?;
            let fixed = alike.get(&fixed).map(Arc::clone).unwrap_or(fixed);
            alike.insert(Arc::clone(&fixed));
            // What could not be read this time may be readable next time.
            if seen.problems.len() == problems {
                observer.types.insert((parent.clone(), type_id.clone()), Arc::clone(&fixed));
            }
            Some(fixed)
        });
        if let (Some(available), Some(fixed)) = (available, fixed)
            && let Some(of_parent) = seen.mdev_parents.get_mut(&parent)
        {
            of_parent.types.insert(type_id, MdevType { fixed, available });
        }
    }
}

fn read_fixed<'f>(
    contents: &mut impl Iterator<Item = Content<'f>>,
    seen: &mut Observation,
) -> Option<Arc<FixedType>> {
    // `vfio-pci`, `vfio-ap`: a word.
    let word = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let device_api = next(contents, seen, |t| word(t).then(|| t.to_owned()));
    let name = next_optional(contents, seen);
    let description =
        next_optional(contents, seen).map(|text| text.lines().collect::<Vec<_>>().join(", "));
    Some(Arc::new(FixedType::new(device_api?, name, description)))
}

fn next<'f, T>(
    contents: &mut impl Iterator<Item = Content<'f>>,
    seen: &mut Observation,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let ((folder, name), content) = contents.next()?;
    let text = content.and_then(|content| text_of(&content));
    match text.as_deref().ok().filter(|text| text.len() <= PAGE).and_then(&parse) {
        Some(value) => Some(value),
        None => parsed(seen, &format!("{folder}/{name}"), text, parse),
    }
}

/// An attribute a driver may leave out. An empty one says nothing either, and may say something next time.
fn next_optional<'f>(
    contents: &mut impl Iterator<Item = Content<'f>>,
    seen: &mut Observation,
) -> Option<String> {
    let ((folder, name), content) = contents.next()?;
    match content.and_then(|content| text_of(&content)) {
        Ok(text) if !text.is_empty() && text.len() <= PAGE => Some(text),
        Ok(text) => {
            let text = text.chars().take(80).collect();
            let path = format!("{folder}/{name}");
            seen.problems.push(ReadProblem { path, why: ProblemKind::Corrupt(text) });
            None
        }
        Err(errno) => {
            note(seen, &format!("{folder}/{name}"), errno);
            None
        }
    }
}

fn read_device(host: &dyn HostRead, seen: &mut Observation, uuid: MdevUuid) {
    let dir = format!("{DEVICES}/{uuid}");
    // The device is a child of its parent: …/<parent>/<uuid>.
    let parent = match host.link(&dir) {
        Ok(target) => target.rsplit('/').nth(1).and_then(|name| name.parse().ok()),
        Err(errno) => return unread(seen, uuid, &dir, errno),
    };
    let type_path = format!("{dir}/mdev_type");
    let type_id = match host.link(&type_path) {
        Ok(target) => target.rsplit('/').next().and_then(|name| name.parse().ok()),
        Err(errno) => return unread(seen, uuid, &type_path, errno),
    };
    if let (Some(parent), Some(type_id)) = (parent, type_id) {
        let iommu_group = pci::group(host, seen, &dir);
        seen.mdevs.insert(uuid, Mdev { parent, type_id, iommu_group });
    } else {
        seen.unread_mdevs.insert(uuid);
    }
}

fn unread(seen: &mut Observation, uuid: MdevUuid, path: &str, errno: Errno) {
    seen.unread_mdevs.insert(uuid);
    note(seen, path, errno);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Files by their path, and what has been read of them.
    #[derive(Default)]
    struct Files {
        files: BTreeMap<String, Result<&'static str, Errno>>,
        read: RefCell<Vec<String>>,
    }

    impl HostRead for Files {
        fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
            let prefix = format!("{dir}/");
            let mut names: Vec<String> = self
                .files
                .keys()
                .filter_map(|path| path.strip_prefix(&prefix)?.split('/').next())
                .map(str::to_owned)
                .collect();
            names.dedup();
            if names.is_empty() { Err(Errno::ENOENT) } else { Ok(names) }
        }

        fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
            self.read.borrow_mut().push(file.to_owned());
            self.files
                .get(file)
                .copied()
                .unwrap_or(Err(Errno::ENOENT))
                .map(|t| t.as_bytes().to_vec())
        }

        fn link(&self, _: &str) -> Result<String, Errno> {
            Err(Errno::ENOENT)
        }

        fn kernel_log(&self) -> Result<Vec<crate::port::LogLine>, Errno> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn an_attribute_that_is_not_there_is_not_taken_from_its_neighbour() {
        let dir = format!("{PARENTS}/mtty/mdev_supported_types");
        let mut host = Files::default();
        let mut put = |path: &str, content| host.files.insert(format!("{dir}/{path}"), content);
        for (of_type, available, api) in [
            ("mtty-1", Ok("1\n"), Ok("vfio-pci\n")),
            ("mtty-2", Err(Errno::EIO), Ok("vfio-pci\n")),
            ("mtty-3", Ok("many"), Ok("vfio-pci\n")),
            ("mtty-4", Ok("4"), Err(Errno::EIO)),
            ("mtty-5", Ok("5"), Ok("\n")),
            ("mtty-6", Ok("6"), Ok("vfio-ap")),
        ] {
            put(&format!("{of_type}/available_instances"), available);
            put(&format!("{of_type}/device_api"), api);
        }
        put("mtty-6/name", Ok("six\n"));
        put("mtty-6/description", Ok("two\nlines\n"));

        let (mut observer, mut seen) = (Observer::default(), Observation::default());
        read(&host, &mut observer, &mut seen);
        let parent: ParentId = "mtty".parse().unwrap();
        let known = |seen: &Observation| -> Vec<(String, u32, String, Option<String>)> {
            let types = &seen.mdev_parents[&parent].types;
            let row = |(id, of): (&MdevTypeId, &MdevType)| {
                let fixed = &of.fixed;
                (id.to_string(), of.available, fixed.device_api.clone(), fixed.description.clone())
            };
            types.iter().map(row).collect()
        };
        let six = ("mtty-6".to_owned(), 6, "vfio-ap".to_owned(), Some("two, lines".to_owned()));
        let one = ("mtty-1".to_owned(), 1, "vfio-pci".to_owned(), None);
        assert_eq!(known(&seen), [one.clone(), six.clone()]);
        let problems: Vec<(&str, &ProblemKind)> =
            seen.problems.iter().map(|p| (p.path.strip_prefix(&dir).unwrap(), &p.why)).collect();
        assert_eq!(
            problems,
            [
                ("/mtty-2/available_instances", &ProblemKind::Errno(Errno::EIO)),
                ("/mtty-3/available_instances", &ProblemKind::Corrupt("many".to_owned())),
                ("/mtty-4/device_api", &ProblemKind::Errno(Errno::EIO)),
                ("/mtty-5/device_api", &ProblemKind::Corrupt(String::new())),
            ]
        );

        // What does not change is not read again, what could not be read is.
        host.files.insert(format!("{dir}/mtty-1/available_instances"), Ok("0"));
        host.files.insert(format!("{dir}/mtty-4/device_api"), Ok("vfio-pci"));
        host.read.borrow_mut().clear();
        let mut again = Observation::default();
        read(&host, &mut observer, &mut again);
        let four = ("mtty-4".to_owned(), 4, "vfio-pci".to_owned(), None);
        assert_eq!(known(&again), [(one.0, 0, one.2, one.3), four, six]);
        let of = |of_type: &str| {
            &again.mdev_parents[&parent].types[&of_type.parse::<MdevTypeId>().unwrap()].fixed
        };
        assert!(Arc::ptr_eq(of("mtty-1"), of("mtty-4")), "what says the same is kept once");
        let fixed = |of_type: &str| {
            let read = host.read.borrow();
            read.iter().filter(|p| p.contains(of_type) && !p.contains("available")).count()
        };
        assert_eq!((fixed("mtty-1"), fixed("mtty-4"), fixed("mtty-6")), (0, 3, 0));
    }
}
