//! Writes edits into a persistent definition: our hostdevs by alias, one call each, so that an edit a person makes at the
//! same moment survives. What cannot be finished is taken back.

use super::Definition;
use crate::edits::Edit;
use crate::link::LinkError;
use gpuslice_domxml::{
    adopt_device, device_xml, plain_device_xml, put_device, remove_device, rename_device,
};

/// Makes the edits. On an error the definition is as before, as far as libvirt lets us.
///
/// # Errors
/// libvirt refused one of them.
pub(super) fn carry(definition: &impl Definition, edits: &[Edit]) -> Result<(), LinkError> {
    if edits.is_empty() {
        return Ok(());
    }
    match by_device(definition, edits) {
        Err(error) if error.no_support() => {
            // Drivers without device calls (libvirt's test driver before 10): the same edits spliced into the whole.
            definition.redefine(&|whole| edited(whole, edits))
        }
        done => done,
    }
}

/// The opposite of a call that was made.
enum Undo {
    PutIn { alias: String, hostdev: String },
    TakeOut { alias: String },
}

fn by_device(definition: &impl Definition, edits: &[Edit]) -> Result<(), LinkError> {
    let mut undo = Vec::new();
    let Err(error) = one_by_one(definition, edits, &mut undo) else {
        return Ok(());
    };
    for step in undo.into_iter().rev() {
        let undone = match step {
            Undo::PutIn { alias, hostdev } => definition.put_in(&alias, &hostdev),
            Undo::TakeOut { alias } => definition.take_out(&alias),
        };
        if let Err(left) = undone {
            tracing::error!(domain = %definition.name(), "cannot take back a half-made edit: {left}");
        }
    }
    Err(error)
}

fn one_by_one(
    definition: &impl Definition,
    edits: &[Edit],
    undo: &mut Vec<Undo>,
) -> Result<(), LinkError> {
    let bad = |error| LinkError::xml(definition.name(), error);
    let xml = definition.xml();
    let edited = edited(xml, edits).map_err(bad)?;
    // Everything goes out before anything comes in: two hostdevs of ours may be swapping their devices.
    for edit in edits {
        let alias = match edit {
            Edit::Rename { alias, .. } => alias,
            _ => edit.alias(),
        };
        let hostdev = match edit {
            Edit::Adopt { picked, .. } => plain_device_xml(xml, *picked).map_err(bad)?,
            _ => device_xml(xml, alias).map_err(bad)?,
        };
        // An addition has nothing to take out.
        let Some(hostdev) = hostdev else { continue };
        match edit {
            Edit::Adopt { .. } => definition.take_out_plain(alias, hostdev)?,
            _ => definition.take_out(alias)?,
        }
        undo.push(Undo::PutIn { alias: alias.to_owned(), hostdev: hostdev.to_owned() });
    }
    for edit in edits {
        let alias = edit.alias();
        // A removal has nothing to put in; what was picked may have its alias now.
        let hostdev = device_xml(&edited, alias).map_err(bad)?;
        let Some(hostdev) = hostdev.filter(|_| !matches!(edit, Edit::Remove { .. })) else {
            continue;
        };
        definition.put_in(alias, hostdev)?;
        undo.push(Undo::TakeOut { alias: alias.to_owned() });
    }
    Ok(())
}

