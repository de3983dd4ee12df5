//! No bus, a late bus, a bus that goes: hooks are served all the same, and so is root at the command line.

use crate::host::{Host, Vm, as_root, until};
use crate::life::{ONE_VF, PROFILE};
use serde_json::json;

#[test]
fn without_a_bus_the_socket_serves_and_a_late_bus_is_joined() {
    as_root(|| {
        let mut host = Host::off("sriov-8", ONE_VF);
        host.start_daemon();
        let settled = host.by_socket(&["wait", "--settled", "--timeout", "50"]);
        assert_eq!(settled.code, Some(0), "{settled:?}");
        let vm = Vm::new(1);
        // The bus is tried first, then the socket.
        let mut command = host.command(&["attach", &vm.uuid, PROFILE, "--print", "--json"]);
        command.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
        let output = command.env("GPUSLICE_SOCKET", host.path("hook.sock")).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let unreachable = host.cli(&["claims"]);
        assert_eq!(unreachable.code, Some(3));
        assert!(unreachable.err.contains("caused by: ") && unreachable.err.contains("hint: "));
        let needs_bus = host.by_socket(&["events"]);
        assert_eq!(needs_bus.code, Some(1));
        assert!(needs_bus.err.contains("over D-Bus"), "{needs_bus:?}");

        host.bus.start();
        until("the daemon is on the late bus", || host.cli(&["status"]).code == Some(0));
        assert_eq!(host.only("claims")["claim"], json!(format!("{}/gpu0", vm.uuid)));

        // And again: the daemon outlives its bus.
        host.bus.stop();
        assert_eq!(host.cli(&["status"]).code, Some(3));
        assert_eq!(host.by_socket(&["status"]).code, Some(0));
        host.bus.start();
        until("the daemon is on the next bus", || host.cli(&["status"]).code == Some(0));
        assert!(host.log().contains("the bus is gone; the hook socket is not"), "{}", host.log());
    });
}

#[test]
fn without_a_daemon_plain_vms_start_and_claimed_ones_do_not() {
    as_root(|| {
        let (mut host, vm) = Host::with_vm();
        host.terminate();
        // A daemon that may be restarting is waited for; here it is known that none comes.
        std::fs::write(host.path("hook.conf"), "deadline-seconds = 1\n").unwrap();
        let refused = host.hook(&vm, "prepare");
        assert!(refused.refused("unreachable").contains("gpusliced"), "{refused:?}");
        for operation in ["started", "stopped", "release", "reconnect"] {
            assert_eq!(host.hook(&vm, operation).code, Some(0), "{operation}");
        }
        let plain = Vm::new(2);
        for operation in ["prepare", "start", "started", "stopped", "release"] {
            host.hook(&plain, operation).quiet();
        }
        let nobody = host.cli(&["status"]);
        assert_eq!(nobody.code, Some(3));
        assert!(nobody.err.contains("hint: start gpusliced"), "{nobody:?}");
        host.start_daemon();
        host.settle();
        host.run_vm(&vm);
    });
}
