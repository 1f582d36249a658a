package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// The node's keys in the store. A function's name has no slash, so what follows
// it can be anything.
const (
	keyRoot      = "/edgefn/"
	keyFunctions = keyRoot + "functions/" // NAME: functionRecord
	keyVersions  = keyRoot + "versions/"  // NAME/DIGEST: versionRecord
	keyState     = keyRoot + "state/"     // NAME/KEY: the value as it is
	keyDone      = keyRoot + "done/"      // NAME/HASH: the event's id; on a lease
	keyDead      = keyRoot + "dead/"      // NAME/ID-BYTES: deadRecord
	keyOutbox    = keyRoot + "outbox/"    // NAME/DESTINATION/SEQUENCE: outboxRecord
	keyUsage     = keyRoot + "usage/"     // NAME/NODE: api.Usage
	keyMarks     = keyRoot + "marks/"     // NODE/NUMBER: the last transaction of that number
	keyEnding    = keyRoot + "ending/"    // BROKER/CLIENT ID: a session to be ended
)

// eventKey names an event that carries an id of its sender's. CloudEvents makes
// ids unique within their source; devices that count their messages do so per
// topic. So source and subject count too: better an event too many than one too
// few.
func eventKey(function string, e *functions.Event) string {
	h := sha256.New()
	for _, s := range []string{e.Source, e.Subject, e.ID} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // a hash does not fail
	}
	return keyDone + function + "/" + hex.EncodeToString(h.Sum(nil)[:16])
}

// deadKey carries the size of the letter's data, so that counting a queue reads
// no values.
func deadKey(function, id string, size int) string {
	return keyDead + function + "/" + id + "-" + strconv.Itoa(size)
}

// splitDead is the inverse of deadKey for a key under prefix.
func splitDead(key, prefix string) (id string, size int64, ok bool) {
	id, n, ok := strings.Cut(strings.TrimPrefix(key, prefix), "-")
	if !ok {
		return "", 0, false
	}
	size, err := strconv.ParseInt(n, 10, 64)
	return id, size, err == nil
}

// encodeRecord encodes a record of the node in the encoding of the wire.
func encodeRecord(v any) ([]byte, error) {
	b, err := wire.Encode("record", 0, v)
	if err != nil {
		return nil, err
	}
	return b[4:], nil // without the frame's length
}

// decodeRecord is the inverse of encodeRecord; v is a pointer.
func decodeRecord(b []byte, v any) error {
	f, err := wire.Decode(b)
	if err != nil {
		return err
	}
	return f.Into(v)
}
