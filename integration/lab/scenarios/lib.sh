# Sourced by every scenario, in the guest. A check that fails shows what was expected and seen, collects evidence and ends
# the scenario. Every wait has a deadline and a condition.

tell() { printf '%s\n' "$*" >&9; }
say() { echo "--- $*"; tell "say $*"; }
ok() { echo "ok: $*"; tell "ok $*"; }

fail() {
  echo "FAILED: $*"; tell "FAIL $*"
  evidence
  exit 1
}

evidence() {
  echo "=== journal"; journalctl -b -o short-monotonic --no-pager -n ${EVIDENCE:-60} -u 'gpuslice*' -u 'libvirtd*' 2>&1
  echo "=== kernel"; dmesg | tail -30
  echo "=== domains"; timeout 10 virsh list --all 2>&1
  echo "=== stuck"; ps -eo pid,stat,wchan:30,args | awk '$2 ~ /^D/'
}

# expect_eq WHAT EXPECTED SEEN
expect_eq() {
  if [ "$2" = "$3" ]; then ok "$1: $3"; else fail "$1: expected \"$2\", saw \"$3\""; fi
}

# expect WHAT COMMAND… : it succeeds.
expect() {
  local what=$1 out; shift
  if out=$("$@" 2>&1); then echo "$out"; ok "$what"; else echo "$out"; fail "$what: $* said: $(tail -c 300 <<< "$out")"; fi
}

now_ms() { local s; read -r s _ < /proc/uptime; echo "${s/./}0"; }

# wait_for SECONDS WHAT COMMAND… : until it succeeds; the time it took goes into the log.
wait_for() {
  local limit=$1 what=$2 start; shift 2
  start=$(now_ms)
  until "$@" > /dev/null 2>&1; do
    [ $(($(now_ms) - start)) -lt $((limit * 1000)) ] || fail "$what: not within $limit s: $*"
    sleep 0.1
  done
  ok "$what ($(($(now_ms) - start)) ms)"
}

# q COMMAND… : runs it and notes time and status.
q() {
  local start rc=0; start=$(now_ms)
  "$@" || rc=$?
  echo "   [$(($(now_ms) - start)) ms, status $rc] $*"
  return $rc
}

w() { printf '%s\n' "$1" > "$2"; }

# errno_of VALUE FILE : writes it, prints "ok" or the name of the error.
errno_of() {
  local out
  if out=$( (LC_ALL=C printf '%s\n' "$1" > "$2") 2>&1); then echo ok; return; fi
  case $out in
    *'write error: Invalid argument'*) echo EINVAL ;;
    *'write error: Numerical result out of range'*) echo ERANGE ;;
    *'write error: No such file or directory'*) echo ENOENT ;;
    *'write error: No such device'*) echo ENODEV ;;
    *'write error: Device or resource busy'*) echo EBUSY ;;
    *'write error: File exists'*) echo EEXIST ;;
    *'write error: No space left on device'*) echo ENOSPC ;;
    *'write error: Cannot allocate memory'*) echo ENOMEM ;;
    *'write error: Too many users'*) echo EUSERS ;;
    *'write error: Operation not permitted'*) echo EPERM ;;
    *'write error: Input/output error'*) echo EIO ;;
    *'write error: Inappropriate ioctl for device'*) echo ENOTTY ;;
    *': Permission denied'*) echo EACCES ;;
    *) echo "? $out" ;;
  esac
}

# text_of FILE : its first line, or the name of the error.
text_of() {
  local out
  if out=$(LC_ALL=C cat "$1" 2>&1); then head -n 1 <<< "$out"; return; fi
  case $out in
    *'No such device or address'*) echo ENXIO ;;
    *'No such device'*) echo ENODEV ;;
    *'No such file'*) echo ENOENT ;;
    *'Permission denied'*) echo EACCES ;;
    *'Input/output error'*) echo EIO ;;
    *) echo "? $out" ;;
  esac
}

# host_monitor COMMAND… : a command of the outer QEMU's monitor.
host_monitor() {
  local reply
  (
    flock 8
    tell "monitor $*"
    read -r -t 60 reply <&9
    jq -r '.return // .error.desc' <<< "$reply"
  ) 8> /run/lab-monitor.lock
}

# hold NAME QEMU-ARGUMENT… : a paused QEMU outside of libvirt that has the device open; its process id is in the file NAME.pid.
hold() {
  local name=$1; shift
  qemu-system-x86_64 -machine q35 -accel tcg -m 64M -nodefaults -display none -S -daemonize -pidfile "$name.pid" "$@" > "$name.log" 2>&1 \
    || fail "QEMU with $*: $(cat "$name.log")"
}
let_go() { # NAME
  local pid; pid=$(cat "$1.pid")
  kill -9 "$pid"
  wait_for 20 "QEMU $1 is gone" not test -d "/proc/$pid"
}
# driver_says LINE : into the kernel's log
driver_says() { w "$1" /sys/kernel/debug/gpusim/say; }
# a name that is no command's does not fail as one does
not() { type "$1" > /dev/null && ! "$@"; }
present() { [ -e "$1" ]; }
gone() { [ ! -e "$1" ]; }
# bind_vfio ADDRESS : by hand, as somebody else would; the module is not loaded before somebody asks for it
bind_vfio() {
  modprobe vfio-pci
  w vfio-pci "/sys/bus/pci/devices/$1/driver_override"
  w "$1" /sys/bus/pci/drivers_probe
}
# load_gpusim CARDS DRIVER… : simulated cards, then the modules that drive them (with options: one word); unload_gpusim
# takes both away.
load_gpusim() {
  local driver; modprobe gpusim kinds="$1" || return; shift
  w 1 /sys/kernel/debug/gpusim/stay
  for driver; do modprobe $driver || return; done
}
unload_gpusim() {
  [ -e /sys/module/gpusim ] || return 0
  w 0 /sys/kernel/debug/gpusim/stay
  modprobe -r $(ls /sys/module/gpusim/holders) gpusim
}
bound_to() { [ "$(basename "$(readlink "$1/driver")")" = "$2" ]; } # DEVICE DRIVER

# Another boot of the same disk: the scenario runs again with PHASE one higher. Arm it with next_boot, do what should
# happen before the end, then end the boot in one of three ways.
next_boot() {
  echo $((PHASE + 1)) > /var/lib/lab/phase
  sync /var/lib/lab/phase /var/lib/lab
  tell again
}
reboot_now() { systemctl reboot; sleep infinity; }
power_cut() { tell cut; sleep infinity; }
