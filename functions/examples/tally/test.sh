#!/bin/sh
# sh test.sh, in this folder: the function with a stand-in for edgefn-ctl.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/edgefn-ctl" <<'CTL'
#!/bin/sh
case "$2" in
get) cat "$STATE/$3" 2>/dev/null ;;
put) echo "$4" >"$STATE/$3" ;;
esac
CTL
chmod +x "$dir/edgefn-ctl"
export PATH="$dir:$PATH" STATE="$dir" EDGEFN_EVENT_SUBJECT=door/front
echo open | ./tally.sh >/dev/null
got=$(echo open | ./tally.sh)
[ "$got" = "front 2" ] || { echo "got $got, want front 2"; exit 1; }
[ -z "$(echo closed | ./tally.sh)" ] || { echo "a closed door was counted"; exit 1; }
