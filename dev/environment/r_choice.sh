# shellcheck shell=bash
# Which R: the machine's own where it is fit, else the one of the Debian root in the cache.

r_mode= # machine or root

# The packages that DESCRIPTION asks for; its other fields may change without a new build.
r_requirements() {
  awk '/^[^ \t]/ { wanted = /^(Depends|Imports|Suggests|Config\/Needs\/development):/ } wanted' \
    "$repository/DESCRIPTION"
}

r_is_ready() {
  r_fingerprint=$({ r_requirements; cat "$repository/dev/check-r.R"; } | fingerprint)
  root_fingerprint=$({
    r_requirements
    cat "$repository/dev/debian-packages.txt" "$repository/dev/environment/r_root.sh"
    printf '%s' "$stack_edition"
  } | fingerprint)
  if machine_r_is_fit; then
    r_mode=machine
  elif [[ -e $r_root/.scvibridge/$root_fingerprint ]] && command -v bwrap >/dev/null; then
    r_mode=root
  else
    return 1
  fi
}

# R's answer is kept, together with the dates of R and of its libraries when it was given.
machine_r_is_fit() {
  local r answer=$cache/machine-r-$r_minimum verdict signature libraries
  r=$(command -v Rscript) || return 1
  if [[ -r $answer ]]; then
    { read -r verdict && read -r signature && read -r libraries; } <"$answer" || true
    if [[ $signature == "$(machine_r_signature "$r" "$libraries")" ]]; then
      [[ $verdict == fit ]]
      return
    fi
  fi
  [[ -d $cache ]] || mkdir -p "$cache" || return 1
  libraries=$(Rscript --no-init-file -e 'cat(.libPaths(), sep = ":")' </dev/null 2>/dev/null) || return 1
  verdict=unfit
  check_r Rscript >/dev/null 2>&1 && verdict=fit
  printf '%s\n' "$verdict" "$(machine_r_signature "$r" "$libraries")" "$libraries" >"$answer.$$"
  mv "$answer.$$" "$answer"
  [[ $verdict == fit ]]
}

machine_r_signature() {
  local folders
  IFS=: read -r -a folders <<<"$2"
  {
    printf '%s\n' "$r_fingerprint"
    stat -L -c '%n %y' "$1" "${folders[@]}" 2>/dev/null || stat -L -f '%N %Fm' "$1" "${folders[@]}"
  } 2>/dev/null | fingerprint
}

# check_r COMMAND...: says on standard output what R lacks.
check_r() {
  "$@" --no-init-file "$repository/dev/check-r.R" "$repository/DESCRIPTION" "$r_minimum" </dev/null
}

build_r() {
  local system lacking="R is not installed"
  system=$(operating_system)
  if command -v Rscript >/dev/null; then
    lacking="the machine's R lacks $(check_r Rscript 2>/dev/null | paste -sd , - | sed 's/,/, /g' || true)"
  fi
  case $system in
    'debian 12' | 'debian 13') ;;
    *) unavailable "$lacking; install that, or use Debian 12 or 13 as root (this is $system)" ;;
  esac
  [[ $(id -u) == 0 ]] \
    || unavailable "$lacking; install that, or run dev/env as root, which sets up R by itself"
  [[ -d $r_root ]] || say "$lacking: it will be set up, once, in some minutes"
  if [[ $system == "$debian_with_r" ]]; then
    stage "R from Debian's packages" "Is there a network?" install_r_here
  else
    build_r_root
  fi
  r_is_ready || unavailable "R was set up, but lacks what DESCRIPTION asks for. Details: $log"
}

install_r_here() {
  install_on_machine $(debian_packages)
  check_r Rscript
}
