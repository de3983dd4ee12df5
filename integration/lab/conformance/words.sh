# What the scripts of this folder say in terms of the primitives, which on-kernel.sh and on-simulator.sh have alike.

pci=/sys/bus/pci/devices drivers=/sys/bus/pci/drivers mdevs=/sys/bus/mdev/devices

driver_of() { local link; link=$(link_of "$1/driver"); echo "${link##*/}"; } # DEVICE
bound_to() { [ "$(driver_of "$1")" = "$2" ]; }                                # DEVICE DRIVER
gone() { ! present "$1"; }
if_there() { if present "$1"; then echo "$2"; else echo "$3"; fi; }           # PATH YES NO
in_line() { paste -sd' '; }
vfs() { names $pci/"$1" | grep -c '^virtfn'; }                                # of a PF's address
vfs_are() { [ "$(vfs "$1")" = "$2" ]; }
lines_in() { all_of "$1" | wc -l; }

# events_of WORD COMMAND… : runs it; the events of devices with WORD in the path, as "add VF0, change PF".
events_of() {
  local word=$1 from; shift
  from=$(events_mark)
  "$@" > /dev/null
  events_since "$from" | grep ' (\(pci\|mdev\|mtty\|mdpy\|mbochs\))$' | grep "$word" \
    | sed -E 's/ \(.*//; s# /devices/.*/# #; s/[0-9a-f]{4}:00:00\.0/PF/; s/[0-9a-f]{4}:00:02\./VF/; s/[0-9a-f]{4}:00:00\.4/VF0/; s/[0-9a-f]{4}:00:00\.5/VF1/; s/[0-9a-f]{4}:00:00\.6/VF2/; s/[0-9a-f]{4}:00:00\.7/VF3/; s/ [0-9a-f]{8}-[0-9a-f-]*$/ mdev/' \
    | paste -sd, | sed 's/,/, /g'
}

# said PATTERN : the last that the kernel's log says so since the mark
said() { log_since "$from" | grep -oE "$1" | tail -n 1; }
in_log() { [ "$(said "$1")" ]; }
mark() { from=$(log_mark); }

# fill PARENT TYPE : makes mediated devices until it is refused, prints how many and the error
fill() {
  local made=0 answer uuid
  while read -r uuid < /proc/sys/kernel/random/uuid; do
    answer=$(errno_of "$uuid" "/sys/class/mdev_bus/$1/mdev_supported_types/$2/create")
    [ "$answer" = ok ] || break
    made=$((made + 1))
  done
  echo "$made $answer"
}

# serial_of ADDRESS : the Device Serial Number as lspci shows it (PCI Express base specification, 7.9.3)
serial_of() {
  local at=256 header b
  read -r -a b <<< "$(bytes_of $pci/"$1"/config | in_line)"
  while [ $at != 0 ] && [ "${b[at]}" ]; do
    header=$((0x${b[at + 3]}${b[at + 2]}${b[at + 1]}${b[at]}))
    if [ $((header & 0xffff)) = 3 ]; then
      echo "${b[at + 11]}-${b[at + 10]}-${b[at + 9]}-${b[at + 8]}-${b[at + 7]}-${b[at + 6]}-${b[at + 5]}-${b[at + 4]}"
      return
    fi
    at=$((header >> 20))
  done
}
