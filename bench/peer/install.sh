#!/bin/sh
# Fetches llama.cpp's libraries, as the npm package @node-llama-cpp/linux-x64
# ships them, and builds the oracle beside them:
#
#	bench/peer/install.sh [FOLDER]      (default: bench/peer/.cache)
#
# Needs npm and gcc on linux/amd64; about 30 MB. A second call does nothing if
# the oracle is up to date.
set -eu

version=3.22.1
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/.cache}
package=node_modules/@node-llama-cpp/linux-x64
libs=$package/bins/linux-x64

mkdir -p "$folder"
cd "$folder"
if ! grep -q "\"version\": \"$version\"" "$package/package.json" 2>/dev/null; then
	npm install --ignore-scripts --no-audit --no-fund --no-save --loglevel=error --prefix . "@node-llama-cpp/linux-x64@$version" >&2
fi
if [ ! -x oracle ] || [ "$here/oracle/oracle.c" -nt oracle ] || [ "$here/oracle/llama_abi.h" -nt oracle ] || [ "$package/package.json" -nt oracle ]; then
	gcc -O2 -std=gnu11 -Wall -Wextra -DLIB_DIR="\"$libs\"" -o oracle.new "$here/oracle/oracle.c" \
		-L "$libs" -l:libllama.v0.5.0.so -l:libggml.v0.5.0.so -l:libggml-base.so "-Wl,-rpath,\$ORIGIN/$libs" >&2
	mv oracle.new oracle
fi
./oracle types >/dev/null
echo "$PWD/oracle"
