#!/bin/sh
# Usage: wheel-check.sh DIST. The wheel in DIST holds exactly what it should, the source archive makes the same wheel,
# and what a user installs from it, with dependencies from the index, works from a folder that is not the checkout.
set -eu

dist=$(cd "$1" && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
server=
# shellcheck disable=SC2317,SC2329  # the trap calls it
clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || :
    rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 1' INT TERM

fail() {
    echo "wheel-check: $*" >&2
    exit 1
}

cd "$scratch"
wheel=$(ls "$dist"/greetsvc-*.whl)
sdist=$(ls "$dist"/greetsvc-*.tar.gz)

# With -I neither this folder nor PYTHONPATH can lend a module.
"$python" -I - "$wheel" <<'END'
import re, sys, zipfile

expected = (
    r"greetsvc/(\w+/)*\w+\.py",
    r"greetsvc/py\.typed",
    r"greetsvc/admin/page\.html",
    r"greetsvc/daemon/systemd/units/greetsvc\.(service|socket)",
    r"greetsvc-[\w.]+\.data/data/share/(man|bash-completion|zsh|fish)/.*",
    r"twisted/plugins/greetsvc_plugin\.py",
    r"greetsvc-[\w.]+\.dist-info/(METADATA|RECORD|WHEEL|entry_points\.txt|licenses/LICENSE)",
)
required = {
    "greetsvc/__init__.py",
    "greetsvc/__main__.py",
    "greetsvc/admin/page.html",
    "greetsvc/client/__init__.py",
    "greetsvc/greeters/__init__.py",
    "greetsvc/daemon/systemd/units/greetsvc.service",
    "greetsvc/daemon/systemd/units/greetsvc.socket",
    "greetsvc/net/__init__.py",
    "greetsvc/py.typed",
    "greetsvc/server/__init__.py",
    "twisted/plugins/greetsvc_plugin.py",
}
archive = zipfile.ZipFile(sys.argv[1])
names = archive.namelist()
wrong = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in expected)]
# Either would hide every plugin of Twisted's, or every one of somebody else's.
wrong += {"twisted/__init__.py", "twisted/plugins/__init__.py"}.intersection(names)
missing = required.difference(names)
for page in ("man1/greet.1", "man8/greetsvc.8"):
    if not any(name.endswith(f".data/data/share/man/{page}") for name in names):
        missing.add(page)
for file in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
    if not any(name.endswith(f".dist-info/{file}") for name in names):
        missing.add(f"dist-info/{file}")
twice = {name for name in names if names.count(name) > 1}
if wrong or missing or twice:
    sys.exit(f"wheel-check: must not be in the wheel: {sorted(wrong)}; missing: {sorted(missing)}; twice: {sorted(twice)}")
print(f"{len(names)} files, {sum(entry.file_size for entry in archive.infolist())} bytes")
END

"$python" -m venv clean
bin=$scratch/clean/bin
"$bin/python" -m pip --quiet --disable-pip-version-check install "$wheel"
"$bin/python" -m pip --quiet --disable-pip-version-check check
"$bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir again "$sdist"
"$python" -I - "$wheel" again/greetsvc-*.whl <<'END'
import sys, zipfile

built, again = ({entry.filename: entry.CRC for entry in zipfile.ZipFile(path).infolist()} for path in sys.argv[1:])
if built != again:
    sys.exit(f"wheel-check: the source archive makes another wheel: {set(built.items()) ^ set(again.items())}")
END

[ -f clean/share/man/man8/greetsvc.8 ] || fail "the manual pages are not installed"
mkdir elsewhere
cd elsewhere
"$bin/twistd" --help | grep '^ *greetsvc ' >/dev/null || fail "twistd --help does not list greetsvc"
"$bin/twist" --help | grep '^ *greetsvc ' >/dev/null || fail "twist --help does not list greetsvc"
"$bin/greet" --version
"$bin/greetsvc" --print-unit service | grep "^ExecStart=$bin/greetsvc " >/dev/null || fail "the unit has another command"
"$bin/python" -c '
import sys, greetsvc.server
assert "clean" in greetsvc.__file__, greetsvc.__file__
assert not [name for name in sys.modules if name.startswith("greetsvc.client")], "the server imports the client"
assert "twisted.internet.reactor" not in sys.modules, "the server installs a reactor"
from greetsvc import greet, greet_ex, Greeting, GreetFailed
'

"$bin/twistd" -n --pidfile= greetsvc --listen tcp:0:interface=127.0.0.1 --listen udp:0:interface=127.0.0.1 >log 2>&1 &
server=$!
for _ in $(seq 100); do
    [ "$(grep -c 'Server start at port: ' log)" = 2 ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
ports=$(sed -n 's/.*Server start at port: \([0-9]*\).*/\1/p' log)
tcp=$(echo "$ports" | sed -n 1p)
udp=$(echo "$ports" | sed -n 2p)
[ -n "$udp" ] || fail "twistd did not start: $(cat log)"
"$bin/greet" --expect 'Thank you for connecting' "tcp:127.0.0.1:$tcp"
"$bin/greet" --expect 'Thank you for connecting' "udp:127.0.0.1:$udp"
kill "$server"
wait "$server" 2>/dev/null || :
server=
[ "$(ls)" = log ] || fail "the server left files: $(ls)"
echo "wheel-check: passed"
