#!/bin/sh
# check_python.sh PYTHON: is this a Python that a virtual environment can be made with?
# Says what is missing and the command that installs it; exit code 2 then.

python=$1
package=$(basename "$python")

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "There is no working $python. On Debian and Ubuntu: sudo apt install $package $package-venv"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version, but Seriatim needs 3.11 or newer. Install one beside it and name \
it, for example: sudo apt install python3.12 python3.12-venv, then PYTHON=python3.12 make setup"

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: its modules venv and ensurepip are packaged apart. \
On Debian and Ubuntu: sudo apt install python$version-venv"
