# shellcheck shell=bash
# Messages, stages and stamps that every part of dev/env uses.

cache=${SCVIBRIDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scvibridge}
[[ $cache == /* ]] || cache=$PWD/$cache
log=$cache/log

say() {
  printf 'dev/env: %s\n' "$*" >&2
}

unavailable() {
  say "$*"
  exit 69
}

open_cache() {
  mkdir -p "$cache" 2>/dev/null \
    || unavailable "the cache $cache cannot be written; set SCVIBRIDGE_CACHE to a folder that can"
}

# stage TITLE ADVICE COMMAND...: one line before, one after; COMMAND's own words go to the log.
# Not to be called in a condition, where bash would let COMMAND run on after an error.
stage() {
  local title=$1 advice=$2 started=$SECONDS status
  shift 2
  say "$title ... (details: $log)"
  printf '\n== %s\n' "$title" >>"$log"
  set +e
  (set -e; "$@") </dev/null >>"$log" 2>&1
  status=$?
  set -e
  if ((status != 0)); then
    tail -n 15 "$log" | sed 's/^/  | /' >&2
    unavailable "$title: failed. $advice Details: $log"
  fi
  say "$title: done in $((SECONDS - started)) s"
}

# A name for the content of what is read from standard input.
fingerprint() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c 1-12
}

# The content of files and folders (links followed), without what Python leaves behind.
contents() {
  find -L "$@" -type f ! -name '*.pyc' -print0 2>/dev/null | sort -z | xargs -0 cat --  2>/dev/null
  find -L "$@" -type f ! -name '*.pyc' 2>/dev/null | sort
}

operating_system() {
  if [[ -r /etc/os-release ]]; then
    (
      # shellcheck source=/dev/null
      source /etc/os-release
      printf '%s %s\n' "${ID:-linux}" "${VERSION_ID:-}"
    )
  else
    uname -s
  fi
}

# Removes what a checkout or an older description left behind more than a week ago.
remove_unused() {
  find "$1" -mindepth 1 -maxdepth 1 -mtime +7 ! -name "$2" -exec rm -rf {} + 2>/dev/null || true
}
