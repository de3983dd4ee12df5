//! `Detach`: the daemon ends the claim, then the definition loses it and its devices. The daemon comes first because
//! it alone knows whether the slice is in use, and then nothing may change. Idempotent.

use crate::agent::{Agent, Seen, Turn};
use crate::daemon::ClaimTerms;
use crate::writing;
use gpuslice_api::libvirt::{DetachOptions, Detached};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner};
use gpuslice_core::mend;
use gpuslice_core::refusal::{Code, Refusal};
use uuid::Uuid;

impl Agent {
    /// Takes a claim from a domain; without a name its only one. The turn is lent while a guest is
    /// awaited.
    ///
    /// # Errors
    /// The domain, the daemon or libvirt refuses; nothing is changed then.
    pub async fn detach(
        &self,
        named: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
        turn: &mut Turn,
    ) -> Result<Detached, Refusal> {
        if options.live {
            return self.detach_live(named, claim, options, turn).await;
        }
        let Seen { domain, shut_off } = self.named(named).await?;
        let title = domain.name.clone();
        let Some(name) = meant(&title, &domain.claims, claim)? else {
            return Ok(done(false, format!("already so: {title} has no claim"), title));
        };
        let changed = self.end(domain, &name, false).await?;
        let when = if shut_off { "" } else { "; it takes effect at the next start" };
        let message = if changed {
            format!("detached {name} from {title}{when}")
        } else {
            format!("already so: {title} has no claim {name}")
        };
        tracing::info!(domain = %title, changed, "{message}");
        Ok(done(changed, message, title))
    }

    /// Ends a claim and takes it out of the definition; whether anything was not already so. `force`: also while its
    /// slices are on their way back.
    pub(crate) async fn end(
        &self,
        domain: Domain,
        name: &ClaimName,
        force: bool,
    ) -> Result<bool, Refusal> {
        let (uuid, title) = (domain.uuid, domain.name.clone());
        let key = ClaimKey { owner: Owner::Domain(uuid), name: name.clone() };
        let terms = self.daemon.terms(&key).await?;
        let ended = self.daemon.unclaim(key, force).await?;
        let written = {
            let name = name.clone();
            self.worker
                .call(format!("writing domain {title}"), move |connection| {
                    writing::take_out(&connection.kept(uuid)?, &name)
                })
                .await
        };
        match written {
            Ok(written) => Ok(ended || written),
            Err(refusal) => {
                let old = domain.claims.into_iter().find(|claim| claim.name == *name);
                let old = old.filter(|_| ended).map(|old| (old, terms));
                Err(self.claim_again(refusal, uuid, &title, old).await)
            }
        }
    }

    /// Makes the table say again what the definition still says.
    async fn claim_again(
        &self,
        refusal: Refusal,
        uuid: Uuid,
        title: &str,
        old: Option<(ClaimRequest, ClaimTerms)>,
    ) -> Refusal {
        let Some((old, terms)) = old else {
            return refusal;
        };
        match self.daemon.claim(uuid, title, old, terms).await {
            Ok(_) => refusal,
            Err(left) => refusal.because(format!("and the claim could not be kept: {left}")),
        }
    }
}

pub(crate) fn done(changed: bool, message: String, domain: String) -> Detached {
    Detached { changed, message, domain, warnings: Vec::new() }
}

/// The claim that is meant; `None` when none is named and there is none.
pub(crate) fn meant(
    title: &str,
    claims: &[ClaimRequest],
    named: Option<ClaimName>,
) -> Result<Option<ClaimName>, Refusal> {
    if named.is_some() {
        return Ok(named);
    }
    match claims {
        [] => Ok(None),
        [only] => Ok(Some(only.name.clone())),
        [first, ..] => {
            let names: Vec<_> = claims.iter().map(|claim| claim.name.as_str()).collect();
            let message = format!("{title} has more than one claim: {}", names.join(", "));
            Err(Refusal::new(Code::BadRequest, message).hint(mend::detach(title, &first.name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_the_only_claim_is_meant() {
        let claim = |name: &str| ClaimRequest::one(&name.parse().unwrap(), "p".parse().unwrap());
        let name = |text: &str| text.parse::<ClaimName>().unwrap();
        assert_eq!(meant("vm", &[], None), Ok(None));
        assert_eq!(meant("vm", &[claim("a")], None), Ok(Some(name("a"))));
        assert_eq!(meant("vm", &[], Some(name("b"))), Ok(Some(name("b"))));
        let two = meant("vm", &[claim("a"), claim("b")], None).unwrap_err();
        assert_eq!(two.code, Code::BadRequest);
        assert!(two.message.contains("a, b"), "{two}");
    }
}
