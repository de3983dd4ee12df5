# One look at 8 MI300X with 64 VFs and 4 A40 with 128, counted by strace: each attribute that is needed once, and no other
# group: main
# order: 85
# needs: product
# long: yes
# limit: 1500
. /lab/scenarios/product.sh
cleanup() {
  [ ! -e tracer.pid ] || kill "$(cat tracer.pid)" $(pgrep -P "$(cat tracer.pid)")
  systemctl unmask --runtime -q gpusliced.socket gpusliced.service
  boot_host
  systemctl start gpuslice-libvirt-agent
  rm -f /etc/gim_config /etc/modprobe.d/gpuslice-gim.conf
}
trap cleanup EXIT

pci=/sys/bus/pci/devices
all_vfs() { ls -d $pci/*/virtfn* 2> /dev/null | wc -l; }
driver() { basename "$(readlink "$1/driver")"; }
# kinds : each PCI function's address and what it is, in the words of reads.txt
kinds() {
  local dev what of
  for dev in $pci/*; do
    if [ -e "$dev/sriov_totalvfs" ]; then what=PF
    elif [ -e "$dev/physfn" ]; then what=VF
    elif [[ $(cat "$dev/class") = 0x03* ]]; then what=GPU
    else what=other; fi
    case $(driver "$dev") in gim | nvidia | amdgpu) of=" of $(driver "$dev")" ;; *) of= ;; esac
    [ $what != other ] || of=
    printf '%s\t%s\n' "${dev##*/}" "$what$of"
  done
}
# asked N : what the N-th look of the trace asked for, as KIND<tab>HOW NAME<tab>PATH. A look begins with the list of all functions.
# A folder that is only held open (O_PATH) is no question; strace says behind the number of its descriptor which one it is.
asked() {
  awk -v look="$1" '
    FILENAME == "kinds" { split($0, f, "\t"); kind[f[1]] = f[2]; next }
    /O_PATH/ { next }
    match($0, /(openat|readlinkat)\((AT_FDCWD[^,]*|[0-9]+<[^>]*>), "[^"]*"/) {
      call = substr($0, RSTART, RLENGTH); at = call; path = call
      how = call ~ /^readlink/ ? "link" : ($0 ~ /O_DIRECTORY/ ? "list" : "read")
      sub(/.*, "/, "", path); sub(/"$/, "", path)
      if (path !~ /^\//) { sub(/^[^<]*</, "", at); sub(/>.*/, "", at); path = at "/" path }
    }
    match($0, /readlink\("[^"]*"/) { how = "link"; path = substr($0, RSTART + 10, RLENGTH - 11) }
    match($0, /execve\("\/usr\/bin\/nvidia-smi", \[[^\]]*\]/) {
      path = substr($0, RSTART, RLENGTH); sub(/.*\[/, "", path); gsub(/[",\]]/, "", path); how = "ask"
    }
    how == "" { next }
    { h = how; p = path; how = "" }
    h == "list" && p == "/sys/bus/pci/devices" { n++ }
    # the tool opens itself
    h != "ask" && p == "/usr/bin/nvidia-smi" { next }
    # NUMA nodes come before the functions.
    { of = p ~ /^\/sys\/devices\/system\/node/ ? n + 1 : n }
    of != look || p !~ /^\/(sys\/(bus|class\/mdev_bus|module|devices)\/|sys\/class\/mdev_bus$|(etc|run|lib|usr\/lib|usr\/local\/lib)\/modprobe\.d(\/|$)|proc\/(driver\/|cmdline$)|usr\/bin\/nvidia-smi)/ { next }
    p ~ /^\/sys\/devices\/system\// && p !~ /^\/sys\/devices\/system\/node/ { next }
    {
      k = "host"; name = p
      sub(/\/node\/node[0-9]+\//, "/node/nodeN/", name)
      if (p ~ /\/modprobe\.d/ && p !~ /\/gpuslice-/) name = "modprobe.d"
      if (p ~ /\/mdev_supported_types\//) { k = "mdev type"; name = p; sub(/.*\//, "", name) }
      else if (p ~ /^\/sys\/class\/mdev_bus\/./) { k = "mdev parent"; name = p; sub(/^\/sys\/class\/mdev_bus\/[^\/]*\//, "", name) }
      else if (p ~ /^\/sys\/bus\/mdev\/devices\/./) { k = "mdev"; name = substr(p, 23); if (!sub(/^[^\/]*\//, "", name)) name = "." }
      else if (p ~ /^\/sys\/bus\/pci\/devices\/./) {
        name = substr(p, 22); address = name; sub(/\/.*/, "", address); k = kind[address]
        if (!sub(/^[^\/]*\//, "", name)) name = "."
        sub(/^virtfn[0-9]+$/, "virtfnN", name)
      }
      print k "\t" h " " name "\t" p
    }' kinds "$2"
}

# looked WHAT N : the N-th look was as it should be
looked() {
  asked "$2" trace > asked
  [ -s asked ] || fail "$1: nothing was asked"
  expect_eq "$1: asked twice" "" "$(sort asked | uniq -d | head -n 5)"
  expect_eq "$1: asked and not needed" "" "$(cut -f1,2 asked | sort -u | comm -23 - <(grep -v '^#' /lab/scenarios/reads.txt | sort) | head -n 5)"
  cut -f1,2 asked | sort | uniq -c
  expect_eq "$1: VFs that were looked at" "$(all_vfs)" "$(awk -F'\t' '$1 ~ /^VF/ && $2 == "link driver"' asked | wc -l)"
  say "$1: $(wc -l < asked) asked, for 10 VFs $(($(wc -l < asked) * 10 / $(all_vfs)))"
}
# needed_of KIND… : all that is needed of a thing of each kind was asked at the first look
needed_of() {
  local kind
  for kind; do
    expect_eq "needed of $kind and not asked" "" \
      "$(grep "^$kind	" /lab/scenarios/reads.txt | grep -v "$later" | sort | comm -23 - <(cut -f1,2 asked | sort -u))"
  done
}
looks() { grep -c '"/sys/bus/pci/devices", .*O_DIRECTORY' trace; }
more_looks() { [ "$(looks)" -gt "$1" ]; }
# quiet : no look for as long as an answer of the daemon takes, twice
quiet() { local before; before=$(looks); settled; [ "$(looks)" = "$before" ] && settled && [ "$(looks)" = "$before" ]; }

# observed WHAT : a daemon's first look, and another that an event makes it take
observed() {
  kinds > kinds
  # or the agent, or a call on the bus, would have systemd start another
  systemctl stop gpuslice-libvirt-agent
  daemon stop
  systemctl mask --runtime -q gpusliced.socket gpusliced.service
  rm -f trace
  strace -f -y --seccomp-bpf -e trace=openat,readlink,readlinkat,execve -e signal=none -o trace \
    env -u NOTIFY_SOCKET /usr/sbin/gpusliced > daemon.log 2>&1 & echo $! > tracer.pid
  wait_for 300 "gpusliced answers" gpuslice status
  wait_for 300 "and is at rest" quiet
  first=$(looks)
  echo change > "$pci/0001:00:00.0/uevent"
  wait_for 120 "an event makes it look again" more_looks "$first"
  wait_for 300 "and is at rest" quiet
  kill "$(pgrep -P "$(cat tracer.pid)" -x gpusliced)"
  wait "$(cat tracer.pid)"
  rm tracer.pid
  systemctl unmask --runtime -q gpusliced.socket gpusliced.service
  say "$1: $(looks) looks, of which $first before the event"
  looked "$1, the first look" 1
}
# What cannot have changed is not read again.
next_look() {
  looked "$1, the next look" $((first + 1))
  expect_eq "asked again" "" "$(cut -f2 asked | grep -E '^(read (config|device_api|name|description|modprobe\.d|/proc/cmdline)$|list modprobe\.d|ask )' | sort -u)"
}

cards() { # DRIVER-WITH-OPTIONS
  expect "the cards before them go" other_host
  expect "8 MI300X and 4 A40 come" load_gpusim 'mi300x*8,a40*4' "$1"
  printf '[[gpu]]\nmatch = { vendor-device = "%s" }\nlayout = { vfs = %s }\n' 1002:74a1 8 10de:2235 '"all"' > /etc/gpuslice/gpuslice.toml
  expect "gpusliced starts" daemon start
  # NVIDIA's are made as at a boot, GIM is loaded when somebody says so
  wait_for 900 "gpuslice apply, when NVIDIA's are through" timeout 600 gpuslice apply
  wait_for 600 "it is settled" settled
  expect_eq "VFs" 192 "$(ls -d $pci/00{01,02,03,04,05,06,07,08,09,0a,0b,0c}:00:00.0/virtfn* | wc -l)"
}

cards nvidia
# one of each sort in use, since only that shows some attributes
w 562 "$pci/0009:00:00.0/virtfn3/nvidia/current_vgpu_type"
# no card here has sound
later='seek \|^other	link '
observed "vGPUs on VFs"
needed_of host "PF of gim" "PF of nvidia" VF "VF of nvidia" other
next_look "vGPUs on VFs"
w 0 "$pci/0009:00:00.0/virtfn3/nvidia/current_vgpu_type"
expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"

cards "nvidia framework=mdev"
observed "mdevs on VFs"
expect_eq "types" "$(ls -d /sys/class/mdev_bus/*/mdev_supported_types/* | wc -l)" "$(awk -F'\t' '$2 == "read name"' asked | wc -l)"
needed_of "mdev parent" "mdev type"
next_look "mdevs on VFs"
expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"
