# shellcheck shell=bash
# scvibridge itself, of this checkout, in both languages. Each state of the sources has a folder
# of its own, so that an R process keeps the package that it has loaded.

checkout_is_ready() {
  local name python_state r_state
  name=$(printf '%s' "$repository" | fingerprint)
  python_state=$({
    printf '%s\n' "$virtual_environment"
    cat "$repository/pyproject.toml"
  } | fingerprint)
  r_state=$({ printf '%s\n' "$r_mode" "$root_fingerprint"; r_sources; } | fingerprint)
  checkout=$cache/checkouts/$name
  python_half=$checkout/python-$python_state
  r_half=$checkout/r-$r_state
  [[ -d $python_half && -d $r_half ]] && touch -c "$checkout"
}

# The Python code within the R package is a link to the checkout's: it needs no new build.
r_sources() {
  cd "$repository" || return
  contents DESCRIPTION NAMESPACE LICENSE R man data
  find inst -type f -print0 2>/dev/null | sort -z | xargs -0 sha256sum
}

build_checkout() {
  mkdir -p "$checkout"
  remove_unused "$cache/checkouts" "$(basename "$checkout")"
  remove_unused "$cache/kernels" ""
  [[ -d $python_half ]] || stage "scvibridge for Python" "" build_half "$python_half" install_python_half
  [[ -d $r_half ]] || stage "scvibridge for R" "" build_half "$r_half" install_r_half
  find "$checkout" -mindepth 1 -maxdepth 1 -mtime +0 ! -path "$python_half" ! -path "$r_half" \
    -exec rm -rf {} +
}

build_half() {
  local folder=$1 partial=$1.partial
  rm -rf "$partial"
  mkdir "$partial"
  "$2" "$partial"
  mv "$partial" "$folder"
}

install_python_half() {
  # The variables name what is not there yet.
  python_half='' pip_install --no-deps --no-index --no-build-isolation --target "$1" \
    --editable "$repository"
}

install_r_half() {
  (python_half='' enter R CMD INSTALL --no-configure --no-test-load --library="$1" "$repository")
  rm -rf "$1/scvibridge/python"
  ln -s "$repository/python" "$1/scvibridge/python"
}
