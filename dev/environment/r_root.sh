# shellcheck shell=bash
# A Debian with a newer R (the stack's) in a folder, with its packages; entered with bubblewrap.

debian_packages() {
  sed 's/#.*//' "$repository/dev/debian-packages.txt"
}

# install_on_machine PACKAGE...: Debian packages of the machine itself.
install_on_machine() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  apt-get install --yes --no-install-recommends "$@"
}

build_r_root() {
  local tools=()
  command -v debootstrap >/dev/null || tools+=(debootstrap debian-archive-keyring)
  command -v bwrap >/dev/null || tools+=(bubblewrap)
  if ((${#tools[@]} > 0)); then
    stage "Debian packages ${tools[*]}" "Is there a network?" install_on_machine "${tools[@]}"
  fi
  bwrap --dev-bind / / true 2>>"$log" \
    || unavailable "bubblewrap may not make a sandbox here (a container without that right?);" \
      "run on the machine itself, or install R $r_minimum with the packages of DESCRIPTION"
  if [[ -d $r_root ]]; then
    stage "Debian packages of R" "Is there a network?" complete_root "$r_root"
    return
  fi
  remove_partial_root
  stage "Debian $debian_suite base system" "Is there a network?" bootstrap_root "$r_root.partial"
  stage "Debian packages of R (some minutes)" "Is there a network?" complete_root "$r_root.partial"
  mv "$r_root.partial" "$r_root"
}

# debootstrap, when it was killed, leaves these mounted.
remove_partial_root() {
  local mounted
  for mounted in proc sys; do
    umount "$r_root.partial/$mounted" 2>/dev/null || true
  done
  rm -rf --one-file-system "$r_root.partial"
}

bootstrap_root() {
  debootstrap --variant=minbase "$debian_suite" "$1"
  # Manuals are left out and nothing is flushed to disk: an interrupted build starts again.
  printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
    'path-exclude=/usr/share/locale/*' >"$1/etc/dpkg/dpkg.cfg.d/scvibridge"
  printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
  chmod +x "$1/usr/sbin/policy-rc.d"
}

# Installs what is missing and, once R has found it all, leaves the stamp that `r_is_ready` wants.
complete_root() {
  local root=$1 packages
  packages=$(debian_packages)
  apt-config dump | grep -E '^Acquire::(http|https)::Proxy|^Acquire::(Check-|Retries)' \
    >"$root/etc/apt/apt.conf.d/90machine" || true
  in_bare_root "$root" dpkg --configure -a
  in_bare_root "$root" apt-get update
  # shellcheck disable=SC2086
  in_bare_root "$root" apt-get install --yes --no-install-recommends $packages
  in_bare_root "$root" apt-get clean
  # Debian's R also looks in /usr/local, where the machine may have packages for its own R.
  echo 'R_LIBS_SITE=/usr/lib/R/site-library' >"$root/etc/R/Renviron.site"
  check_r in_bare_root "$root" --ro-bind "$repository" "$repository" Rscript
  mkdir -p "$root/.scvibridge"
  touch "$root/.scvibridge/$root_fingerprint"
}

# in_bare_root ROOT [OPTION OF BWRAP...] COMMAND...
in_bare_root() {
  local root=$1
  shift
  bwrap --bind "$root" / --dev-bind /dev /dev --bind /proc /proc --ro-bind-try /sys /sys \
    --ro-bind-try /etc/resolv.conf /etc/resolv.conf --ro-bind-try /etc/hosts /etc/hosts \
    --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --setenv LC_ALL C.UTF-8 --setenv DEBIAN_FRONTEND noninteractive --setenv HOME /root \
    --unsetenv TMPDIR --chdir / "$@"
}
