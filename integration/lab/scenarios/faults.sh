# Processes killed and restarted under running VMs, a stuck device write, a masked daemon, a broken config
# group: restart
# order: 10
# needs: product
# limit: 780
. /lab/scenarios/product.sh
trap clear_domains EXIT

pci=/sys/bus/pci/devices devices=/sys/bus/mdev/devices
rounds=${ROUNDS:-5}
pid_of() { systemctl show -p MainPID --value "$1"; }
serves() { timeout 5 gpuslice status > /dev/null; }
kill_daemon() { kill -9 "$(pid_of gpusliced.service)"; }
no_mdevs() { [ -z "$(ls $devices)" ]; }
bound() { ls -d $pci/000[12]:00:00.0/virtfn*/driver 2> /dev/null; }
bound_since() { bound | grep -vxF "${before:-none}"; }
# Everything was given back: no mdev, no VF that is bound beside those that were, no assigned slice.
clean() { no_mdevs && is "" bound_since && is 0 count_assigned; }
all_up
before=$(bound)
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
define_mdev f1 mtty-2
define_mdev f2 mtty-2
id=$(domain_uuid f1)
expect "f1 has a VF too" gpuslice attach f1 amd-74a1-vf8 --name vf0
# a random moment is what this is about
moment() { sleep "$((RANDOM % $1)).$((RANDOM % 10))"; } # SECONDS
both() { claim_state "$id/gpu0"; claim_state "$id/vf0"; }
attached() { is "attached attached" echo $(both); }

say "QEMU is killed"
start f1
kill -9 "$(qemu_of f1)"
wait_for 30 "everything is given back" clean

say "gpusliced is killed at random moments of a start and of the stop after it"
for ((round = 1; round <= rounds; round++)); do
  (virsh start f1 > start.out 2>&1) & starting=$!
  moment 4
  kill_daemon
  wait $starting
  wait_for 30 "round $round: it serves again" serves
  if running f1; then
    wait_for 10 "round $round: f1 runs and its claims are attached" attached
    virsh destroy f1 & stopping=$!
    moment 1
    kill_daemon
    wait $stopping
    wait_for 30 "round $round: it serves again" serves
  else
    say "round $round: f1 was refused: $(tail -n 1 start.out | tail -c 150)"
  fi
  wait_for 30 "round $round: everything is given back" clean
done

say "gpusliced is killed at random moments of an apply"
for vfs in 2 4; do
  sed -Ei "s/vfs = [24] /vfs = $vfs /" /etc/gpuslice/gpuslice.toml
  (gpuslice apply > apply.out 2>&1) & applying=$!
  moment 2
  kill_daemon
  wait $applying || cat apply.out
  wait_for 30 "it serves again" serves
  # a write of the one before goes on
  all_up
  expect "gpuslice apply" q gpuslice apply
  expect_eq "VFs" "8 $vfs" "$(count_slices 0001:00:00.0) $(count_slices 0002:00:00.0)"
  expect_eq "state" ok "$(gpu_state 0002:00:00.0)"
done

say "both are killed"
# without its VF, because the GPUs' VFs are taken away below
expect "detach" gpuslice detach f1 vf0
start f1
kill -9 "$(qemu_of f1)" "$(pid_of gpusliced.service)"
wait_for 60 "everything is given back" clean

say "restarts under a running VM"
start f1
pid=$(qemu_of f1) agent=$(pid_of gpuslice-libvirt-agent.service)
for unit in libvirtd gpusliced gpuslice-libvirt-agent; do
  expect "restart of $unit" q systemctl restart $unit.service
  wait_for 30 "gpusliced serves" serves
  expect "f1 runs on" [ -d "/proc/$pid" ]
  wait_for 20 "its claim is attached" is attached claim_state "$id/gpu0"
  if [ $unit = gpuslice-libvirt-agent ]; then continue; fi
  # It connects again by itself: it can ask both, and hears what libvirt tells.
  wait_for 60 "the agent works" gpuslice attach f2 mtty-2 --name more
  expect "and again" gpuslice detach f2 more
  define_mdev heard-$unit mtty-2
  wait_for 20 "it has heard of another domain" is idle claim_state "$(domain_uuid heard-$unit)/gpu0"
  expect_eq "the agent's process" "$agent" "$(pid_of gpuslice-libvirt-agent.service)"
