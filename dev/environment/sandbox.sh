# shellcheck shell=bash
# Entering the environment: its variables and, for R of the Debian root, bubblewrap.

python_half= # of the checkout: the folder with scvibridge's metadata and command
r_half=      # of the checkout: the library with the R package scvibridge

# enter COMMAND...: becomes COMMAND, run in the environment.
enter() {
  export VIRTUAL_ENV=$virtual_environment
  export PATH=${python_half:+$python_half/bin:}$virtual_environment/bin:$PATH
  export RETICULATE_PYTHON=$virtual_environment/bin/python
  # rpy2 then needs no compiler, and one build of it does for every R.
  export RPY2_CFFI_MODE=ABI
  # Compiled code is kept: kernels for all copies of the package, modules next to their sources.
  export NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-$cache/kernels}
  unset PYTHONHOME R_HOME PYTHONDONTWRITEBYTECODE
  if [[ -n $python_half ]]; then
    export PYTHONPATH=$repository/python:$python_half${PYTHONPATH:+:$PYTHONPATH}
    export R_LIBS=$r_half${R_LIBS:+:$R_LIBS}
  fi
  if [[ $r_mode == root ]]; then
    enter_root "$@"
  fi
  exec "$@"
}

enter_root() {
  # The machine's own locales, R libraries and R settings are made for its own system.
  export LC_ALL=C.UTF-8 LANG=C.UTF-8
  export R_LIBS=$r_half R_LIBS_USER=NULL R_ENVIRON_USER=/dev/null R_PROFILE_USER=/dev/null
  unset R_LIBS_SITE
  export PATH=${python_half:+$python_half/bin:}$virtual_environment/bin:/usr/local/bin:/usr/bin:/bin
  options=(--bind "$r_root" / --dev-bind /dev /dev --bind /proc /proc --ro-bind-try /sys /sys)
  share_folders
  share_settings
  share_interpreter
  share_named_paths
  exec bwrap "${options[@]}" --chdir "$(pwd -P)" /usr/bin/env -- "$@"
}

# What the Debian root has for itself stays its own; all else is the machine's, at its own place.
share_folders() {
  local path
  for path in /*; do
    case $path in
      /bin | /boot | /dev | /etc | /lib* | /lost+found | /proc | /run | /sbin | /sys | /usr | /var) ;;
      *) options+=(--bind-try "$path" "$path") ;;
    esac
  done
}

# The network's, the users' and pip's settings, and the certificates.
share_settings() {
  local path
  for path in /etc/resolv.conf /etc/hosts /etc/passwd /etc/group /etc/pip.conf \
    /etc/xdg/pip /etc/ssl/certs /usr/share/ca-certificates /usr/local/share/ca-certificates; do
    options+=(--ro-bind-try "$path" "$path")
  done
}

share_interpreter() {
  local executable=${interpreter[0]} prefix=${interpreter[1]} library
  if [[ $prefix == /usr ]]; then
    options+=(--ro-bind "$executable" "$executable")
    options+=(--ro-bind "/usr/lib/${executable##*/}" "/usr/lib/${executable##*/}")
  else
    options+=(--bind "$prefix" "$prefix")
  fi
  while IFS= read -r library; do
    # bubblewrap leaves empty files where it bound some: they do not count.
    [[ -s $r_root$library ]] || options+=(--ro-bind-try "$library" "$library")
  done < <(
    printf '%s\n' "${interpreter[2]%.so*}".so*
    cat "$virtual_environment/.libraries" 2>/dev/null
  )
}

# Paths that variables name, where they lie in a folder that is not shared as a whole.
share_named_paths() {
  local path
  for path in "$repository" "$cache" "$PWD" "$(pwd -P)" "$HOME" ${TMPDIR:-} \
    "${SCVIBRIDGE_TEST_DATA:-}" ${PIP_FIND_LINKS:-} "${PIP_CONFIG_FILE:-}" "${SSL_CERT_FILE:-}" \
    "${REQUESTS_CA_BUNDLE:-}" "${PIP_CERT:-}"; do
    case $path in
      /etc/ssl/certs* | /run/* | /usr/* | /var/* | /etc/* | /lib*/* )
        is_own_of_root "$path" || options+=(--bind-try "$path" "$path") ;;
    esac
  done
}

is_own_of_root() {
  [[ -s $r_root$1 ]] && { [[ ! -d $r_root$1 ]] || [[ -n $(ls -A "$r_root$1") ]]; }
}
