#!/bin/sh
# Counts how often each door was opened. The event's data is on stdin, its
# attributes are in the environment, and what is printed is the result.
set -eu
door=${EDGEFN_EVENT_SUBJECT#door/}
[ "$(cat)" = open ] || exit 0
count=$(edgefn-ctl state get "$door" || echo 0)
count=$((count + 1))
edgefn-ctl state put "$door" "$count"
echo "$door $count"
