//! What people and programs order: claims, cordons, plans.

use super::fabric::Sought;
use super::{ConfigRead, Effect, Machine, RequestId, Stored};
use crate::domain::{ClaimRequest, HostDeviceSource, MOST_CLAIMS, MOST_SLICES, alias_for};
use crate::hint;
use crate::history::{Ending, Wanted};
use crate::ids::{ClaimKey, MdevUuid, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::mend;
use crate::numa::Within;
use crate::observation::Function;
use crate::placement::Refused;
use crate::refusal::{Code, Hint, Holders, Refusal};
use crate::request::{Answer, Command, DeviceToWrite, Outcome};
use crate::state::{Assignment, Claim, Phase};
use std::collections::BTreeSet;

/// A claim as ordered.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub owner: Owner,
    pub owner_name: String,
    pub request: ClaimRequest,
    /// As the claim has it already, where nothing is said.
    pub pool: Option<bool>,
    /// The same.
    pub reserve: Option<bool>,
    pub dry_run: bool,
}

impl Order {
    fn asks_for_some(&self) -> Result<(), Refusal> {
        let ClaimRequest { name, count, .. } = &self.request;
        if (1..=MOST_SLICES).contains(count) {
            return Ok(());
        }
        let message = format!("claim {name} asks for {count} slices");
        let hint = hint!("the same with a count from 1 to {}", MOST_SLICES);
        Err(Refusal::new(Code::BadRequest, message).hint(hint))
    }

    /// A home that others may be given is none that is held for its claim. A record of before may have both, and keeps them as long
    /// as neither is asked for.
    fn may_have_both(&self) -> Result<(), Refusal> {
        if ![self.pool, self.reserve].contains(&Some(true)) {
            return Ok(());
        }
        let off = if self.reserve == Some(true) { "--pool=false" } else { "--reserve=false" };
        let message =
            format!("claim {} is either shared (pool) or held (reserve)", self.request.name);
        Err(Refusal::new(Code::BadRequest, message).hint(hint!("the same with {}", off)))
    }
}

impl Machine {
    pub(super) fn on_command(
        &mut self,
        request: RequestId,
        command: Command,
        config: Option<ConfigRead>,
    ) {
        let outcome = match command {
            Command::Plan | Command::Apply => {
                return self.on_configured(request, matches!(command, Command::Apply), config);
            }
            Command::WaitSettled { timeout_ms } => {
                return self.on_wait_settled(request, timeout_ms);
            }
            Command::Claim { owner, owner_name, request, pool, reserve, dry_run } => {
                self.claim(Order { owner, owner_name, request, pool, reserve, dry_run })
            }
            Command::Plug { domain, domain_name, request: claim, pool, reserve, keep } => {
                let owner = Owner::Domain(domain);
                let claim = Order {
                    owner,
                    owner_name: domain_name,
                    request: claim,
                    pool,
                    reserve,
                    dry_run: false,
                };
                return self.on_plug(request, super::plug::Order { claim, keep });
            }
            Command::PlugFailed { key } => Ok(self.plug_failed(&key)),
            Command::DomainRuns { domain } => return self.on_domain_runs(request, domain),
            Command::Unclaim { key, force } => self.unclaim(&key, force),
            Command::Cordon { parent, reason } => self.cordon(parent, reason),
            Command::Drain { parents, reason, wait_ms } => {
                return self.on_drain(request, &parents, &reason, wait_ms);
            }
            Command::Replace { old, new } => self.replace(&old, &new),
            Command::Uncordon { parent } => self.uncordon(&parent),
            Command::DomainSeen { domain, shut_off } => self.domain_seen(&domain, shut_off),
            Command::DomainGone { uuid } => Ok(self.domain_gone(uuid)),
            Command::AgentWork => Ok(self.agent_work()),
            Command::Status => Ok(self.status()),
            Command::ListParents => Ok(self.list_parents()),
            Command::ListProfiles => Ok(self.list_profiles()),
            Command::ListTypes => Ok(self.list_types()),
            Command::ListSlices => Ok(self.list_slices()),
            Command::ListClaims => Ok(self.list_claims()),
            Command::ListHistory { about, since } => {
                let wanted = Wanted { about, since };
                return self.push(Effect::ReadHistory { request, wanted });
            }
        };
        self.push(Effect::Answer { request, outcome });
    }

