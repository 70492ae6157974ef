# shellcheck shell=bash
# The virtual environment with the dependencies of pyproject.toml: one for all checkouts that
# ask for the same ones, since it is large. scvibridge itself is not in it (see checkout.sh).

virtual_environment= # its folder
interpreter=()       # the facts of python_choice.sh about what it was made from

# What pyproject.toml asks for; its other sections may change without a new build.
python_requirements() {
  awk '/^\[/ { listed = /^\[(build-system|project\.optional-dependencies|dependency-groups)\]/ }
       /^(requires-python|dependencies) *=/ { within = 1 }
       listed || within
       /\]|^requires-python/ { within = 0 }' "$repository/pyproject.toml"
}

virtual_environment_is_ready() {
  local name fact
  name=$({
    python_requirements
    [[ -z $constraints ]] || cat "$constraints"
    printf '%s' "$extra_requirements" "$stack_edition"
    printf '%s\n' "${SCVIBRIDGE_PYTHON:-}" "${SCVIBRIDGE_EXTRAS:-}"
  } | fingerprint)
  virtual_environment=$cache/python/$name
  [[ -r $virtual_environment/.complete ]] || return 1
  interpreter=()
  while IFS= read -r fact; do interpreter+=("$fact"); done <"$virtual_environment/.complete"
  [[ -x ${interpreter[0]} ]] && touch -c "$virtual_environment"
}

# The folder cannot be made elsewhere and renamed, since its scripts name it: `.complete`,
# which comes last, says that it is whole.
build_virtual_environment() {
  local facts fact advice="Is there a network?"
  choose_python
  facts=$(find_python)
  interpreter=()
  while IFS= read -r fact; do interpreter+=("$fact"); done <<<"$facts"
  remove_unused "$cache/python" "$(basename "$virtual_environment")"
  stage "Virtual environment of ${interpreter[0]}" "" create_virtual_environment
  stage "Python package torch (the largest)" "$advice" install_torch
  stage "Python packages of pyproject.toml (some minutes)" "$advice" \
    pip_install_listed --requirement "$virtual_environment/requirements.txt"
  printf '%s\n' "$facts" >"$virtual_environment/.complete"
}

create_virtual_environment() {
  rm -rf "$virtual_environment"
  mkdir -p "$(dirname "$virtual_environment")"
  "${interpreter[0]}" -m venv "$virtual_environment"
  needed_libraries >"$virtual_environment/.libraries"
  pip_install --upgrade pip
  list_requirements >"$virtual_environment/requirements.txt"
}

list_requirements() {
  # shellcheck disable=SC2086
  (enter python "$repository/dev/requirements.py" "$repository/pyproject.toml" \
    ${SCVIBRIDGE_EXTRAS:-})
  # shellcheck disable=SC2086
  printf '%s\n' $extra_requirements
}

# The machine's shared libraries that the interpreter loads: the Debian root may lack some.
needed_libraries() {
  ldd "${interpreter[0]}" "${interpreter[2]}" "${interpreter[3]}"/*.so 2>/dev/null \
    | awk '$2 == "=>" && $3 ~ "^/" { print $3 }' | sort -u || true
}

# By itself, so that it is seen which part of the set-up takes its time.
install_torch() {
  pip_install_listed "$(grep '^torch[=>]' "$virtual_environment/requirements.txt")"
}

# pip_install_listed ARGUMENT...: in the versions of the stack's list, where it has one.
pip_install_listed() {
  pip_install ${constraints:+--constraint "$constraints"} "$@"
}

pip_install() {
  (enter python -m pip --no-input install --no-warn-script-location "$@")
}
