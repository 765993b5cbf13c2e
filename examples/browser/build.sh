#!/usr/bin/env bash
# Writes the page to a folder, ready to be served: build.sh FOLDER
set -euo pipefail
out=${1:?usage: build.sh FOLDER}
cd "$(dirname "$0")"
mkdir -p "$out"
cp index.html slmrt.js "$out/"
cp "$(go env GOROOT)/lib/wasm/wasm_exec.js" "$out/"
GOOS=js GOARCH=wasm CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$out/slmrt.wasm" slmc/cmd/slmrt
