# The primitives of this folder's scripts on the lab's kernel, beside those of lib.sh: fact, say, expect, expect_eq, wait_for,
# w, errno_of, text_of, present. on-simulator.sh has the same ones for gpuslice-sim.
. /lab/scenarios/lib.sh
. /lab/conformance/words.sh

# conform LIST : its script, whose answers have to be those in LIST.txt; `aside NAME` there does aside_NAME of the scenario.
conform() {
  rm -f facts
  systemctl stop gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service 2> /dev/null
  modprobe -a vfio-pci mdev vfio_iommu_type1
  watch_events
  . "/lab/conformance/$1.sh"
  stop_events
  with_udev
  if ! diff -u "/lab/conformance/$1.txt" facts; then fail "the answers differ from $1.txt"; fi
  ok "$(wc -l < facts) facts are as recorded"
}
no_warnings() { expect_eq "kernel warnings" "" "$(dmesg | grep -E 'BUG|WARNING|Call Trace|Oops|refcount')"; }
fact() { printf '%s\t%s\n' "$1" "$2" | tee -a facts; }
aside() { "aside_$1"; }

# cards KINDS DRIVER… : these and no others
cards() {
  expect "gpusim unloads" unload_gpusim
  expect "gpusim loads" load_gpusim "$@"
  udevadm settle
}
# Whether udev loads a driver has been seen: what it does about each VF from here on would take most of the time.
no_udev() { systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service; }
with_udev() { systemctl start systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service; }
trap with_udev EXIT

names() { LC_ALL=C ls -A "$1" 2> /dev/null; }
all_of() { cat "$1" 2> /dev/null; }
bytes_of() { od -An -v -tx1 "$1"; }
link_of() { readlink "$1"; }
mode_of() { stat -c %a "$1"; }
put() { printf %s "$1" > "$2"; } # TEXT FILE
remove() { rm -f "$1"; }

# load MODULE OPTION… : prints why it cannot be
load() { local out; out=$(modprobe "$@" 2>&1) || echo "${out##*: }"; }
unload() { rmmod "$1"; }

watch_events() {
  stdbuf -oL udevadm monitor --kernel > events 2>&1 & events_pid=$!
  wait_for 10 "listening to uevents" grep -q '^KERNEL' events
}
stop_events() { kill $events_pid; wait $events_pid 2> /dev/null; }
events_mark() { wc -l < events; }
# events_since MARK : as "ACTION PATH (SUBSYSTEM)". A synthetic event of a device nobody else uses marks the end.
events_since() {
  local tries=0 ends
  ends=$(grep -c 'mem/null' events)
  echo change > /sys/devices/virtual/mem/null/uevent
  until [ "$(grep -c 'mem/null' events)" -gt "$ends" ]; do
    sleep 0.05; tries=$((tries + 1))
    [ $tries -lt 200 ] || { echo "no events"; return; }
  done
  tail -n +$(($1 + 1)) events | sed -nE 's/^KERNEL\[[0-9.]+\] +([a-z]+) +/\1 /p'
}

# In the log itself: a full one forgets as many lines as it gets.
log_mark() { echo "lab mark $(date +%s%N)" | tee /dev/kmsg; }
log_since() { dmesg | sed -n "/$1\$/,\$p"; }

# keep_open NAME DEVICE : by a QEMU, until let_go NAME. opens DEVICE… : what a QEMU says of them
keep_open() { hold "$1" -device "vfio-pci,sysfsdev=$2"; }
opens() {
  local device out pid; local -a devices=()
  for device; do devices+=(-device "vfio-pci,sysfsdev=$device"); done
  if out=$(timeout 60 qemu-system-x86_64 -machine q35 -accel tcg -m 64M -nodefaults -display none -S -daemonize \
    -pidfile opens.pid "${devices[@]}" 2>&1); then
    # It has let go of them when it is gone, and not when it is told to go.
    pid=$(cat opens.pid)
    kill "$pid" && timeout 60 tail -s 0.1 --pid="$pid" -f /dev/null && echo ok; return
  fi
  echo "$out" >&2
  case $out in *'No such device'*) echo ENODEV ;; *'Input/output error'*) echo EIO ;; *) echo "? $out" ;; esac
}

# begin_write VALUE FILE : one that waits for whoever has the device open; begun says how it stands. end_write when it has ended.
begin_write() {
  (w "$1" "$2") & writer=$!
  wait_for 10 "the write waits for the holder" grep -q vfio_unregister_group_dev /proc/$writer/stack
  begun=blocks
}
end_write() { wait "$writer"; }
begin_unload() { modprobe -r "$1" & unloader=$!; }
# unload_stands : no signal ends it. One that it ends is still there as a zombie (Z), and on its way there it runs (R).
unload_stands() {
  local state=R
  kill -9 "$unloader"
  while [ $state = R ]; do state=$(sed 's/.*) \(.\).*/\1/' "/proc/$unloader/stat"); done
  if [ $state = D ]; then echo waits; fi
}
end_unload() { wait "$unloader"; }

# tool PROGRAM ARGUMENT… : prints how it ended; what it said is in tool.out
tool() { local rc=0; "$@" > tool.out 2>&1 || rc=$?; cat tool.out >&2; echo $rc; }

# What goes wrong with a card, once
refuse_enable() { # ADDRESS ERRNO
  local errno; case $2 in ENOMEM) errno=12 ;; EIO) errno=5 ;; esac
  w $errno "/sys/kernel/debug/gpusim/$1/fail_errno"; w 1 "/sys/kernel/debug/gpusim/$1/fail_count"
}
refuse_lock() { w 1 "/sys/kernel/debug/nvidia/$1/lock_refusals"; }
refuse_vgpu() { w 1 "/sys/kernel/debug/nvidia/$1/create_refusals"; }
# until it is told otherwise, with 0 or none
fewer_vfs() { w "$2" "/sys/kernel/debug/gpusim/$1/cap_vfs"; }
slow_probe() { w "$2" "/sys/kernel/debug/gpusim/$1/probe_delay_ms"; }
hold_reset() { w "$2" "/sys/kernel/debug/gim/$1/hold_reset"; }
# of NVIDIA's one, which has the GPU open as long as this shell
computes() {
  local nvml=/sys/kernel/debug/nvidia/$1/nvml
  if [ ! -e "$nvml" ]; then w "$2" "/sys/kernel/debug/amdgpu/$1/kfd_users"; elif [ "$2" = 0 ]; then exec 8<&-; else exec 8< "$nvml"; fi
}
unplug() { w 0 "/sys/kernel/debug/gpusim/$1/present"; }
plug() { w 1 "/sys/kernel/debug/gpusim/$1/present"; }
# nvidia_option NAME VALUE : of the module that is loaded
nvidia_option() { w "$2" "/sys/module/nvidia/parameters/$1"; }

# What only the stand-in drivers themselves can tell of their cards
wedged() { text_of "/sys/kernel/debug/nvidia/$1/wedged"; }
mixed() { text_of "/sys/kernel/debug/nvidia/$1/mixed"; }
mig() { text_of "/sys/kernel/debug/nvidia/$1/mig"; }
gpu_instances() { wc -l < "/sys/kernel/debug/nvidia/$1/gpu_instances"; }
scheduler() { text_of "/sys/kernel/debug/nvidia/$1/scheduler"; }
resets_by_reading() { cat /sys/kernel/debug/gim/*/resets_read | awk '{ n += $1 } END { print n }'; }
