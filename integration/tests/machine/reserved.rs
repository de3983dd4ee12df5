//! Stories of capacity that is held for VMs that are off.

use crate::directed::{after, all, declare, refused, run, runs, stop};
use crate::happening::Happening as H;
use gpuslice_core::ids::ClaimName;

fn name() -> ClaimName {
    "gpu0".parse().unwrap()
}

fn attach(vm: u8, profile: &str, reserve: bool) -> H {
    H::Attach { vm, name: name(), profile: profile.to_owned(), count: 1, pool: false, reserve }
}

/// One of 8 GiB or two of 4, as mediated devices of a card and as types of its VFs.
#[test]
fn what_is_reserved_is_not_given_away_in_another_size() {
    for (whole, half) in [("nvidia-a40-8q", "nvidia-a40-4q"), ("nvidia-l40s-8q", "nvidia-l40s-4q")]
    {
        let mut world = after(&[attach(0, whole, true), attach(1, half, false)]);
        refused(&mut world, 1, "no-capacity");
        all(&mut world, &run(0));
        assert!(runs(&world, 0), "{whole}: {:?}", world.refusals);
        all(&mut world, &stop(0));
        // Off, it is held all the same; given up, it is not.
        refused(&mut world, 1, "no-capacity");
        all(&mut world, &[H::Detach { vm: 0, name: name(), force: false }]);
        all(&mut world, &run(1));
        assert!(runs(&world, 1), "{half}: {:?}", world.refusals);
        world.finish().unwrap();
    }
}

#[test]
fn what_is_reserved_leaves_the_rest_to_others() {
    for half in ["nvidia-a40-4q", "nvidia-l40s-4q"] {
        let mut world =
            after(&[attach(0, half, true), attach(1, half, false), attach(2, half, false)]);
        all(&mut world, &run(1));
        assert!(runs(&world, 1), "{half}: {:?}", world.refusals);
        refused(&mut world, 2, "no-capacity");
        all(&mut world, &run(0));
        assert!(runs(&world, 0), "{half}: {:?}", world.refusals);
        world.finish().unwrap();
    }
}

/// More is reserved than there is: who comes first has it.
#[test]
fn those_who_reserve_do_not_keep_each_other_from_starting() {
    let three: Vec<H> = (0..3).map(|vm| attach(vm, "nvidia-a40-4q", true)).collect();
    let mut world = after(&three);
    for vm in [0, 1] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    refused(&mut world, 2, "no-capacity");
    all(&mut world, &[declare(3)]);
    refused(&mut world, 3, "no-capacity");
    world.finish().unwrap();
}