done

say "a stuck sriov_numvfs=0"
vf=$(slices_of 0001:00:00.0 | head -n 1); vf=${vf#vf:}
bind_vfio "$vf"
hold stuck -device "vfio-pci,host=$vf"
(w 0 $pci/0001:00:00.0/sriov_numvfs) & writer=$!
wait_for 10 "the write hangs" grep -q vfio_unregister_group_dev /proc/$writer/stack
expect "gpusliced restarts meanwhile" q systemctl restart gpusliced.service
wait_for 10 "and serves at once" serves
start f2
destroy f2
let_go stuck
wait $writer

say "gpusliced's own sriov_numvfs=0 is stuck"
# Somebody's write waits for a VF in use and has the lock on all of PCI's hotplug meanwhile, so that of gpusliced waits too.
wait_for 30 "the VFs of 0001 are back" is 8 count_slices 0001:00:00.0
vf=$(slices_of 0001:00:00.0 | head -n 1); vf=${vf#vf:}
bind_vfio "$vf"
hold stuck -device "vfio-pci,host=$vf"
(w 0 $pci/0001:00:00.0/sriov_numvfs) & writer=$!
wait_for 10 "the write of another hangs" grep -q vfio_unregister_group_dev /proc/$writer/stack
sed -i 's/vfs = 4/vfs = 2/' /etc/gpuslice/gpuslice.toml
(gpuslice apply > apply.out 2>&1) & applying=$!
wait_for 120 "0002 is quarantined" is quarantined gpu_state 0002:00:00.0
expect "apply says so" not wait $applying
expect "with the reason" grep -q device-stuck apply.out
old=$(pid_of gpusliced.service)
expect "gpusliced restarts meanwhile" q systemctl restart gpusliced.service
wait_for 10 "and serves at once" serves
expect "it is another process" not [ "$old" = "$(pid_of gpusliced.service)" ]
processes=$(paste -sd, /sys/fs/cgroup/system.slice/gpusliced.service/cgroup.procs)
expect "the write of the one before is still in the kernel" grep -q '^D' <(ps -o stat= -p "$processes")
expect_eq "who has the bus name" "$(pid_of gpusliced.service)" "$(busctl status org.gpuslice1 | sed -n 's/^PID=//p')"
expect_eq "0002" quarantined "$(gpu_state 0002:00:00.0)"
start f2
destroy f2
let_go stuck
wait $writer
wait_for 60 "the quarantine is lifted" not is quarantined gpu_state 0002:00:00.0
wait_for 60 "0002 has its new VFs" is 2 count_slices 0002:00:00.0
wait_for 60 "0001 has its own again" is 8 count_slices 0001:00:00.0
sed -i 's/vfs = 2/vfs = 4/' /etc/gpuslice/gpuslice.toml
expect "apply" q gpuslice apply
expect_eq "VFs of 0002" 4 "$(count_slices 0002:00:00.0)"

say "the daemon is masked"
systemctl mask --runtime --now gpusliced.service gpusliced.socket
domain plain "" "" | define
start plain
define_mdev f3 mtty-2
refused f3 unreachable
systemctl unmask --runtime gpusliced.service gpusliced.socket
systemctl start gpusliced.socket gpusliced.service
wait_for 30 "gpusliced serves" serves
virsh destroy plain

say "a broken config"
layouts() { rows gpus 'select(.layout) | "\(.parent) \(.layout)"'; }
applied=$(layouts)
expect_eq "GPUs with a layout" "0001:00:00.0 0002:00:00.0" "$(cut -d' ' -f1 <<< "$applied" | paste -sd' ')"
echo 'layot = 3' > /etc/gpuslice/conf.d/50-broken.toml
systemctl restart gpusliced.service
wait_for 30 "gpusliced serves" serves
expect "status says so" grep -q 50-broken.toml <(gpuslice status --json)
expect_eq "f1's claim" attached "$(claim_state "$id/gpu0")"
expect_eq "layouts" "$applied" "$(layouts)"
expect_eq "VFs" "8 4" "$(count_slices 0001:00:00.0) $(count_slices 0002:00:00.0)"
rm /etc/gpuslice/conf.d/50-broken.toml
systemctl restart gpusliced.service
destroy f1
wait_for 30 "everything is given back" clean
