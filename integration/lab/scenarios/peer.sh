# The other machine of a scenario with "peer: yes".
. /lab/scenarios/product.sh

# there COMMAND… : on it, with a scenario's functions
there() {
  local out
  out=$(printf '%q ' "$@" | socat -t 600 - TCP:10.9.8.2:2222,connect-timeout=5) || return
  sed '$d' <<< "$out"
  [ "${out##*$'\n'}" = "status 0" ]
}
peer_up() {
  wait_for 300 "the wire is there" ip route get 10.9.8.2
  ip -br address
  wait_for 900 "the other machine is up" there true
  expect "gpusliced is settled there" there settled
}
