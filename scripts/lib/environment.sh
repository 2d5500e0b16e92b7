# Sourced by every script: where things lie, and how a script talks. Changes nothing on the disk.
#
#   RINGMILL_CACHE    everything that is built or installed lies here (default: ~/.cache/ringmill), outside the clone
#   CARGO_TARGET_DIR  Cargo's part of it (default: $RINGMILL_CACHE/target)
#   RINGMILL_PYTHON_BASE  the Python that the virtual environment is made from (default: the first of python3,
#                         python3.14 … python3.11 that is 3.11 or later)
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cache=${RINGMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ringmill}

say() { printf '%s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  for hint in "$@"; do printf '  %s\n' "$hint" >&2; done
  exit 1
}

# timed TEXT COMMAND…: says what is being done, does it, says how long it took.
timed() {
  local text=$1 start=$EPOCHREALTIME end
  shift
  say "$text …"
  "$@"
  end=$EPOCHREALTIME
  say "  done in $(seconds_between "$start" "$end") s"
}

seconds_between() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }

may_apt_install() { [[ $EUID == 0 ]] && command -v apt-get >/dev/null; }

apt_install() {
  timed "installing $* (apt-get)" sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' - "$@"
}

# One script at a time builds or installs; what it starts may go on under its lock.
lock_cache() {
  [[ -z ${RINGMILL_CACHE_LOCKED:-} ]] || return 0
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  if ! flock --nonblock 9; then
    say "another Ringmill script is at work in $cache; waiting for it …"
    flock 9
  fi
  export RINGMILL_CACHE_LOCKED=1
}

python_is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${RINGMILL_PYTHON_BASE:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && python_is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "failed to find Python 3.11 or later" "Debian/Ubuntu: apt-get install python3 python3-venv"
}

# The virtual environment is named by what is in it, so that clones with other requirements have their own.
python_base=$(find_python)
requirements=$root/python-workers/requirements-dev.txt
venv=$cache/venv-$({ "$python_base" -VV && cat "$requirements"; } | sha256sum | cut -c1-12)

# RocksDB's Rust bindings are generated with libclang, which nobody has: PyPI's, in a place of its own, because RocksDB
# (13 minutes on two cores) is compiled anew when one of these variables changes.
libclang_version=18.1.1
libclang=${XDG_CACHE_HOME:-$HOME/.cache}/ringmill/libclang-$libclang_version
export LIBCLANG_PATH=$libclang/clang/native
set_clang_arguments() {
  if command -v cc >/dev/null; then
    BINDGEN_EXTRA_CLANG_ARGS=-I$(cc -print-file-name=include)
    export BINDGEN_EXTRA_CLANG_ARGS
  fi
}
set_clang_arguments

export RINGMILL_CACHE=$cache
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export RINGMILL_BIN=$CARGO_TARGET_DIR/release/ringmill
export RINGMILL_PYTHON=$venv/bin/python
export VIRTUAL_ENV=$venv
export PATH=$venv/bin:$HOME/.cargo/bin:$PATH
unset PYTHONHOME

# A name for everything that the command and the Python package are built from.
source_hash() {
  (
    cd "$root" || exit
    find Cargo.toml Cargo.lock rust-core schemas ringbuf-spec python-workers/reader python-workers/src \
      python-workers/pyproject.toml -type f ! -name '*.md' ! -name '*.pyc' ! -path '*/tests/*' -print0 |
      LC_ALL=C sort --zero-terminated | xargs -0 sha256sum | sha256sum | cut -c1-16
  )
}
