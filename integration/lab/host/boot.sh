# One boot of the lab and the conversation with it.
#
# The guest writes lines to a virtio serial port, the host answers:
#   up SECONDS                  the runner has started
#   begin NAME / end STATUS     a scenario starts and ends
#   say TEXT, ok TEXT, FAIL TEXT
#   monitor COMMAND             run this QEMU monitor command; the answer is QMP's JSON line
#   window STEP                 do this in virt-manager's window; the answer is a line
#   cut                         power cut: QEMU is killed
#   done                        all scenarios have run
# The end of QEMU itself comes through the same pipe as "gone STATUS", so that the host waits in one place only.

# Debian 12's QEMU has no igb: the guest's own runs, in a mount namespace that vanishes with it.
in_tree() {
  unshare -m bash -euc 'root=$1 run=$2 image=$3; shift 3
    mount --bind /dev "$root/dev"; mount --bind /proc "$root/proc"
    mount --bind "$run" "$root/mnt"; mount --bind "$image" "$root/media"; cd /
    exec chroot "$root" "$@"' - "$trees/rootfs" "$run" "$image" "$@"
}

# Some hosts offer a /dev/kvm that cannot run an ordinary kernel: believe it only when one came up to its missing root disk.
find_accel() {
  local known
  known=$cache/accel-$(cut -c1-8 /proc/sys/kernel/random/boot_id)
  if [ ! -e "$known" ]; then
    accel=tcg
    if [ -w /dev/kvm ] && in_tree timeout 20 qemu-system-x86_64 -machine q35,accel=kvm,kernel-irqchip=split -cpu host -m 512M -nographic \
      -nic none -no-reboot -kernel /media/vmlinuz -append 'console=ttyS0 panic=-1' < /dev/null 2>&1 \
      | grep -a -m1 -E 'Unable to mount root|internal error' | grep -q 'Unable to mount root'; then
      accel=kvm
    fi
    echo $accel > "$known"
  fi
  read -r accel < "$known"
  # What costs time under emulation and nothing here needs: five-level page tables, virtualization inside the guest, copying by
  # single bytes where the processor is told to be fast at it, guards around each look at a program's memory, wide registers.
  cpu=max,la57=off,svm=off,erms=off,fsrm=off,smap=off,smep=off,umip=off,pku=off,avx=off,avx2=off,xsave=off
  if [ "$accel" = kvm ]; then cpu=host; fi
  # A second emulated CPU makes a start of a VM half as dear again, and the host's own are for other groups. Races between
  # two CPUs are the long run's.
  cpus=1
  if [ "$accel" = kvm ] || [ "$long" = yes ]; then cpus=2; fi
}

# qemu DISK APPEND ARGUMENT… ; no_timer_check, because an emulated timer that is late on a busy host is not a broken one
qemu() {
  local disk=$1 append=$2; shift 2
  in_tree qemu-system-x86_64 -machine "q35,accel=$accel,kernel-irqchip=split,sata=off,smbus=off" -cpu "$cpu" -smp "$cpus" -m 4G \
    -nodefaults -display none -no-reboot -device intel-iommu,intremap=on \
    -kernel /media/vmlinuz -initrd /media/initrd.img \
    -append "root=/dev/vda rw init=/usr/sbin/lab-init console=ttyS0 quiet loglevel=4 no_timer_check panic=-1 nohz=off highres=off mitigations=off intel_iommu=on iommu=pt apparmor=1 security=apparmor modprobe.blacklist=amdgpu,nouveau,i915,xe $append" \
    -drive "file=/mnt/$disk.qcow2,if=virtio,cache=writeback" -drive file=/mnt/stage.tar,if=virtio,format=raw,readonly=on \
    -virtfs local,path=/mnt/share,mount_tag=host,security_model=none \
    -device pcie-root-port,id=rp1,chassis=1,slot=1 -device igb,id=igb1,bus=rp1 \
    -device pcie-root-port,id=rp2,chassis=2,slot=2 -device igb,id=igb2,bus=rp2 "$@"
}

# new_disk NAME : a throw-away disk over the image.
new_disk() { in_tree qemu-img create -q -f qcow2 -F raw -b /media/base.img "/mnt/$1.qcow2"; }

# wire NUMBER OPTION : the end of the wire between two machines that is in machine NUMBER. The second listens, and the first
# comes again, so that each may be booted when it likes.
wire() { echo "-netdev stream,id=wire,addr.type=unix,addr.path=/mnt/wire,$2 -device virtio-net-pci,netdev=wire,mac=52:54:00:6c:61:0$1"; }

# start_peer : the second machine of a group, of the same files on a disk of its own. It stays over boots of the first, has no
# scenario and no line to the host, and does what the first asks over the wire (guest/root/usr/lib/lab/obey).
start_peer() {
  new_disk peer
  rm -f "$run/wire"
  # shellcheck disable=SC2046
  (
    qemu peer "lab.peer systemd.hostname=peer systemd.mask=serial-getty@ttyS0.service" -pidfile /mnt/peer.pid \
      -serial file:/mnt/share/out/console-peer.log $(wire 2 server=on) < /dev/null > "$run/share/out/qemu-peer.log" 2>&1 || true
    rm -f "$run/peer.pid"
  ) &
  peer=$!
}
end_peer() {
  kill_qemu peer
  wait "$peer"
}
peer=

