# shellcheck shell=bash
# Which Python: the first on the machine that is new enough and can be embedded in R.

# Prints the interpreter's path, its prefix, its shared library and the folder of its compiled
# modules, one a line; fails where it does not do.
python_facts() {
  "$1" - "$python_minimum" "${python_below:-4}" 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
minimum, end = (tuple(map(int, version.split("."))) for version in sys.argv[1:3])
library = os.path.join(*map(sysconfig.get_config_var, ("LIBDIR", "INSTSONAME")))
if not minimum <= sys.version_info < end or not os.path.exists(library):
    sys.exit(1)
name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
print(os.path.realpath(os.path.join(sys.base_prefix, "bin", name)))
print(sys.base_prefix)
print(library)
print(sysconfig.get_config_var("DESTSHARED"))
PYTHON
}

find_python() {
  local candidate
  for candidate in ${SCVIBRIDGE_PYTHON:-$pythons}; do
    python_facts "$candidate" && return
  done
  return 1
}

# Debian ships the interpreter, its venv module and its shared library apart.
install_python() {
  local version
  install_on_machine python3 python3-venv
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  install_on_machine "python$version-venv" "libpython$version"
}

choose_python() {
  if find_python >/dev/null; then
    return
  fi
  local wanted="Python >= $python_minimum${python_below:+, < $python_below}"
  local lacking="no $wanted with venv and a shared libpython was found"
  [[ -z ${SCVIBRIDGE_PYTHON:-} ]] || unavailable "$lacking at SCVIBRIDGE_PYTHON=$SCVIBRIDGE_PYTHON"
  case $(operating_system) in
    debian\ *) ;;
    *) unavailable "$lacking; install one, or name it in SCVIBRIDGE_PYTHON" ;;
  esac
  [[ $(id -u) == 0 ]] || unavailable "$lacking; install it, or run dev/env as root, which will"
  stage "Debian packages of Python" "Is there a network?" install_python
  find_python >/dev/null || unavailable "$lacking. Details: $log"
}
