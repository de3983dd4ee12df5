# A VM with a slice moves to another host while it runs, and back; refused there, it fails on the way, it is cancelled
# group: peers
# order: 1
# needs: product
# limit: 900
# long: yes
# peer: yes
. /lab/scenarios/peer.sh
cleanup() {
  if [ $? != 0 ]; then echo "=== there"; there evidence; there tail -n 20 /var/log/libvirt/qemu/moves.log; fi
  [ ! "${silent:-}" ] || kill $silent 2> /dev/null
  clear_domains
  there clear_domains
  there rm -f $keeper
  modprobe -r mtty
  there modprobe -r mtty
}
# Before gpuslice's own, which is handed what this one leaves as it is: keeps what libvirt hands over when a domain comes in.
keeper=/etc/libvirt/hooks/qemu.d/05-keeper
keep_handed() {
  printf '#!/bin/sh\n[ "$2" != migrate ] || cat > /var/tmp/handed.xml\n' > "$1"
  chmod +x "$1"
}
trap cleanup EXIT

all_up
peer_up
expect_eq "they are two" "lab peer" "$(uname -n) $(there uname -n)"

id=$(domain_uuid moves)
mdev=/sys/bus/mdev/devices/$(mdev_uuid "$id" gpu0)
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2

# move ARGUMENT… : virsh's words for it; move_back
move() { virsh migrate moves qemu+tcp://10.9.8.2/system --live --migrateuri tcp://10.9.8.2 "$@"; }
move_back() { there virsh migrate moves qemu+tcp://10.9.8.1/system --live --migrateuri tcp://10.9.8.1 "$@"; }
# has_it [there] : it runs with its slice
has_it() {
  expect "it runs ${1:-here}" $1 running moves
  expect "QEMU has the mdev open" $1 holds_vfio moves
  expect_eq "its claim" attached "$($1 claim_state "$id/gpu0")"
  expect_eq "free" 11 "$($1 free_of mtty-2)"
}
# had_it STATE [there] : its slice is given back, and its claim is in that state
had_it() {
  wait_for 20 "the mdev is gone ${2:-here}" $2 gone "$mdev"
  wait_for 20 "capacity is back" is 12 $2 free_of mtty-2
  wait_for 20 "its claim is ${1:-over}" is "$1" $2 claim_state "$id/gpu0"
}
# not_taken CODE : refused there before anything is copied, and it runs on here
not_taken() {
  local out
  out=$(move 2>&1) && fail "it was taken in"
  expect "it is refused: ${out##*gpuslice: }" grep -q "gpuslice: $1: " <<< "$out"
  expect "in libvirt's hook for it" grep -q 'migrate begin' <<< "$out"
  expect_eq "no claim there" "" "$(there claim_state "$id/gpu0")"
  expect "and no domain" is "" there virsh -q list --all --name
  has_it
}

define_movable moves mtty-2
start moves
has_it

say "the other host does not have the profile"
not_taken no-profile

say "it is full there"
expect "modprobe mtty" there modprobe mtty
wait_for 10 "mtty-2 is a profile there" is 12 there free_of mtty-2
fill() { local n; for n in {1..12}; do uuidgen > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create; done; }
empty() { local left; for left in /sys/bus/mdev/devices/*; do w 1 "$left/remove"; done; }
expect "somebody makes all of them" there eval "$(declare -f fill); fill"
wait_for 20 "none is free" is 0 there free_of mtty-2
not_taken no-capacity
expect "he removes them" there eval "$(declare -f empty); empty"
wait_for 20 "all are free" is 12 there free_of mtty-2

say "it fails when the other host has it ready"
out=$(virsh migrate moves qemu+tcp://10.9.8.2/system --live --migrateuri tcp://10.9.8.77 2>&1) && fail "it went nowhere"
say "${out##*error: }"
had_it "" there
has_it

say "it is cancelled"
# Somebody takes the connection and reads nothing.
buffers=$(sysctl -n net.ipv4.tcp_wmem)
sysctl -q net.ipv4.tcp_wmem='4096 4096 4096'
socat -U TCP-LISTEN:49999,rcvbuf=1024 EXEC:'sleep infinity' & silent=$!
virsh migrate moves qemu+tcp://10.9.8.2/system --live --migrateuri tcp://10.9.8.1:49999 > cancelled 2>&1 & moving=$!
copies() { virsh domjobinfo moves | grep -q 'Outgoing migration' && [ "$(ss -Htn state established 'sport = 49999')" ]; }
wait_for 60 "it is on its way" copies
expect "it has a slice there" there present "$mdev"
expect_eq "free there" 11 "$(there free_of mtty-2)"
expect "virsh domjobabort" q virsh domjobabort moves
if wait $moving; then fail "it went nowhere"; fi
say "$(grep -m 1 error: cancelled)"
kill $silent
sysctl -q net.ipv4.tcp_wmem="$buffers"
had_it "" there
has_it

say "it moves"
expect "somebody keeps what is handed over there" there eval "$(declare -f keep_handed); keep_handed $keeper"
expect "virsh migrate" q move
has_it there
# integration/tests/daemon/handed has this file as it came here.
there cat /var/tmp/handed.xml > handed.xml
expect "it says what it runs with" grep -q "<address uuid='${mdev##*/}'" handed.xml
expect "and holds no secret" eval '! grep -q passwd handed.xml'
there rm -f $keeper
had_it idle
expect "it is defined here alone" is moves virsh -q list --all --name
expect_eq "what libvirt has there" "" "$(there virsh -q list --all --name --persistent)"

say "and back"
expect "virsh migrate" q move_back
has_it
had_it "" there

say "it moves for good"
expect "virsh migrate" q move --persistent --undefinesource
has_it there
had_it orphaned
expect_eq "the history ends it here" migrated "$(rows history 'select(.claim == "'"$id/gpu0"'") | .reason' | tail -n 1)"
there virsh destroy moves
had_it idle there
expect "virsh start there" there virsh start moves
expect "and back for good" q move_back --persistent --undefinesource
has_it
had_it orphaned there
destroy moves
had_it idle