ask_monitor() {
  local line
  echo "$1" >&"$to_mon"
  while read -r -t 60 line <&"$from_mon"; do
    case $line in *'"return"'* | *'"error"'*) echo "$line"; return ;; esac
  done
  echo '{"error": {"desc": "no answer from the monitor"}}'
}

# hmp COMMAND : a line of QEMU's human monitor through QMP, which says when the answer is complete.
hmp() {
  local c=${1//\\/\\\\}
  ask_monitor "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"${c//\"/\\\"}\"}}"
}

# A power cut: nothing of the guest's unwritten state survives, what the disk was given does. Of the peer, if it is named.
kill_qemu() {
  local pid
  if { read -r pid < "$run/${1:-qemu}.pid"; } 2> /dev/null; then kill -9 "$pid" 2> /dev/null || true; fi
}

# timer_lost CONSOLE : an emulated CPU now and then loses the end of its first timer interrupts on a host that is busy, and never gets
# another. Its kernel stands still before the root disk is mounted, and says of one CPU twice that it had as many as before.
timer_lost() { grep -o 'timer handling issue on cpu=.*' "$run/share/out/$1.log" 2> /dev/null | sort | uniq -d | grep -q .; }
lost_timers=0

# clock_is_fast SECONDS CLOCK : an emulated CPU that had to wait while its counter was measured counts some times too fast from then
# on, and nothing that is waited for comes in time. A guest's clock starts later than this host's look at it, never earlier.
clock_is_fast() { awk -v real="$1" -v told="$2" 'BEGIN { exit !(told > real * 1.2 + 5) }'; }
fast_clocks=0

# boot LIMIT APPEND : one boot. Sets ended to done, again or dead.
boot() {
  local limit=$1 append=$2 line part='' up=no name=boot from to from_mon to_mon started=$SECONDS job
  rm -f "$run"/{ask,mon}.{in,out}
  mkfifo "$run"/{ask,mon}.{in,out}
  # Opened for both directions, none of them waits for QEMU, which may fail to start.
  exec {from}<> "$run/ask.out" {to}<> "$run/ask.in" {from_mon}<> "$run/mon.out" {to_mon}<> "$run/mon.in"
  (
    qemu disk "$append" -pidfile /mnt/qemu.pid -serial file:/mnt/share/out/console.log \
      -device virtio-serial -chardev pipe,id=ask,path=/mnt/ask -device virtserialport,chardev=ask,name=lab \
      -chardev pipe,id=mon,path=/mnt/mon -mon chardev=mon,mode=control \
      ${peer:+$(wire 1 reconnect-ms=500)} < /dev/null > "$run/share/out/qemu.log" 2>&1 || true
    rm -f "$run/qemu.pid"
    echo gone >&"$from"
  ) &
  ask_monitor '{"execute":"qmp_capabilities"}' > /dev/null
  ended=dead
  while [ $SECONDS -lt $((started + limit)) ]; do
    if ! read -r -t 10 line <&"$from"; then
      part+=$line
      if [ $lost_timers -lt 5 ] && [ $up = no ] && timer_lost console; then
        say "an emulated CPU has lost its timer: booting again"
        lost_timers=$((lost_timers + 1)) ended=again
        break
      fi
      if [ $lost_timers -lt 5 ] && [ "$peer" ] && timer_lost console-peer; then
        say "an emulated CPU of the peer has lost its timer: booting that again"
        lost_timers=$((lost_timers + 1))
        end_peer
        start_peer
      fi
      continue
    fi
    line=$part$line part=''
    case $line in
      up\ *)
        up=yes
        say "guest is up after $((SECONDS - started)) s (its clock: ${line#up } s)"
        if [ $fast_clocks -lt 5 ] && clock_is_fast $((SECONDS - started)) "${line#up }"; then
          say "its clock is too fast: booting again"
          fast_clocks=$((fast_clocks + 1)) ended=again
          break
        fi
        ;;
      begin\ *) name=${line#begin } ; say "$name" ;;
      end\ 0) scenario_passed "$name" ;;
      end\ *) scenario_failed "$name" ;;
      say\ *) say "  ${line#say }" ;;
      ok\ *) result check; say "  ok: ${line#ok }" ;;
      FAIL\ *) say "  FAILED: ${line#FAIL }" ;;
      monitor\ *) hmp "${line#monitor }" >&"$to" ;;
      window\ *) window_step "$name" "${line#window }" >&"$to" ;;
      again) ended=again ;;
      cut) say "  power cut"; kill_qemu ;;
      done) ended=done; kill_qemu ;;
      gone) break ;;
    esac
  done
  kill_qemu
  kill_window
  # The peer stays.
  for job in $(jobs -p); do [ "$job" = "$peer" ] || wait "$job" || true; done
  exec {from}<&- {to}<&- {from_mon}<&- {to_mon}<&-
  if [ $ended = dead ]; then
    say "the guest went away, or took longer than $limit s; its console ends with:"
    tail -n 15 "$run"/share/out/{console,qemu}.log
    scenario_failed "$name"
  fi
}
