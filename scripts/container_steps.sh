#!/usr/bin/env bash
# The steps of the Dockerfile in a clean virtual environment, for machines without Docker: install from a copy of the tracked
# files, separate the bundled clip, serve, ask whether the server is well.
#   bash scripts/container_steps.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
server=""
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
mkdir "$work/source" "$work/data"
git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t "$work/source"
python3 -m venv "$work/venv"
cd "$work/source"
"$work/venv/bin/pip" install --quiet "$(grep '^torch==' constraints.txt)"
"$work/venv/bin/pip" install --quiet --constraint constraints.txt '.[web,serve,onnx]'
cd "$work/data"
"$work/venv/bin/lipsep" demo --out "$work/demo" --device cpu
"$work/venv/bin/lipsep" serve --data "$work/data" --host 127.0.0.1 --port 8765 &
server=$!
for _ in $(seq 120); do
  if "$work/venv/bin/python" -c "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8765/health', timeout=4).read())" 2>"$work/refused"; then
    exit 0
  fi
  sleep 1
done
cat "$work/refused"
exit 1