    fn on_configured(&mut self, request: RequestId, apply: bool, config: Option<ConfigRead>) {
        match config {
            Some(Ok(config)) => {
                self.config_errors.clear();
                if apply {
                    self.apply(request, config);
                } else {
                    let plan = self.plan(&config);
                    self.push(Effect::Answer { request, outcome: Ok(Answer::Plan(plan)) });
                }
            }
            Some(Err(errors)) => {
                self.config_errors = errors.iter().map(ToString::to_string).collect();
                let mut refusal = Refusal::new(
                    Code::BadConfig,
                    "the configuration is broken, the applied layout stays",
                );
                refusal.causes = self.config_errors.clone();
                let file =
                    errors.first().map_or("/etc/gpuslice/gpuslice.toml", |e| e.file.as_str());
                let outcome = Err(refusal.hint(hint!("edit {}, then gpuslice plan", file)));
                self.push(Effect::Answer { request, outcome });
            }
            None => {
                let refusal = Refusal::new(Code::BadConfig, "no configuration was read");
                self.push(Effect::Answer { request, outcome: Err(refusal) });
            }
        }
    }

    pub(super) fn claim(&mut self, order: Order) -> Outcome {
        self.claim_at(order, &[])
    }

    /// As [`Self::claim`], with the home VFs that it had better have, where they are free: a person has picked one, or it had them
    /// under another name.
    pub(super) fn claim_at(&mut self, order: Order, picked: &[PciAddress]) -> Outcome {
        self.note_asker(order.owner.clone(), &order.owner_name);
        order.asks_for_some()?;
        let key = ClaimKey { owner: order.owner.clone(), name: order.request.name.clone() };
        self.has_few(&key, &order.owner_name)?;
        let profile = self.profile_for(&key, &order.owner_name, &order.request, None)?;
        let known = self.durable.claims.get(&key).cloned();
        if let Some(known) = &known {
            self.may_become(&key, known, &profile, &order.owner_name)?;
        }
        // What is over is not what is asked for now.
        let kept = known.as_ref().filter(|claim| !claim.orphaned || claim.undefined);
        let pool = order.pool.unwrap_or(kept.is_some_and(|claim| claim.pool));
        let reserve = order.reserve.unwrap_or(kept.is_some_and(|claim| claim.reserve));
        if pool && reserve {
            order.may_have_both()?;
        }
        let request = &order.request;
        let mut had = known.as_ref().map_or_else(Vec::new, |claim| claim.home.clone());
        if known.as_ref().is_some_and(|known| known.profile != profile) {
            self.retain_able(&mut had, &profile);
        }
        self.fits_in_one_vm(&key, request, &profile)?;
        let had = if picked.is_empty() { had.as_slice() } else { picked };
        // Whoever only asks, and may be anybody, has nothing read.
        if !order.dry_run && self.outgrows_nodes(std::slice::from_ref(request)) {
            self.look_at_nodes();
        }
        let home = self.homes(&Sought { key: &key, request, profile: &profile, pool }, had)?;
        if let Some(known) = &known
            && (known.profile != profile || known.home.iter().any(|vf| !home.contains(vf)))
        {
            self.may_be_exchanged(&key, &order.owner_name)?;
        }
        let claim = Claim {
            owner_name: order.owner_name,
            request: order.request,
            profile,
            home,
            pool,
            reserve,
            transient: false,
            orphaned: false,
            undefined: false,
            last_refusal: known.as_ref().and_then(|c| c.last_refusal.clone()),
        };
        let changed = known.as_ref() != Some(&claim);
        let devices = devices_of(&key, &claim);
        let warnings = self.overcommit(&key, &claim);
        let row = self.claim_row(&key, &claim);
        if !order.dry_run {
            // What is asked for now is not undone with an older hot-plug.
            if self.durable.plugs.remove(&key).is_some() {
                self.persist(Stored::Durable);
            }
            if changed {
                self.durable.claims.insert(key.clone(), claim);
                self.persist(Stored::Durable);
                self.note("claim", &key, "claimed");
            }
        }
        Ok(Answer::Claimed { changed, claim: row, devices, warnings })
    }

