# The primitives of this folder's scripts on gpuslice-sim; on-kernel.sh says what each does. Each is a question to whoever
# started this, at the other end of output and input: how many words, the words, each ended by a zero byte. The answer is the
# status as one digit, then what the primitive prints, ended in the same way.
# Usage: bash on-simulator.sh LIST
exec 6>&1 7<&0 < /dev/null >&2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LC_ALL=C

ask() {
  local answer
  printf '%s\0' $# "$@" >&6
  IFS= read -r -d '' answer <&7 || exit 2
  printf %s "${answer:1}"
  return "${answer:0:1}"
}
for primitive in fact errno_of text_of names all_of bytes_of link_of mode_of present cards load unload \
  events_mark events_since log_mark log_since let_go opens begin_unload unload_stands tool refuse_enable refuse_lock \
  refuse_vgpu fewer_vfs slow_probe hold_reset computes unplug plug nvidia_option wedged mixed mig gpu_instances \
  scheduler resets_by_reading; do
  eval "$primitive() { ask $primitive \"\$@\"; }"
done
# Those that no script uses to see whether they succeed
for primitive in w put remove keep_open end_write end_unload; do
  eval "$primitive() { ask $primitive \"\$@\" || fail \"$primitive \$*: refused\"; }"
done
begin_write() { begun=$(ask errno_of "$@"); }

say() { :; }
ok() { :; }
fail() { ask fail "$*"; exit 1; }
expect() { local what=$1; shift; "$@" > /dev/null || fail "$what: $*"; }
expect_eq() { [ "$2" = "$3" ] || fail "$1: expected \"$2\", saw \"$3\""; }
# Time passes here only while somebody waits.
wait_for() {
  local what=$2; shift 2
  until "$@" > /dev/null 2>&1; do ask pass || fail "$what: nothing is under way: $*"; done
}
# Nobody reacts to events here, and what only the lab has is the lab's.
no_udev() { :; }
aside() { :; }

. "$here/words.sh"
. "$here/$1.sh"
