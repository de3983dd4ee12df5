# Shared by run, shell and stage: where things are, progress lines, what the host must have.

lab=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tree=$(cd "$lab/../.." && pwd)
cache=${GPUSLICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpuslice}/lab
suite=trixie

# Progress with the seconds since the start, so that a slow step names itself; and with the group, since several run side by side.
who=
say() { printf '[%4ds] %s%s\n' "$SECONDS" "${who:+$who: }" "$*"; }
die() { echo "lab: $*" >&2; exit 1; }

# mmdebstrap, mount and chroot need root; the cache stays the caller's.
become_root() {
  [ "$EUID" = 0 ] && return
  command -v sudo > /dev/null || die "needs root, and there is no sudo"
  exec sudo GPUSLICE_CACHE="${cache%/lab}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-}" "$0" "$@"
}

host_packages() {
  local missing=() pair
  for pair in mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs unshare:util-linux; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get > /dev/null || die "please install: ${missing[*]}"
  say "installing ${missing[*]} on this host"
  apt-get update -q > /dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}" > /dev/null
}

# key FILE… : a name for what these files make.
key() { cat "$@" | sha256sum | cut -c1-12; }

# made DIR MAKER : MAKER fills a temporary directory that gets its name only when it is whole, so an interrupted
# build is never taken for a finished one. A lock lets two runs on one machine share the work.
made() {
  local dir=$1 maker=$2
  if [ -d "$dir" ]; then touch "$dir" "$dir".{lock,log}; return; fi
  exec {lock}> "$dir.lock"
  flock "$lock"
  if [ ! -d "$dir" ]; then
    rm -rf "$dir.part"
    mkdir "$dir.part"
    # In the background, because in a condition bash would not stop the maker at its first error.
    "$maker" "$dir.part" > "$dir.log" 2>&1 &
    wait $! || { tail -n 20 "$dir.log" >&2; die "$maker failed, see $dir.log"; }
    mv "$dir.part" "$dir"
  fi
  exec {lock}>&-
}

# What no run has used for two weeks is dropped, and what a run that was killed left behind.
prune() {
  find "$cache" -mindepth 1 -maxdepth 1 \( -name 'run.*' -mtime +1 -o -mtime +14 \) -exec rm -rf {} +
}
