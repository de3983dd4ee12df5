# virt-manager's real window, for scenarios whose head says "window: yes": it runs beside the guest, in a file system and
# namespaces of its own, and talks to the guest's libvirtd through a socket in the run's folder.

make_window() {
  local out=$1 from
  from=${MIRROR:-$(mirror)}
  mmdebstrap --variant=minbase --components=main --include="$(grep -v '^#' "$lab/window/packages" | paste -sd,)" \
    "$suite" "$out/rootfs" ${from:+"$from"}
}

# Sets window; makes it if it is missing.
ensure_window() {
  window=$cache/window-$(declare -f make_window | key - "$lab/window/packages")
  [ -d "$window" ] || say "building the file system of virt-manager's window from packages (about 2 minutes, once)"
  made "$window" make_window
}

# start_window SCENARIO : a screen in memory, and what presses the buttons; pictures go to the scenario's folder. Everything
# dies with the process in window.pid.
start_window() {
  local shared=$run/window
  rm -f "$shared"/{ask,answer}
  cp "$lab/window/driver" "$shared/driver"
  mkfifo "$shared"/{ask,answer}
  exec {to_window}<> "$shared/ask" {from_window}<> "$shared/answer"
  unshare -m -p -n -f --kill-child bash -euc 'root=$1
    mount --bind /dev "$root/dev"; mount -t proc proc "$root/proc"; mount -t tmpfs -o mode=700 tmpfs "$root/tmp"
    mount --bind "$2" "$root/mnt"; mount --bind "$3" "$root/media"; cd /
    exec env -i PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 HOME=/tmp XDG_RUNTIME_DIR=/tmp chroot "$root" python3 /mnt/driver /mnt /media' \
    - "$window/rootfs" "$shared" "$run/share/out/$1" < /dev/null > "$run/share/out/$1/desktop.log" 2>&1 &
  echo $! > "$run/window.pid"
  disown $!
}

# window_step SCENARIO WORDS : a step of the window, tabs between its words; prints the answer.
window_step() {
  local answer
  [ -e "$run/window.pid" ] || start_window "$1"
  echo "$2" >&"$to_window"
  read -r -t 180 answer <&"$from_window" || answer="no answer from the window"
  echo "$answer"
}

kill_window() {
  local pid
  if { read -r pid < "$run/window.pid"; } 2> /dev/null; then kill -9 "$pid" 2> /dev/null || true; rm -f "$run/window.pid"; fi
}
