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
//
// Callers share the node without being able to take it from each other
// (bounds.go, conns.go). Each class of requests has slots of its own; at the
// bound the answer is 429 and says which class is full. A caller that sends its
// request or takes its answer too slowly is let go, with 408 where it can still
// be told. Connections are bounded, and the idle ones go first. GET /v1/health
// is answered whatever is full (health.go).
//
// A stream that is followed has empty lines in it while nothing else is to be
// said; a reader skips them.
package api
