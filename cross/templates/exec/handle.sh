#!/bin/sh
# NAME: run once per event. Data on stdin, attributes in the environment, the
# result on stdout.
set -eu
echo "an event on $EDGEFN_EVENT_SUBJECT" >&2
count=$(edgefn-ctl state get count || echo 0)
count=$((count + 1))
edgefn-ctl state put count "$count"
printf '%s %s' "$count" "$(cat)"
