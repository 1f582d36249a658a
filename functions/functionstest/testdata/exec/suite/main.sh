#!/bin/sh
# Does what the type of its event asks for.
set -eu

error_of() {
	"$@" 2>&1 >/dev/null | sed 's/"/\\"/g' | tr -d '\n'
}

has() {
	if edgefn-ctl state get "$1" >/dev/null 2>&1; then
		echo true
	else
		[ $? = 4 ] && echo false
	fi
}

is_on() {
	if [ "$(edgefn-ctl line "$1" get)" = on ]; then echo true; else echo false; fi
}

lines() {
	sed 's/.*/"&"/' | paste -sd, -
}

case $EDGEFN_EVENT_TYPE in
echo) cat ;;
json)
	sum=$(sed 's/[^0-9]\{1,\}/+/g; s/^+//; s/+$//')
	printf '{"sum":%d,"text":"grüße"}' $(($sum))
	;;
text) printf '28.5 °C' ;;
nothing) cat >/dev/null ;;
attributes)
	printf '{"id":"%s","type":"%s","source":"%s","subject":"%s","datacontenttype":"%s","mqttqos":"%s","length":"%d","seconds":"%d"}' \
		"$EDGEFN_EVENT_ID" "$EDGEFN_EVENT_TYPE" "$EDGEFN_EVENT_SOURCE" "$EDGEFN_EVENT_SUBJECT" \
		"$EDGEFN_EVENT_DATACONTENTTYPE" "$EDGEFN_EVENT_MQTTQOS" "$(wc -c)" "$(date -d "$EDGEFN_EVENT_TIME" +%s)"
	;;
context)
	printf '{"invocation":"%s","function":"%s","version":"%s","attempt":%d}' \
		"$EDGEFN_INVOCATION" "$EDGEFN_FUNCTION" "$EDGEFN_VERSION" "$EDGEFN_ATTEMPT"
	;;
deadline) echo "$EDGEFN_DEADLINE_MS" ;;
state)
	there=$(edgefn-ctl state get there)
	absent=$(edgefn-ctl state get absent 2>/dev/null || true)
	has=$(has there)
	hasnt=$(has absent)
	edgefn-ctl state put a/1 old
	edgefn-ctl state put a/1 new
	edgefn-ctl state put a/2 ""
	edgefn-ctl state put data -
	edgefn-ctl state delete there
	edgefn-ctl state delete absent
	[ -z "$(edgefn-ctl state get a/2)" ]
	printf '{"there":"%s","absent":"%s","has":%s,"hasnt":%s,"written":"%s","deleted":%s,"keys":[%s],"a":[%s]}' \
		"$there" "$absent" "$has" "$hasnt" "$(edgefn-ctl state get a/1)" "$(has there)" \
		"$(edgefn-ctl state list | lines)" "$(edgefn-ctl state list a/ | lines)"
	;;
state-and-raise)
	edgefn-ctl state put half "done"
	edgefn-ctl publish test/half "done"
	exit 1
	;;
other-state)
	n=$(edgefn-ctl state get shared/in -f other)
	edgefn-ctl state put -f other shared/out $((n + 1))
	printf %s "$n"
	;;
publish)
	edgefn-ctl publish test/text grüße
	printf '\377\001' | edgefn-ctl publish -q 0 -r test/bytes -
	edgefn-ctl publish test/json '{"on":true}' -q=2
	edgefn-ctl publish test/empty -r
	;;
properties)
	edgefn-ctl publish test/properties x --content-type text/plain --response-topic test/answer --correlation /wE= \
		--expiry 1500ms --user tag=a --user=tag=b --user Größe=ü=ü
	edgefn-ctl publish test/one x --user tag=
	;;
properties-refused)
	printf '{"expiry":"%s","response":"%s","user":"%s"}' \
		"$(error_of edgefn-ctl publish test/wrong x --expiry=-1s)" \
		"$(error_of edgefn-ctl publish test/wrong x --response-topic 'a/#')" \
		"$(error_of edgefn-ctl publish test/wrong x --user k)"
	;;
