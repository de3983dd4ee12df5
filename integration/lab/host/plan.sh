# Which scenarios run together: those of one group share a disk and, where they can, a boot. A scenario's header says
#   # group: NAME      # order: N (within the group)      # needs: product      # long: yes      # limit: SECONDS (of a boot)
#   # window: yes (virt-manager's, see window.sh)
#   # peer: yes        with a second machine beside the group's
#   # product: no      what it shows is true of the lab, whatever the product does

scenario_file() { echo "$lab/scenarios/$1.sh"; }

# header NAME KEY : the value of "# KEY: value" in a scenario's head; empty when it has none.
header() { sed -n "1,12s/^# $2: //p" "$(scenario_file "$1")" 2> /dev/null; }

# All scenarios as "GROUP NAME", in running order.
scenarios() {
  local file name group
  for file in "$lab"/scenarios/*.sh; do
    name=$(basename "$file" .sh)
    group=$(header "$name" group)
    if [ "$group" ]; then echo "$group $(header "$name" order) $name"; fi
  done | sort -k1,1 -k2,2n | cut -d' ' -f1,3
}

list_scenarios() {
  local group name
  scenarios | while read -r group name; do
    printf '%-14s %-8s %s\n' "$name" "$group" "$(sed -n '1s/^# //p' "$(scenario_file "$name")")"
  done
}

# wanted NAME : was it named, or is it part of an unnamed run?
wanted() {
  if [ ${#names[@]} -gt 0 ]; then [[ " ${names[*]} " = *" $1 "* ]]; return; fi
  [ "$long" = yes ] || [ -z "$(header "$1" long)" ]
}

# proof NAME : a file that is there once the scenario has passed with all that is as it is now, for the two weeks that prune leaves it.
proof() {
  local group
  group=$(header "$1" group)
  echo "$cache/passed-$1-$(find "$lab/scenarios"/{"$1",lib,domains}.sh "$lab/conformance" "$lab/groups/$group" "$lab/guest/root" \
    "$lab/host/boot.sh" "$tree/udev-rules" -type f | sort | xargs -d '\n' cat | key - <(echo "$image $modules"))"
}

# shown NAME : of a scenario that shows nothing of the product, an unnamed run need not see again what this machine has seen.
shown() { [ "$long" = no ] && [ ${#names[@]} = 0 ] && [ "$(header "$1" product)" = no ] && [ -e "$(proof "$1")" ]; }

# start_group GROUP : its virtual machine beside those that run, one for each processor. Measurements want the machine alone.
start_group() {
  local most=1
  if [ "$long" = no ]; then most=$(nproc); fi
  wait_groups "$most"
  mkdir "$all/$1"
  : > "$all/$1/results"
  run_group "$1" &
}

# wait_groups N : until fewer than N run; what becomes of one is in its results.
wait_groups() { while [ "$(jobs -pr | wc -l)" -ge "$1" ]; do wait -n || true; done; }

# However this ends, no machine is left.
end_groups() {
  for run in "$all"/*/; do kill_qemu; kill_qemu peer; kill_window; done
  kill $(jobs -p) 2> /dev/null || true
}

# result WORDS : a line of the results: boot, check, passed NAME, failed NAME, shown NAME
result() { echo "$*" >> "$run/results"; }

# run_group GROUP : boots the group's disk until its wanted scenarios are through.
run_group() {
  local group=$1 list=() name limit=600 boots=0 second=
  run=$all/$group who=$group
  trap - EXIT
  while read -r _ name; do
    wanted "$name" || continue
    if shown "$name"; then result shown "$name"; else list+=("$name"); fi
  done < <(scenarios | grep "^$group ")
  [ ${#list[@]} -gt 0 ] || return 0
  for name in "${list[@]}"; do
    limit=$((limit + $(header "$name" limit | grep . || echo 120)))
    if [ "$(header "$name" peer)" ]; then second=yes; fi
  done
  say "== ${list[*]}"
  make_share "$group"
  echo "${list[@]}" > "$run/share/plan"
  new_disk disk
  if [ $second ]; then start_peer; fi
  ended=again
  while [ $ended = again ]; do
    boots=$((boots + 1))
    result boot
    boot "$limit" systemd.mask=serial-getty@ttyS0.service
    mv "$run/share/out/console.log" "$run/share/out/console-$group-$boots.log"
  done
  if [ "$peer" ]; then end_peer; fi
  rm -f "$run"/{disk,peer}.qcow2 "$run/stage.tar" "$run"/share/out/qemu*.log
}

# needed KEY VALUE : does a wanted scenario's head say so?
needed() {
  local name
  for name in $(scenarios | cut -d' ' -f2); do
    if wanted "$name" && [ "$(header "$name" "$1")" = "$2" ]; then return; fi
  done
  return 1
}

# What a guest gets: stage.tar, unpacked over its root, and the shared folder. The product is in it once it was staged.
make_share() {
  local group=$1 stage=$run/stage
  rm -rf "$stage"
  mkdir -p "$stage" "$run/share/out" "$run/share/scenarios" "$run/share/conformance" "$run/window"
  cp -a "$lab/guest/root/." "$modules/." "$stage/"
  mkdir -p "$stage/etc/systemd/system/multi-user.target.wants"
  ln -s ../lab-run.service "$stage/etc/systemd/system/multi-user.target.wants/lab-run.service"
  if [ -d "$all/product" ]; then cp -a "$all/product/." "$stage/"; fi
  if [ -d "$all/packages" ]; then cp -al "$all/packages" "$run/share/packages"; fi
  if [ -d "$lab/groups/$group" ]; then cp -a "$lab/groups/$group/." "$stage/"; fi
  tar --numeric-owner --owner=0 --group=0 -C "$stage" -cf "$run/stage.tar" .
  cp "$lab"/scenarios/* "$lab"/*.txt "$run/share/scenarios/"
  cp "$lab"/conformance/* "$run/share/conformance/"
}

scenario_passed() {
  say "$1: passed"
  result passed "$1"
  if [ "$(header "$1" product)" = no ]; then touch "$(proof "$1")"; fi
}

scenario_failed() {
  say "$1: FAILED; the end of its log:"
  tail -"${LAB_TAIL:-60}" "$run/share/out/$1/log" 2> /dev/null | sed 's/^/    /'
  result failed "$1"
}