fn edited(xml: &str, edits: &[Edit]) -> Result<String, gpuslice_domxml::DomXmlError> {
    edits.iter().try_fold(xml.to_owned(), |xml, edit| match edit {
        Edit::Remove { alias } => remove_device(&xml, alias),
        Edit::Rename { alias, device } => rename_device(&xml, alias, &device.alias),
        Edit::Retarget(device) | Edit::Add(device) => put_device(&xml, device),
        Edit::Adopt { picked, device } => adopt_device(&xml, *picked, device),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writing::Whole;
    use gpuslice_core::domain::HostDeviceSource;
    use gpuslice_core::request::DeviceToWrite;
    use gpuslice_domxml::read_domain;
    use std::cell::RefCell;

    /// Keeps devices as libvirt does: an alias or a source twice is refused. Fails at the n-th call.
    struct Kept {
        before: String,
        xml: RefCell<String>,
        calls: RefCell<usize>,
        fail_at: usize,
    }

    impl Kept {
        fn new(fail_at: usize) -> Self {
            let device = |alias: &str, function: u8, guest: &str| {
                format!(
                    "<hostdev mode='subsystem' type='pci' managed='no'><source><address \
                     domain='0x0000' bus='0x41' slot='0x00' function='0x{function}'/></source>\
                     <alias name='{alias}'/>{guest}</hostdev>"
                )
            };
            let guest = "<rom bar='off'/><address type='pci' bus='0x07'/>";
            let picked = "<hostdev mode='subsystem' type='pci' managed='yes'><source><address \
                 domain='0' bus='0x41' slot='0' function='4'/></source>"
                .to_owned();
            let devices = device("ua-gpuslice-a", 1, guest)
                + &device("ua-gpuslice-b", 2, "")
                + &device("ua-gpuslice-old", 3, "")
                + &format!("{picked}{guest}</hostdev>");
            let xml = format!(
                "<domain><name>vm</name><uuid>11111111-2222-4333-8444-555555555555</uuid>\
                 <devices>{devices}</devices></domain>"
            );
            Self { before: xml.clone(), xml: RefCell::new(xml), calls: RefCell::new(0), fail_at }
        }

        fn call(&self) -> Result<(), LinkError> {
            *self.calls.borrow_mut() += 1;
            if *self.calls.borrow() == self.fail_at {
                return Err(LinkError::NotKept { domain: "vm".to_owned() });
            }
            Ok(())
        }

        /// Alias, function and whether the guest still sees it as before, by alias.
        fn devices(&self) -> Vec<(String, HostDeviceSource, bool)> {
            let xml = self.xml.borrow();
            let mut devices: Vec<_> = read_domain(&xml)
                .unwrap()
                .devices
                .into_iter()
                .map(|device| {
                    let text = match &device.alias {
                        Some(alias) => device_xml(&xml, alias),
                        None => plain_device_xml(&xml, device.source),
                    };
                    let (alias, text) = (device.alias.unwrap_or_default(), text.unwrap().unwrap());
                    let guest = text.contains("<rom bar='off'/><address type='pci' bus='0x07'/>");
                    (alias, device.source, guest)
                })
                .collect();
            devices.sort_by(|a, b| a.0.cmp(&b.0));
            devices
        }
    }

    impl Definition for Kept {
        fn name(&self) -> &'static str {
            "vm"
        }

        fn xml(&self) -> &str {
            &self.before
        }

        fn set_metadata(&self, _: Option<&str>) -> Result<(), LinkError> {
            unreachable!()
        }

        fn redefine(&self, _: Whole<'_>) -> Result<(), LinkError> {
            unreachable!()
        }

        fn put_in(&self, alias: &str, hostdev: &str) -> Result<(), LinkError> {
            self.call()?;
            let before = self.devices();
            let xml = self.xml.borrow().replace("</devices>", &format!("{hostdev}</devices>"));
            *self.xml.borrow_mut() = xml;
            let added = self.devices();
            let new = read_domain(&self.xml.borrow()).unwrap().devices.pop().unwrap();
            assert_eq!(added.len(), before.len() + 1);
            assert!(before.iter().all(|(a, s, _)| a != alias && *s != new.source), "{alias} twice");
            Ok(())
        }

        fn take_out(&self, alias: &str) -> Result<(), LinkError> {
            self.call()?;
            let xml = remove_device(&self.xml.borrow(), alias).unwrap();
            *self.xml.borrow_mut() = xml;
            Ok(())
        }

        fn take_out_plain(&self, _: &str, hostdev: &str) -> Result<(), LinkError> {
            self.call()?;
            let xml = self.xml.borrow().replacen(hostdev, "", 1);
            assert_ne!(xml, *self.xml.borrow());
            *self.xml.borrow_mut() = xml;
            Ok(())
        }
    }

    fn device(alias: &str, function: u8) -> DeviceToWrite {
        DeviceToWrite { alias: alias.to_owned(), source: source(function) }
    }

    fn source(function: u8) -> HostDeviceSource {
        HostDeviceSource::Pci(format!("0000:41:00.{function}").parse().unwrap())
    }

    /// a and b swap, old goes, what was picked becomes c, new comes: 4 calls out, 4 in.
    fn all_kinds() -> Vec<Edit> {
        vec![
            Edit::Remove { alias: "ua-gpuslice-old".to_owned() },
            Edit::Retarget(device("ua-gpuslice-a", 2)),
            Edit::Retarget(device("ua-gpuslice-b", 1)),
            Edit::Adopt { picked: source(4), device: device("ua-gpuslice-c", 5) },
            Edit::Add(device("ua-gpuslice-new", 3)),
        ]
    }

    fn make(kept: &Kept) -> Result<(), LinkError> {
        carry(kept, &all_kinds())
    }

    #[test]
    fn devices_swap_and_keep_what_the_guest_sees() {
        let kept = Kept::new(0);
        make(&kept).unwrap();
        let expected = [("a", 2, true), ("b", 1, false), ("c", 5, true), ("new", 3, false)].map(
            |(name, function, guest)| (format!("ua-gpuslice-{name}"), source(function), guest),
        );
        assert_eq!(kept.devices(), expected);
        assert_eq!(*kept.calls.borrow(), 8);
    }

    #[test]
    fn a_device_of_a_claim_with_another_name_is_what_the_guest_saw() {
        let edits = |new: &str| {
            let alias = "ua-gpuslice-a".to_owned();
            [Edit::Rename { alias, device: device(new, 1) }]
        };
        let kept = Kept::new(0);
        carry(&kept, &edits("ua-gpuslice-main")).unwrap();
        let main = ("ua-gpuslice-main".to_owned(), source(1), true);
        let devices = kept.devices();
        assert!(devices.contains(&main) && devices.len() == 4, "{devices:?}");
        for fail_at in 1..=2 {
            let kept = Kept::new(fail_at);
            let before = kept.devices();
            carry(&kept, &edits("ua-gpuslice-main")).unwrap_err();
            assert_eq!(kept.devices(), before, "failed at call {fail_at}");
        }
    }

    #[test]
    fn what_fails_at_any_call_is_taken_back() {
        for fail_at in 1..=8 {
            let kept = Kept::new(fail_at);
            let before = kept.devices();
            make(&kept).unwrap_err();
            assert_eq!(kept.devices(), before, "failed at call {fail_at}");
        }
    }
}
