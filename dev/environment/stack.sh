# shellcheck shell=bash
# Which versions: the oldest that pyproject.toml allows, those that CI tests, or the newest. What
# the other parts need to know of it is set here; nowhere else is one stack told from the other.

# shellcheck disable=SC2034
case ${SCVIBRIDGE_STACK:-pinned} in
  oldest)
    # torch 2.1 and numba 0.60 have no builds for a later Python.
    pythons='python3.11 /usr/bin/python3.11'
    python_minimum=3.11
    python_below=3.12
    # dev/resolve writes the list: by itself pip does not find this set.
    constraints=$repository/dev/environment/oldest.txt
    extra_requirements=
    r_minimum=4.4
    debian_suite=trixie
    debian_with_r='debian 13'
    r_root=$cache/debian13
    stack_edition=
    ;;
  pinned)
    # /usr/bin is where Debian's goes, which may lie behind another Python in PATH.
    pythons='python3.11 /usr/bin/python3.11 python3.12 python3.13 python3 /usr/bin/python3'
    python_minimum=3.11
    python_below=
    constraints=$repository/dev/environment/pinned.txt
    extra_requirements=
    # The tools of docs/recipes, for the tests.
    : "${SCVIBRIDGE_EXTRAS:=recipes}"
    r_minimum=4.4
    debian_suite=trixie
    debian_with_r='debian 13' # whose own packages will do
    r_root=$cache/debian13
    stack_edition=
    ;;
  latest)
    # pyenv's need not be in PATH.
    pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
    pythons="python3.13 $pyenv/3.13*/bin/python3 python3.12 $pyenv/3.12*/bin/python3 python3"
    python_minimum=3.12
    python_below=
    constraints=
    # What this stack is about: pip may not go back behind these for another package's sake.
    extra_requirements='anndata>=0.13 numpy>=2.5 pandas>=3 scvi-tools>=1.5'
    r_minimum=4.6
    debian_suite=sid
    debian_with_r=
    r_root=$cache/debian-sid
    # What is newest is looked up once a month.
    stack_edition=$(date +%Y-%m)
    ;;
  *)
    unavailable "SCVIBRIDGE_STACK=$SCVIBRIDGE_STACK: there are \"oldest\", \"pinned\" and \"latest\""
    ;;
esac
