//! Slices for libvirt's domains. The agent writes the XML; `--print` only needs the daemon.

use super::{Daemon, orders, unexpected};
use crate::args::{Attach, Fabric, Numa};
use crate::claims;
use crate::failure::Failure;
use crate::output::Output;
use crate::{progress, render};
use gpuslice_api::CallError;
use gpuslice_api::libvirt::{AttachOptions, DetachOptions};
use gpuslice_core::domain::{ClaimRequest, claim_meant};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimName, Owner};
use gpuslice_core::numa::Pinned;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ClaimRow, Command};
use serde_json::json;

pub async fn attach(daemon: &Daemon, order: Attach, output: &Output) -> Result<(), Failure> {
    let options = AttachOptions {
        name: order.name,
        live: order.live,
        config: order.config,
        pool: order.pool,
        reserve: order.reserve,
        count: order.count,
        same_fabric: order.fabric.map(|fabric| fabric == Fabric::Same),
        prefer_numa: order.numa.map(|numa| numa == Numa::Prefer),
        require_numa: order.numa.map(|numa| numa == Numa::Require),
        parameters: order.parameters,
    };
    let agent = daemon.client.libvirt()?;
    let call = agent.attach(&order.domain, &order.profile, &options);
    let attached = progress::shown(&format!("attaching to {}", order.domain), call).await?;
    warn(output, &attached.warnings);
    output.answer(&attached, |_| orders::told(attached.changed, &attached.message))
}

pub async fn detach(
    daemon: &Daemon,
    domain: &str,
    name: Option<ClaimName>,
    live: bool,
    config: bool,
    output: &Output,
) -> Result<(), Failure> {
    let (domain, name) = claims::split(domain, name);
    let agent = daemon.client.libvirt()?;
    let options = DetachOptions { live, config };
    let call = agent.detach(domain, name.as_ref(), &options);
    let detached = progress::shown(&format!("detaching from {domain}"), call).await?;
    warn(output, &detached.warnings);
    output.answer(&detached, |_| orders::told(detached.changed, &detached.message))
}

/// Records the claim, as a home VF is only its own once that is known, and prints what the XML must carry.
pub async fn print(daemon: &Daemon, order: Attach, output: &Output) -> Result<(), Failure> {
    let (owner, owner_name) = owner(daemon, &order.domain).await?;
    let request = wanted(daemon, &owner, &order).await?;
    let command = Command::Claim {
        owner,
        owner_name,
        request: request.clone(),
        pool: order.pool,
        reserve: order.reserve,
        dry_run: false,
    };
    let answered = daemon.call(command).await.map_err(printed);
    let (changed, claim, devices, warnings) = match answered? {
        Answer::Claimed { changed, claim, devices, warnings } => {
            (changed, claim, devices, warnings)
        }
        other => return Err(unexpected(&other)),
    };
    warn(output, &warnings);
    // Where the domain is pinned only its XML says; its start is judged by that.
    let required = (order.numa == Some(Numa::Require)).then(Pinned::default);
    let require_numa = required.or_else(|| request.require_numa.clone());
    let request = ClaimRequest { require_numa, ..request };
    let xml = render::xml(&request, &devices);
    let value = json!({
        "changed": changed, "claim": claim, "devices": devices, "warnings": warnings, "xml": xml
    });
    output.answer(&value, |_| xml.clone())
}

/// Whom the claim is for. An id that says so itself needs no libvirt; a name is the agent's to resolve.
async fn owner(daemon: &Daemon, domain: &str) -> Result<(Owner, String), Failure> {
    if let Ok(owner) = domain.parse() {
        return Ok((owner, String::new()));
    }
    let resolved = match daemon.client.libvirt() {
        Ok(agent) => agent.resolve(domain).await,
        Err(error) => Err(error),
    };
    match resolved {
        Ok(info) => Ok((Owner::Domain(info.uuid), info.name)),
        Err(CallError::Unreachable { tried, .. }) => {
            Err(without_agent(domain, tried.into_iter().next()).into())
        }
        Err(CallError::Refused(refusal)) if refusal.code == Code::Unsupported => {
            Err(without_agent(domain, Some(refusal.message)).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn without_agent(domain: &str, cause: Option<String>) -> Refusal {
    let mut refusal = Refusal::new(
        Code::Unreachable,
        format!("which UUID {domain:?} has only the libvirt agent knows, and it does not answer"),
    )
    .hint(hint!("name the UUID that virsh domuuid {} tells", domain));
    refusal.causes.extend(cause);
    refusal
}

/// What the daemon advises is done in the same way: by hand, without libvirt.
fn printed(mut failure: Failure) -> Failure {
    failure.refusal = failure.refusal.reworded(|hint| {
        // Right behind the command, since names may hold whatever ends an order.
        match hint.strip_prefix("gpuslice attach ") {
            Some(rest) => format!("gpuslice attach --print {rest}"),
            None => hint.to_owned(),
        }
    });
    failure
}

/// The claim as it is to be: what is known of it stays, but for what is asked now.
async fn wanted(daemon: &Daemon, owner: &Owner, order: &Attach) -> Result<ClaimRequest, Failure> {
    let rows = match daemon.call(Command::ListClaims).await? {
        Answer::Claims { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let of_owner: Vec<&ClaimRow> = rows.iter().filter(|row| row.claim.owner == *owner).collect();
    let there = of_owner.iter().map(|row| (&row.claim.name, Some(&row.profile)));
    let name = order.name.clone().unwrap_or_else(|| claim_meant(there, &order.profile));
    let known = of_owner.into_iter().find(|row| row.claim.name == name);
    let plain = ClaimRequest::one(&name, order.profile.clone());
    let mut request = known.and_then(|row| row.request.as_deref().cloned()).unwrap_or(plain);
    request.profile = Some(order.profile.clone());
    request.count = order.count.or(known.map(|row| row.count)).unwrap_or(1);
    if let Some(fabric) = order.fabric {
        request.same_fabric = fabric == Fabric::Same;
    }
    if let Some(numa) = order.numa {
        request.prefer_numa = numa == Numa::Prefer;
        if numa != Numa::Require {
            request.require_numa = None;
        }
    }
    if order.parameters.is_some() {
        request.parameters.clone_from(&order.parameters);
    }
    Ok(request)
}

fn warn(output: &Output, warnings: &[String]) {
    for warning in warnings {
        output.warning(warning);
    }
}
