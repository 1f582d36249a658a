// Package api is the node's control API: HTTP with JSON under /v1 on the
// control socket, errors as application/problem+json (RFC 9457), streams as
// JSON Lines. It holds the server, which serves a Backend, and the client,
// which the command line uses to reach a node and which uses nothing else.
package api
