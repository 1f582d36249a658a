package node

import "github.com/edgefn/edgefn/node/settle/durable"

// The node's own keys in the store, beside those of settling.
const (
	keyFunctions = durable.Root + "functions/" // NAME: functionRecord
	keyVersions  = durable.Root + "versions/"  // NAME/DIGEST: versionRecord
	keyEnding    = durable.Root + "ending/"    // BROKER/CLIENT ID: a session to be ended
)
