#!/bin/bash
# A node, two functions and real MQTT messages. Leaves nothing behind but the
# packages that it installed.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "The demonstration needs root: it starts containers. Run: sudo make demo" >&2
	exit 1
fi

step() { printf '\n== %s\n' "$*"; }
node_pid="" sub_pid="" dir=""
cleanup() {
	status=$?
	trap '' INT TERM
	trap - EXIT
	[ -n "$sub_pid" ] && kill "$sub_pid" 2>/dev/null && wait "$sub_pid" 2>/dev/null
	if [ -n "$node_pid" ]; then
		kill "$node_pid" 2>/dev/null && wait "$node_pid" 2>/dev/null
	fi
	if [ "$status" != 0 ] && [ -n "$dir" ] && [ -f "$dir/node.log" ]; then
		echo "the node's log:" >&2
		tail -n 40 "$dir/node.log" >&2
	fi
	[ -n "$dir" ] && rm -rf "$dir"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "what is needed"
sh testbed/setup.sh demo
step "build"
make -s build
ls -l bin/edgefn | awk '{printf "bin/edgefn, one static binary of %.0f MB\n", $5/1e6}'

step "start a node in a temporary folder"
dir=$(mktemp -d /tmp/efdemo.XXXXXX)
chmod 755 "$dir"
# A job of its own group: Ctrl-C reaches this script, which stops the node.
set -m
bin/edgefn node --name demo --data "$dir/d" --run "$dir/r" --mqtt 127.0.0.1:0 >"$dir/node.log" 2>&1 &
node_pid=$!
set +m
until grep -q ' is ready: ' "$dir/node.log"; do
	kill -0 "$node_pid" 2>/dev/null || { echo "the node did not start" >&2; exit 1; }
	sleep 0.1
done
grep ' is ready: ' "$dir/node.log"
port=$(grep ' is ready: ' "$dir/node.log" | grep -oE '127\.0\.0\.1:[0-9]+' | head -n 1 | cut -d: -f2)
export EDGEFN_NODE="unix://$dir/r/edgefn.sock"

step "deploy a Python and a Go function"
bin/edgefn deploy functions/examples/thermostat
bin/edgefn deploy functions/examples/celsius

step "publish MQTT messages with mosquitto_pub, and watch with mosquitto_sub"
stdbuf -oL mosquitto_sub -h 127.0.0.1 -p "$port" -t 'greenhouse/#' -q 1 -F '%U %t %p' >"$dir/messages" &
sub_pid=$!
sleep 0.5
# send TOPIC PAYLOAD RESULT-TOPIC: waits for the result and prints both.
send() {
	before=$(wc -l <"$dir/messages")
	mosquitto_pub -h 127.0.0.1 -p "$port" -q 1 -t "$1" -m "$2"
	for _ in $(seq 200); do
		new=$(tail -n +"$((before + 1))" "$dir/messages")
		case "$new" in *" $3 "*) break ;; esac
		sleep 0.05
	done
	printf '%s\n' "$new" | awk -v in_topic="$1" -v out_topic="$3" '
		$2 == in_topic && !t { t = $1; i = $0; sub(/^[^ ]+ /, "", i) }
		$2 == out_topic && !done { o = $0; sub(/^[^ ]+ /, "", o); printf "%-44s -> %-44s %6.1f ms\n", i, o, ($1 - t) * 1000; done = 1 }
		END { if (!done) { print "no result came"; exit 1 } }'
}
for c in 21.5 24.0 31.0 35.5 36.0; do
	send greenhouse/north/temperature "{\"celsius\": $c}" greenhouse/north/fan
done
for f in 68 77 95; do
	send greenhouse/south/fahrenheit "$f" greenhouse/south/celsius
done

step "edgefn functions"
bin/edgefn functions
step "edgefn usage"
bin/edgefn usage

step "stop"
kill "$sub_pid" && wait "$sub_pid" 2>/dev/null || true
sub_pid=""
kill "$node_pid"
wait "$node_pid"
node_pid=""
echo "the node has stopped; nothing of it is left"
