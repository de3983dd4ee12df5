//! What the agent writes and in which order, whoever keeps the XML: libvirt, or a test that stands in for it. Our hostdevs
//! by alias and our metadata element, nothing else.

mod devices;
mod plug;

pub use plug::{Into, Plugs, forget, plug};

use crate::daemon::Wanted;
use crate::edits::{Edit, edits, edits_of_claim, is_there};
use crate::link::LinkError;
use devices::carry;
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::DeviceToWrite;
use gpuslice_domxml::{DomXmlError, claims_for_set_metadata, read_domain};

/// What makes a whole definition of a whole one.
pub type Whole<'e> = &'e dyn Fn(&str) -> Result<String, DomXmlError>;

/// A persistent definition that was read right now, and the calls that change it.
pub trait Definition {
    /// The domain's name.
    fn name(&self) -> &str;
    /// As it was read.
    fn xml(&self) -> &str;
    /// virDomainSetMetadata of our element; `None` removes it.
    ///
    /// # Errors
    /// libvirt refused.
    fn set_metadata(&self, element: Option<&str>) -> Result<(), LinkError>;
    /// virDomainAttachDeviceFlags of the hostdev that is to have this alias.
    ///
    /// # Errors
    /// libvirt refused.
    fn put_in(&self, alias: &str, hostdev: &str) -> Result<(), LinkError>;
    /// virDomainDetachDeviceAlias.
    ///
    /// # Errors
    /// libvirt refused.
    fn take_out(&self, alias: &str) -> Result<(), LinkError>;
    /// virDomainDetachDeviceFlags of a hostdev without an alias: the one that passes what this one does. `alias`: what it
    /// is to be called.
    ///
    /// # Errors
    /// libvirt refused.
    fn take_out_plain(&self, alias: &str, hostdev: &str) -> Result<(), LinkError>;
    /// virDomainDefineXML of the whole, read once more with its secrets.
    ///
    /// # Errors
    /// libvirt refused, or the whole cannot be edited.
    fn redefine(&self, edit: Whole<'_>) -> Result<(), LinkError>;
}

/// Makes a shut-off definition carry what the daemon answered, and nothing that a person has changed since. Gives what was
/// changed.
///
/// # Errors
/// What of ours is in the XML has no meaning, or libvirt refused; the definition is as before.
pub fn complete(definition: &impl Definition, wanted: Wanted) -> Result<Vec<Edit>, LinkError> {
    let domain = read(definition)?;
    let (mut claims, mut devices) = (domain.claims.clone(), wanted.devices);
    for adopted in &wanted.adopted {
        let claimed = claims.iter().any(|claim| claim.name == adopted.request.name);
        match is_there(&domain, adopted) {
            true if !claimed => claims.push(adopted.request.clone()),
            // Taken out again meanwhile, and nothing else asks for it.
            false if !claimed => devices.retain(|device| device.alias != adopted.alias),
            _ => {}
        }
    }
    let edits = edits(&domain, &devices, &wanted.adopted);
    write(definition, &domain, &claims, &edits)?;
    Ok(edits)
}

/// Puts a claim and its devices into the definition; whether anything was not already so.
///
/// # Errors
/// As for [`complete`].
pub fn put(
    definition: &impl Definition,
    request: &ClaimRequest,
    devices: &[DeviceToWrite],
) -> Result<bool, LinkError> {
    let before = read(definition)?;
    let mut claims = before.claims.clone();
    match claims.iter_mut().find(|claim| claim.name == request.name) {
        Some(claim) => *claim = request.clone(),
        None => claims.push(request.clone()),
    }
    rewrite(definition, &before, &claims, &request.name, devices)
}

/// Takes a claim and its devices out of the definition; whether anything was not already so.
///
/// # Errors
/// As for [`complete`].
pub fn take_out(definition: &impl Definition, name: &ClaimName) -> Result<bool, LinkError> {
    let before = read(definition)?;
    let mut claims = before.claims.clone();
    claims.retain(|claim| claim.name != *name);
    rewrite(definition, &before, &claims, name, &[])
}

/// Makes the definition ask for `claims` and carry `devices` for the one of them that changes; whether anything was
/// not already so. On an error it is as before.
fn rewrite(
    definition: &impl Definition,
    before: &Domain,
    claims: &[ClaimRequest],
    claim: &ClaimName,
    devices: &[DeviceToWrite],
) -> Result<bool, LinkError> {
    write(definition, before, claims, &edits_of_claim(before, claim, devices))
}

/// Makes the definition ask for `claims`, and the edits; whether anything was not already so. On an error it is as
/// before. The claims come first: should the agent die in between, the next look completes the devices.
fn write(
    definition: &impl Definition,
    before: &Domain,
    claims: &[ClaimRequest],
    edits: &[Edit],
) -> Result<bool, LinkError> {
    let set = |claims: &[ClaimRequest]| definition.set_metadata(element(claims).as_deref());
    let other_claims = before.claims != claims;
    if other_claims {
        set(claims)?;
    }
    if let Err(error) = carry(definition, edits) {
        if other_claims && let Err(left) = set(&before.claims) {
            tracing::error!(domain = %definition.name(), "cannot take back the claim: {left}");
        }
        return Err(error);
    }
    Ok(other_claims || !edits.is_empty())
}

fn read(definition: &impl Definition) -> Result<Domain, LinkError> {
    read_domain(definition.xml()).map_err(|error| LinkError::xml(definition.name(), error))
}

/// Our metadata element for libvirt; none without claims.
fn element(claims: &[ClaimRequest]) -> Option<String> {
    (!claims.is_empty()).then(|| claims_for_set_metadata(claims))
}
