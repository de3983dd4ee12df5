//! Whether a caller on the bus may do what it asks.

use super::Caller;
use crate::names::{AGENT_ACTIONS, LIBVIRT_BUS_NAME, not_permitted};
use gpuslice_core::refusal::{Code, Refusal};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use zbus::fdo;
use zbus::names::WellKnownName;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// How long a person may take to type a password. An agent that asks nobody would keep the call for ever.
const LONGEST_QUESTION: Duration = Duration::from_secs(5 * 60);

/// Numbers of the questions to polkit, by which one can be taken back.
static QUESTIONS: AtomicU64 = AtomicU64::new(0);

/// Root may. Everybody else is polkit's to judge, and without a polkit they may not. It may wait for a person to type a
/// password.
///
/// # Errors
/// The caller may not, or polkit did not answer.
pub async fn require(caller: &Caller, action: &'static str) -> Result<(), Refusal> {
    if caller.uid().await == Some(0) {
        return Ok(());
    }
    let refused = |why: String| {
        Refusal::new(Code::NotPermitted, format!("the action {action} is not permitted"))
            .because(why)
            .hint(not_permitted(action))
    };
    let Some(name) = &caller.bus_name else {
        return Err(refused("the caller has no name on the bus".to_owned()));
    };
    // The agent has asked polkit about its own callers.
    if AGENT_ACTIONS.contains(&action) && is_agent(caller).await {
        return Ok(());
    }
    let authority = AuthorityProxy::new(caller.connection())
        .await
        .map_err(|error| refused(format!("polkit: {error}")))?;
    let details = HashMap::from([(
        "name".to_owned(),
        zbus::zvariant::Value::from(name.as_str())
            .try_to_owned()
            .map_err(|e| refused(e.to_string()))?,
    )]);
    let subject = Subject { subject_kind: "system-bus-name".to_owned(), subject_details: details };
    let flags = if caller.interactive {
        CheckAuthorizationFlags::AllowUserInteraction.into()
    } else {
        Default::default()
    };
    let question = QUESTIONS.fetch_add(1, Ordering::Relaxed).to_string();
    let nothing = HashMap::new();
    let answer = authority.check_authorization(&subject, action, &nothing, flags, &question);
    match tokio::time::timeout(LONGEST_QUESTION, answer).await {
        Ok(Ok(result)) if result.is_authorized => Ok(()),
        Ok(Ok(_)) => Err(refused("polkit said no".to_owned())),
        Ok(Err(error)) => Err(refused(format!("polkit does not answer: {error}"))),
        Err(_) => {
            // Nobody waits for what becomes of it: a dialog that stays is of no more consequence.
            let _ = authority.inner().call_noreply("CancelCheckAuthorization", &question).await;
            Err(refused("nobody has answered polkit's question in five minutes".to_owned()))
        }
    }
}

/// Whether it is the agent: only its user may own its name.
pub async fn is_agent(caller: &Caller) -> bool {
    let Ok(bus) = fdo::DBusProxy::new(caller.connection()).await else { return false };
    let name = WellKnownName::from_static_str_unchecked(LIBVIRT_BUS_NAME);
    bus.get_name_owner(name.into()).await.is_ok_and(|owner| caller.bus_name == Some(owner))
}
