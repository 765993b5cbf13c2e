#!/bin/sh
# Fetches the npm package openai, the standard client of the API that slmc serve
# answers, for internal/serve's TestOpenAIClient:
#
#	bench/openai/install.sh [FOLDER]      (default: bench/openai/.cache)
#
# Needs npm. A second call does nothing.
set -eu

version=7.57.0
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/.cache}

mkdir -p "$folder"
cd "$folder"
if ! grep -q "\"version\": \"$version\"" node_modules/openai/package.json 2>/dev/null; then
	npm install --ignore-scripts --no-audit --no-fund --no-save --loglevel=error --prefix . "openai@$version" >&2
fi
cp "$here/client.mjs" client.mjs # node looks for packages beside the script
echo "$PWD/client.mjs"
