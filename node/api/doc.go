// Package api is the node's control API: HTTP with JSON under /v1 on the
// control socket, errors as application/problem+json (RFC 9457), streams as
// JSON Lines. It holds the server, which serves a Backend, and the client,
// which the command line uses to reach a node and which uses nothing else. To a
// node on another machine the client goes by the user's own ssh (ssh.go).
//
// An image is brought in two steps: POST /v1/versions/VERSION/missing with the
// digests of its blobs is answered with those that the node lacks, and keeps the
// others; POST /v1/functions then takes a tar of an OCI layout that may have
// those alone. Whoever asks for nothing sends all.
package api
