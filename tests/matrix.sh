#!/bin/sh
# Usage: matrix.sh [PYTHON...]: runs `make test` with each Python, in a virtual environment of its own (.venv-3.12).
# PYTHON is a version (3.12) or the path of an interpreter. Without any, each version that greetsvc supports is tried,
# and those that are not found are named. A version is looked for on PATH, then under ~/.pyenv/versions.
# EXCEPT="3.11" leaves versions out.
set -eu

supported="3.11 3.12 3.13 3.14"

# Prints the version of the interpreter $1, when it runs and can make virtual environments.
version_of() {
    "$1" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the path of an interpreter of the version $1. A pyenv shim on PATH may run nothing, so each is tried.
find_python() {
    for candidate in "$(command -v "python$1" || :)" \
        $(printf '%s\n' "$HOME"/.pyenv/versions/"$1".*/bin/python | sort -r -V); do
        [ "$(version_of "$candidate" || :)" = "$1" ] && echo "$candidate" && return
    done
    return 1
}

passed= failed= missing=
for wanted in ${*:-$supported}; do
    case " ${EXCEPT:-} " in *" $wanted "*) continue ;; esac
    case $wanted in
        */*) python=$wanted ;;
        *) python=$(find_python "$wanted") || python= ;;
    esac
    if [ -z "$python" ] || ! version=$(version_of "$python"); then
        missing="$missing $wanted"
        continue
    fi
    printf '\n== Python %s: %s\n' "$version" "$python"
    if "${MAKE:-make}" --no-print-directory test PYTHON="$python" VENV=".venv-$version"; then
        passed="$passed $version"
    else
        failed="$failed $version"
    fi
done
printf '\nmake matrix: passed:%s; failed:%s; not found:%s\n' "${passed:- none}" "${failed:- none}" "${missing:- none}"
[ -z "$failed" ] || exit 1
# What was asked for by name has to be there.
[ $# = 0 ] || [ -z "$missing" ]
