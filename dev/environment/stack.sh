# shellcheck shell=bash
# Which versions: the oldest ones that the packages ask for, which CI tests, or the newest. What
# the other parts need to know of it is set here; nowhere else is one stack told from the other.

# shellcheck disable=SC2034
case ${SCVIBRIDGE_STACK:-pinned} in
  pinned)
    # /usr/bin is where Debian's goes, which may lie behind another Python in PATH.
    pythons='python3.11 /usr/bin/python3.11 python3.12 python3.13 python3 /usr/bin/python3'
    python_minimum=3.11
    # Each lower bound of pyproject.toml is the version that is installed.
    requirement_edit='s/>=/==/'
    extra_requirements=
    # The tools of docs/recipes, for the tests.
    : "${SCVIBRIDGE_EXTRAS:=recipes}"
    r_minimum=4.5
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
    requirement_edit=
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
    unavailable "SCVIBRIDGE_STACK=$SCVIBRIDGE_STACK: there are \"pinned\" and \"latest\""
    ;;
esac
