//! Writes edits into a domain's persistent definition: our hostdevs by alias and our metadata element, nothing else,
//! so that an edit a person makes at the same moment survives. What cannot be finished is taken back.

use super::connection::{Connection, Defined};
use super::error::LinkError;
use crate::edits::Edit;
use gpuslice_domxml::{device_xml, put_device, remove_device};

/// Makes the edits. On an error the definition is as before, as far as libvirt lets us.
///
/// # Errors
/// libvirt refused one of them.
pub fn carry(connection: &Connection, defined: &Defined, edits: &[Edit]) -> Result<(), LinkError> {
    if edits.is_empty() {
        return Ok(());
    }
    let xml = |error| LinkError::xml(&defined.name, error);
    let edited = edited(&defined.xml, edits).map_err(xml)?;
    let mut undo = Vec::new();
    let done = by_device(defined, &edited, edits, &mut undo, &xml);
    let Err(error) = done else {
        return Ok(());
    };
    if error.no_support() && undo.is_empty() {
        return redefine(connection, defined, edits);
    }
    for step in undo.into_iter().rev() {
        let undone = match step {
            Undo::Attach { alias, hostdev } => defined.attach(&alias, &hostdev),
            Undo::Detach { alias } => defined.detach(&alias),
        };
        if let Err(left) = undone {
            tracing::error!(domain = %defined.name, "cannot take back a half-made edit: {left}");
        }
    }
    Err(error)
}

/// The opposite of a step that was made.
enum Undo {
    Attach { alias: String, hostdev: String },
    Detach { alias: String },
}

fn by_device(
    defined: &Defined,
    edited: &str,
    edits: &[Edit],
    undo: &mut Vec<Undo>,
    xml: &impl Fn(gpuslice_domxml::DomXmlError) -> LinkError,
) -> Result<(), LinkError> {
    // Everything goes out before anything comes in: two hostdevs of ours may be swapping their devices.
    for edit in edits {
        let alias = edit.alias();
        if matches!(edit, Edit::Add(_)) {
            continue;
        }
        let hostdev = device_xml(&defined.xml, alias).map_err(xml)?;
        defined.detach(alias)?;
        undo.extend(
            hostdev.map(|hostdev| Undo::Attach {
                alias: alias.to_owned(),
                hostdev: hostdev.to_owned(),
            }),
        );
    }
    for edit in edits {
        let alias = edit.alias();
        let Some(hostdev) = device_xml(edited, alias).map_err(xml)? else {
            continue;
        };
        defined.attach(alias, hostdev)?;
        undo.push(Undo::Detach { alias: alias.to_owned() });
    }
    Ok(())
}

/// For drivers without device calls (libvirt's test driver before 10): the same edits spliced into the whole
/// definition, read again right before.
fn redefine(connection: &Connection, defined: &Defined, edits: &[Edit]) -> Result<(), LinkError> {
    let whole = defined.xml_to_redefine()?;
    let whole = edited(&whole, edits).map_err(|error| LinkError::xml(&defined.name, error))?;
    connection.define(&defined.name, &whole)
}

fn edited(xml: &str, edits: &[Edit]) -> Result<String, gpuslice_domxml::DomXmlError> {
    edits.iter().try_fold(xml.to_owned(), |xml, edit| match edit {
        Edit::Remove { alias } => remove_device(&xml, alias),
        Edit::Retarget(device) | Edit::Add(device) => put_device(&xml, device),
    })
}