    /// A domain's claims are written by whoever defines it, and each is held against all others.
    pub(super) fn has_few(&self, key: &ClaimKey, owner_name: &str) -> Result<(), Refusal> {
        let claims = &self.durable.claims;
        if !matches!(key.owner, Owner::Domain(_)) || claims.contains_key(key) {
            return Ok(());
        }
        let its: Vec<&ClaimKey> = claims.keys().filter(|k| k.owner == key.owner).collect();
        match its.first() {
            Some(first) if its.len() >= MOST_CLAIMS => {
                let message = format!("{owner_name} has {MOST_CLAIMS} claims, which is the most");
                let hint = mend::end_claim(first, owner_name);
                Err(Refusal::new(Code::BadRequest, message).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Whether a claim can ask for a profile from now on.
    pub(super) fn may_become(
        &self,
        key: &ClaimKey,
        known: &Claim,
        profile: &ProfileName,
        owner_name: &str,
    ) -> Result<(), Refusal> {
        if known.profile == *profile || self.used_of(key).next().is_none() {
            return Ok(());
        }
        let message = format!(
            "{owner_name} has a {} now, which cannot become a {profile} while it is in use",
            known.profile
        );
        Err(Refusal::new(Code::InUse, message).hint(self.end_run(key)))
    }

    /// Whether a claim's profile or homes can be other ones, which nothing else may tell.
    pub(super) fn may_be_exchanged(&self, key: &ClaimKey, owner_name: &str) -> Result<(), Refusal> {
        if !self.it_alone_tells(key) {
            return Ok(());
        }
        let message = format!("what {owner_name} has is being found out");
        Err(Refusal::new(Code::NotSettled, message)
            .because("the record of this boot was lost, and a device cannot be read yet")
            .hint(mend::when_it_is_read()))
    }

    /// A claim reserves nothing, so more may be asked than there is; that is said, not refused.
    pub(super) fn overcommit(&self, key: &ClaimKey, claim: &Claim) -> Vec<String> {
        let profile = &claim.profile;
        let others = self.durable.claims.iter();
        let others = others.filter(|(k, c)| *k != key && !c.orphaned && c.profile == *profile);
        let asked =
            others.map(|(_, c)| c.request.count).fold(claim.request.count, u32::saturating_add);
        let Some((free, used)) = self.free_and_used(profile) else { return Vec::new() };
        let now = free.saturating_add(used);
        let most = self.most(profile).unwrap_or(now).max(now);
        let mut said = match asked > most {
            true => format!(
                "{asked} of {profile} are claimed, more than the {most} that this host can run at once"
            ),
            false if asked > now => {
                format!("{asked} of {profile} are claimed, and this host can run {most} at once")
            }
            false => return Vec::new(),
        };
        if now < most {
            said += &format!("; {free} more can start now");
        }
        vec![said]
    }

    fn unclaim(&mut self, key: &ClaimKey, force: bool) -> Outcome {
        let bound: Vec<SliceId> =
            self.run.assignments.iter().filter(|(_, a)| a.claim == *key).map(|(s, _)| *s).collect();
        let known = self.durable.claims.get(key);
        if let Owner::Domain(domain) = key.owner
            && known.is_none()
            && self.is_promised(key)
        {
            self.expects_no_more(domain);
            return Ok(done(true, "what was promised to it is free again"));
        }
        if known.is_none() && bound.is_empty() {
            return Ok(done(false, "already so: there is no such claim"));
        }
        let ended = known.is_none_or(|claim| claim.orphaned && !claim.undefined);
        if ended && bound.is_empty() {
            return Ok(done(false, "already so: it is over once it is known what it has"));
        }
        // libvirt binds it by itself, so that nothing done here keeps the VM that is being started from opening it.
        let about_to_be_held =
            |a: &&Assignment| a.phase == Phase::Prepared && a.managed && !a.hotplug;
        let released: Vec<SliceId> = bound
            .iter()
            .filter(|slice| self.run.assignments.get(slice).filter(about_to_be_held).is_none())
            .copied()
            .collect();
        let returning = |slice: &SliceId| {
            self.run.assignments.get(slice).is_some_and(|a| a.phase == Phase::Releasing)
        };
        let left = released.iter().all(returning);
        if ended && !bound.is_empty() && left {
            let message =
                format!("already so: {} is released as soon as nobody holds it", join(&bound));
            return Ok(done(false, &message));
        }
        let name = known.map_or_else(|| key.owner.to_string(), |c| c.owner_name.clone());
        if !force && let Some((slice, _)) = self.used_of(key).next() {
            let message = format!("{name} has {slice} for claim {}", key.name);
            return Err(Refusal::new(Code::InUse, message).hint(self.end_run(key)));
        }
        self.end_claim(key);
        self.note("claim", key, "ended");
        let message = if bound.is_empty() {
            "the claim is ended".to_owned()
        } else {
            // A held slice is not taken away: its release waits for its holder.
            format!("the claim is ended; {} is released as soon as nobody holds it", join(&bound))
        };
        for slice in released {
            self.presumed_dead.remove(&slice);
            self.begin_release(slice, Ending::Released);
        }
        Ok(done(true, &message))
    }

    pub(super) fn require_parent(&self, parent: &ParentId) -> Result<(), Refusal> {
        let known = self.seen.has_parent(parent) || self.durable.expected.contains_key(parent);
        if known {
            return Ok(());
        }
        let message = format!("{parent} is not a device of this host that yields slices");
        Err(Refusal::new(Code::Unknown, message).hint(self.name_a_gpu()))
    }

    /// Some of the devices that an order can name.
    pub(super) fn name_a_gpu(&self) -> Hint {
        const MOST: usize = 3;
        let known: BTreeSet<ParentId> =
            self.seen.parents().filter(|parent| self.shown(parent)).collect();
        if known.is_empty() {
            return hint!("gpuslice doctor (it says why no GPU is there)");
        }
        let names = Hint::words(known.iter().take(MOST), ", ");
        if known.len() > MOST {
            hint!("name one of gpuslice gpus: {} and others", names)
        } else {
            hint!("name one of gpuslice gpus: {}", names)
        }
    }

    /// Where no GPU can be sliced, that is why there is no profile.
    fn nothing_to_slice(&self) -> Option<Refusal> {
        let whole = self.seen.whole.keys().chain(self.seen.functions.keys());
        let mut why = whole.filter_map(|address| self.unsliceable(&ParentId::Pci(*address)));
        let first = why.next().filter(|_| self.offers().is_empty())?;
        Some(why.fold(first, |first, other| first.because(other.message)))
    }

    /// Turns what a placement says into what a person reads.
    pub(super) fn refuse_placement(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
        refused: Refused,
    ) -> Refusal {
        let candidates = match refused {
            Refused::NoSuchProfile { nearest } => {
                if let Some(refusal) = self.nothing_to_slice() {
                    let refusal = self.or_not_settled(profile, refusal);
                    return self.or_to_come(profile, refusal);
                }
                let refusal =
                    Refusal::new(Code::NoProfile, format!("no device here offers {profile}"));
                let mut kept = self.offering_nothing().peekable();
                let way_out = kept.peek().and_then(Refusal::way_out);
                let hint = match (nearest, way_out) {
                    (Some(nearest), _) => self.attach_again(key, &nearest),
                    (None, Some(way_out)) => way_out,
                    (None, None) => self.other_profile(key, profile),
                };
                let because = |refusal: Refusal, why: Refusal| refusal.because(why.message);
                let refusal = kept.fold(refusal.hint(hint), because);
                let refusal = self.or_not_settled(profile, refusal);
                return self.or_to_come(profile, refusal);
            }
            Refused::Candidates(candidates) => candidates,
        };
        if candidates.iter().all(|(_, why)| why.code == Code::Unsupported) {
            return self.too_many_for_one_vm(key, profile, count);
        }
        if *within != Within::Anywhere {
            let refusal = self.not_there(key, profile, count, within, &candidates);
            return self.or_not_settled(profile, refusal);
        }
        let first_other = candidates.iter().find(|(_, why)| why.code != Code::NoCapacity);
        let mut refusal = match first_other {
            Some((_, why)) if candidates.len() == 1 => why.clone(),
            _ => (self.all_cordoned(key, profile, count, &candidates))
                .unwrap_or_else(|| self.no_capacity(key, profile, count)),
        };
        if let (Some((_, why)), true) = (first_other, refusal.code == Code::NoCapacity) {
            refusal.causes.push(why.message.clone());
        }
        self.or_not_settled(profile, refusal)
    }

    fn no_capacity(&self, key: &ClaimKey, profile: &ProfileName, count: u32) -> Refusal {
        let message = self.too_many(key, profile, count).unwrap_or_else(|| {
            let beside = self.free_and_used_beside(key, profile, &|_| true);
            let (free, used) = beside.unwrap_or_default();
            let spare = match free.saturating_add(used) {
                0 => "none free".to_owned(),
                all => format!("{free} of {all} free"),
            };
            format!("{profile}: wanted {count}, {spare}, {}", self.who_has(key, profile))
        });
        Refusal::new(Code::NoCapacity, message).hint(self.room_for(key, profile, count))
    }

    /// Who has slices of a profile, whose homes the others are, and to whom they are promised; where it is none of these, who has
    /// slices of other profiles on the devices that could be cut into this one.
    fn who_has(&self, key: &ClaimKey, profile: &ProfileName) -> Holders {
        let assigned = self.run.assignments.values();
        let have = assigned.filter(|a| a.profile == *profile && !a.is_reserved_for(key));
        let have: BTreeSet<&ClaimKey> = have.map(|a| &a.claim).collect();
        let living = self.durable.claims.iter().filter(|(other, claim)| {
            *other != key && !claim.orphaned && claim.profile == *profile && !have.contains(other)
        });
        let (promised, living): (Vec<_>, Vec<_>) =
            living.partition(|(other, _)| self.is_promised(other));
        let homes = living.into_iter().filter(|(_, claim)| !claim.home.is_empty() || claim.reserve);
        let view = self.view();
        let devices = view.devices_offering(profile);
        let vfs: BTreeSet<&PciAddress> =
            view.of_profile(profile).flat_map(|offer| offer.form.vfs()).collect();
        let mut holders = Holders {
            have: have.into_iter().map(|k| self.owner_name(k)).collect(),
            room: BTreeSet::new(),
            kept: homes.map(|(other, _)| self.owner_name(other)).collect(),
            promised: promised.into_iter().map(|(other, _)| self.owner_name(other)).collect(),
        };
        for (slice, parent, who) in self.without_a_claim() {
            let of = match slice {
                SliceId::Mdev(uuid) => self.seen.mdevs.get(&uuid).is_some_and(|mdev| {
                    self.profile_of(&mdev.parent, &mdev.type_id).as_ref() == Some(profile)
                }),
                SliceId::Vf(vf) => vfs.contains(&vf),
                SliceId::Function(_) => false,
            };
            if of {
                holders.have.insert(who);
            } else if devices.contains(&self.seen.device_of(&parent)) {
                holders.room.insert(who);
            }
        }
        if holders.have.is_empty() && holders.kept.is_empty() && holders.promised.is_empty() {
            let there = self.run.assignments.values().filter(|a| {
                a.claim.owner != key.owner && devices.contains(&self.seen.device_of(&a.parent))
            });
            holders.room.extend(there.map(|a| self.owner_name(&a.claim)));
            if holders.room.is_empty() {
                let reserved = self.reserved_beside(key, profile).into_iter();
                holders.kept.extend(reserved.map(|(other, _)| self.owner_name(other)));
            }
        } else {
            holders.room.clear();
        }
        holders
    }

    /// Why devices offer nothing as long as nothing is done to them.
    fn offering_nothing(&self) -> impl Iterator<Item = Refusal> {
        let view = self.view();
        let offering = view.devices_of(view.offers.iter());
        let here = self.durable.quarantines.iter().filter(|(p, _)| self.seen.has_parent(p));
        let bare = here.filter(move |(parent, _)| !offering.contains(parent));
        let quarantined = bare.map(|(parent, why)| {
            let message = format!("{parent} is quarantined: {}", why.message);
            Refusal { message, ..why.clone() }
        });
        quarantined.chain(self.set_to_nothing())
    }

    /// The same where they are as their layouts say.
    pub(super) fn set_to_nothing(&self) -> impl Iterator<Item = Refusal> {
        let so = self.layouts.iter().filter(|(parent, layout)| self.realised(parent, layout));
        so.filter_map(|(parent, _)| self.offers_nothing(parent))
    }

    /// GPUs that could be cut into VFs, and that no layout names.
    pub(super) fn bare(&self) -> impl Iterator<Item = (PciAddress, &Function)> {
        let functions = self.seen.functions.iter().map(|(pf, function)| (*pf, function));
        functions.filter(|(pf, function)| {
            function.is_gpu()
                && function.sriov.is_some()
                && !self.layouts.contains_key(&ParentId::Pci(*pf))
        })
    }

    /// Those that have slices.
    pub(super) fn bound_claims(&self) -> BTreeSet<&ClaimKey> {
        self.run.assignments.values().map(|a| &a.claim).collect()
    }
}

fn join(slices: &[SliceId]) -> String {
    slices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn done(changed: bool, message: &str) -> Answer {
    Answer::Done { changed, message: message.to_owned() }
}

/// The devices a claim's owner must carry.
pub(super) fn devices_of(key: &ClaimKey, claim: &Claim) -> Vec<DeviceToWrite> {
    let sources = (0..claim.request.count)
        .map_while(|index| source_of(key, claim, index).map(|source| (index, source)));
    sources
        .map(|(index, source)| DeviceToWrite { alias: alias_for(&key.name, index), source })
        .collect()
}

/// The device that one of a claim's slices is for its owner.
pub(super) fn source_of(key: &ClaimKey, claim: &Claim, index: u32) -> Option<HostDeviceSource> {
    let Owner::Domain(domain) = key.owner else { return None };
    if index >= claim.request.count {
        return None;
    }
    let home = usize::try_from(index).ok().and_then(|i| claim.home.get(i));
    Some(match home {
        Some(address) => HostDeviceSource::Pci(*address),
        None => HostDeviceSource::Mdev(MdevUuid::for_claim(domain, &key.name, index)),
    })
}
