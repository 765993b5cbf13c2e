#!/bin/sh
# Prints how far llama.cpp's logits and greedy tokens are from slmc's, for
# exports of every architecture and of real models: the figures of export.md.
set -eu
cd "$(dirname "$0")/.."
bench/peer/install.sh >/dev/null
go test ./internal/pipeline -run 'TestPeer' -count=1 -v | sed -n 's/^ *peer_test.go:[0-9]*: //p; s/^ *q2k_test.go:[0-9]*: //p'