reply | reply-nobody | reply-ungranted)
	edgefn-ctl reply '{"ok":true}' -q 2 --content-type application/json --expiry 1m --user tag=a
	;;
invoke)
	first=$(edgefn-ctl invoke sink '{"n":1}')
	second=$(edgefn-ctl invoke sink --type test.special --subject über --id my-id -- x)
	printf '["%s","%s"]' "$first" "$second"
	;;
ungranted)
	printf '{"get":"%s","put":"%s","publish":"%s","invoke":"%s"}' \
		"$(error_of edgefn-ctl state get k -f secret)" \
		"$(error_of edgefn-ctl state put k v -f secret)" \
		"$(error_of edgefn-ctl publish forbidden/topic x)" \
		"$(error_of edgefn-ctl invoke stranger x)"
	;;
ungranted-uncaught) edgefn-ctl publish forbidden/topic x ;;
lines)
	edgefn-ctl line relay set off
	edgefn-ctl line relay set on
	set=$(is_on relay)
	edgefn-ctl line relay pulse 200ms
	pulsed=$(is_on relay)
	edgefn-ctl line relay set on
	edgefn-ctl line relay release
	printf '{"set":%s,"pulsed":%s,"door":%s,"hatch":%s,"relay":%s}' \
		"$set" "$pulsed" "$(is_on door)" "$(is_on hatch)" "$(is_on relay)"
	;;
lines-and-raise)
	edgefn-ctl line relay set on
	exit 1
	;;
sensor) edgefn-ctl sensor greenhouse read ;;
device-refused)
	printf '{"ungranted-line":"%s","ungranted-read":"%s","ungranted-sensor":"%s","input":"%s","no-time":"%s","long":"%s","fault":"%s"}' \
		"$(error_of edgefn-ctl line siren set on)" \
		"$(error_of edgefn-ctl line siren get)" \
		"$(error_of edgefn-ctl sensor attic read)" \
		"$(error_of edgefn-ctl line door set on)" \
		"$(error_of edgefn-ctl line relay pulse 0s)" \
		"$(error_of edgefn-ctl line relay pulse 60001ms)" \
		"$(error_of edgefn-ctl sensor soil read)"
	;;
device-refused-uncaught) edgefn-ctl line siren pulse 200ms ;;
log)
	edgefn-ctl log debug fine detail
	edgefn-ctl log info "it is 28 °C"
	edgefn-ctl log warning "getting warm"
	edgefn-ctl log error "on fire"
	;;
output) echo "to standard error" >&2 ;;
env) printf %s "$GREETING" ;;
secret) cat "${TEST_SECRETS:-/run/secrets}/token" ;;
raise)
	echo "it broke" >&2
	exit 1
	;;
reject)
	edgefn-ctl state put half "done"
	edgefn-ctl publish test/half "done"
	edgefn-ctl reject no zone of that name
	echo "to standard error" >&2
	printf "half"
	;;
reject-cause)
	edgefn-ctl reject "no zone of that name"
	echo "something else" >&2
	exit 3
	;;
reject-and-retry)
	edgefn-ctl reject "the first words"
	edgefn-ctl retry 5m -- the last words
	;;
retry)
	edgefn-ctl publish test/half "done"
	edgefn-ctl retry "$(cat)s" "the valve
		is moving" || [ $? = 2 ]
	printf "half"
	;;
retry-no-number) edgefn-ctl retry soon || true ;;
status)
	echo "some words" >&2
	echo "the last words" >&2
	exit 3
	;;
leaves-a-child)
	sleep 60 &
	printf "done"
	;;
too-large) head -c 2097152 /dev/zero ;;
too-large-call) head -c 2097152 /dev/zero | edgefn-ctl state put big - ;;
count) printf 1 ;;
*)
	echo "unknown case $EDGEFN_EVENT_TYPE" >&2
	exit 1
	;;
esac
