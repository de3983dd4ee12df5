//! Every refusal's hint is followed as it is printed, word for word, and then what was refused works. A hint is made of
//! steps (`A, then B`), with other ways out behind `; or ` and remarks in parentheses; a step is a command, or an edit
//! that names what to edit. A code without a case does not compile, and the registry knows a hint without one.

mod libvirt;
mod of_agent;
mod of_commands;
mod of_devices;
mod of_drivers;
mod of_guests;
mod of_layouts;
mod of_nodes;
mod of_orders;
mod of_starts;
mod person;
mod registry;
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
        room::the_last_are_reserved, room::the_rest_is_reserved_in_another_size,
        room::the_rest_is_reserved_for_a_type_of_another_size, room::mdevs_of_another_program,
        room::types_of_another_size_run,
        room::no_gpu_has_all, room::what_comes_in_has_it_promised, room::several_are_missing,
        room::there_are_not_so_many, room::there_are_not_so_many_and_another_has_one,
        room::there_are_not_so_many_of_a_driver,
        room::the_vm_itself_has_all, of_layouts::more_are_parked_than_fit,
        of_guests::other_guests_have_the_mapping, of_guests::one_guest_names_a_device_twice;
    OtherNumaNode: of_nodes::it_is_pinned_nowhere, of_nodes::its_node_has_no_gpu,
        of_nodes::the_gpu_tells_no_node, of_nodes::its_vf_is_on_another_node;
    NoProfile: of_orders::a_name_is_misspelt, of_orders::no_gpu_has_a_layout,
        of_orders::no_driver_makes_it, of_layouts::mig_is_on_and_divides_nothing,
        of_starts::the_profile_is_another_now, of_starts::nothing_has_what_is_asked,
        of_layouts::what_is_parked_is_misspelt, of_layouts::what_is_parked_lacks_its_vfs,
        of_starts::the_vf_is_not_there_and_nothing_offers_its_profile, of_layouts::the_new_one_has_another_shape,
        of_commands::a_profile_to_export_is_misspelt;
    BadRequest: of_starts::metadata_is_misspelt, of_agent::nothing_runs_to_be_plugged_into,
        of_agent::metadata_that_the_agent_cannot_read, of_agent::a_domain_that_libvirt_does_not_keep,
        of_commands::more_than_one_claim_is_meant, of_commands::a_domain_that_is_no_file,
        of_commands::a_file_that_is_no_domain, of_commands::a_host_that_is_no_file,
        of_commands::a_host_file_that_is_misspelt,
        of_guests::the_cluster_s_files_do_not_answer, of_guests::the_reservations_cannot_be_read,
        of_guests::a_node_without_a_name, of_guests::it_comes_from_no_node, of_guests::mappings_that_do_not_answer,
        of_guests::an_exported_mapping_is_of_another_boot, of_guests::a_mapping_is_of_another_boot,
        of_commands::a_key_that_no_row_has, of_commands::a_shared_home_is_to_be_held, of_commands::more_slices_than_a_claim_can_have;
    ClaimCopied: of_starts::a_copy_carries_a_vf, of_starts::a_copy_carries_an_mdev,
        of_starts::a_copy_carries_the_only_vf, of_starts::a_copy_that_libvirt_does_not_keep;
    NotSettled: of_starts::the_gpu_has_not_come, of_guests::a_gpu_has_not_come,
        of_guests::its_gpu_has_not_come, of_layouts::the_layout_names_the_old_address,
        of_layouts::the_layout_names_the_old_serial;
    Held: of_starts::a_vm_without_a_claim_runs_on_the_home,
        of_starts::the_home_is_taken_and_another_is_free, of_starts::a_process_has_the_vf_open,
        of_layouts::the_host_uses_the_device,
        of_devices::a_monitor_keeps_the_driver_loaded, of_devices::a_module_keeps_the_driver_loaded;
    Taken: of_starts::a_plain_device_is_somebodys, of_starts::an_mdev_of_another_vm_was_picked,
        of_starts::the_home_was_given_up;
    Reshaping: of_devices::it_is_being_made_anew;
    Cordoned: of_devices::a_person_said_so, of_devices::it_was_said_of_all,
        of_guests::another_gpu_is_in_the_mapping;
    Quarantined: of_devices::a_layout_failed_before, of_starts::a_vf_was_taken_off_its_driver;
    HostDriver: of_devices::a_driver_of_the_host_has_the_vf;
    Dirty: of_devices::a_reset_failed, of_layouts::one_that_is_to_be_clean_need_not_be,
        of_guests::another_vf_is_in_a_mapping_of_somebody_else;
    Absent: of_starts::the_vf_is_not_there, of_starts::the_vf_is_not_there_and_no_other_is_free,
        of_guests::devices_that_are_not_there_yet;
    Foreign: of_devices::an_mdev_of_another_program, of_devices::a_vf_without_a_layout,
        of_devices::a_type_of_another_program;
    Unknown: of_orders::no_such_gpu, of_orders::no_such_domain, of_orders::nobody_of_that_name, of_commands::few_gpus_to_name,
        of_commands::nothing_to_explain, of_commands::no_such_claim_to_explain;
    OtherDriver: of_drivers::it_migrates_from_a_newer_branch, of_drivers::it_was_saved_under_another_driver;
    NotInXml: of_starts::a_device_is_missing, of_starts::a_device_was_taken_out_for_good,
        of_starts::a_device_is_one_too_many, of_starts::a_count_was_lowered,
        of_starts::an_image_carries_what_it_does_not_claim, of_starts::it_migrates_with_what_it_does_not_claim,
        of_starts::its_vfs_are_of_two_fabrics, of_starts::names_that_have_to_be_quoted,
        of_starts::it_comes_with_a_vf_and_is_made_here;
    Managed: of_starts::libvirt_would_unbind_it, of_starts::a_typed_vf_was_picked,
        of_starts::a_refused_vm_without_a_claim_is_explained;
    DeviceFailed: of_devices::a_layout_fails, of_devices::no_device_makes_one,
        of_layouts::what_is_to_be_parked_is_not_made, of_layouts::a_module_to_bind_to_is_misspelt,
        of_layouts::a_module_that_is_not_loaded, of_layouts::a_gpu_that_gim_cannot_initialise,
        of_layouts::more_vfs_than_the_driver_has_room_for;
    DeviceStuck: of_devices::a_write_sleeps;
    StateUnwritable: of_orders::there_is_no_room_for_the_record,
        of_commands::the_history_is_no_file;
    OutputUnwritable: of_orders::there_is_no_room_for_the_answer,
        of_commands::a_folder_for_pages_that_is_not_there;
    BadConfig: of_orders::a_key_is_misspelt, of_commands::a_configuration_for_it_that_is_misspelt, of_orders::more_vfs_than_there_are,
        of_layouts::numbers_that_gim_cannot_make, of_layouts::a_policy_that_gim_does_not_have,
        of_layouts::one_policy_is_for_all, of_layouts::modes_that_gim_does_not_join,
        of_layouts::some_vfs_of_a_gpu_that_makes_all,
        of_layouts::another_driver_for_vfs_that_have_theirs,
        of_layouts::a_mode_that_the_driver_does_not_have,
        of_layouts::modes_that_amdgpu_does_not_join,
        of_layouts::an_option_that_a_person_gives, of_layouts::a_file_in_the_place_of_ours;
    InUse: of_orders::a_vm_uses_the_gpu, of_orders::the_claim_runs, of_commands::a_drain_that_somebody_lifts;
    NotPermitted: of_orders::somebody_else_asks, of_starts::it_is_of_a_person_s_own_libvirt;
    Unreachable: of_starts::no_daemon_runs, of_orders::no_agent_runs,
        of_commands::uuids_without_an_agent, of_commands::the_bus_is_gone,
        of_commands::another_program_answers;
    Timeout: of_orders::it_never_settles, of_orders::it_settles_later,
        of_commands::a_drain_that_takes_longer, of_commands::nobody_answers_in_time;
    Unsliceable: of_orders::the_gpu_is_no_parent;
    Unsupported: of_starts::it_takes_no_parameters, of_starts::it_cannot_be_where_it_is_to_be, of_commands::there_is_no_bus,
        of_layouts::a_memory_mode_that_a_load_of_amdgpu_brings,
        of_layouts::a_driver_that_makes_no_vfs;
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
        if wanted.is_empty() {
            let missing = registry::not_followed();
            assert!(missing.is_empty(), "hints that no case follows: {missing:#?}");
        }
    });
}
