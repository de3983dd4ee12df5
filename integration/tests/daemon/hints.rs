//! Every refusal's hint is followed as it is printed, word for word, and then what was refused works. A hint is made of
//! steps (`A, then B`), with other ways out behind `; or ` and remarks in parentheses; a step is a command, or an edit
//! that names what to edit. A code without a case does not compile.

mod libvirt;
mod of_devices;
mod of_orders;
mod of_starts;
mod person;
mod room;

use crate::host::as_root;
use gpuslice_core::refusal::Code;
use std::panic::catch_unwind;

type Case = (&'static str, fn(Code));

macro_rules! cases {
    ($($code:ident: $($module:ident::$case:ident),+;)*) => {
        fn cases(code: Code) -> &'static [Case] {
            match code {
                $(Code::$code => &[$((stringify!($case), $module::$case as fn(Code))),+],)*
            }
        }
    };
}

cases! {
    NoCapacity: room::a_claim_that_does_not_run_has_the_vf, room::a_claim_that_runs_has_the_vf,
        room::a_vm_without_a_claim_has_the_vf, room::all_mdevs_run, room::mdevs_of_another_size_run,
        room::the_last_are_reserved, room::mdevs_of_another_program, room::types_of_another_size_run,
        room::no_gpu_has_all, room::what_comes_in_has_it_promised, room::several_are_missing;
    NoProfile: of_orders::a_name_is_misspelt, of_orders::no_gpu_has_a_layout,
        of_starts::the_profile_is_another_now;
    BadRequest: of_starts::metadata_is_misspelt;
    ClaimCopied: of_starts::a_copy_carries_a_vf, of_starts::a_copy_carries_an_mdev,
        of_starts::a_copy_carries_the_only_vf;
    NotSettled: of_starts::the_gpu_has_not_come;
    Held: of_starts::a_vm_without_a_claim_runs_on_the_home,
        of_starts::the_home_is_taken_and_another_is_free, of_starts::a_process_has_the_vf_open;
    Taken: of_starts::a_plain_device_is_somebodys, of_starts::the_home_was_given_up;
    Reshaping: of_devices::it_is_being_made_anew;
    Cordoned: of_devices::a_person_said_so;
    Quarantined: of_devices::a_layout_failed_before;
    HostDriver: of_devices::a_driver_of_the_host_has_the_vf;
    Dirty: of_devices::a_reset_failed;
    Absent: of_starts::the_vf_is_not_there, of_starts::the_vf_is_not_there_and_no_other_is_free;
    Foreign: of_devices::an_mdev_of_another_program, of_devices::a_vf_without_a_layout,
        of_devices::a_type_of_another_program;
    Unknown: of_orders::no_such_gpu, of_orders::no_such_domain;
    NotInXml: of_starts::a_device_is_missing, of_starts::a_device_is_one_too_many;
    Managed: of_starts::libvirt_would_unbind_it, of_starts::a_typed_vf_was_picked;
    DeviceFailed: of_devices::a_layout_fails, of_devices::no_device_makes_one;
    DeviceStuck: of_devices::a_write_sleeps;
    StateUnwritable: of_orders::there_is_no_room_for_the_record;
    OutputUnwritable: of_orders::there_is_no_room_for_the_answer;
    BadConfig: of_orders::a_key_is_misspelt, of_orders::more_vfs_than_there_are;
    InUse: of_orders::a_vm_uses_the_gpu, of_orders::the_claim_runs;
    NotPermitted: of_orders::somebody_else_asks;
    Unreachable: of_starts::no_daemon_runs, of_orders::no_agent_runs;
    Timeout: of_orders::it_never_settles, of_orders::it_settles_later;
    Unsliceable: of_orders::the_gpu_is_no_parent;
    Unsupported: of_starts::it_takes_no_parameters;
}

#[test]
fn the_hint_of_every_code_mends_what_was_refused() {
    as_root(|| {
        let wanted = std::env::var("GPUSLICE_HINT").unwrap_or_default();
        let mut failed = Vec::new();
        for code in Code::ALL {
            for (name, case) in cases(*code) {
                if !name.contains(&wanted) {
                    continue;
                }
                if catch_unwind(|| case(*code)).is_err() {
                    failed.push(format!("{code}: {name}"));
                }
            }
        }
        assert!(failed.is_empty(), "hints that mend nothing: {failed:#?}");
    });
}
