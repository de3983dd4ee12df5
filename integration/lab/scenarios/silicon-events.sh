# The order of kernel uevents, for the scenarios silicon and silicon-nvidia.

watch_events() {
  stdbuf -oL udevadm monitor --kernel > events 2>&1 & events_pid=$!
  wait_for 10 "listening to uevents" grep -q '^KERNEL' events
}
stop_events() { kill $events_pid; wait $events_pid 2> /dev/null; }

# events_of WORD COMMAND… : runs it; the events of devices with WORD in the path, as "add VF0, change PF".
# A synthetic event of a device nobody else uses marks the end.
events_of() {
  local word=$1 from marks=0; shift
  from=$(($(wc -l < events) + 1))
  "$@" > /dev/null
  echo change > /sys/devices/virtual/mem/null/uevent
  until [ "$(tail -n +"$from" events | grep -c 'mem/null')" -gt 0 ]; do
    sleep 0.05; marks=$((marks + 1))
    [ $marks -lt 200 ] || { echo "no events"; return; }
  done
  tail -n +"$from" events | grep "^KERNEL.* (\(pci\|mdev\|mtty\|mdpy\|mbochs\))$" | grep "$word" \
    | sed -E 's/^KERNEL\[[0-9.]+\] +//; s/ \(.*//; s# +/devices/.*/# #; s/[0-9a-f]{4}:00:00\.0/PF/; s/[0-9a-f]{4}:00:02\./VF/; s/[0-9a-f]{4}:00:00\.4/VF0/; s/[0-9a-f]{4}:00:00\.5/VF1/; s/[0-9a-f]{4}:00:00\.6/VF2/; s/[0-9a-f]{4}:00:00\.7/VF3/; s/ [0-9a-f]{8}-[0-9a-f-]*$/ mdev/' \
    | paste -sd, | sed 's/,/, /g'
}
