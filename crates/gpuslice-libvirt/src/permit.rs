//! Who may change a domain: root, and whom polkit allows the action. Without polkit root only.
//!
//! The agent does not run as root, so polkit answers it about other users only if the actions name its user in
//! `org.freedesktop.policykit.owner` (polkit(8), "authorization rules").

use gpuslice_api::Caller;
use gpuslice_core::refusal::{Code, Refusal};
use std::collections::HashMap;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedValue, Value};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// Lets the caller pass, or says why not. It may wait for a person to type a password.
///
/// # Errors
/// The caller may not, or polkit did not answer.
pub async fn permit(caller: &Caller, action: &str) -> Result<(), Refusal> {
    let refused = |why: String| {
        Refusal::new(Code::NotPermitted, why).hint(gpuslice_api::names::not_permitted(action))
    };
    let uid =
        caller.uid().await.ok_or_else(|| refused("cannot tell which user asks".to_owned()))?;
    if uid == 0 {
        return Ok(());
    }
    match asked(caller, action).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(format!("user {uid} may not do {action}"))),
        Err(error) => Err(refused(format!("polkit does not answer, so only root may do {action}"))
            .because(error.to_string())),
    }
}

async fn asked(caller: &Caller, action: &str) -> zbus::Result<bool> {
    let Some(name) = &caller.bus_name else {
        return Ok(false);
    };
    let name: OwnedValue = Value::from(name.as_str()).try_into_owned()?;
    let subject = Subject {
        subject_kind: "system-bus-name".to_owned(),
        subject_details: HashMap::from([("name".to_owned(), name)]),
    };
    let authority = AuthorityProxy::builder(caller.connection())
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let flags = caller
        .interactive
        .then_some(CheckAuthorizationFlags::AllowUserInteraction)
        .into_iter()
        .collect();
    let details = HashMap::new();
    let answer = authority.check_authorization(&subject, action, &details, flags, "").await?;
    Ok(answer.is_authorized)
}
