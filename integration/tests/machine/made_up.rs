//! Starts that were refused for what the agent mends, or as a restore: whoever started with the host has nobody to ask again.

use crate::another::{is_refused, pick, with_one};
use crate::directed::{all, run, runs, stop};
use crate::driver::Driver;
use crate::happening::Happening as H;
use crate::ready::{not_ready, starts};
use crate::vgpu::{attach, one_gpu, order};
use crate::world::World;
use crate::yielded::{MS, PROFILE, boot, slow};
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation::{self, Migrate, Restore};
use gpuslice_core::machine::{HookAnswer, HookCall};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, DueStart};
use gpuslice_core::state::OnlyIf;
use uuid::Uuid;

fn due(world: &mut World) -> Vec<DueStart> {
    match world.order(Command::AgentWork).unwrap() {
        Some(Ok(Answer::AgentWork { start, .. })) => start,
        other => panic!("{other:?}"),
    }
}

fn due_of(driver: &mut Driver) -> Vec<DueStart> {
    match order(driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { start, .. } => start,
        other => panic!("{other:?}"),
    }
}

fn if_marked(domain: Uuid) -> [DueStart; 1] {
    [DueStart { domain, only: Some(OnlyIf::Marked) }]
}

#[test]
fn what_the_agent_mends_is_started_once_if_it_is_marked_to_start_with_the_host() {
    let (mut world, one) = with_one();
    let domain = world.guests[&1].domain().uuid;
    all(&mut world, &[pick(1, one)]);
    is_refused(&mut world, 1);
    // Over a restart of the daemon, too, and told to the agent once.
    world.driver.restart().unwrap();
    assert_eq!(due(&mut world), if_marked(domain));
    assert_eq!(due(&mut world), []);
    // What was refused again all the same is not tried for ever.
    is_refused(&mut world, 1);
    is_refused(&mut world, 1);
    let before = due(&mut world);
    assert!(before.is_empty() || before == if_marked(domain), "{before:?}");
    is_refused(&mut world, 1);
    assert_eq!(due(&mut world), []);

    // It has run meanwhile: the next time counts anew.
    all(&mut world, &[H::Seen { vm: 1 }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 1), "{:?}", world.refusals);
    all(&mut world, &[H::Advance { ms: 20_000 }]);
    all(&mut world, &stop(1));
    world.define(1, |domain| domain.devices.clear());
    world.define(1, |domain| domain.claims.clear());
    all(&mut world, &[H::Seen { vm: 1 }, pick(1, one)]);
    is_refused(&mut world, 1);
    assert_eq!(due(&mut world), if_marked(domain));
    world.define(1, |domain| domain.devices.clear());
    world.finish().unwrap();
}

#[test]
fn who_asks_again_before_the_agent_does_is_not_started_once_more() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(1, one)]);
    is_refused(&mut world, 1);
    all(&mut world, &[H::Seen { vm: 1 }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 1), "{:?}", world.refusals);
    assert_eq!(due(&mut world), []);
    world.finish().unwrap();
}

fn asked(driver: &mut Driver, domain: &Domain, operation: HookOperation) -> Option<HookAnswer> {
    let request = driver.hook(HookCall::new(operation, domain.clone()));
    driver.advance(1_000).unwrap();
    driver.told.remove(&request)
}

/// A domain that was let in by this, and refused when it was to start, since its GPU was not ready; it is by now.
fn comes_in(by: HookOperation) -> (Driver, Domain) {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    not_ready(&mut driver, 12);
    assert_eq!(asked(&mut driver, &domain, by), Some(HookAnswer::Proceed));
    assert_eq!(starts(&mut driver, &domain).unwrap_err().code, Code::NotSettled);
    assert_eq!(due_of(&mut driver), []);
    (driver, domain)
}

#[test]
fn what_was_to_be_restored_is_started_if_libvirt_keeps_it_saved() {
    let (mut driver, domain) = comes_in(Restore);
    driver.advance(60_000).unwrap();
    let saved = DueStart { domain: domain.uuid, only: Some(OnlyIf::Saved) };
    assert_eq!(due_of(&mut driver), [saved]);

    // It may not be let in at all.
    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    let answer = asked(&mut driver, &domain, Restore);
    assert!(matches!(answer, Some(HookAnswer::Refuse(_))), "{answer:?}");
    assert_eq!(due_of(&mut driver), []);
    driver.advance(2 * MS).unwrap();
    assert_eq!(due_of(&mut driver), [DueStart { domain: domain.uuid, only: Some(OnlyIf::Saved) }]);
}

#[test]
fn what_was_to_migrate_here_is_not_started_here() {
    let (mut driver, domain) = comes_in(Migrate);
    driver.advance(60_000).unwrap();
    assert_eq!(due_of(&mut driver), []);
    // Whoever starts it after that is like any other.
    not_ready(&mut driver, 12);
    assert_eq!(starts(&mut driver, &domain).unwrap_err().code, Code::NotSettled);
    driver.advance(60_000).unwrap();
    assert_eq!(due_of(&mut driver), [DueStart { domain: domain.uuid, only: None }]);

    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    let answer = asked(&mut driver, &domain, Migrate);
    assert!(matches!(answer, Some(HookAnswer::Refuse(_))), "{answer:?}");
    driver.advance(2 * MS).unwrap();
    assert_eq!(due_of(&mut driver), []);
}
