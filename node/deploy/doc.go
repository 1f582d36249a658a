// Package deploy has the functions of a node serve. What the store says of a
// function is the desired state; each node brings itself to it.
//
// The way of a deploy: Deploy imports the image, checks the function against this
// node (admit.go), starts one instance of the new version, claims its lines and
// writes it to the store, guarded by the record that it read (deploy.go,
// records.go). Then it waits for the function's reconciler.
//
// The way of a change: a watch (watch.go) wakes the function's reconciler, which
// reads the records anew, has the version that they name serve, and lets the old
// one finish its events (reconcile.go, versions.go). No one else switches
// versions. Whoever wrote the records, this node or another, makes no difference, but that
// a version that a deploy of this node has started is not started twice.
// Versions are ordered by the store's revisions, never by a clock.
//
// A trigger that did not change keeps its source, so no message and no session
// is lost (bind.go); the session of one that is gone is ended at its broker, also
// if that is away (sessions.go). A removal is first marked in the function's
// record, so that it is finished after a crash (remove.go).
//
// What of a function is paused is in its record too (pause.go); the reconciler
// hands it to settling.
//
// The package knows no node: what it needs of one is in Config and ports.go.
package deploy
