//! `Attach`: the daemon makes the claim, then the definition is given the claim and its devices. Idempotent; what
//! cannot be finished is taken back.

use crate::agent::{Agent, Seen};
use crate::daemon::ClaimTerms;
use crate::link::LinkError;
use crate::writing;
use gpuslice_api::libvirt::{AttachOptions, Attached};
use gpuslice_core::domain::{ClaimRequest, claim_meant};
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, ProfileName};
use gpuslice_core::numa::Pinned;
use gpuslice_core::refusal::Refusal;

impl Agent {
    /// Gives a domain a claim. The caller holds the turn.
    ///
    /// # Errors
    /// The domain, the daemon or libvirt refuses; nothing is changed then.
    pub async fn attach(
        &self,
        named: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> Result<Attached, Refusal> {
        if options.live {
            return self.attach_live(named, profile, options).await;
        }
        let Seen { domain, shut_off } = self.named(named).await?;
        let name = match options.name.clone() {
            Some(name) => name,
            None if shut_off => claim_name(&domain.claims, &[], &profile),
            // What it runs with can become no other profile; one of this profile the definition may have as well.
            None => {
                let in_use = self.daemon.names_in_use(domain.uuid).await?;
                let others = in_use.into_iter().filter(|(_, of)| *of != profile);
                let others: Vec<ClaimName> = others.map(|(name, _)| name).collect();
                claim_name(&domain.claims, &others, &profile)
            }
        };
        let old = domain.claims.iter().find(|claim| claim.name == name);
        let pinned = if options.require_numa == Some(true) {
            Some(self.pinned(domain.uuid).await?)
        } else {
            None
        };
        let request = request(old, &name, profile.clone(), &options, pinned);
        let terms = ClaimTerms { pool: options.pool, reserve: options.reserve };
        let (uuid, title) = (domain.uuid, domain.name.clone());
        let key = ClaimKey { owner: Owner::Domain(uuid), name: name.clone() };
        let before = match old {
            Some(old) => Some((old, self.daemon.terms(&key).await?)),
            None => None,
        };
        let claimed = self.daemon.claim(uuid, &title, request.clone(), terms).await?;
        let devices = claimed.devices.clone();
        let written = {
            let request = request.clone();
            self.worker
                .call(format!("writing domain {title}"), move |connection| {
                    writing::put(&connection.kept(uuid)?, &request, &devices)
                })
                .await
        };
        let written = match written {
            Ok(written) => written,
            Err(refusal) if claimed.changed => {
                return Err(self.take_back(refusal, &title, key, before).await);
            }
            Err(refusal) => return Err(refusal),
        };
        let changed = claimed.changed || written;
        let when = if shut_off { "" } else { "; it takes effect at the next start" };
        let message = if changed {
            format!("attached {} to {title}{when}", what(&request))
        } else {
            format!("already so: {title} has {}", what(&request))
        };
        tracing::info!(domain = %title, changed, "{message}");
        Ok(Attached {
            changed,
            message,
            claim: key,
            domain: title,
            devices: claimed.devices,
            warnings: claimed.warnings,
        })
    }

    /// The persistent definition of the domain a person named.
    pub(crate) async fn named(&self, named: &str) -> Result<Seen, Refusal> {
        let asked = named.to_owned();
        let found = self
            .worker
            .call(format!("looking for domain {named}"), move |connection| connection.find(&asked))
            .await?;
        let not_kept = || Refusal::from(LinkError::NotKept { domain: found.name.clone() });
        self.read(found.uuid).await?.ok_or_else(not_kept)
    }

    /// Makes the table say again what the definition says, after the definition could not be written.
    async fn take_back(
        &self,
        refusal: Refusal,
        title: &str,
        key: ClaimKey,
        before: Option<(&ClaimRequest, ClaimTerms)>,
    ) -> Refusal {
        let Owner::Domain(uuid) = key.owner else {
            return refusal;
        };
        let undone = match before {
            Some((old, terms)) => {
                self.daemon.claim(uuid, title, old.clone(), terms).await.map(drop)
            }
            None => self.daemon.unclaim(key, false).await.map(drop),
        };
        match undone {
            Ok(()) => refusal,
            Err(left) => refusal.because(format!("and the claim could not be undone: {left}")),
        }
    }
}

/// The claim that is meant. A name that only the VM's run has, `in_use`, is another's.
pub(crate) fn claim_name(
    claims: &[ClaimRequest],
    in_use: &[ClaimName],
    profile: &ProfileName,
) -> ClaimName {
    let there = claims.iter().map(|claim| (&claim.name, claim.profile.as_ref()));
    let of_xml = |name: &&ClaimName| claims.iter().any(|claim| claim.name == **name);
    let others = in_use.iter().filter(|name| !of_xml(name)).map(|name| (name, None));
    claim_meant(there.chain(others), profile)
}

/// A claim in words, with how many slices it is of where that is not one.
pub(crate) fn what(request: &ClaimRequest) -> String {
    let profile = request.profile.as_ref().map_or("", ProfileName::as_str);
    match request.count {
        1 => format!("{} ({profile})", request.name),
        count => format!("{} ({count} of {profile})", request.name),
    }
}

/// The claim as it is to be, on nodes its domain is `pinned` to where it is to be on those alone: what the XML says of
/// it already stays, but for what is asked now.
pub(crate) fn request(
    old: Option<&ClaimRequest>,
    name: &ClaimName,
    profile: ProfileName,
    options: &AttachOptions,
    pinned: Option<Pinned>,
) -> ClaimRequest {
    let mut request = old.cloned().unwrap_or_else(|| ClaimRequest::one(name, profile.clone()));
    request.profile = Some(profile);
    request.count = options.count.unwrap_or(request.count);
    request.same_fabric = options.same_fabric.unwrap_or(request.same_fabric);
    request.prefer_numa = options.prefer_numa.unwrap_or(request.prefer_numa);
    request.require_numa = match options.require_numa {
        Some(true) => pinned,
        Some(false) => None,
        None => request.require_numa.map(|known| pinned.unwrap_or(known)),
    };
    if let Some(parameters) = &options.parameters {
        request.parameters = Some(parameters.clone());
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, profile: Option<&str>) -> ClaimRequest {
        let mut claim = request(
            None,
            &name.parse().unwrap(),
            "p".parse().unwrap(),
            &AttachOptions::default(),
            None,
        );
        claim.profile = profile.map(|profile| profile.parse().unwrap());
        claim
    }

    #[test]
    fn the_claim_meant_is_found_before_one_is_made() {
        let none: &[ClaimRequest] = &[];
        let one = [claim("vgpu", Some("p"))];
        let two = [claim("gpu0", Some("p")), claim("gpu1", Some("p"))];
        let others = [claim("gpu0", Some("q")), claim("gpu2", None)];
        for (claims, in_use, expected) in [
            (none, &[][..], "gpu0"),
            (none, &["gpu0"], "gpu1"),
            (&one, &[], "vgpu"),
            (&one, &["vgpu", "gpu0"], "vgpu"),
            (&two, &["gpu2"], "gpu3"),
            (&others, &["gpu0"], "gpu1"),
        ] {
            let in_use: Vec<ClaimName> = in_use.iter().map(|name| name.parse().unwrap()).collect();
            let name = claim_name(claims, &in_use, &"p".parse().unwrap());
            assert_eq!(name.as_str(), expected, "{claims:?}");
        }
    }

    #[test]
    fn what_the_xml_says_of_a_claim_stays() {
        let mut old = claim("ai", Some("p"));
        old.same_fabric = true;
        old.memory_min = Some(1 << 30);
        old.parameters = Some("frame_rate_limiter=0".parse().unwrap());
        old.count = 8;
        let mut options = AttachOptions { prefer_numa: Some(true), ..AttachOptions::default() };
        let new = request(Some(&old), &old.name, "q".parse().unwrap(), &options, None);
        let mut expected = old.clone();
        expected.profile = Some("q".parse().unwrap());
        expected.prefer_numa = true;
        assert_eq!(new, expected);
        options.count = Some(4);
        options.same_fabric = Some(false);
        let new = request(Some(&old), &old.name, "q".parse().unwrap(), &options, None);
        assert_eq!((new.count, new.same_fabric), (4, false));
        let node = Some(Pinned { memory: "1".parse().unwrap(), ..Pinned::default() });
        let here = AttachOptions {
            require_numa: Some(true),
            prefer_numa: Some(false),
            ..AttachOptions::default()
        };
        let new = request(Some(&new), &old.name, "q".parse().unwrap(), &here, node.clone());
        assert_eq!((new.prefer_numa, &new.require_numa), (false, &node));
        let again =
            request(Some(&new), &old.name, "q".parse().unwrap(), &AttachOptions::default(), None);
        assert_eq!(again.require_numa, node);
        let moved = Some(Pinned { memory: "0".parse().unwrap(), ..Pinned::default() });
        let again = request(
            Some(&new),
            &old.name,
            "q".parse().unwrap(),
            &AttachOptions::default(),
            moved.clone(),
        );
        assert_eq!(again.require_numa, moved);
        options.require_numa = Some(false);
        let near = request(Some(&new), &old.name, "q".parse().unwrap(), &options, None);
        assert_eq!((near.prefer_numa, near.require_numa), (true, None));
        options.parameters = Some("disable_vnc=1".parse().unwrap());
        let new = request(Some(&old), &old.name, "q".parse().unwrap(), &options, None);
        assert_eq!(new.parameters, options.parameters);
    }
}
